"""What the run view reads besides its tasks' records."""

from typing import Any, NamedTuple

import msgspec

from cli.connection import Link, reaching
from helios.dag import Dag, Task

_decoder = msgspec.json.Decoder(Dag)


class RunDetails(NamedTuple):
    """`tasks` by name, as the DAG has them; `problems` where the run was rejected. `exists`: whether it is kept."""

    exists: bool
    tasks: dict[str, Task]
    problems: tuple[str, ...]


def read_details(link: Link, run: str) -> RunDetails:
    """Raises CommandFailed."""
    with reaching(link.settings, embedded=link.stack is not None):
        keys = link.keys(run)
        text: Any = link.client.get(keys.dag(run))
        found: Any = link.client.hmget(keys.run(run), "status", "problems")
    try:
        tasks = {task.name: task for task in _decoder.decode(text).tasks} if text is not None else {}
    except (msgspec.DecodeError, UnicodeError):
        tasks = {}
    return RunDetails(found[0] is not None, tasks, tuple(str(found[1] or "").splitlines()))
