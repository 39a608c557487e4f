"""What a forecast says, from hand-made earlier runs and caches; and how it is shown."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.differences import Side
from cli.forecast import (
    Forecast,
    Remembered,
    Score,
    Source,
    Speed,
    World,
    foresee,
    makespan,
    score,
    slots_seen,
    store_rate,
)
from cli.forecast_text import forecast_lines, forecast_object, score_lines
from helios.dag import Dag, ExternalInput, Input, Memoize, Task, TaskInput
from helios.events import Producer
from helios.records import InputRecord, OutputRecord, TaskView

A, B, C = "a" * 64, "b" * 64, "c" * 64
URI = "s3://corpora/opticks.txt"
MB = 10**6
FAST = Speed(slots=4, store=100.0 * MB)
NOTHING = "no success with the same image, command, env and inputs is remembered"


def spec(name: str, *inputs: Input, **fields: Any) -> Task:
    return Task(**{"name": name, "image": "i", "command": ("c",), "outputs": ("out",), "inputs": inputs, **fields})


def dag(*tasks: Task) -> Dag:
    return Dag(dag_name="trial", tasks=tasks)


SPLIT = spec("split", ExternalInput(URI, "corpus"))
COUNTS = [spec(f"count-{n}", TaskInput("split", "out", "part")) for n in (1, 2)]
WORDS = dag(SPLIT, *COUNTS)


def ran(
    task: Task, ms: int, *inputs: InputRecord, digest: str = B, size: int = 30 * MB, start: int = 1000
) -> tuple[Task, TaskView]:
    view = TaskView(
        name=task.name,
        status="SUCCEEDED",
        node="n1",
        inputs=inputs,
        outputs=[OutputRecord("out", size, digest)],
        startTime=start,
        endTime=start + ms + 50,
        startedAt=start + 25,
        finishedAt=start + 25 + ms,
    )
    return task, view


def side(number: int, *tasks: tuple[Task, TaskView]) -> Side:
    return Side(
        run=f"{1764027260000 + number}-0",
        tasks={task.name: view for task, view in tasks},
        specs={task.name: task for task, _ in tasks},
    )


def corpus(version: str = "1", sha: str = A, **fields: Any) -> InputRecord:
    given = {"source": "store", "ms": 1000, **fields}
    return InputRecord("corpus", 100 * MB, "never-here", sha256=sha, version=f'etag "{version}"', **given)


def past(number: int = 0, *, part: str = B, split_ms: int = 2000) -> Side:
    counts = [
        ran(each, 1000, InputRecord("part", 30 * MB, "warm", sha256=part), digest=C, start=1050 + split_ms)
        for each in COUNTS
    ]
    return side(number, ran(SPLIT, split_ms, corpus(), digest=part), *counts)


def world(
    *,
    version: str = "1",
    known: str = A,
    runs: Sequence[Side] = (),
    held: Mapping[str, Sequence[str]] | None = None,
    nodes: Sequence[str] = ("n1",),
    memory: Mapping[str, Remembered] | None = None,
) -> World:
    found = held or {}
    return World(
        sources={URI: Source(bytes=100 * MB, version=f'etag "{version}"', sha256=known)},
        past=runs,
        nodes=nodes,
        holders=lambda digest: found.get(digest, ()),
        remembered=lambda task, _: (memory or {}).get(task.name, NOTHING),
    )


def said(of: Dag, about: World, *, cache: bool = True, memoize: bool = True, speed: Speed = FAST) -> Forecast:
    return foresee(of, about, cache_enabled=cache, memoize=memoize, speed=speed)


def expected(forecast: Forecast) -> dict[str, list[tuple[str, str]]]:
    return {task.name: [(each.expected, each.certainty) for each in task.inputs] for task in forecast.tasks}


def test_a_first_run_brings_the_sources_once_and_finds_what_it_makes_itself() -> None:
    forecast = said(WORDS, world(known=""))
    assert expected(forecast) == {
        "split": [("store", "certain")],
        "count-1": [("cache", "unknown")],
        "count-2": [("cache", "unknown")],
    }
    assert (forecast.sum("store"), forecast.unsized) == (100 * MB, 2)
    assert (forecast.timing.expected, forecast.timing.certainty) == (None, "none")


def test_a_second_run_on_unchanged_sources_hits() -> None:
    forecast = said(WORDS, world(runs=[past()], held={A: ["n1"], B: ["n1"]}))
    assert expected(forecast) == {
        "split": [("cache", "certain")],
        "count-1": [("cache", "likely")],
        "count-2": [("cache", "likely")],
    }
    assert (forecast.sum("cache"), forecast.sum("store")) == (160 * MB, 0)
    assert forecast.tasks[1].inputs[0].nodes == ["n1"]


def test_another_version_of_a_source_is_brought_and_what_follows_is_unknown() -> None:
    forecast = said(WORDS, world(version="2", known="", runs=[past()], held={A: ["n1"], B: ["n1"]}))
    assert forecast.sum("store") == 100 * MB
    assert forecast.unknown_bytes == 60 * MB
    assert forecast.tasks[0].inputs[0].words == "no node has brought this version yet"


def test_a_version_that_an_earlier_run_recorded_is_known_without_the_nodes_word() -> None:
    """The store may have another name from here than from the collector."""
    forecast = said(WORDS, world(known="", runs=[past()], held={A: ["n1"]}))
    assert forecast.tasks[0].inputs[0].content == A
    assert forecast.tasks[0].inputs[0].expected == "cache"


def test_a_changed_command_leaves_what_it_makes_unknown() -> None:
    changed = msgspec.structs.replace(SPLIT, command=("other",))
    forecast = said(dag(changed, *COUNTS), world(runs=[past()], held={A: ["n1"], B: ["n1"]}))
    assert expected(forecast)["count-1"] == [("cache", "unknown")]
    assert forecast.tasks[1].inputs[0].words == "it will be made anew"


def test_a_task_that_makes_another_output_every_time_is_not_foretold() -> None:
    forecast = said(WORDS, world(runs=[past(1, part=C), past(0, part=B)], held={A: ["n1"], B: ["n1"], C: ["n1"]}))
    assert forecast.tasks[1].inputs[0].words == "it is another one in every run"


def test_with_the_cache_off_everything_comes_from_the_store() -> None:
    forecast = said(WORDS, world(runs=[past()], held={A: ["n1"], B: ["n1"]}), cache=False)
    assert (forecast.sum("cache"), forecast.sum("store")) == (0, 160 * MB)


def test_a_task_goes_where_its_bytes_are_and_another_node_gives_the_rest() -> None:
    two = dag(
        spec("both", ExternalInput(URI, "corpus"), ExternalInput("s3://corpora/small", "small")),
    )
    about = world(held={A: ["n2"], B: ["n1"]}, nodes=("n1", "n2"))
    sources = {**about.sources, "s3://corpora/small": Source(bytes=MB, version='etag "9"', sha256=B)}
    forecast = said(two, msgspec.structs.replace(about, sources=sources))
    (task,) = forecast.tasks
    assert task.node == "n2"
    assert [each.expected for each in task.inputs] == ["cache", "peer"]
    assert (forecast.sum("cache"), forecast.sum("peer"), forecast.sum("store")) == (100 * MB, MB, 0)


def memoized(task: Task) -> Task:
    return msgspec.structs.replace(task, memoize=Memoize())


def test_a_remembered_success_skips_and_makes_what_follows_known() -> None:
    remembered = Remembered(Producer("1-0", "split"), [OutputRecord("out", 30 * MB, B)])
    of = dag(memoized(SPLIT), *COUNTS)
    forecast = said(of, world(memory={"split": remembered}, held={B: ["n1"]}))
    assert forecast.skipped == 1
    assert forecast.tasks[0].inputs == ()
    assert expected(forecast)["count-2"] == [("cache", "likely")]
    assert said(of, world(memory={"split": remembered}), memoize=False).skipped == 0
    unknown = said(of, world(known="", memory={"split": remembered}))
    assert unknown.skipped == 0
    assert "input corpus is not known yet" in unknown.tasks[0].note


def test_the_same_memoized_work_twice_in_a_run_is_done_once() -> None:
    twins = [memoized(spec(name, ExternalInput(URI, "corpus"))) for name in ("one", "two")]
    forecast = said(dag(*twins), world())
    assert [task.skipped for task in forecast.tasks] == [None, Producer("", "one")]
    assert forecast.tasks[0].note == NOTHING


def test_a_source_that_is_missing_is_named() -> None:
    about = msgspec.structs.replace(world(), sources={URI: Source(missing=True)})
    forecast = said(WORDS, about)
    assert forecast.missing == [URI]
    assert any("is not there: the run would fail" in line for line in forecast_lines(forecast))


# Time.


def test_the_time_is_that_of_the_commands_and_of_what_is_brought() -> None:
    """2 s of split and 1 s of both counts side by side, 50 ms each beyond that, and 1 s for 100 MB at 100 MB/s."""
    warm = said(WORDS, world(runs=[past()], held={A: ["n1"], B: ["n1"]}))
    cold = said(WORDS, world(runs=[past()]))
    assert warm.timing.expected == pytest.approx(3100, abs=20)
    assert cold.timing.expected is not None and warm.timing.expected is not None
    assert cold.timing.expected - warm.timing.expected == pytest.approx(1000, abs=20)
    assert warm.timing.certainty == "fair", "one earlier run"


def test_more_runs_give_a_range_and_more_certainty() -> None:
    runs = [past(n, split_ms=2000 + 100 * n) for n in (3, 2, 1)]
    timing = said(WORDS, world(runs=runs, held={A: ["n1"], B: ["n1"]})).timing
    assert timing.least is not None and timing.expected is not None and timing.most is not None
    assert timing.least < timing.expected < timing.most
    assert timing.certainty == "good"


def test_tasks_that_were_never_seen_make_it_rough() -> None:
    more = [spec(f"new-{n}") for n in range(3)]
    timing = said(dag(SPLIT, *COUNTS, *more), world(runs=[past()])).timing
    assert timing.certainty == "rough"
    assert "3 of 6 tasks never seen" in timing.words


def test_a_run_of_skipped_tasks_takes_no_time() -> None:
    remembered = Remembered(Producer("1-0", "split"), [OutputRecord("out", 1, B)])
    forecast = said(dag(memoized(SPLIT)), world(memory={"split": remembered}))
    assert forecast.timing.expected == 0


def test_the_rate_and_the_places_are_those_of_earlier_runs() -> None:
    assert store_rate([past()]) == 100 * MB
    assert store_rate([side(0, ran(SPLIT, 1, corpus(source="peer")))]) is None
    assert slots_seen(past()) == 2


@st.composite
def weighed(draw: st.DrawFn) -> tuple[Dag, dict[str, float], int]:
    size = draw(st.integers(1, 15))
    tasks = [
        spec(f"t{n}", depends_on=tuple(f"t{p}" for p in sorted(draw(st.sets(st.integers(0, n - 1), max_size=3)))))
        if n
        else spec("t0")
        for n in range(size)
    ]
    spans = {task.name: float(draw(st.integers(0, 100))) for task in tasks}
    return dag(*tasks), spans, draw(st.integers(1, 5))


@given(weighed())
def test_a_makespan_is_between_the_longest_chain_and_one_after_the_other(
    drawn: tuple[Dag, dict[str, float], int],
) -> None:
    of, spans, slots = drawn
    longest: dict[str, float] = {}
    graph = of.graph()
    for name in graph.order:
        longest[name] = spans[name] + max((longest[parent] for parent in graph.parents[name]), default=0)
    chain, total = max(longest.values()), sum(spans.values())
    found = makespan(of, spans, slots)
    assert max(chain, total / slots) <= found + 1e-9
    assert found <= total + 1e-9
    assert makespan(of, spans, len(spans)) == chain
    assert makespan(of, spans, 1) == total


@given(
    st.lists(st.sets(st.integers(0, 5), max_size=4), min_size=1, max_size=12),
    st.dictionaries(st.integers(0, 5), st.sets(st.sampled_from(["n1", "n2", "n3"])), max_size=6),
    st.integers(1, 3),
)
def test_every_byte_comes_from_somewhere_and_no_node_brings_a_blob_twice(
    wanted: list[set[int]], held: dict[int, set[str]], nodes: int
) -> None:
    names = ["n1", "n2", "n3"][:nodes]
    uris = {n: f"s3://b/{n}" for n in range(6)}
    of = dag(*(spec(f"t{i}", *(ExternalInput(uris[n], str(n)) for n in sorted(some))) for i, some in enumerate(wanted)))
    about = World(
        sources={uri: Source(bytes=1 + n, version="etag 1", sha256=str(n) * 64) for n, uri in uris.items()},
        nodes=names,
        holders=lambda digest: sorted(held.get(int(digest[0]), set()) & set(names)),
        remembered=lambda *_: NOTHING,
    )
    forecast = said(of, about)
    total = sum(1 + n for some in wanted for n in some)
    assert forecast.sum("cache") + forecast.sum("peer") + forecast.sum("store") == total
    moved = [(t.node, each.content) for t in forecast.tasks for each in t.inputs if each.expected != "cache"]
    assert len(moved) == len(set(moved))
    stored = [each.content for t in forecast.tasks for each in t.inputs if each.expected == "store"]
    assert len(stored) == len(set(stored)), "the store gives each blob once, then the nodes have it"


# As people read it.


def test_a_thousand_tasks_are_grouped_and_the_text_stays_short() -> None:
    tasks = [spec("prepare")]
    tasks += [spec(f"individuals-{n}", TaskInput("prepare", "out", "x")) for n in range(998)]
    tasks += [spec("merge", *(TaskInput(f"individuals-{n}", "out", f"i{n}") for n in range(998)))]
    forecast = said(dag(*tasks), world())
    lines = forecast_lines(forecast)
    assert len(lines) < 40
    rows = {line.split()[0]: line.split()[1] for line in lines if line.startswith("individuals-*")}
    assert rows == {"individuals-*": "998", "individuals-*/out": "998"}
    assert len(forecast_object(forecast)["tasks"]) == 1000  # pyright: ignore[reportArgumentType]


def test_an_input_that_stands_alone_keeps_its_name_among_groups() -> None:
    tasks = [spec(f"part-{n}", ExternalInput("s3://data2/nums.txt", "nums")) for n in range(50)]
    tasks += [spec(f"next-{n}", TaskInput(f"part-{n}", "out", "x")) for n in range(50)]
    about = world()
    about = msgspec.structs.replace(about, sources={"s3://data2/nums.txt": Source(bytes=MB, version="etag 1")})
    lines = forecast_lines(said(dag(*tasks), about))
    assert any(line.startswith("s3://data2/nums.txt ") for line in lines)
    assert any(line.startswith("part-*/out ") for line in lines)


def test_a_forecast_reads_like_this() -> None:
    lines = forecast_lines(said(WORDS, world(runs=[past()], held={A: ["n1"]})))
    assert lines[:4] == [
        "plan     trial: 3 tasks, cache on, n1",
        "bring    160 MB from the cache, 0 B from the store",
        "skip     0 tasks",
        "time     about 3.1 s: a fair guess, from 1 earlier run",
    ]
    assert [line.split() for line in lines[5:]] == [
        ["TASK", "NODE", "CACHE", "TIME"],
        ["split", "n1", "100", "MB", "2.0", "s"],
        ["count-1", "n1", "30", "MB", "1.0", "s"],
        ["count-2", "n1", "30", "MB", "1.0", "s"],
        [],
        ["INPUT", "BYTES", "IS", "ON", "TASKS"],
        [URI, "100", "MB", "n1", "1"],
        ["split/out", "30", "MB", "none", "2"],
    ]


def test_a_score_sets_each_figure_beside_what_it_came_to() -> None:
    forecast = said(WORDS, world(runs=[past()], held={A: ["n1"], B: ["n1"]}))
    run = {"cacheHitBytes": 160 * MB, "cacheMissBytes": 10, "taskSkipped": 0, "durationMs": 6200}
    scores = score(forecast, run)
    assert scores[0] == Score("hitBytes", 160 * MB, 160 * MB)
    assert [line.split() for line in score_lines(scores)] == [
        ["FORECAST", "EXPECTED", "CAME", "TO", "OFF", "BY"],
        ["from", "the", "cache", "160", "MB", "160", "MB", "nothing"],
        ["brought", "0", "B", "10", "B", "-100", "%"],
        ["tasks", "skipped", "0", "0", "nothing"],
        ["time", "3.1", "s", "6.2", "s", "-50", "%"],
    ]
