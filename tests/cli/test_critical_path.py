"""The critical path: what a run waited for, and what it would have waited for with everything cached."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cli.critical_path import AllCached, CriticalPath, Step, critical_path
from helios.events import Producer
from helios.phases import PHASES, Moments, Timed
from helios.records import InputRecord, TaskView

MISS = InputRecord("big", 100, "never-here", source="store", ms=3_000)
SLOW = InputRecord("huge", 900, "evicted", source="peer", ms=9_000)
HIT = InputRecord("near", 100, "cached", source="cache", ms=5)
COALESCED = InputRecord("shared", 100, "coalesced", source="cache", ms=2_000)


def task(
    name: str,
    parents: Sequence[str] = (),
    *,
    queued: int | None = None,
    launched: int | None = None,
    ended: int | None = None,
    status: str = "SUCCEEDED",
    moments: Moments | None = None,
    **fields: Any,
) -> Timed:
    view = TaskView(name=name, status=status, attempt=fields.pop("attempt", 1), node=fields.pop("node", "n1"), **fields)
    view.queuedTime, view.startTime, view.endTime = queued, launched, ended
    return Timed(view, parents, moments or Moments())


def whole(tasks: Sequence[Timed], *, ended: int | None, started: int = 0, now: int = 0) -> CriticalPath:
    return critical_path(tasks, started_at=started, ended_at=ended, now_ms=now)


def known(step: Step) -> dict[str, int]:
    return {name: ms for name, ms in step.phases.items() if ms is not None}


ONE = {"queued": 0, "launched": 100, "ended": 10_000, "startedAt": 5_000, "finishedAt": 9_000, "fetchElapsedMs": 3_000}


def test_each_phase_of_a_task_is_told_apart() -> None:
    only = task("a", **ONE, moments=Moments(pending=300, scheduled=800, fetching=1_900))
    path = whole([only], ended=10_050)
    assert known(path.path[0]) == {
        "queue": 100,
        "create": 200,
        "schedule": 500,
        "pull": 1_200,
        "fetch": 3_000,
        "run": 4_000,
        "publish": 1_000,
        "settle": 50,
    }
    assert (path.ms, path.path[0].ms, path.path[0].skewMs) == (10_050, 10_050, 0)


def test_what_is_not_known_is_none_and_its_time_is_beside_it() -> None:
    """Without a sight of the pod, without fetch's own word, without the end of the command."""
    blind = {**ONE, "fetchElapsedMs": None, "finishedAt": None}
    (step,) = whole([task("a", **blind)], ended=10_000).path
    assert step.phases == {
        "earlier": None,
        "queue": 100,
        "create": None,
        "schedule": None,
        "pull": 4_900,
        "fetch": None,
        "run": 5_000,
        "publish": None,
        "settle": 0,
    }


def test_the_collectors_sight_serves_where_the_nodes_own_times_are_missing() -> None:
    seen = task("a", queued=0, launched=100, ended=9_000, status="FAILED", moments=Moments(200, 300, 700, 3_000, 8_000))
    (step,) = whole([seen], ended=9_000).path
    assert known(step) == {
        "queue": 100,
        "create": 100,
        "schedule": 100,
        "pull": 400,
        "fetch": 2_300,
        "run": 5_000,
        "publish": 1_000,
        "settle": 0,
    }


def test_a_fetch_that_failed_has_no_run_and_no_publish() -> None:
    failed = task("a", queued=0, launched=0, ended=5_000, status="FAILED", fetchElapsedMs=4_000)
    assert known(whole([failed], ended=5_000).path[0]) == {
        "queue": 0,
        "pull": 1_000,
        "fetch": 4_000,
        "settle": 0,
    }


def test_the_image_that_is_pulled_after_fetch_is_in_pull() -> None:
    """fetch was over 3 s before the command began, by one clock of whole seconds: 2 s at least were no fetch."""
    late = {**ONE, "fetchElapsedMs": None, "fetchedAt": 2_000}
    (step,) = whole([task("a", **late, moments=Moments(fetching=900))], ended=10_000).path
    assert (step.phases["pull"], step.phases["fetch"]) == (800 + 2_000, 2_100)


@pytest.mark.parametrize(
    ("node", "moments", "phases"),
    [
        ("", Moments(pending=300), {"create": 200, "schedule": 4_700}),
        ("", Moments(), {"create": 4_900}),
        ("n1", Moments(pending=300), {"create": 200, "pull": 4_700}),
        ("n1", Moments(scheduled=1_000), {"schedule": 900, "pull": 4_000}),
        ("n1", Moments(pending=300, scheduled=290), {"create": 200, "schedule": 0, "pull": 4_700}),
    ],
)
def test_a_pod_that_was_never_at_work_waited_for_what_it_had_not_got(
    node: str, moments: Moments, phases: Mapping[str, int]
) -> None:
    failed = task("a", queued=0, launched=100, ended=5_000, status="FAILED", node=node, moments=moments)
    assert known(whole([failed], ended=5_000).path[0]) == {"queue": 100, **phases, "settle": 0}


@pytest.mark.parametrize(
    ("moments", "phases"),
    [
        (Moments(), {"queue": 100, "create": 1_900}),
        (Moments(pending=150), {"queue": 100 + 1_850, "create": 50}),
    ],
)
def test_in_local_mode_there_is_no_scheduling_and_no_pull(moments: Moments, phases: Mapping[str, int]) -> None:
    """A pod that is seen to wait waits for a slot."""
    made = task("a", **ONE, moments=moments)
    (step,) = whole([Timed(made.view, (), moments, local=True)], ended=10_000).path
    assert known(step) == {**phases, "fetch": 3_000, "run": 4_000, "publish": 1_000, "settle": 0}


@pytest.mark.parametrize(
    ("skew", "shift", "publish"),
    [(-40_000, 35_100, 5_900), (-3_000, 0, 4_000), (3_000, -2_000, 0), (40_000, -39_000, 0)],
)
def test_a_clock_that_is_off_is_set_right_as_far_as_it_shows(skew: int, shift: int, publish: int) -> None:
    """The command's length is the node's own affair; of the clocks, what is less than the waits stays hidden."""
    off = {**ONE, "startedAt": 5_000 + skew, "finishedAt": 9_000 + skew}
    (step,) = whole([task("a", **off)], ended=10_000).path
    phases = known(step)
    assert (step.skewMs, phases["run"], phases["publish"]) == (shift, 4_000, publish)
    assert sum(phases.values()) == step.ms == 10_000


def test_node_times_that_do_not_fit_into_the_attempt_are_not_taken() -> None:
    longer = {**ONE, "startedAt": 0, "finishedAt": 60_000}
    (step,) = whole([task("a", **longer, moments=Moments(running=6_000))], ended=10_000).path
    assert (step.phases["run"], step.phases["publish"], step.skewMs) == (4_000, None, 0)


def test_earlier_attempts_are_a_phase_of_their_own() -> None:
    first = task("a", queued=0, launched=10, ended=1_000)
    again = task("b", ("a",), queued=7_000, launched=7_100, ended=9_000, attempt=3)
    path = whole([first, again], ended=9_000)
    assert [step.phases["earlier"] for step in path.path] == [None, 6_000]
    assert path.path[0].phases["settle"] is None, "it is in the other's earlier attempts"
    assert sum(step.ms for step in path.path) == path.ms


def test_a_task_that_was_skipped_has_a_queue_and_no_more() -> None:
    skipped = task("a", queued=0, launched=700, ended=700, cache="N/A", skipped=Producer("1-0", "a"))
    path = whole([skipped], ended=800)
    assert (path.path[0].skipped, known(path.path[0])) == (True, {"queue": 700, "settle": 100})
    assert path.allCached == AllCached(800, ["a"], 0, 0)


def test_the_path_goes_by_the_parent_that_ended_last() -> None:
    tasks = [
        task("root", queued=None, launched=5, ended=1_000),
        task("short", ("root",), queued=1_010, launched=1_020, ended=2_000),
        task("long", ("root",), queued=1_010, launched=1_030, ended=5_000),
        task("join", ("short", "long"), queued=5_020, launched=5_030, ended=6_000),
        task("aside", ("root",), queued=1_010, launched=1_020, ended=4_000),
    ]
    path = whole(tasks, ended=6_100)
    assert [step.task for step in path.path] == ["root", "long", "join"]
    assert [step.phases["settle"] for step in path.path] == [10, 20, 100]
    assert sum(step.ms for step in path.path) == path.ms == 6_100


def fetched(name: str, parents: Sequence[str], begin: int, end: int, fetch: int, *inputs: InputRecord) -> Timed:
    times = {"startedAt": begin + fetch, "finishedAt": end, "fetchElapsedMs": fetch}
    cache = "Miss" if inputs else "N/A"
    return task(name, parents, queued=begin, launched=begin, ended=end, inputs=inputs, cache=cache, **times)


def test_with_everything_cached_another_path_may_be_the_longest() -> None:
    """The slow way was slow for its download; without that the other one is what remains."""
    tasks = [
        fetched("download", (), 0, 10_000, 9_000, SLOW),
        fetched("compute", (), 0, 6_000, 0),
        fetched("join", ("download", "compute"), 10_000, 11_000, 0),
    ]
    path = whole(tasks, ended=11_000)
    assert [step.task for step in path.path] == ["download", "join"]
    cached = path.allCached
    assert cached is not None
    assert (cached.ms, list(cached.path)) == (7_000, ["compute", "join"])
    assert (cached.missed, cached.unknown) == (1, 0)


def test_with_everything_cached_hits_take_what_they_took_and_waits_for_others_end() -> None:
    only = fetched("a", (), 0, 10_000, 4_000, HIT, MISS, COALESCED)
    cached = whole([only], ended=10_000).allCached
    assert cached is not None
    assert cached.ms == 6_005


def test_what_fetch_does_besides_stays_in() -> None:
    """It starts, asks for the plan and makes a view, whatever the cache holds."""
    cached = whole([fetched("a", (), 0, 10_000, 4_000, MISS)], ended=10_000).allCached
    assert cached is not None
    assert cached.ms == 7_000


@pytest.mark.parametrize(
    ("inputs", "cache", "gone"),
    [
        ((), "Miss", 4_000),
        ((), "Partial", None),
        ((InputRecord("x", 1, "changed"),), "Miss", None),
        ((), "Hit", 0),
    ],
)
def test_what_is_not_known_of_misses_stays_in_and_is_counted(
    inputs: Sequence[InputRecord], cache: str, gone: int | None
) -> None:
    """A short account of nothing but misses says enough; one of some does not, nor does a log without times."""
    only = fetched("a", (), 0, 10_000, 4_000, *inputs)
    only.view.cache = cache
    cached = whole([only], ended=10_000).allCached
    assert cached is not None
    assert (cached.ms, cached.unknown) == (10_000 - (gone or 0), int(gone is None))


def test_a_run_that_goes_on_has_a_path_so_far() -> None:
    tasks = [
        task("a", queued=None, launched=5, ended=1_000),
        task("late", ("a",), queued=3_000, launched=3_100, status="RUNNING"),
        task("b", ("a",), queued=1_010, launched=1_100, status="RUNNING", moments=Moments(1_200, 1_300, 1_500, 2_000)),
        task("c", ("b",), status="WAITING"),
    ]
    path = whole(tasks, ended=None, now=9_000)
    assert [step.task for step in path.path] == ["a", "b"]
    phases = {"queue": 90, "create": 100, "schedule": 100, "pull": 200, "fetch": 500, "run": 7_000}
    assert known(path.path[1]) == phases
    assert (path.ms, path.allCached) == (9_000, None)


def test_a_task_that_is_queued_only_waits() -> None:
    (step,) = whole([task("a", queued=0, launched=None, status="QUEUED")], ended=None, now=700).path
    assert known(step) == {"queue": 700}


def test_a_failed_run_ends_with_the_task_that_ended_last_not_with_those_that_never_ran() -> None:
    tasks = [
        task("a", queued=0, launched=5, ended=1_000),
        task("bad", ("a",), queued=1_000, launched=1_000, ended=3_000, status="FAILED"),
        task("below", ("bad",), ended=3_010, status="UPSTREAM_FAILED"),
        task("never", ("a",), queued=1_000, ended=3_020, status="CANCELLED"),
    ]
    path = whole(tasks, ended=3_100)
    assert [step.task for step in path.path] == ["a", "bad"]
    assert path.path[1].phases["settle"] == 100


def test_a_run_without_a_task_that_had_its_turn_has_no_path() -> None:
    path = whole([task("a", ended=5, status="CANCELLED")], ended=10)
    assert path == CriticalPath(10, [], AllCached(10, [], 0, 0))


NUMBERS = st.integers(0, 5_000)


@st.composite
def any_run(draw: st.DrawFn) -> tuple[list[Timed], int]:
    """A run as Redis may have it, with node times that may be anything."""
    tasks: list[Timed] = []
    ends: dict[str, int] = {}
    for number in range(draw(st.integers(1, 8))):
        above = draw(st.lists(st.sampled_from(sorted(ends)), unique=True, max_size=3)) if ends else []
        ready = max((ends[parent] for parent in above), default=0)
        queued = ready + (draw(NUMBERS) if above else 0)
        launched = queued + draw(NUMBERS)
        end = launched + draw(NUMBERS)
        times: Mapping[str, Any] = {
            name: draw(st.none() | st.integers(-20_000, 60_000))
            for name in ("fetchedAt", "startedAt", "finishedAt", "publishedAt")
        }
        seen = Moments(*(draw(st.none() | st.integers(launched, end)) for _ in Moments._fields))
        inputs = draw(st.lists(st.sampled_from([HIT, MISS, COALESCED]), max_size=2))
        name = f"t{number}"
        ends[name] = end
        made = {"queued": queued if above else None, "launched": launched, "ended": end, "moments": seen}
        elapsed = draw(st.none() | NUMBERS)
        more = {"attempt": draw(st.integers(1, 2)), "inputs": inputs, "fetchElapsedMs": elapsed, **times}
        ended = {"status": draw(st.sampled_from(["SUCCEEDED", "FAILED"])), "node": draw(st.sampled_from(["", "n1"]))}
        each = task(name, above, **made, **more, **ended)
        tasks.append(Timed(each.view, above, seen, local=draw(st.booleans())))
    return tasks, max(ends.values()) + draw(NUMBERS)


# A busy machine is no fault of what is tested.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(any_run())
def test_the_parts_always_add_up_and_caching_never_makes_a_run_longer(drawn: tuple[list[Timed], int]) -> None:
    """Whatever nodes claim: no phase is negative, phases add up to their task's time, and tasks' times to the run's."""
    tasks, ended = drawn
    path = whole(tasks, ended=ended)
    assert sum(step.ms for step in path.path) == path.ms == ended
    for step in path.path:
        assert tuple(step.phases) == tuple(PHASES)
        assert all(ms >= 0 for ms in known(step).values())
        assert sum(known(step).values()) == step.ms
    assert path.allCached is not None
    assert 0 <= path.allCached.ms <= path.ms
