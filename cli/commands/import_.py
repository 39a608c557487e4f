"""`helios import`: DAGs of other systems, as DAGs of Helios."""

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from cli.failure import RUN_FAILED, SUCCEEDED, CommandFailed
from cli.figures import count
from cli.imports.argo import import_argo
from cli.imports.document import Unreadable
from cli.imports.losses import Imported, Loss
from cli.imports.wfformat import external_files, import_wfformat
from cli.output import Format, narrate, put, put_json
from cli.submission import File, name_of, read_dag
from helios.dag import DagInvalid
from helios.dag_names import image_fault, uri_fault
from helios.dag_plain import parse_plain, yaml_text
from helios.dag_problem import LIMITS

Origin = Literal["argo", "wfformat"]


def import_(
    origin: Origin,
    file: File,
    /,
    *,
    to: Path | None = None,
    parameter: Annotated[tuple[str, ...], Parameter(name=["--parameter", "-p"], negative=())] = (),
    image: str | None = None,
    inputs: str | None = None,
    templates: Annotated[tuple[File, ...], Parameter(name="--templates", negative=())] = (),
    output: Annotated[Format, Parameter(name=["--output", "-o"])] = "table",
) -> int:
    """Make a DAG of Helios out of a DAG of another system, and say by line what could not be carried over.

    The DAG goes to stdout, or to the file --to; what it lacks goes to stderr and into its first lines, as a comment.
    Exit code 0: it does all that the original does; 1: it does not; 2: the file cannot be read.

    Parameters
    ----------
    origin
        argo: an Argo Workflow with a DAG or steps; wfformat: a recording of WfCommons (WfFormat 1.5).
    file
        The file to import; - for standard input.
    to
        The file to write; one that is there is replaced.
    parameter
        argo: a value for a parameter of the workflow, as name=value. May be repeated.
    image
        wfformat: the image of all tasks, of which a recording says nothing.
    inputs
        wfformat: where the files lie that no task makes: s3://bucket/prefix.
    templates
        argo: a file with templates that the workflow refers to (templateRef, workflowTemplateRef). May be repeated.
    output
        table for people, json for one object with the DAG and what is not in it.
    """
    text = _text(file)
    if origin == "wfformat" and templates:
        raise CommandFailed("--templates is for argo", hint="a recording has no templates")
    _check_options(origin, parameter, image, inputs)
    try:
        found = (
            import_argo(text, _pairs(parameter), [_text(each) for each in templates])
            if origin == "argo"
            else [import_wfformat(text, image=_image_of(image), inputs=_inputs_of(text, inputs))]
        )
    except Unreadable as error:
        place = name_of(file) if error.line is None else f"{name_of(file)}:{error.line}"
        raise CommandFailed(f"{place}: {error}", hint="give a file that its own system accepts") from None
    if len(found) > 1:
        raise CommandFailed(
            f"{name_of(file)} holds {len(found)} workflows", hint="import them one by one: a file for each"
        )
    return _told(found[0], file, to, output)


def _text(file: str) -> str:
    try:
        return read_dag(file).decode()
    except UnicodeDecodeError:
        raise CommandFailed(f"{name_of(file)} is not UTF-8", hint="save it as UTF-8") from None


def _told(imported: Imported, file: str, to: Path | None, output: Format) -> int:
    problems: list[str] = []
    try:
        parse_plain(imported.dag)
    except DagInvalid as invalid:
        problems = [str(each) for each in invalid.problems]
    complete = imported.complete and not problems
    for each in imported.losses:
        narrate(_line(name_of(file), each))
    for each in problems:
        narrate(f"the result: {each}")
    if output == "json":
        text = ""
        shown: dict[str, Any] = {
            "complete": complete,
            "dag": imported.dag,
            "losses": imported.losses,
            "problems": problems,
        }
        put_json(shown)
    else:
        text = _comment(imported, problems, complete) + yaml_text(imported.dag)
    if to is not None:
        try:
            to.write_text(text or yaml_text(imported.dag), encoding="utf-8")
        except OSError as error:
            raise CommandFailed(f"cannot write {to}: {error.strerror}", hint="give another --to") from None
    elif text:
        put(text.rstrip("\n"))
    tasks = count(len(imported.dag["tasks"]), "task")
    lost = sum(each.weight == "lost" for each in imported.losses) + len(problems)
    if complete:
        notes = f"; {count(len(imported.losses), 'note')} above" if imported.losses else ""
        narrate(f"complete: {tasks}{notes}")
        return SUCCEEDED
    narrate(f"NOT complete: {tasks}, and {count(lost, 'thing')} that the original does and this does not")
    return RUN_FAILED


def _line(name: str, loss: Loss) -> str:
    """`workflow.yaml:12: when: …`, which editors can jump to."""
    return f"{name}:{loss.line}: {'' if loss.weight == 'lost' else 'note: '}{loss.what}: {loss.reason}"


def _comment(imported: Imported, problems: list[str], complete: bool) -> str:
    lines = [] if complete else ["NOT complete. What the original does and this does not:"]
    lines += [_line("line", each).replace("line:", "line ", 1) for each in imported.losses if each.weight == "lost"]
    lines += [f"here: {each}" for each in problems]
    return "".join(f"# {' '.join(each.split())}\n" for each in lines)


def _check_options(origin: Origin, parameter: tuple[str, ...], image: str | None, inputs: str | None) -> None:
    if origin == "argo" and (image is not None or inputs is not None):
        raise CommandFailed("--image and --inputs are for wfformat", hint="a workflow of Argo names its images itself")
    if origin == "wfformat" and parameter:
        raise CommandFailed("-p is for argo", hint="a recording has no parameters")


def _pairs(parameter: tuple[str, ...]) -> dict[str, str]:
    for each in parameter:
        if "=" not in each:
            raise CommandFailed(f"-p {each}", hint="write -p name=value")
    return dict(each.split("=", 1) for each in parameter)


def _image_of(image: str | None) -> str:
    if image is None:
        raise CommandFailed("a recording says nothing of images", hint="give one that has its programs: --image IMAGE")
    fault = image_fault(image, LIMITS)
    if fault is not None:
        raise CommandFailed(f"--image {fault}", hint="name an image, as in python:3.12-slim")
    return image


def _inputs_of(text: str, inputs: str | None) -> str | None:
    if inputs is None:
        if external_files(text):
            raise CommandFailed(
                "some files are made by no task",
                hint="say where they lie: --inputs s3://bucket/prefix; helios put stores them",
            )
        return None
    fault = uri_fault(f"{inputs.rstrip('/')}/any", LIMITS)
    if fault is not None:
        raise CommandFailed(f"--inputs: {fault}", hint="write s3://bucket or s3://bucket/prefix")
    return inputs
