"""What `/` understands."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tui.run_rows import row, run_id
from tests.tui.stage import NOW_MS
from tui.glyphs import CACHE_MARKS, RUN_MARKS
from tui.model.columns import COLUMNS, Look
from tui.model.filters import FilterInvalid, parse_filter
from tui.model.listing import Listing
from tui.model.runs import RunRow


def passes(text: str, **fields: Any) -> bool:
    return parse_filter(text).matches(Look(row(**fields), NOW_MS))


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("", {}),
        ("WORD", {"dag": "word-count"}),
        ("word n1 ok", {}),
        ("status:failed", {"status": "FAILED"}),
        ("status:ok", {}),
        ("status:succeeded", {}),
        ("cache:off", {"cache_enabled": False}),
        ("hit:miss", {"cache_hit": "Miss"}),
        ("hit:n/a", {"cache_hit": "N/A"}),
        ("dag:word-count", {}),
        ("node:n2", {"nodes": ("n1", "n2")}),
        ("node=n1", {"nodes": ("n1", "n10")}),
        ("node=", {"nodes": ()}),
        (f"id:{run_id(0)}", {}),
        ('tasks:"1 failed"', {"succeeded": 4, "failed": 1}),
        ("tasks>=5", {}),
        ("duration>9.5s duration<10500ms", {}),
        ("duration>30s", {"status": "RUNNING", "ended_at": None}),
        ("start<2h", {}),
        ("start>5m", {}),
        ('start:"2025-11-24 21:55"', {}),
        ("!status:failed", {}),
        ('!"no such words"', {}),
        ("!duration>30s", {"status": "REJECTED", "started_at": None, "ended_at": None}),
    ],
)
def test_what_a_run_passes(text: str, fields: dict[str, Any]) -> None:
    assert passes(text, **fields)
    if text and " " not in text.replace('"', ""):
        assert not passes(text[1:] if text.startswith("!") else f"!{text}", **fields)


@pytest.mark.parametrize(
    "text",
    ["nothing-like-it", "status:failed", "cache:off", "node=n", "word status:failed", "tasks>5", "start>2h", "id:x"],
)
def test_what_a_run_does_not_pass(text: str) -> None:
    assert not passes(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "colour:red",
            "there is no column colour; there are id, start, duration, cache, hit, status, tasks, node, dag",
        ),
        ("hit>3", "> compares start, duration, tasks only; for hit there are : and ="),
        ("duration>", "duration> needs a time, such as 30s or 2h"),
        ("duration>soon", "duration> needs a time, such as 30s or 2h"),
        ("tasks<5s", "tasks< needs a number, such as 5"),
        ("!", "! needs a word after it, as in !status:failed"),
    ],
)
def test_what_is_no_filter_is_told_with_what_would_be_one(text: str, said: str) -> None:
    with pytest.raises(FilterInvalid) as caught:
        parse_filter(f"ok {text}")
    assert str(caught.value) == said


NAMES = [column.name for column in COLUMNS]
WORDS = st.one_of(
    st.text("abnok1>:=<!\"' -", max_size=6),
    st.builds("{}:{}".format, st.sampled_from(NAMES), st.sampled_from(["ok", "o", "n1", "miss", "", "1"])),
    st.builds("{}={}".format, st.sampled_from(NAMES), st.sampled_from(["ok", "on", "n1", "Hit", ""])),
    st.builds(
        "{}{}{}".format, st.sampled_from(["start", "duration"]), st.sampled_from(["<", ">=", ">"]), st.just("1h")
    ),
)
ROWS = st.builds(
    RunRow,
    st.integers(0, 10**13).map(lambda number: f"{number}-0"),
    dag=st.sampled_from(["word-count", "etl", ""]),
    status=st.sampled_from(list(RUN_MARKS)),
    started_at=st.none() | st.integers(0, NOW_MS),
    cache_enabled=st.booleans(),
    cache_hit=st.sampled_from(list(CACHE_MARKS)),
    tasks=st.integers(0, 3),
    nodes=st.lists(st.sampled_from(["n1", "n2"]), unique=True).map(tuple),
)


@given(ROWS, WORDS)
def test_every_run_passes_a_word_or_its_opposite(run: RunRow, word: str) -> None:
    """And never both."""
    if " " in word or word.startswith("!"):
        return
    try:
        plain, opposite = parse_filter(word), parse_filter(f"!{word}")
    except FilterInvalid:
        return
    if len(plain.terms) == 1:
        look = Look(run, NOW_MS)
        assert plain.matches(look) != opposite.matches(look)


@given(st.lists(ROWS, max_size=20, unique_by=lambda run: run.run), st.sampled_from(COLUMNS), st.booleans(), st.data())
def test_the_order_that_is_kept_up_to_date_is_the_one_made_anew(
    runs: list[RunRow], column: Any, descending: bool, data: st.DataObject
) -> None:
    """Whatever came, changed and went meanwhile, and with whichever filter."""
    chosen = parse_filter(data.draw(st.sampled_from(["", "status:ok", "!etl", "n1", "duration>1h"])))
    kept, rows = Listing(), dict[str, RunRow]()
    kept.arrange(rows, NOW_MS, column=column, descending=descending, chosen=chosen)
    for run in runs + [data.draw(ROWS) for _ in range(3)]:
        rows[run.run] = run
        gone = data.draw(st.sampled_from([None, *rows]))
        changed = {run.run}
        if gone is not None:
            del rows[gone]
            changed.add(gone)
        kept.update(rows, changed, NOW_MS)
        anew = Listing()
        anew.arrange(rows, NOW_MS, column=column, descending=descending, chosen=chosen)
        assert kept.order == anew.order


def test_runs_come_and_go_as_time_passes() -> None:
    rows = {"1-0": row(), "2-0": row(1, status="RUNNING", ended_at=None)}
    began = rows["2-0"].started_at or 0
    listing = Listing()
    listing.arrange(rows, began, column=COLUMNS[2], descending=True, chosen=parse_filter("duration>5s"))
    assert listing.order == ["1-0"]
    listing.pass_time(rows, {"2-0"}, began + 6_000)
    assert listing.order == ["1-0", "2-0"]
    listing.pass_time(rows, {"2-0"}, began + 11_000)
    assert listing.order == ["2-0", "1-0"]
