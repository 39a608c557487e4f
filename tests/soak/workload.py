"""The work of a soak, made from its seed: DAGs of many shapes, what each task will do, and how each run must end.

A task says in its own command what its pod is to do, so that whoever plays the node needs no other word:
`soak NUMBER MILLISECONDS FAILURES INPUTS HOW`. The first FAILURES attempts fail.
"""

import json
import random
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

ALWAYS = 99
"""More failures than any task has retries."""
FOREVER_MS = 3_600_000
"""The task runs until its run is cancelled."""
LATE_MS = 30_000
"""Longer than the timeout that such a task has."""
DEFAULT_MS = (2, 60)
NODES = 3


class Behaviour(msgspec.Struct, frozen=True):
    """What a pod of the task does; `how` it tells: status, message or report."""

    number: int
    milliseconds: int
    failures: int
    inputs: int
    how: str


def command_of(behaviour: Behaviour) -> list[str]:
    return ["soak", *(str(value) for value in msgspec.structs.astuple(behaviour))]


def behaviour_of(command: Sequence[str]) -> Behaviour:
    _, number, milliseconds, failures, inputs, how = command
    return Behaviour(int(number), int(milliseconds), int(failures), int(inputs), how)


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """One submission. `sends` are texts to add one after the other, with the same request if there is one."""

    number: int
    shape: str
    sends: tuple[str, ...]
    tasks: int
    request: str | None = None
    durable: bool = False
    use_cache: bool = True
    cancel_after_ms: int | None = None
    rejected: tuple[bool, ...] = ()
    """For each send, whether it must be refused."""


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """A task as the checker must know it, beside what Redis says."""

    name: str
    parents: tuple[str, ...]
    retries: int
    behaviour: Behaviour

    @property
    def fails(self) -> bool:
        return self.behaviour.failures > self.retries


def plan(seed: int, tasks: int) -> list[Planned]:
    """Submissions that come to about so many tasks, the same for the same seed."""
    chance = random.Random(seed)
    found: list[Planned] = []
    planned = 0
    while planned < tasks:
        each = _submission(chance, len(found), min(tasks - planned, 400))
        found.append(each)
        planned += each.tasks
    return found


def tasks_of(dag: dict[str, Any]) -> list[Task]:
    """The tasks of a DAG as it was sent, or as Redis keeps it."""
    return [
        Task(
            name=task["name"],
            parents=tuple(task.get("depends_on", ())),
            retries=task["retries"]["count"] if isinstance(task.get("retries"), dict) else int(task.get("retries", 0)),
            behaviour=behaviour_of(task["command"]),
        )
        for task in dag["tasks"]
    ]


_SHAPES = ("single", "chain", "fan", "diamond", "layers", "flat", "bush")
_WEIGHTS = (30, 18, 12, 18, 10, 6, 6)


def _edges(chance: random.Random, shape: str, most: int) -> dict[str, list[str]]:
    """Task names with their parents."""
    match shape:
        case "single":
            return {"only": []}
        case "chain":
            length = chance.randint(2, max(2, min(15, most)))
            return {f"t{place}": [f"t{place - 1}"] if place else [] for place in range(length)}
        case "fan":
            width = chance.choice((3, 8, 20, 60, 150))
            middle = [f"m{place}" for place in range(min(width, max(2, most)))]
            return {"first": [], **{name: ["first"] for name in middle}, "last": middle}
        case "diamond":
            return {"top": [], "left": ["top"], "right": ["top"], "bottom": ["left", "right"]}
        case "layers":
            width, depth = chance.randint(2, 6), chance.randint(2, 5)
            return {
                f"l{layer}-{place}": [f"l{layer - 1}-{other}" for other in range(width)] if layer else []
                for layer in range(depth)
                for place in range(width)
            }
        case "flat":
            return {f"t{place}": [] for place in range(chance.choice((5, 20, 80)))}
        case _:
            names = [f"b{place}" for place in range(chance.randint(4, 25))]
            return {
                name: sorted(chance.sample(names[:place], min(place, chance.randint(0, 3))))
                for place, name in enumerate(names)
            }


def _submission(chance: random.Random, number: int, most: int) -> Planned:
    shape = chance.choices(_SHAPES, _WEIGHTS)[0]
    edges = _edges(chance, shape, most)
    mood = chance.choices(
        ("well", "fails", "cancel", "forever", "twice", "again", "conflict", "invalid"), (60, 12, 5, 2, 4, 10, 2, 2)
    )[0]
    bad = chance.choice(list(edges)) if mood == "fails" else None
    endless = chance.choice(list(edges)) if mood == "forever" else None
    slow = mood == "cancel"
    tasks = [
        _task(chance, number, name, parents, name == bad, name == endless, slow) for name, parents in edges.items()
    ]
    use_cache = chance.random() < 0.85
    text = _text(shape, tasks)
    sends, rejected = [text], [False]
    request: str | None = f"soak-{number}" if chance.random() < 0.5 else None
    match mood:
        case "twice":
            request = None
            sends, rejected = [text, text], [False, False]
        case "again":
            request = f"soak-{number}"
            sends, rejected = [text] * chance.randint(2, 4), []
            rejected = [False] * len(sends)
        case "conflict":
            request = f"soak-{number}"
            sends, rejected = [text, _text(f"{shape}-other", tasks)], [False, True]
        case "invalid":
            request = None
            broken = chance.choice(("not a DAG at all", text[: len(text) // 2], text.replace('"image"', '"imag"', 1)))
            sends, rejected = [broken], [True]
        case "forever" | "cancel":
            request = f"soak-{number}"
        case _:
            pass
    return Planned(
        number=number,
        shape=shape,
        sends=tuple(sends),
        tasks=sum(len(tasks) for refused in rejected if not refused) if request is None else len(tasks),
        request=request,
        durable=mood == "well" and chance.random() < 0.06,
        use_cache=use_cache,
        cancel_after_ms=chance.randint(0, 1500) if mood in ("cancel", "forever") else None,
        rejected=tuple(rejected),
    )


def _text(shape: str, tasks: list[dict[str, Any]]) -> str:
    return json.dumps({"dagName": f"soak-{shape}", "tasks": tasks})


def _task(
    chance: random.Random, number: int, name: str, parents: list[str], bad: bool, endless: bool, slow: bool
) -> dict[str, Any]:
    retries = chance.choices((0, 1, 3), (60, 25, 15))[0]
    failures = ALWAYS if bad else (chance.randint(1, retries) if retries and chance.random() < 0.25 else 0)
    milliseconds = chance.randint(*DEFAULT_MS) if chance.random() < 0.95 else chance.randint(300, 2000)
    timeout: int | None = None
    if endless:
        milliseconds, failures = FOREVER_MS, 0
    elif bad and chance.random() < 0.3:
        milliseconds, timeout, retries = LATE_MS, 1, 0
    elif slow:
        milliseconds = chance.randint(100, 800)
    inputs = chance.choice((0, 0, 0, 1, 2, 5))
    how = chance.choice(("status", "message", "report", "report"))
    task: dict[str, Any] = {
        "name": name,
        "image": "none",
        "command": command_of(Behaviour(number, milliseconds, failures, inputs, how)),
        "depends_on": parents,
        "retries": {"count": retries},
        "inputs": [{"uri": f"s3://data/{place}", "as": f"in-{place}"} for place in range(inputs)],
        "outputs": [] if how == "status" else ["out"],
    }
    if timeout is not None:
        task["timeoutSeconds"] = timeout
    return task


def all_tasks(plans: Sequence[Planned]) -> Iterator[Task]:
    for each in plans:
        for text, refused in zip(each.sends, each.rejected, strict=True):
            if not refused:
                yield from tasks_of(json.loads(text))
