"""Who may import whom, and where things live: the rules of the layout, enforced."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = ("helios", "sdk", "services", "agent", "cli", "tui", "bench", "tests")
SERVICES = ("submitter", "jobrunner", "collector", "api")
NO_NAMES = {"utils", "util", "common", "helpers", "helper", "base", "manager", "core", "misc"}


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(path: Path) -> Iterator[str]:
    """Dotted names of every module imported, wherever in the file."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            assert node.module
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def below(name: str, *allowed: str) -> bool:
    return any(name == each or name.startswith(f"{each}.") for each in allowed)


def offences(folder: str, *allowed: str) -> list[str]:
    """Imports of ours that are not allowed below a folder."""
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources(folder)
        for name in imported(path)
        if below(name, *OURS) and not below(name, *allowed)
    ]


def test_helios_imports_nothing_else_of_ours() -> None:
    """But that `from helios import Client` shows users the SDK, whose modules are imported when they are asked for."""
    shown = "helios/__init__.py imports sdk."
    assert [each for each in offences("helios", "helios") if not each.startswith(shown)] == []


def test_the_sdk_speaks_through_redis_and_knows_no_service() -> None:
    assert offences("sdk", "helios", "cli", "sdk") == []
    assert [name for path in sources("sdk") for name in imported(path) if below(name, "cli.main")] == []


def test_nothing_is_built_on_the_sdk() -> None:
    """It is for users: what the command line needs too, it has itself, or helios has."""
    assert [
        each for folder in ("cli", "services", "agent", "tui") for each in offences(folder) if " imports sdk" in each
    ] == []


ZSTD = ("agent/zstd.py", ("backports", "compression"))
"""Python's own from 3.14 on, and the same as a package before. The agent works without it, and then compresses nothing.
"""

DRIVER = (("agent/csi.py", "agent/csi_wire/"), ("grpc", "google.protobuf"))
"""kubelet speaks gRPC. This part starts once per node, and its verb, `node`, is told where the libraries are."""


def test_the_agent_imports_the_standard_library_and_itself_only() -> None:
    """It starts once per task, with `python -I -S`, where no library is to be found; the modules that look for one are
    told where.
    """
    found = [
        f"{name} imports {library}"
        for path in sources("agent")
        for name in [str(path.relative_to(ROOT))]
        for library in imported(path)
        if not below(library, "agent") and library.partition(".")[0] not in sys.stdlib_module_names
        if not (name == ZSTD[0] and below(library, *ZSTD[1]))
        if not (name.startswith(DRIVER[0]) and below(library, *DRIVER[1]))
    ]
    assert found == []


@pytest.mark.parametrize("service", SERVICES)
def test_no_service_imports_another_nor_what_is_built_on_them(service: str) -> None:
    """They talk through Redis Streams only. What each process sets up at its start is the one thing they share."""
    assert offences(f"services/{service}", "helios", f"services.{service}", "services.process", "services.scrape") == []


def test_what_the_services_share_knows_none_of_them() -> None:
    shared = ("process", "log_lines", "scrape")
    found = [
        name
        for module in shared
        for name in imported(ROOT / "services" / f"{module}.py")
        if below(name, "services") and not any(below(name, f"services.{each}") for each in shared)
    ]
    assert found == []


def test_only_the_command_that_opens_it_knows_the_dashboard() -> None:
    """Importing Textual takes a third of a second, and the dashboard's own extra."""
    found = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources("cli", "helios", "services", "agent")
        if path != ROOT / "cli" / "commands" / "tui.py"
        for name in imported(path)
        if below(name, "tui", "textual")
    ]
    assert found == []


def test_the_dashboard_speaks_through_redis_and_knows_no_service() -> None:
    assert offences("tui", "helios", "cli", "tui") == []
    assert [name for path in sources("tui") for name in imported(path) if below(name, "cli.commands", "cli.main")] == []


@pytest.mark.parametrize(
    ("folder", "banned"), [("model", ("redis", "textual", "tui.source")), ("source", ("textual", "rich"))]
)
def test_the_dashboards_models_are_pure_and_its_sources_know_no_widget(folder: str, banned: tuple[str, ...]) -> None:
    unwanted = (*banned, "tui.screens", "tui.widgets", "tui.app")
    found = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources(f"tui/{folder}")
        for name in imported(path)
        if below(name, *unwanted)
    ]
    assert found == []


def test_widgets_never_ask_redis() -> None:
    found = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources("tui/widgets")
        for name in imported(path)
        if below(name, "redis", "minio", "cli.connection")
    ]
    assert found == []


def test_there_is_no_other_service() -> None:
    folders = {path.name for path in (ROOT / "services").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(SERVICES)


def test_nobody_imports_relatively() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sources("helios", "sdk", "services", "agent", "cli", "tui", "bench")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert found == []


def test_no_module_has_a_name_that_says_nothing() -> None:
    found = [
        str(path.relative_to(ROOT))
        for path in sources("helios", "sdk", "services", "agent", "cli", "tui", "bench")
        if path.stem in NO_NAMES or path.parent.name in NO_NAMES
    ]
    assert found == []


def test_only_one_module_spells_out_keys() -> None:
    """Every key and stream name is a function or a constant of helios/keys.py."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno} has {node.value!r}"
        for path in sources("helios", "sdk", "services", "cli", "tui")
        if path != ROOT / "helios" / "keys.py"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.match(r"helios:\S", node.value)
    ]
    assert found == []


def test_no_module_of_helios_reads_the_environment_or_makes_a_client_when_imported() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sources("helios", "services")
        for statement in tree(path).body
        if isinstance(statement, ast.Assign | ast.Expr | ast.AnnAssign)
        for node in ast.walk(statement)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("redis.Redis", "os.getenv", "connect", "Minio")
    ]
    assert found == []


def test_every_script_has_its_function_and_is_shipped() -> None:
    """A .lua file that nothing loads, or one that is loaded and missing, is a mistake."""
    scripts = {path.stem for path in (ROOT / "helios" / "transitions").glob("*.lua")}
    source = tree(ROOT / "helios" / "transitions" / "__init__.py")
    loaded = {
        part.value
        for node in ast.walk(source)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Script"
        for part in node.args
        if isinstance(part, ast.Constant)
    }
    assert scripts == loaded
