"""What a run of a DAG will cost: where its inputs come from, what is skipped, how long it takes. No I/O happens here.

Rule: what cannot be known before the run is said to be unknown or likely, never given out as certain. An external
object is known by its version, and by its digest once some node brought that version. An output is known beforehand
only where the task that makes it is skipped, or is the same on the same inputs as in an earlier run.
"""

import heapq
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Literal

from msgspec import Struct, field

from cli.differences import Side, definition_changes, output_of, version_words
from cli.figures import count
from helios.dag import Dag, ExternalInput, Input, Task, TaskInput
from helios.events import Producer
from helios.memo import content_of
from helios.records import HIT_CAUSES, OutputRecord

Certainty = Literal["certain", "likely", "unknown"]
From = Literal["cache", "peer", "store"]

LOCAL_MS = 2
"""What a hit costs, at most."""
FACTOR_AT_MOST = 3.0
"""How far the estimate is corrected by what the same reckoning says of an earlier run."""


class Source(Struct, frozen=True, kw_only=True):
    """An external object as it is now. `sha256` is empty where no node has brought this version yet."""

    bytes: int | None = None
    version: str = ""
    sha256: str = ""
    trouble: str = ""
    """Why it cannot be looked at."""
    missing: bool = False


class Remembered(Struct, frozen=True):
    """A success that stands for a memoized task."""

    producer: Producer
    outputs: Sequence[OutputRecord]


class World(Struct, frozen=True, kw_only=True):
    """What is known outside of the DAG."""

    sources: Mapping[str, Source]
    """By uri."""
    past: Sequence[Side] = ()
    """Earlier runs of the DAG, newest first."""
    nodes: Sequence[str] = ()
    holders: Callable[[str], Sequence[str]]
    """Which nodes have the blob with that digest."""
    remembered: Callable[[Task, Mapping[str, str]], Remembered | str]
    """What stands for a memoized task on inputs of these contents; else why nothing does."""
    warms: bool = True
    """Whether outputs are left in the cache of the node that made them."""


class InputForecast(Struct, frozen=True, kw_only=True):
    """One input of one task. `nodes` have it now; `expected` is from where it will be brought."""

    name: str
    origin: str
    content: str
    """Its digest, or what stands for it: equal for equal contents."""
    bytes: int | None
    nodes: Sequence[str]
    expected: From
    certainty: Certainty
    words: str


class TaskForecast(Struct, frozen=True, kw_only=True):
    """One task. `node` is the one that it is reckoned for, not a promise."""

    name: str
    node: str
    skipped: Producer | None
    inputs: Sequence[InputForecast]
    run_ms: tuple[int, int, int] | None
    """How long its command took in earlier runs: least, middle, most. None: never seen."""
    runs_known: int
    note: str = ""

    def sum(self, source: From) -> int:
        return sum(each.bytes or 0 for each in self.inputs if each.expected == source)


class Timing(Struct, frozen=True, kw_only=True):
    """How long it takes; times in milliseconds, None where nothing is known."""

    expected: int | None = None
    least: int | None = None
    most: int | None = None
    certainty: Literal["good", "fair", "rough", "none"] = "none"
    words: str = ""


class Forecast(Struct, frozen=True, kw_only=True):
    """The forecast of one run."""

    dag_name: str
    cache_enabled: bool
    tasks: Sequence[TaskForecast]
    nodes: Sequence[str]
    compared: Sequence[str]
    """The earlier runs that it goes by."""
    timing: Timing
    rate: float | None
    """Bytes a second from the store."""
    missing: Sequence[str]
    """External inputs that are not there: the run would fail."""
    troubles: Sequence[str] = ()

    def sum(self, source: From) -> int:
        return sum(task.sum(source) for task in self.tasks)

    @property
    def skipped(self) -> int:
        return sum(task.skipped is not None for task in self.tasks)

    @property
    def unsized(self) -> int:
        """Inputs of which not even the size is known."""
        return sum(each.bytes is None for task in self.tasks for each in task.inputs)

    @property
    def unknown_bytes(self) -> int:
        return sum(each.bytes or 0 for t in self.tasks for each in t.inputs if each.certainty == "unknown")


class _Content(Struct, frozen=True):
    """What an input or output will hold. `id` is its digest where that is known."""

    id: str
    sha256: str
    bytes: int | None
    archive: bool
    certainty: Certainty
    words: str = ""


def foresee(dag: Dag, world: World, *, cache_enabled: bool, memoize: bool, speed: "Speed") -> Forecast:
    """The forecast. Cost: linear in tasks, inputs and earlier runs."""
    seer = _Seer(dag, world, cache_enabled, memoize)
    tasks = [seer.task(name) for name in seer.graph.order]
    placed = {task.name: task for task in tasks}
    return Forecast(
        dag_name=dag.dag_name,
        cache_enabled=cache_enabled,
        tasks=[placed[task.name] for task in dag.tasks],
        nodes=world.nodes,
        compared=[side.run for side in world.past],
        timing=timing(dag, tasks, world.past, speed),
        rate=speed.store,
        missing=sorted(uri for uri, source in world.sources.items() if source.missing),
        troubles=sorted({source.trouble for source in world.sources.values() if source.trouble}),
    )


class _Seer:
    """Goes through the tasks in the order in which they can run, and keeps what is where by then."""

    def __init__(self, dag: Dag, world: World, cache_enabled: bool, memoize: bool) -> None:
        self.specs = {task.name: task for task in dag.tasks}
        self.lists = dag.growth.lists if dag.growth is not None else {}
        self.graph = dag.graph()
        self.world = world
        self.cache_enabled = cache_enabled
        self.memoize = memoize
        self.outputs: dict[tuple[str, str], _Content] = {}
        self.brought: dict[str, set[str]] = {}
        """By content, the nodes that will have it because of this run."""
        self.load: dict[str, int] = dict.fromkeys(world.nodes or ("",), 0)
        self.same: dict[tuple[object, ...], str] = {}
        """Memoized work that this run does itself, and the task that does it."""

    def task(self, name: str) -> TaskForecast:
        task = self.specs[name]
        if task.for_each is not None:
            note = f"makes tasks of {task.for_each.origin}"
            if name in self.lists:
                note += f", as the last time of {count(len(self.lists[name]), 'item')}"
            return TaskForecast(name=name, node="", skipped=None, inputs=(), run_ms=None, runs_known=0, note=note)
        contents = {each.as_: self._content(task, each) for each in task.inputs}
        bases = [side for side in self.world.past if name in side.specs and _succeeded(side, name)]
        times = [ms for side in bases if (ms := command_ms(side, name)) is not None]
        run_ms = (min(times), round(median(times)), max(times)) if times else None
        producer, note = self._skip(task, contents)
        if producer is not None:
            return TaskForecast(
                name=name, node="", skipped=producer, inputs=(), run_ms=run_ms, runs_known=len(times), note=note
            )
        node = self._node(contents)
        inputs = [self._input(each, contents[each.as_], node) for each in task.inputs]
        self.load[node] += 1
        self._make(task, contents, bases, node)
        return TaskForecast(
            name=name, node=node, skipped=None, inputs=inputs, run_ms=run_ms, runs_known=len(times), note=note
        )

    # What it holds.

    def _content(self, task: Task, declared: Input) -> _Content:
        if isinstance(declared, TaskInput):
            return self.outputs[declared.from_task, declared.name]
        source = self.world.sources.get(declared.uri, Source())
        if source.missing:
            return _Content(f"missing {declared.uri}", "", None, False, "unknown", "it is not there")
        digest = source.sha256 or self._digest_before(task, declared, source)
        if digest:
            return _Content(digest, digest, source.bytes, False, "certain")
        known = f"{declared.uri} {source.version}" if source.version else declared.uri
        words = "no node has brought this version yet" if source.version else "it cannot be looked at"
        return _Content(known, "", source.bytes, False, "certain" if source.version else "unknown", words)

    def _digest_before(self, task: Task, declared: ExternalInput, source: Source) -> str:
        """The digest that an earlier run recorded for this version."""
        for side in self.world.past:
            record = side.record(task.name, declared.as_)
            known = side.declared(task.name, declared.as_)
            if record and record.sha256 and record.version and isinstance(known, ExternalInput):
                same = version_words(record.version) == version_words(source.version)
                if known.uri == declared.uri and same:
                    return record.sha256
        return ""

    def _make(self, task: Task, contents: Mapping[str, _Content], bases: Sequence[Side], node: str) -> None:
        """What its outputs will be."""
        unchanged = [side for side in bases if self._is_same(side, task, contents)]
        for output in task.outputs:
            seen = [found for side in unchanged if (found := output_of(side.tasks[task.name], output)) is not None]
            last = next((f for side in bases if (f := output_of(side.tasks[task.name], output)) is not None), None)
            size, archive = (last.bytes, last.archive) if last else (None, False)
            if seen and len({each.sha256 for each in seen}) == 1:
                content = _Content(seen[0].sha256, seen[0].sha256, seen[0].bytes, seen[0].archive, "likely")
            else:
                words = "it will be made anew" if not seen else "it is another one in every run"
                content = _Content(f"new {task.name}/{output}", "", size, archive, "unknown", words)
            self.outputs[task.name, output] = content
            if self.world.warms and self.cache_enabled:
                self.brought.setdefault(content.id, set()).add(node)

    def _is_same(self, side: Side, task: Task, contents: Mapping[str, _Content]) -> bool:
        """Whether the task is the one of that run, on the same inputs."""
        if definition_changes(side.specs[task.name], task):
            return False
        for each in task.inputs:
            record = side.record(task.name, each.as_)
            digest = record.sha256 if record else ""
            if not digest and isinstance(each, TaskInput):
                found = output_of(side.tasks.get(each.from_task), each.name)
                digest = found.sha256 if found else ""
            if not digest or digest != contents[each.as_].sha256:
                return False
        return True

    # Whether it runs.

    def _skip(self, task: Task, contents: Mapping[str, _Content]) -> tuple[Producer | None, str]:
        if task.memoize is None:
            return None, ""
        if not self.memoize:
            return None, "memoization is off for this run"
        unknown = next((name for name, each in contents.items() if not each.sha256), None)
        if unknown is not None:
            return None, f"not skipped, as far as can be told: input {unknown} is not known yet"
        digests = {
            each.as_: content_of(contents[each.as_].sha256, contents[each.as_].archive)
            if isinstance(each, TaskInput)
            else contents[each.as_].sha256
            for each in task.inputs
        }
        found = self.world.remembered(task, digests)
        if isinstance(found, Remembered):
            made = {each.name: each for each in found.outputs}
            for output in task.outputs:
                known = made.get(output)
                self.outputs[task.name, output] = (
                    _Content(known.sha256, known.sha256, known.bytes, known.archive, "likely")
                    if known
                    else _Content(f"new {task.name}/{output}", "", None, False, "unknown")
                )
            return found.producer, f"run {found.producer.run} did the same"
        key = (task.image, task.command, task.args, task.env, tuple(sorted(digests.items())), tuple(task.outputs))
        first = self.same.setdefault(key, task.name)
        if first != task.name:
            for output in task.outputs:
                self.outputs[task.name, output] = self.outputs[first, output]
            return Producer("", first), f"task {first} of this run does the same"
        return None, found

    # Where it runs, and from where its inputs come.

    def _node(self, contents: Mapping[str, _Content]) -> str:
        """The node that has most of its bytes; among equals the one with the fewest tasks."""
        held = dict.fromkeys(self.load, 0)
        for each in {content.id: content for content in contents.values()}.values():
            for node in self._having(each):
                if node in held:
                    held[node] += each.bytes or 0
        return min(self.load, key=lambda node: (-held[node], self.load[node], node))

    def _having(self, content: _Content) -> set[str]:
        now = set(self.world.holders(content.sha256)) if content.sha256 else set[str]()
        return now | self.brought.get(content.id, set())

    def _input(self, declared: Input, content: _Content, node: str) -> InputForecast:
        nodes = sorted(self.world.holders(content.sha256)) if content.sha256 else []
        having = self._having(content)
        expected: From = "store"
        if self.cache_enabled:
            expected = "cache" if node in having else "peer" if having - {""} else "store"
            self.brought.setdefault(content.id, set()).add(node)
        return InputForecast(
            name=declared.as_,
            origin=declared.uri if isinstance(declared, ExternalInput) else f"{declared.from_task}/{declared.name}",
            content=content.id,
            bytes=content.bytes,
            nodes=nodes,
            expected=expected,
            certainty="likely" if content.certainty == "certain" and len(self.load) > 1 else content.certainty,
            words=content.words,
        )


def _succeeded(side: Side, name: str) -> bool:
    return name in side.tasks and side.tasks[name].status == "SUCCEEDED"


# How long it takes.


class Speed(Struct, frozen=True, kw_only=True):
    """What the reckoning of time goes by."""

    slots: int
    """Tasks that run at once."""
    store: float | None
    """Bytes a second of one download from the store; None: not known."""
    peer: float | None = None
    """The same from another node; None: as from the store."""


def command_ms(side: Side, name: str) -> int | None:
    """How long a task's command ran in a run; None if it did not, or that is not recorded."""
    view = side.tasks.get(name)
    if view is None or view.skipped is not None or view.startedAt is None or view.finishedAt is None:
        return None
    return max(0, view.finishedAt - view.startedAt)


def overhead_ms(side: Side) -> int:
    """What a task takes beyond its command and its inputs: the least, because others waited for a place."""
    spent: list[int] = []
    for name, view in side.tasks.items():
        ran = command_ms(side, name)
        if ran is not None and view.startTime is not None and view.endTime is not None:
            spent.append(max(0, view.endTime - view.startTime - ran - (view.fetchElapsedMs or 0)))
    return sorted(spent)[len(spent) // 4] if spent else 0


def store_rate(past: Sequence[Side]) -> float | None:
    """Bytes a second of downloads from the store in earlier runs; None where none was large enough to tell."""
    count = spent = 0
    for side in past:
        for view in side.tasks.values():
            for each in view.inputs:
                if each.source == "store" and each.cause not in HIT_CAUSES and each.bytes >= 2**20 and each.ms > 0:
                    count += each.bytes
                    spent += each.ms
    return count * 1000 / spent if spent else None


def slots_seen(side: Side) -> int:
    """The most tasks of a run that had a Job at the same time."""
    changes: list[tuple[int, int]] = []
    for view in side.tasks.values():
        if view.startTime is not None and view.endTime is not None and view.skipped is None:
            changes += [(view.startTime, 1), (view.endTime, -1)]
    most = now = 0
    for _, change in sorted(changes):
        now += change
        most = max(most, now)
    return most


def timing(dag: Dag, tasks: Sequence[TaskForecast], past: Sequence[Side], speed: Speed) -> Timing:
    """The run's duration from those of its tasks' commands, what has to be brought, and how many run at once."""
    joins = {task.name for task in dag.tasks if task.for_each is not None}
    running = [task for task in tasks if task.skipped is None and task.name not in joins]
    known = [task.run_ms for task in running if task.run_ms is not None]
    if running and not known:
        return Timing(words="no earlier run of this DAG tells how long its tasks take")
    base = next((side for side in past if overhead_ms(side)), None)
    overhead = overhead_ms(base) if base else 0
    usual = round(median([each[1] for each in known])) if known else 0
    factor = _factor(dag, base, speed, overhead) if base else 1.0

    def total(which: int) -> int:
        spans: dict[str, float] = {}
        for task in tasks:
            if task.skipped is not None or task.name in joins:
                spans[task.name] = 0
                continue
            ran = task.run_ms[which] if task.run_ms is not None else usual
            spans[task.name] = ran + overhead + fetch_ms(task, speed)
        return round(makespan(dag, spans, speed.slots) * factor)

    strange = len(running) - len(known)
    runs = min((task.runs_known for task in running if task.run_ms is not None), default=0)
    certainty: Literal["good", "fair", "rough"] = (
        "rough" if strange * 5 > len(running) else "fair" if strange or runs < 3 else "good"
    )
    parts = [f"from {len(past)} earlier {'run' if len(past) == 1 else 'runs'}"]
    if strange:
        parts.append(f"{strange:,} of {len(running):,} tasks never seen, taken as the middle of the others")
    if speed.store is None and any(task.sum("store") for task in running):
        parts.append("the store's rate is not known, so bringing the inputs is left out")
    return Timing(expected=total(1), least=total(0), most=total(2), certainty=certainty, words="; ".join(parts))


def _factor(dag: Dag, base: Side, speed: Speed, overhead: int) -> float:
    """What the same reckoning of an earlier run has to be multiplied with to come to what that run took."""
    starts = [view.startTime for view in base.tasks.values() if view.startTime is not None]
    ends = [view.endTime for view in base.tasks.values() if view.endTime is not None]
    names = {task.name for task in dag.tasks}
    if not starts or not ends or not set(base.tasks) <= names:
        return 1.0
    spans = {
        task.name: float((command_ms(base, task.name) or 0) + overhead + (base.tasks[task.name].fetchElapsedMs or 0))
        if task.name in base.tasks and base.tasks[task.name].skipped is None
        else 0.0
        for task in dag.tasks
    }
    reckoned = makespan(dag, spans, speed.slots)
    return min(FACTOR_AT_MOST, max(1 / FACTOR_AT_MOST, (max(ends) - min(starts)) / reckoned)) if reckoned else 1.0


def fetch_ms(task: TaskForecast, speed: Speed) -> float:
    """What bringing its inputs takes; each content once."""
    once = {each.content: each for each in task.inputs}.values()
    spent = 0.0
    for each in once:
        rate = {"cache": None, "peer": speed.peer or speed.store, "store": speed.store}[each.expected]
        spent += (each.bytes or 0) * 1000 / rate if rate else LOCAL_MS if each.expected == "cache" else 0
    return spent


def makespan(dag: Dag, spans: Mapping[str, float], slots: int) -> float:
    """When the last task ends if at most `slots` run at once, each as soon as it may. Skipped tasks take no slot."""
    graph = dag.graph()
    waiting = {name: len(parents) for name, parents in graph.parents.items()}
    position = {name: number for number, name in enumerate(graph.order)}
    ready = [(position[name], name) for name in graph.roots]
    heapq.heapify(ready)
    running: list[tuple[float, int, str]] = []
    now = 0.0
    busy = 0
    while ready or running:
        while ready and (busy < max(1, slots) or not spans[ready[0][1]]):
            _, name = heapq.heappop(ready)
            busy += bool(spans[name])
            heapq.heappush(running, (now + spans[name], position[name], name))
        now, _, name = heapq.heappop(running)
        busy -= bool(spans[name])
        for child in graph.children[name]:
            waiting[child] -= 1
            if not waiting[child]:
                heapq.heappush(ready, (position[child], child))
    return now


# How good it was.


class Score(Struct, frozen=True):
    """One figure of the forecast against what the run came to."""

    figure: str
    expected: float | None
    actual: float | None


def score(forecast: Forecast, run: Mapping[str, object]) -> list[Score]:
    """`run` is the object that `helios show -o json` prints."""

    def came_to(name: str) -> float | None:
        found = run.get(name)
        return float(found) if isinstance(found, int | float) else None

    fetched = forecast.sum("peer") + forecast.sum("store")
    return [
        Score("hitBytes", forecast.sum("cache"), came_to("cacheHitBytes")),
        Score("fetchedBytes", fetched, came_to("cacheMissBytes")),
        Score("skipped", forecast.skipped, came_to("taskSkipped")),
        Score("durationMs", forecast.timing.expected, came_to("durationMs")),
    ]


class Weights(Struct):
    """Bytes and tasks of one group of tasks, for people."""

    tasks: int = 0
    hit: int = 0
    peer: int = 0
    store: int = 0
    skipped: int = 0
    run_ms: list[int] = field(default_factory=list[int])

    def add(self, task: TaskForecast) -> None:
        self.tasks += 1
        self.hit += task.sum("cache")
        self.peer += task.sum("peer")
        self.store += task.sum("store")
        self.skipped += task.skipped is not None
        if task.run_ms is not None:
            self.run_ms.append(task.run_ms[1])
