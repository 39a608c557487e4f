"""What the import of the SDK costs, told by what it imports: the same on every machine, unlike a time."""

import subprocess
import sys
from pathlib import Path

from cli.run_object import task_object as shown_task
from helios.records import TaskView
from helios.run_object import ORDER
from sdk.records import RunInfo, TaskInfo

ROOT = Path(__file__).parents[2]
HEAVY = (
    "redis",
    "minio",
    "urllib3",
    "cyclopts",
    "rich",
    "structlog",
    "waitress",
    "prometheus_client",
    "starlette",
    "uvicorn",
    "opentelemetry",
    "textual",
    "kubernetes",
    "grpc",
    "asyncio",
    "ssl",
    "cli",
    "agent",
    "services",
    "tui",
)
PROGRAM = """
import sys
before = set(sys.modules)
{statement}
print(*sorted(set(sys.modules) - before))
"""


def imported_by(statement: str) -> set[str]:
    done = subprocess.run(
        [
            sys.executable,
            "-S",
            "-c",
            f"import sys; sys.path[:0] = {[str(ROOT), *sys.path]!r}\n" + PROGRAM.format(statement=statement),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def test_importing_helios_imports_nothing_else() -> None:
    assert {name for name in imported_by("import helios") if "." not in name} <= {
        "helios",
        "typing",
    } | sys.stdlib_module_names
    assert not [name for name in imported_by("import helios") if name.startswith(("helios.", "sdk"))]


def test_building_a_dag_and_naming_the_client_import_no_client_of_any_server() -> None:
    found = imported_by("from helios import Dag, task, Client; Dag('d').task('t', image='i', command=['x'])")
    assert "sdk.client" in found
    assert sorted(found & set(HEAVY)) == []


def test_the_sdk_knows_every_field_that_a_run_has_as_json() -> None:
    """`helios show -o json` and RunInfo are one shape under two spellings; a field that one gains, both have."""
    assert set(RunInfo.__struct_encode_fields__) == {*ORDER, "tasks"}
    assert set(TaskInfo.__struct_encode_fields__) == set(shown_task(TaskView(name="t", status="WAITING")))
