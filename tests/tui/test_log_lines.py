"""What is looked for in a log."""

import pytest

from tui.model.log_lines import LogState, first_error, matches, plain, state_part


@pytest.mark.parametrize(
    "line",
    [
        "ERROR: no",
        "an error occurred",
        "Traceback (most recent call last):",
        "fatal: x",
        "it failed",
        "panicked at",
        "\x1b[31mError\x1b[0m",
        "ValueError: no such column",
        "OSError: x",
        "java.lang.NullPointerException",
        "10 failed",
    ],
)
def test_an_error_is_found_whatever_it_is_called(line: str) -> None:
    assert first_error(["fine", line, "error again"]) == 1


@pytest.mark.parametrize(
    "line",
    ["terrors", "mirrored", "unfailing", "exceptional", "ok", "5 passed, 0 failed", "no errors", "error_count=0"],
)
def test_a_word_that_only_looks_like_one_is_none(line: str) -> None:
    assert first_error([line]) is None


def test_a_search_ignores_case_and_colours() -> None:
    assert matches(["One", "tw\x1b[1mo", "TWO", "three"], "two") == [1, 2]
    assert matches(["a"], "") == []
    assert plain("\x1b[31mred\x1b[0m") == "red"


@pytest.mark.parametrize(
    ("state", "lines", "follows", "said"),
    [
        (LogState("loading"), 0, True, "… loading"),
        (LogState("following"), 0, True, "▶ no log yet"),
        (LogState("following"), 2, True, "▶ 2 lines, follows"),
        (LogState("following"), 2, False, "▶ 2 lines, it goes on; f follows"),
        (LogState("complete"), 1, True, "✔ complete, 1 line"),
        (LogState("complete"), 0, True, "✔ nothing was printed"),
        (LogState("dropped"), 0, True, "⊘ not kept any more: it made room for those of newer runs"),
        (LogState("lost", "no way"), 3, True, "✘ 3 lines, disconnected: no way"),
    ],
)
def test_how_a_log_stands_is_told(state: LogState, lines: int, follows: bool, said: str) -> None:
    assert state_part(state, lines, follows=follows).text == said
    assert state_part(state, lines, follows=follows, ascii_only=True).text.isascii()
