"""How figures, tables and foreign text are written."""

import pytest

from cli.figures import count, duration, size
from cli.output import harmless
from cli.run_text import why_missed
from cli.submission import problem_line
from cli.table import Cell, Column, lay_out, shortened, width
from helios.dag_problem import Problem
from helios.records import InputRecord, TaskView
from helios.run_object import readable


@pytest.mark.parametrize(
    ("bytes_", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 KB"), (567_198, "567 KB"), (999_600, "1 MB"), (1_234_567_890, "1.23 GB")],
)
def test_sizes_have_three_figures_at_most(bytes_: int, text: str) -> None:
    assert size(bytes_) == text


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(None, ""), (0, "0 ms"), (999, "999 ms"), (3_400, "3.4 s"), (125_000, "2 m 05 s"), (11_220_000, "3 h 07 m")],
)
def test_durations_are_as_precise_as_they_need_to_be(milliseconds: int | None, text: str) -> None:
    assert duration(milliseconds) == text


def test_counts_agree_with_their_noun() -> None:
    assert [count(1, "task"), count(1_000, "task")] == ["1 task", "1,000 tasks"]


def test_columns_are_aligned_and_empty_ones_left_out() -> None:
    lines = lay_out([Column("A"), Column("NONE"), Column("N", right=True)], [("äö", "", "5"), ("数", "", Cell("10"))])
    assert lines == ["A    N", "äö   5", "数  10"]


def test_a_wide_character_takes_two_columns() -> None:
    assert [width("数"), width("e\u0301"), width("abc")] == [2, 1, 3]


def test_styles_do_not_disturb_the_alignment() -> None:
    lines = lay_out([Column("A"), Column("B")], [(Cell("x", "red"), "y")], lambda text, style: f"<{style}>{text}")
    assert lines[1] == "<red>x  <>y"


def test_reasons_are_kept_to_one_line() -> None:
    assert shortened("a\nb   c", 90) == "a b c"
    assert shortened("abcdef", 4) == "abc…"


def test_text_from_tasks_cannot_move_the_cursor() -> None:
    assert harmless("a\x1b[2Jb\x07") == "a\\x1b[2Jb\\x07"
    assert harmless("\x1b[31mred") == "\x1b[31mred\x1b[0m"
    assert harmless("tab\tstays") == "tab\tstays"


def test_bytes_that_are_no_text_are_made_readable() -> None:
    assert readable("caf\udce9") == "caf\ufffd"
    assert readable("café") == "café"


def test_problems_are_written_so_that_editors_find_them() -> None:
    assert problem_line("dag.yaml", Problem("no", "tasks[0]", 3, 5)) == "dag.yaml:3:5: tasks[0]: no"
    assert problem_line("dag.yaml", Problem("no")) == "dag.yaml: no"


@pytest.mark.parametrize(
    ("causes", "expected"),
    [
        (["cached"], ""),
        (["cached", "changed"], "i1 changed"),
        (["never-here", "changed", "never-here"], "2 never-here, 1 changed"),
        (["disabled"], "i0 disabled"),
    ],
)
def test_a_miss_is_shown_with_its_cause(causes: list[str], expected: str) -> None:
    """Why a cache missed is what people ask first."""
    inputs = [InputRecord(f"i{at}", 1, cause) for at, cause in enumerate(causes)]
    assert why_missed(TaskView(name="t", status="SUCCEEDED", cache="Partial", inputs=inputs)) == expected
