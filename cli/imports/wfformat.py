"""Recorded workflows (WfFormat 1.5, as WfCommons publishes them) to a DAG of Helios. No I/O happens here.

A recording says which program read and wrote which files, not in which image: that is given. Files that no task makes
are objects below a prefix, under their own names.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, cast

import msgspec
from msgspec import Struct, field

from cli.imports.document import Unreadable
from cli.imports.losses import Imported, Loss, Weight
from helios.dag_json import json_nodes
from helios.dag_lines import locate
from helios.dag_problem import Path

VERSIONS = ("1.4", "1.5")
"""Those that have a specification apart from the execution."""

RECORDED = "how it went when it was recorded, which a DAG does not say"

_SHELL = re.compile(r"[\"'`$\\;&|<>()*?\[\]{}~#!]")
"""What a shell does not take as it stands."""


class WfTask(Struct, rename="camel"):
    """One task of a specification."""

    id: str
    name: str = ""
    parents: list[str] = []
    children: list[str] = []
    input_files: list[str] = []
    output_files: list[str] = []


class WfSpecification(Struct, rename="camel"):
    tasks: list[WfTask]


class WfCommand(Struct, rename="camel"):
    program: str = ""
    arguments: list[str] = []


class WfExecuted(Struct, rename="camel"):
    """What was recorded of one task."""

    id: str
    command: WfCommand = field(default_factory=WfCommand)
    core_count: float | None = None


class WfExecution(Struct, rename="camel"):
    tasks: list[WfExecuted] = []


class WfWorkflow(Struct, rename="camel"):
    specification: WfSpecification
    execution: WfExecution = field(default_factory=WfExecution)


class WfDocument(Struct, rename="camel"):
    workflow: WfWorkflow
    name: str = "workflow"
    schema_version: str = ""


class _Losses:
    """Losses by their paths; the lines are looked up at the end, all at once."""

    def __init__(self) -> None:
        self.found: list[tuple[Path, str, str, Weight]] = []

    def add(self, path: Path, what: str, reason: str, weight: Weight = "lost") -> None:
        self.found.append((path, what, reason, weight))

    def placed(self, text: str) -> list[Loss]:
        lines: Mapping[Path, int] = locate(json_nodes(text), {path for path, *_ in self.found})
        return sorted({Loss(lines[path], what, reason, weight) for path, what, reason, weight in self.found})


def import_wfformat(text: str, *, image: str, inputs: str | None) -> Imported:
    """`inputs` is where the files lie that no task makes: `s3://bucket/prefix`. Raises Unreadable."""
    try:
        raw: object = json.loads(text)
        document = msgspec.convert(raw, WfDocument)
    except json.JSONDecodeError as error:
        raise Unreadable(f"no valid JSON: {error.msg}", error.lineno) from None
    except (msgspec.ValidationError, RecursionError) as error:
        raise Unreadable(f"it is not WfFormat 1.5: {error}") from None
    losses = _Losses()
    if document.schema_version not in VERSIONS:
        losses.add(
            ("schemaVersion",), "schemaVersion", f"{document.schema_version!r} is read as if it were 1.5", "note"
        )
    _note_recorded(cast("dict[str, Any]", raw), losses)
    workflow = document.workflow
    names = _names(workflow.specification.tasks, losses)
    makers = _makers(workflow.specification.tasks, losses)
    executed = {each.id: each for each in workflow.execution.tasks}
    tasks = [
        _task(at, each, executed.get(each.id), names, makers, losses, image=image, inputs=inputs)
        for at, each in enumerate(workflow.specification.tasks)
    ]
    dag = {"dagName": _safe(document.name)[:128], "tasks": tasks}
    return Imported(dag, losses.placed(text))


def external_files(text: str) -> bool:
    """Whether some task reads what none makes. Raises Unreadable."""
    imported = import_wfformat(text, image="any", inputs="s3://any")
    return any("uri" in each for task in imported.dag["tasks"] for each in task.get("inputs", ()))


def _note_recorded(raw: dict[str, Any], losses: _Losses) -> None:
    """Everything of the recording that is not read, by its name and where it is first."""
    known = {"workflow": None, "name": None, "schemaVersion": None}
    for name in raw:
        if name not in known:
            losses.add((name,), name, "about the recording; Helios keeps none of it", "note")
    workflow: dict[str, Any] = raw["workflow"]
    execution: dict[str, Any] = workflow.get("execution") or {}
    for name in execution:
        if name != "tasks":
            losses.add(("workflow", "execution", name), name, RECORDED, "note")
    for name in workflow["specification"]:
        if name not in ("tasks", "files"):
            losses.add(("workflow", "specification", name), name, "Helios has nothing like it")
    for section, read in (
        ("specification", set(WfTask.__struct_encode_fields__)),
        ("execution", set(WfExecuted.__struct_encode_fields__)),
    ):
        seen: set[str] = set()
        part: dict[str, Any] = workflow.get(section) or {}
        tasks: list[dict[str, Any]] = part.get("tasks") or []
        for at, task in enumerate(tasks):
            for name in task:
                if name not in read and name not in seen:
                    seen.add(name)
                    losses.add(
                        ("workflow", section, "tasks", at, name), name, f"{RECORDED} (here and in others)", "note"
                    )
    files: list[dict[str, Any]] = workflow["specification"].get("files") or []
    if any("sizeInBytes" in each for each in files):
        losses.add(("workflow", "specification", "files"), "sizeInBytes", RECORDED, "note")


def _names(tasks: list[WfTask], losses: _Losses) -> dict[str, str]:
    """A name for each id: itself, but for letters that Helios' names have not."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for at, task in enumerate(tasks):
        name = _safe(task.id)[:253]
        while name in taken:
            name = f"{name[:240]}-{at}"
        if name != task.id:
            losses.add(("workflow", "specification", "tasks", at, "id"), task.id, f"is called {name}", "note")
        taken.add(name)
        names[task.id] = name
    return names


def _makers(tasks: list[WfTask], losses: _Losses) -> dict[str, str]:
    """The id of the task that makes each file."""
    makers: dict[str, str] = {}
    for at, task in enumerate(tasks):
        for position, file in enumerate(task.output_files):
            if file in makers and makers[file] != task.id:
                path = ("workflow", "specification", "tasks", at, "outputFiles", position)
                losses.add(path, file, f"{makers[file]} makes a file of that name too; readers get that one")
            makers.setdefault(file, task.id)
    return makers


def _task(
    at: int,
    task: WfTask,
    executed: WfExecuted | None,
    names: Mapping[str, str],
    makers: Mapping[str, str],
    losses: _Losses,
    *,
    image: str,
    inputs: str | None,
) -> dict[str, Any]:
    path = ("workflow", "specification", "tasks", at)
    made: dict[str, Any] = {"name": names[task.id], "image": image, "command": _command(path, task, executed, losses)}
    outputs = [_file(file, (*path, "outputFiles", each), losses) for each, file in enumerate(task.output_files)]
    sources: list[dict[str, str]] = []
    for position, file in enumerate(dict.fromkeys(task.input_files)):
        here = (*path, "inputFiles", position)
        if file in task.output_files:
            losses.add(here, file, "the task changes it in place; in Helios it makes it anew, and is not given it")
            continue
        place = _file(file, here, losses)
        if file in makers:
            sources.append({"fromTask": names[makers[file]], "name": place})
        else:
            uri = f"{(inputs or '').rstrip('/')}/{file.lstrip('/')}"
            sources.append({"uri": uri} if uri.rpartition("/")[2] == place else {"uri": uri, "as": place})
    implied = {each.get("fromTask") for each in sources}
    before: list[str] = []
    for position, parent in enumerate(task.parents):
        if parent not in names:
            losses.add((*path, "parents", position), parent, "no task has that id")
        elif names[parent] not in implied:
            before.append(names[parent])
    if before:
        made["depends_on"] = before
    if sources:
        made["inputs"] = sources
    if outputs:
        made["outputs"] = list(dict.fromkeys(outputs))
    if executed is not None and executed.core_count:
        made["resources"] = {"requests": {"cpu": f"{executed.core_count:g}"}}
    return made


def _command(path: Path, task: WfTask, executed: WfExecuted | None, losses: _Losses) -> list[str]:
    """What of a recorded line the shell would read otherwise than it was meant cannot be known, and is said."""
    if executed is None or not executed.command.program:
        losses.add(path, f"task {task.id}", "no command was recorded of it; write it")
        return []
    words = [executed.command.program, *executed.command.arguments]
    # Recorders split a command line where it suits them: an argument with a space in it is a piece of the line.
    if not any(re.search(r"\s", each) for each in words):
        return words
    line = " ".join(words)
    if _SHELL.search(line):
        losses.add(path, f"task {task.id}", f"its command became a line for the shell; see whether it is right: {line}")
    return ["sh", "-c", line]


def _file(name: str, path: Path, losses: _Losses) -> str:
    place = (
        "/".join(re.sub(r"[^\w.@+=,-]", "-", part) for part in name.split("/") if part not in ("", ".", "..")) or "file"
    )
    if place != name:
        losses.add(path, name, f"is placed at /artifacts/{place}; the command names it otherwise")
    return place


def _safe(name: str) -> str:
    return re.sub(r"[^a-zA-Z0-9._-]", "-", name).lstrip("._-") or "unnamed"
