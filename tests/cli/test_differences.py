"""Why an input was a miss and where a change began, from hand-made records of two runs."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.differences import (
    InputWhy,
    Side,
    Why,
    definition_changes,
    differing_parts,
    explain,
    roots_above,
    version_words,
)
from cli.why_text import why_lines
from helios.dag import EnvSecret, EnvValue, ExternalInput, Input, Task, TaskInput
from helios.memo import MemoCheck
from helios.records import InputRecord, OutputRecord, TaskView

OLD, NEW = "1764027260000-0", "1764027269000-0"
A, B = "a" * 64, "b" * 64


def spec(name: str, *inputs: Input, **fields: Any) -> Task:
    return Task(**{"name": name, "image": "i", "command": ("c",), "outputs": ("out",), "inputs": inputs, **fields})


def view(name: str, *inputs: InputRecord, node: str = "n1", digest: str = A, status: str = "SUCCEEDED") -> TaskView:
    outputs = [OutputRecord("out", 9, digest)] if status == "SUCCEEDED" else []
    return TaskView(name=name, status=status, attempt=1, node=node, inputs=inputs, outputs=outputs)


def side(run: str, *tasks: tuple[Task, TaskView], **fields: Any) -> Side:
    return Side(
        run=run,
        tasks={each.name: seen for each, seen in tasks},
        specs={each.name: each for each, _ in tasks},
        **fields,
    )


CORPUS = ExternalInput("s3://corpora/opticks.txt", "corpus")


def record(cause: str, *, name: str = "corpus", sha: str = A, version: str = 'etag "1"', **more: Any) -> InputRecord:
    return InputRecord(name, 100, cause, sha256=sha, version=version, **more)


def of_one(
    now: InputRecord | None,
    before: InputRecord | None = None,
    *,
    node: str = "n1",
    node_before: str = "n1",
    status: str = "SUCCEEDED",
) -> InputWhy:
    """The answer for a task with one external input."""
    task = spec("t", CORPUS)
    here = side(NEW, (task, view("t", *([now] if now else []), node=node, status=status)))
    there = side(OLD, (task, view("t", before, node=node_before))) if before else None
    (found,) = explain(here, there, "t").inputs
    return found


@pytest.mark.parametrize(
    ("now", "before", "words"),
    [
        (record("cached"), None, "it was in the cache of n1"),
        (record("warm"), None, "it was left in the cache of n1 when it was stored"),
        (record("coalesced"), None, "another task on n1 was bringing it, and this one waited for that"),
        (record("disabled"), record("cached"), "the cache was off for this run"),
        (
            record("cache-fault", detail="no space left"),
            record("cached"),
            "the cache of n1 could not be used (no space left)",
        ),
        (
            record("corrupt"),
            record("cached"),
            "the copy in the cache of n1 was damaged, so it was put aside and brought anew",
        ),
        (
            record("evicted", detail="evicted 2026-11-28T14:02:11Z to make room for genome.tar"),
            record("cached"),
            "it was in the cache of n1: evicted 2026-11-28T14:02:11Z to make room for genome.tar",
        ),
        (record("evicted"), record("cached"), "it was in the cache of n1: it has been evicted since"),
        (
            record("changed", sha=B, version='etag "2"'),
            record("cached"),
            f"the source changed from ETag 1 (run {OLD}) to ETag 2",
        ),
        (
            record("changed", version='etag "2"', detail='was etag "0"'),
            None,
            "the source changed from ETag 0 to ETag 2",
        ),
        (record("changed", version=""), None, "the source changed"),
        (
            record("never-here"),
            None,
            "n1 never had it, and no earlier run of this DAG that is kept had this task succeed",
        ),
        (
            record("never-here", sha=B, version="version 7"),
            record("cached", version="version 6"),
            f"the source changed from version 6 (run {OLD}) to version 7, and n1 never had this content",
        ),
        (
            record("never-here"),
            record("disabled"),
            f"n1 never kept it: in run {OLD} the cache was off",
        ),
        (
            record("never-here"),
            record("cached"),
            f"n1 has no trace of it, although run {OLD} had it there: its cache folder is not the same",
        ),
        (None, None, "no account of it is left"),
    ],
)
def test_every_cause_has_its_words(now: InputRecord | None, before: InputRecord | None, words: str) -> None:
    assert of_one(now, before).words == words


@pytest.mark.parametrize("cause", ["cached", "coalesced"])
@pytest.mark.parametrize(("other", "told"), [("changed", ", and task u of this run brought it"), ("cached", "")])
def test_a_hit_on_a_changed_source_says_so_and_who_brought_it(cause: str, other: str, told: str) -> None:
    """Two tasks take one input that changed: only the first of them misses."""
    tasks = spec("t", CORPUS), spec("u", CORPUS)
    old, new = record("cached", version='etag "1"'), record(cause, sha=B, version='etag "2"')
    here = side(NEW, (tasks[0], view("t", new)), (tasks[1], view("u", record(other, sha=B, version='etag "2"'))))
    there = side(OLD, *((each, view(each.name, old)) for each in tasks))
    (found,) = explain(here, there, "t").inputs
    assert found.hit
    assert found.content == "changed"
    assert found.words.endswith(f"; the source changed from ETag 1 (run {OLD}) to ETag 2{told}")


def test_another_node_and_a_peer_are_named() -> None:
    found = of_one(record("never-here", source="peer", detail="from node n1"), record("cached"), node="n2")
    assert found.words == (
        f"other node: run {OLD} had the same content on n1, this ran on n2, which never had it; "
        "it came from node n1, not from the store"
    )
    assert (found.hit, found.content, found.source) == (False, "same", "peer")


@pytest.mark.parametrize("status", ["WAITING", "QUEUED", "RUNNING", "CANCELLED", "UPSTREAM_FAILED"])
def test_a_task_that_has_not_reported_says_so(status: str) -> None:
    found = of_one(None, record("cached"), status=status)
    assert found.words in ("nothing is reported yet", "it was not brought, because the task did not run")
    assert found.hit is None


def test_records_of_earlier_versions_are_unknown_not_guessed() -> None:
    """They hold name, bytes and cause only."""
    found = of_one(InputRecord("corpus", 100, "never-here"), InputRecord("corpus", 100, "never-here"))
    assert found.content == "unknown"
    assert found.words == "n1 never had it"


def chain(version: str, *, command: str = "c", sort: str = A, digests: Sequence[str] = (A, A)) -> Side:
    """load -> sort -> count; the digests are those of load's and sort's outputs."""
    load, sorts = spec("load", CORPUS), spec("sort", TaskInput("load", "out", "out"), command=(command,))
    counts = spec("count", TaskInput("sort", "out", "part"))
    return side(
        NEW if version != "1" or command != "c" or sort != A else OLD,
        (load, view("load", record("cached", sha=version * 64, version=f'etag "{version}"'), digest=digests[0])),
        (sorts, view("sort", InputRecord("out", 9, "cached", sha256=digests[0]), digest=digests[1])),
        (counts, view("count", InputRecord("part", 9, "never-here", sha256=digests[1]))),
    )


def test_a_changed_source_is_found_two_tasks_above() -> None:
    (part,) = explain(chain("2", digests=(B, B)), chain("1"), "count").inputs
    assert part.content == "changed"
    assert part.words == f"n1 never had this content: it is not the one of run {OLD}"
    (root,) = part.roots
    assert (root.kind, root.task, root.path) == ("source", "load", ("sort", "load"))
    assert root.words == "its input s3://corpora/opticks.txt changed from ETag 1 to ETag 2"


def test_a_changed_command_is_found() -> None:
    (part,) = explain(chain("1", command="other", digests=(A, B)), chain("1"), "count").inputs
    (root,) = part.roots
    assert (root.kind, root.task, root.words, root.path) == ("definition", "sort", "its command changed", ("sort",))


def test_a_task_that_makes_another_output_of_the_same_is_called_so() -> None:
    (part,) = explain(chain("1", sort=B, digests=(A, B)), chain("1"), "count").inputs
    (root,) = part.roots
    assert (root.kind, root.task) == ("not-deterministic", "sort")


def test_a_new_task_above_is_a_root() -> None:
    before = chain("1")
    specs = {name: each for name, each in before.specs.items() if name != "sort"}
    older = msgspec.structs.replace(before, specs=specs)
    assert [(root.kind, root.task) for root in roots_above(chain("2", digests=(B, B)), older, ["sort"])] == [
        ("new-task", "sort")
    ]


def test_what_changed_in_a_task_is_told_without_values() -> None:
    before = spec("t", CORPUS, env=(EnvValue("KEY", "s3cret"), EnvSecret("TOKEN", "s", "a"), EnvValue("GONE", "1")))
    now = spec(
        "t",
        msgspec.structs.replace(CORPUS, uri="s3://corpora/other.txt"),
        TaskInput("p", "x", "x"),
        image="j",
        args=("-v",),
        env=(EnvValue("KEY", "other"), EnvSecret("TOKEN", "s", "b"), EnvValue("NEW", "1")),
        outputs=("out", "log"),
    )
    changes = definition_changes(before, now)
    assert changes == [
        "its image changed from i to j",
        "its args changed",
        "its variable KEY changed",
        "its variable TOKEN changed",
        "its variable NEW is new",
        "its variable GONE is gone",
        "its input corpus is s3://corpora/other.txt, and was s3://corpora/opticks.txt",
        "its input x is new",
        "its outputs have other names",
    ]
    assert "s3cret" not in "".join(changes)
    assert definition_changes(now, now) == []


def test_parts_of_a_key_that_differ_are_named() -> None:
    ours = MemoCheck(key="k", parts={"image": "1", "command": "2", "input a": "3"}, why="no success is remembered")
    theirs = MemoCheck(key="l", parts={"image": "1", "command": "9", "env X": "4"})
    assert differing_parts(ours, theirs) == ["command", "input a", "env X"]
    assert differing_parts(ours, None) == []
    assert differing_parts(ours, MemoCheck()) == []


# A DAG in which every output is a function of its task and its inputs, so that what changed is known for certain.

Parents = Mapping[int, frozenset[int]]


@st.composite
def changed_runs(draw: st.DrawFn) -> tuple[Parents, set[int], set[int]]:
    """Parents of each task, the tasks whose command changed, and those whose external input changed."""
    size = draw(st.integers(1, 12))
    parents = {
        n: frozenset(draw(st.sets(st.integers(0, n - 1), max_size=3))) if n else frozenset() for n in range(size)
    }
    some = st.sets(st.integers(0, size - 1), max_size=3)
    return parents, draw(some), draw(some)


def simulated(run: str, parents: Parents, commands: set[int], sources: set[int]) -> Side:
    made: dict[int, str] = {}
    tasks: list[tuple[Task, TaskView]] = []
    for number, above in parents.items():
        inputs = [TaskInput(f"t{parent}", "out", f"in{parent}") for parent in sorted(above)]
        version = "2" if number in sources else "1"
        task = spec(f"t{number}", CORPUS, *inputs, command=("new" if number in commands else "old",))
        content = (task.command, version, *(made[parent] for parent in sorted(above)))
        made[number] = hashlib.sha256(repr((number, content)).encode()).hexdigest()
        records = [record("never-here", sha=version * 64, version=f"etag {version}")]
        records += [InputRecord(f"in{parent}", 9, "never-here", sha256=made[parent]) for parent in sorted(above)]
        tasks.append((task, view(f"t{number}", *records, digest=made[number])))
    return side(run, *tasks)


@given(changed_runs())
def test_every_root_is_a_real_change_and_every_change_that_matters_is_a_root(
    drawn: tuple[Parents, set[int], set[int]],
) -> None:
    parents, commands, sources = drawn
    before, now = simulated(OLD, parents, set(), set()), simulated(NEW, parents, commands, sources)
    last = len(parents) - 1
    above, waiting = {last}, [last]
    while waiting:
        for parent in parents[waiting.pop()]:
            if parent not in above:
                above.add(parent)
                waiting.append(parent)
    changed = now.tasks[f"t{last}"].outputs[0].sha256 != before.tasks[f"t{last}"].outputs[0].sha256
    roots = roots_above(now, before, [f"t{last}"]) if changed else []
    found = {(root.kind, root.task) for root in roots}
    expected = {("definition", f"t{n}") for n in commands & above} | {("source", f"t{n}") for n in sources & above}
    assert found == expected
    for root in roots:
        assert root.path[0] == f"t{last}"
        assert root.path[-1] == root.task
        numbers = [int(name[1:]) for name in root.path]
        assert all(parent in parents[child] for child, parent in pairwise(numbers))


def test_a_chain_of_ten_thousand_tasks_is_followed_to_its_root() -> None:
    parents = {n: frozenset({n - 1} if n else ()) for n in range(10_000)}
    before, now = simulated(OLD, parents, set(), set()), simulated(NEW, parents, {0}, set())
    (root,) = roots_above(now, before, ["t9999"])
    assert (root.task, len(root.path)) == ("t0", 10_000)
    told = explain(now, before, "t9999")
    assert all(len(line) < 400 for line in why_lines(NEW, told))


# As text.


def test_misses_come_first_and_what_is_left_is_counted() -> None:
    many = Why(
        task="t",
        status="SUCCEEDED",
        attempt=1,
        node="n1",
        compared=None,
        compared_node="",
        ran="it ran",
        inputs=[
            InputWhy(
                name=f"x{n}",
                origin=f"s3://b/x{n}",
                bytes=10,
                hit=n != 59,
                cause="cached" if n != 59 else "evicted",
                source="cache",
                content="same",
                words="so it was",
            )
            for n in range(60)
        ],
    )
    lines = why_lines(NEW, many)
    assert lines[4].startswith("miss  x59")
    assert lines[-1] == "… and 20 more inputs: 20 cached; --input NAME tells of one"


@pytest.mark.parametrize(
    ("version", "words"), [('etag "ab"', "ETag ab"), ("version 3", "version 3"), ("", ""), ("odd", "odd")]
)
def test_versions_as_people_read_them(version: str, words: str) -> None:
    assert version_words(version) == words


def test_ten_thousand_inputs_are_explained_in_a_moment() -> None:
    inputs = [ExternalInput(f"s3://b/{n}", f"in{n}") for n in range(10_000)]
    task = spec("t", *inputs)
    sides = [side(run, (task, view("t", *(record("cached", name=each.as_) for each in inputs)))) for run in (NEW, OLD)]
    began = time.process_time()
    told = explain(sides[0], sides[1], "t")
    assert len(told.inputs) == 10_000
    assert time.process_time() - began < 2
