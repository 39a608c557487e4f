"""DAGs built in Python. No I/O happens here.

Rule: what can be said of a task is said when it is made, and what can be said of the whole when it is asked for, in the
words of `helios validate`: every check is `parse_dag`'s, none is made here. A field that the format gains works here
at once, by its Python name; `TaskFields` and `DagFields` are what type checkers and editors know of them.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar, Token
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, cast

import msgspec
from msgspec import Struct

from helios.dag import Dag as CheckedDag
from helios.dag_format import (
    DagSpec,
    InputSpec,
    ItemsSpec,
    MemoizeSpec,
    NotifySpec,
    Priority,
    ResourcesSpec,
    RetriesSpec,
    SecretRef,
    TaskSpec,
    TolerationSpec,
)
from helios.dag_plain import parse_plain, read_plain, yaml_text
from helios.dag_problem import DagInvalid, Problem, nearest, quoted

Mode = Literal["link", "copy"]
Verify = Literal["size", "always"]
Scalar = str | int | float | bool


class Output(Struct, frozen=True):
    """An output of a task, as another task reads it."""

    task: str
    name: str
    as_: str | None = None
    mode: Mode | None = None
    verify: Verify | None = None


class External(Struct, frozen=True):
    """An object that no task makes, as a task reads it."""

    uri: str
    as_: str | None = None
    mode: Mode | None = None
    verify: Verify | None = None


def external(uri: str, *, as_: str | None = None, mode: Mode | None = None, verify: Verify | None = None) -> External:
    """`s3://bucket/key`, placed at `/artifacts/<as_>`. A bare text in `inputs` is the same without options."""
    return External(uri, as_, mode, verify)


def secret(name: str, key: str) -> SecretRef:
    """The entry `key` of the secret `name`, as the value of an environment variable."""
    return SecretRef(name, key)


class TaskFields(TypedDict, total=False):
    """What a task may have beside its name, image and command; docs/dag.md says what each means."""

    args: Sequence[str]
    depends_on: Sequence["Task | str"]
    inputs: Sequence["Output | External | str | InputSpec | Mapping[str, Any]"]
    """A text is an object's `s3://bucket/key`."""
    outputs: Sequence[str]
    retries: int | RetriesSpec | Mapping[str, int]
    """A number is the attempts after the first."""
    env: Mapping[str, Scalar | SecretRef | Mapping[str, str]]
    resources: ResourcesSpec | Mapping[str, Mapping[str, str | int | float]]
    timeout_seconds: int
    memoize: bool | MemoizeSpec | Mapping[str, Any]
    node_selector: Mapping[str, str]
    tolerations: Sequence[TolerationSpec | Mapping[str, Any]]
    service_account_name: str
    priority: Priority
    for_each: "Sequence[Scalar | Mapping[str, Scalar]] | str | Output | ItemsSpec | Mapping[str, str]"
    """Makes a task for each item; `${params.NAME}` of a parameter that holds a JSON list; an output of an earlier task
    that holds one, `split["parts.json"]`.
    """
    when: bool | str
    type: Literal["command"]


class DagFields(TypedDict, total=False):
    """What a DAG may have beside its name and tasks."""

    use_cache: bool
    service_account_name: str
    priority: Priority
    params: Mapping[str, Scalar | None]
    """Defaults by name, for `${params.NAME}`; with None `Client.submit` has to give the value."""
    notify: Sequence[NotifySpec | Mapping[str, Any]]
    on_exit: "Task | TaskSpec | Mapping[str, Any]"
    """A task that runs once all others have ended, however they did; made outside of `with Dag(…):`."""
    api_version: Literal["v1"]
    artifact_repository: Any


_TASK_NAMES = dict(zip(TaskSpec.__struct_fields__, TaskSpec.__struct_encode_fields__, strict=True))
_DAG_NAMES = dict(zip(DagSpec.__struct_fields__, DagSpec.__struct_encode_fields__, strict=True))
_SOME_LIST = "list.of.an.output"
_current: "ContextVar[Dag | None]" = ContextVar("helios_dag", default=None)


class Task:
    """One task of a DAG. `task["part-aa"]` is one of its outputs, for another task's `inputs`."""

    def __init__(self, document: dict[str, Any]) -> None:
        """`document` is the task as YAML has it. `task` and `Dag.task` make tasks."""
        self.document = document

    @property
    def name(self) -> str:
        return self.document["name"]

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(self.document.get("outputs") or ())

    def output(
        self, name: str, *, as_: str | None = None, mode: Mode | None = None, verify: Verify | None = None
    ) -> Output:
        """An output to read: where it is placed, and how. Raises DagInvalid for one that the task does not declare."""
        if name not in self.outputs:
            near = nearest(name, self.outputs)
            more = f"; did you mean {quoted(near)}?" if near else "" if self.outputs else "; it declares none"
            path = f"tasks[{quoted(self.name)}].outputs"
            raise DagInvalid([Problem(f"the task {quoted(self.name)} has no output {quoted(name)}{more}", path)])
        return Output(self.name, name, as_, mode, verify)

    def __getitem__(self, name: str) -> Output:
        return self.output(name)

    def __repr__(self) -> str:
        return f"Task({self.name!r}, image={self.document.get('image')!r})"


def task(name: str, *, image: str, command: Sequence[str], **fields: Unpack[TaskFields]) -> Task:
    """Make a task; inside `with Dag(…):` it becomes one of that DAG's. Raises DagInvalid with everything that is wrong
    with it, but for tasks it names that are not made yet: those are looked for when the DAG is checked.
    """
    into = _current.get()
    made = _made(name, image, command, fields, into)
    if into is not None:
        into.add(made)
    return made


class Dag:
    """A DAG that is being built.

    `Dag("word-count").task(…)`, `Dag("word-count", tasks=[task(…), …])` and `with Dag("word-count"): task(…)` all do.
    """

    def __init__(self, name: str, *, tasks: Iterable[Task] = (), **fields: Unpack[DagFields]) -> None:
        """Raises DagInvalid for a field that is wrong."""
        self._head: dict[str, Any] = {"dagName": name, **_encoded_fields(fields, _DAG_NAMES)}
        self._tasks: dict[str, Task] = {}
        self._outer: list[Token[Dag | None]] = []
        # A task of its own, so that only the DAG's own fields are judged.
        parse_plain({**self._head, "tasks": [_stub("any" if self._exit_name() != "any" else "another")]})
        for each in tasks:
            self.add(each)

    @property
    def name(self) -> str:
        return self._head["dagName"]

    @property
    def on_exit(self) -> "Task | None":
        """Not among `tasks`."""
        return Task(self._head["onExit"]) if "onExit" in self._head else None

    def _exit_name(self) -> Any:
        document = self._head.get("onExit")
        return cast("dict[str, Any]", document).get("name") if isinstance(document, dict) else None

    @property
    def tasks(self) -> Mapping[str, Task]:
        """By name, in the order in which they were added."""
        return self._tasks

    def task(self, name: str, *, image: str, command: Sequence[str], **fields: Unpack[TaskFields]) -> Task:
        """Make a task of this DAG; raises as `task` does."""
        return self.add(_made(name, image, command, fields, self))

    def add(self, made: Task) -> Task:
        """Take a task in. Raises DagInvalid when there is one of that name."""
        if made.name in self._tasks:
            path = f"tasks[{quoted(made.name)}].name"
            raise DagInvalid([Problem(f"{quoted(made.name)} is the name of another task too", path)])
        self._tasks[made.name] = made
        return made

    def check(self) -> list[Problem]:
        """What has no effect or a better form. Raises DagInvalid with every problem of the whole DAG."""
        return parse_plain(self.to_dict(), self._path).warnings

    def checked(self) -> CheckedDag:
        """The DAG as the services see it, with `graph()`; raises DagInvalid."""
        return parse_plain(self.to_dict(), self._path).dag

    def to_dict(self) -> dict[str, Any]:
        """The DAG as YAML has it, not checked."""
        return {**self._head, "tasks": [each.document for each in self._tasks.values()]}

    def to_head(self) -> dict[str, Any]:
        """The DAG's own fields, without its tasks."""
        return dict(self._head)

    def to_json(self) -> bytes:
        """Raises DagInvalid."""
        self.check()
        return msgspec.json.encode(self.to_dict())

    def to_yaml(self) -> str:
        """A DAG file that `helios run` takes. Raises DagInvalid."""
        self.check()
        return yaml_text(self.to_dict())

    @classmethod
    def from_yaml(cls, source: "str | bytes | PathLike[str]") -> "Dag":
        """Read a DAG file (a path object), or its text, in YAML or JSON. Raises DagInvalid with lines, and OSError."""
        if isinstance(source, PathLike):
            source = Path(source).read_bytes()
        data = read_plain(source.encode() if isinstance(source, str) else source)
        dag = cls(data["dagName"])
        dag._head = {name: value for name, value in data.items() if name != "tasks"}
        dag._tasks = {each["name"]: Task(each) for each in data["tasks"]}
        return dag

    def _path(self, path: str) -> str:
        """`tasks[2].image` -> `tasks['split'].image`: nobody counts the calls that made tasks."""
        at = re.match(r"tasks\[(\d+)\]", path)
        names = list(self._tasks)
        return f"tasks[{quoted(names[int(at[1])])}]{path[at.end() :]}" if at else path

    def __enter__(self) -> "Dag":
        self._outer.append(_current.set(self))
        return self

    def __exit__(self, *_: object) -> None:
        _current.reset(self._outer.pop())

    def __getitem__(self, name: str) -> Task:
        return self._tasks[name]

    def __iter__(self) -> Iterator[Task]:
        return iter(self._tasks.values())

    def __len__(self) -> int:
        return len(self._tasks)

    def __repr__(self) -> str:
        return f"<Dag {self.name!r} of {len(self)} tasks>"

    def _repr_html_(self) -> str:
        from sdk.table import dag_html

        return dag_html(self.name, [each.document for each in self])


def _made(name: str, image: str, command: Sequence[str], fields: Mapping[str, Any], dag: "Dag | None") -> Task:
    document = _encoded_fields({"name": name, "image": image, "command": command, **fields}, _TASK_NAMES)
    head: dict[str, Any] = {"dagName": "any"} if dag is None else dag.to_head()
    stubs = [_stub(each, outputs) for each, outputs in _named(document, dag).items() if each != name]
    for stub in stubs:
        if dag is not None and stub["name"] in dag.tasks:
            stub["forEach"] = dag.tasks[stub["name"]].document.get("forEach")
            if isinstance(stub["forEach"], dict):
                # What it goes over is not known here, as with a parameter that is still to be given.
                stub["forEach"] = f"${{params.{_SOME_LIST}}}"
                head = {**head, "params": {**(head.get("params") or {}), _SOME_LIST: None}}
    # One that names an instance itself needs no stub beside those that forEach makes.
    fans = tuple(f"{stub['name']}-" for stub in stubs if stub.get("forEach"))
    stubs = [
        each for each in stubs if not each["name"].startswith(fans) or (dag is not None and each["name"] in dag.tasks)
    ]

    def shown(path: str) -> str:
        return f"tasks[{quoted(str(name))}]{path.removeprefix('tasks[0]')}" if path.startswith("tasks[0]") else path

    parse_plain({**head, "tasks": [_without_instances(document), *stubs]}, shown)
    return Task(document)


def _without_instances(document: dict[str, Any]) -> dict[str, Any]:
    """The task without what it says of other tasks by `${item}`: which those are only the whole shows."""
    if not document.get("forEach"):
        return document
    return {
        **document,
        "depends_on": [each for each in document.get("depends_on") or () if "${" not in str(each)],
        "inputs": [
            {"uri": "s3://any/any", "as": each.get("as", each.get("name"))} if _of_instance(each) else each
            for each in document.get("inputs") or ()
        ],
    }


def _of_instance(source: Any) -> bool:
    return isinstance(source, dict) and "${" in str(cast("dict[str, Any]", source).get("fromTask"))


def _named(document: Mapping[str, Any], dag: "Dag | None") -> dict[str, list[str]]:
    """The tasks that a task names, each with its outputs: those it has, or where it is not made yet those named."""
    document = _without_instances(dict(document))
    named: dict[str, list[str]] = {each: [] for each in document.get("depends_on") or () if isinstance(each, str)}
    for source in (*(document.get("inputs") or ()), document.get("forEach")):
        if isinstance(source, dict):
            fields = cast("dict[str, Any]", source)
            parent, output = fields.get("fromTask"), fields.get("name")
            if isinstance(parent, str) and isinstance(output, str) and output not in named.setdefault(parent, []):
                named[parent].append(output)
    if dag is not None:
        named |= {name: list(dag.tasks[name].outputs) for name in named if name in dag.tasks}
    return named


def _stub(name: str, outputs: Sequence[str] = ()) -> dict[str, Any]:
    return {"name": name, "image": "any", "command": ["any"], "outputs": outputs}


def _encoded_fields(fields: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The fields by the names they have in YAML; those that are None are left out."""
    return {
        names.get(name, name): _encoded(value, name, within=name) for name, value in fields.items() if value is not None
    }


def _encoded(value: Any, path: str, within: str = "") -> Any:
    """A value as plain data; raises DagInvalid for what cannot be any."""
    match value:
        case Task():
            return value.document if within == "on_exit" else value.name
        case Output() | External():
            origin = {"fromTask": value.task, "name": value.name} if isinstance(value, Output) else {"uri": value.uri}
            options = {"as": value.as_, "mode": value.mode, "verify": value.verify}
            return {**origin, **{name: each for name, each in options.items() if each is not None}}
        case Struct():
            plain = cast("dict[str, Any]", msgspec.to_builtins(value))
            return {name: each for name, each in plain.items() if each is not None}
        case bool() | float() | str() | None:
            return value
        case int():
            return {"count": value} if within == "retries" else value
        case Mapping():
            mapping = cast("Mapping[Any, Any]", value)
            return {str(key): _encoded(each, f"{path}.{key}") for key, each in mapping.items()}
        case list() | tuple():
            items = [_encoded(each, f"{path}[{at}]") for at, each in enumerate(cast("Sequence[Any]", value))]
            return [{"uri": each} if within == "inputs" and isinstance(each, str) else each for each in items]
        case PathLike():
            return fspath(cast("PathLike[str]", value))
        case _:
            raise DagInvalid([Problem(f"expected plain data, got a {type(value).__name__}", path)])
