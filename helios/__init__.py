"""What two processes must agree on: the DAG, the messages, the keys, the settings and the transitions.

Rule: code here takes clients and never makes one, and imports nothing else of ours. If only one process needs it,
it lives with that process.

The one exception is below: users find the Python SDK (the package `sdk`) under this name. Each name is imported when it
is first asked for, so that whoever needs one module of helios pays for no other.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from helios.dag_problem import DagInvalid, Problem
    from helios.version import VERSION as __version__
    from sdk.aio import AsyncClient, AsyncRun
    from sdk.building import Dag, Output, Task, external, secret, task
    from sdk.client import Client, Run
    from sdk.failure import HeliosError, NotAccepted, RunFailed, Unreachable
    from sdk.records import Artifact, RunInfo, TaskInfo, TaskUpdate

_HOMES = {
    "AsyncClient": "sdk.aio",
    "AsyncRun": "sdk.aio",
    "Artifact": "sdk.records",
    "Client": "sdk.client",
    "Dag": "sdk.building",
    "DagInvalid": "helios.dag_problem",
    "HeliosError": "sdk.failure",
    "NotAccepted": "sdk.failure",
    "Output": "sdk.building",
    "Problem": "helios.dag_problem",
    "Run": "sdk.client",
    "RunFailed": "sdk.failure",
    "RunInfo": "sdk.records",
    "Task": "sdk.building",
    "TaskInfo": "sdk.records",
    "TaskUpdate": "sdk.records",
    "Unreachable": "sdk.failure",
    "external": "sdk.building",
    "secret": "sdk.building",
    "task": "sdk.building",
}
"""The module of each name."""

__all__ = [
    "Artifact",
    "AsyncClient",
    "AsyncRun",
    "Client",
    "Dag",
    "DagInvalid",
    "HeliosError",
    "NotAccepted",
    "Output",
    "Problem",
    "Run",
    "RunFailed",
    "RunInfo",
    "Task",
    "TaskInfo",
    "TaskUpdate",
    "Unreachable",
    "__version__",
    "external",
    "secret",
    "task",
]


def __getattr__(name: str) -> object:
    if name == "__version__":
        from helios.version import VERSION

        return VERSION
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'helios' has no attribute {name!r}")
    import importlib

    found = getattr(importlib.import_module(home), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
