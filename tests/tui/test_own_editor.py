"""The user's own editor."""

import sys

import pytest

from cli.failure import CommandFailed
from tui.source.own_editor import edited, editor_command


def run(code: str) -> list[str]:
    return [sys.executable, "-c", f"import sys, pathlib; file = pathlib.Path(sys.argv[1]); {code}"]


def test_visual_goes_before_editor_and_vi_comes_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISUAL", "code --wait")
    monkeypatch.setenv("EDITOR", "nano")
    assert editor_command() == ["code", "--wait"]
    monkeypatch.setenv("VISUAL", " ")
    assert editor_command() == ["nano"]
    monkeypatch.delenv("EDITOR")
    assert editor_command() == ["vi"]


def test_a_command_that_cannot_be_read_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISUAL", "vi 'x")
    with pytest.raises(CommandFailed, match="vi 'x is no command"):
        editor_command()


def test_what_the_editor_writes_is_the_text() -> None:
    assert edited(run("file.write_text(file.read_text() + 'more')"), "some ") == "some more"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (run("sys.exit(3)"), "ended with 3"),
        (run("file.unlink()"), "No such file"),
        (["/nowhere/editor"], "No such file"),
    ],
)
def test_an_editor_that_fails_is_returned_as_words(command: list[str], said: str) -> None:
    outcome = edited(command, "text")
    assert isinstance(outcome, CommandFailed)
    assert said in outcome.message
    assert "the text is as it was" in outcome.message
