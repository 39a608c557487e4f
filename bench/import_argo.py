"""How much of a folder of Argo workflows does `helios import argo` carry over?

    python -m bench.import_argo FOLDER [--templates] [--json FILE]

Such a folder is `examples/` of a clone of Argo's own repository. Looked at is each YAML file below it that has a
template with `dag` or `steps`; those of other kinds (single containers, objects of Kubernetes) are counted and left
out, and what cannot be read is named. A file is

    complete    each of its workflows becomes a DAG that does all that the original does, and `parse_dag` accepts it
    partly      a DAG that is accepted, and a list of what it lacks
    refused     no DAG that is accepted

With --templates the templates that are in other files of the folder are at hand, as they are in a cluster where all of
it is applied. What is lacking is counted once per file.
"""

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from cli.imports.argo import KINDS, import_argo, workflows
from cli.imports.document import Unreadable, Value
from cli.imports.losses import Imported
from helios.dag import DagInvalid
from helios.dag_plain import parse_plain


class Tried(msgspec.Struct):
    """One file; `reasons` are fields and texts that are lost, or why there is no DAG."""

    name: str
    result: str
    tasks: int
    reasons: list[str]


class Read(NamedTuple):
    """One file, and the workflows in it; None where it is no YAML that can be read."""

    path: Path
    text: str
    found: list[Value] | None


def read(folder: Path) -> Iterator[Read]:
    for path in sorted((*folder.rglob("*.yaml"), *folder.rglob("*.yml"))):
        text = path.read_text(encoding="utf-8", errors="replace")
        try:
            yield Read(path, text, workflows(text))
        except Unreadable:
            yield Read(path, text, None)


def has_graph(found: Sequence[Value]) -> bool:
    return any(
        not template.get(kind).is_empty
        for document in found
        for template in _spec(document).get("templates")
        for kind in ("dag", "steps")
    )


def _spec(document: Value) -> Value:
    return document.get(*KINDS.get(document.get("kind").text or "", ("spec",)))


def tried(name: str, text: str, others: Sequence[Sequence[Value]] = ()) -> Tried:
    try:
        found = import_argo(text, others=others)
    except Unreadable as error:
        return Tried(name, "refused", 0, [str(error)])
    reasons = dict.fromkeys(
        _reason(each.what) for imported in found for each in imported.losses if each.weight == "lost"
    )
    valid = all(_is_valid(each) for each in found)
    result = "refused" if not valid else "partly" if reasons else "complete"
    return Tried(name, result, sum(len(each.dag["tasks"]) for each in found), list(reasons))


def _is_valid(imported: Imported) -> bool:
    try:
        parse_plain(imported.dag)
    except DagInvalid:
        return False
    return True


def _reason(what: str) -> str:
    """`parameter x` and `parameter y` are one reason, and so are all values of `{{…}}` by their last part."""
    if what.startswith("{{="):
        return "an expression"
    if what.startswith("{{"):
        return "{{… ." + what.strip("{} ").rpartition(".")[2] + "}}"
    return what.split(" ")[0]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.import_argo", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--templates", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found, left_out, unreadable = looked_at(list(read(options.folder)), options.folder, options.templates)
    tell(found, left_out, unreadable)
    if options.json is not None:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(found)))


def looked_at(files: Sequence[Read], folder: Path, templates: bool) -> tuple[list[Tried], int, list[str]]:
    """What becomes of those with a graph, how many have none, and which cannot be read."""
    names = {each.path: str(each.path.relative_to(folder)) for each in files}
    graphs = [each for each in files if each.found and has_graph(each.found)]
    unreadable = [names[each.path] for each in files if each.found is None]
    found = [
        tried(
            names[each.path],
            each.text,
            [other.found for other in files if other.found and other.path != each.path] if templates else [],
        )
        for each in graphs
    ]
    return found, len(files) - len(graphs) - len(unreadable), unreadable


def tell(found: Sequence[Tried], left_out: int, unreadable: Sequence[str] = ()) -> None:
    print("| example | result | tasks | what is lacking |\n|-|-|-|-|")
    for each in found:
        print(f"| `{each.name}` | {each.result} | {each.tasks} | {', '.join(f'`{one}`' for one in each.reasons)} |")
    results = Counter(each.result for each in found)
    print(f"\n{len(found)} files with dag or steps ({left_out} others left out):")
    if unreadable:
        print(f"    not readable: {', '.join(unreadable)}")
    for result in ("complete", "partly", "refused"):
        share = results[result] / len(found) if found else 0
        print(f"    {result:<9}{results[result]:>4}  {share:.0%}")
    reasons = Counter(reason for each in found for reason in each.reasons)
    print("\nWhat is lacking, by the number of files:")
    for reason, number in reasons.most_common():
        print(f"    {number:>4}  {reason}")


if __name__ == "__main__":
    main()
