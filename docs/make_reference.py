"""Writes docs/reference/ from the code, so that neither can say what the other does not.

    python docs/make_reference.py           # a test compares what this would write with what is there

An attribute's description is the string literal below it, a struct's is its docstring.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
FOLDER = PROJECT / "docs" / "reference"


def classes(path: str) -> Iterator[ast.ClassDef]:
    tree = ast.parse((PROJECT / path).read_text(encoding="utf-8"))
    yield from (node for node in tree.body if isinstance(node, ast.ClassDef))


def attributes(of: ast.ClassDef) -> Iterator[tuple[ast.AnnAssign, str]]:
    """Each annotated attribute with the text below it, on one line."""
    for node, after in zip(of.body, [*of.body[1:], None], strict=True):
        if not isinstance(node, ast.AnnAssign):
            continue
        text = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
            text = after.value.value
        yield node, cell(text)


def cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().replace("|", "\\|")


SETTINGS_HEAD = """\
# Settings

Each process reads them from its environment when it starts. A value that cannot be used ends the process with a
message that names the setting and says what it takes. Seconds, bytes and counts are plain numbers.

| variable | default | range | meaning |
| --- | --- | --- | --- |
"""

EVENTS_HEAD = """\
# Events

What happened, in the stream `helios:{pN}:events` of each partition: one entry for each event, whose field `event`
holds JSON. Its `type` is the name below. The entry's id carries the time in milliseconds. Readers ignore fields that
they do not know: later versions add some.

"""


def settings_page() -> str:
    (settings,) = (each for each in classes("helios/settings.py") if each.name == "Settings")
    rows = [
        f"| `HELIOS_{ast.unparse(node.target).upper()}` | {_default(node.value)} | {_range(node.annotation)} | {text} |"
        for node, text in attributes(settings)
    ]
    return SETTINGS_HEAD + "\n".join(rows) + "\n"


def _default(value: ast.expr | None) -> str:
    shown = value.value if isinstance(value, ast.Constant) else ast.unparse(value) if value else ""
    return "" if shown == "" else f"`{cell(str(shown))}`"


def _range(annotation: ast.expr) -> str:
    bounds = {
        keyword.arg: ast.unparse(keyword.value)
        for node in ast.walk(annotation)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
    }
    return f"{bounds['ge']} to {bounds['le']}" if bounds.keys() >= {"ge", "le"} else ""


def events_page() -> str:
    lines: list[str] = []
    found = list(classes("helios/events.py"))
    shared = [row for each in found if each.name == "Event" for row in attributes(each)]
    for each in found:
        bases = [ast.unparse(base) for base in each.bases]
        if "Event" not in bases:
            continue
        lines += [f"## {each.name}", ""]
        if text := ast.get_docstring(each):
            lines += [cell(text), ""]
        lines += ["| field | type | meaning |", "| --- | --- | --- |"]
        for node, text in [*shared, *attributes(each)]:
            lines.append(f"| `{ast.unparse(node.target)}` | `{cell(ast.unparse(node.annotation))}` | {text} |")
        lines.append("")
    return EVENTS_HEAD + "\n".join(lines)


PAGES = {"settings.md": settings_page, "events.md": events_page}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")
        sys.stdout.write(f"docs/reference/{name}\n")


if __name__ == "__main__":
    main()
