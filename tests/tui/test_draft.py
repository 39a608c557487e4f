"""What the editor holds, and the files behind it."""

import os
import stat
from pathlib import Path

import pytest

from cli.failure import CommandFailed
from helios.dag_problem import LIMITS, Problem
from tui.model.draft import TEMPLATE, Draft, check, place_words
from tui.source.drafts import changed_meanwhile, keep_draft, kept_draft, open_file, save_file


def test_the_template_is_valid_and_without_warnings() -> None:
    checked = check(TEMPLATE)
    assert checked.is_valid
    assert checked.summary == "valid: my-first-run, 2 tasks"


def test_every_problem_is_found_with_its_line() -> None:
    checked = check("dagName: x\ntasks:\n  - name: a\n    image: i\n    comand: [x]\n")
    assert not checked.is_valid
    assert any(problem.line == 5 for problem in checked.problems)


def test_json_is_a_dag_too() -> None:
    assert check('{"dagName": "x", "tasks": [{"name": "a", "image": "i", "command": ["x"]}]}').is_valid


def test_a_text_above_the_limit_is_refused_before_it_is_parsed() -> None:
    checked = check("#" * (LIMITS.max_payload_bytes + 1))
    assert [problem.line for problem in checked.problems] == [None]


def test_text_that_is_no_unicode_is_a_problem_not_a_fault() -> None:
    assert not check("dagName: \udc80\n").is_valid


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (Problem("m"), ""),
        (Problem("m", "tasks[0]"), "tasks[0]"),
        (Problem("m", "", 3), "3"),
        (Problem("m", "tasks[0]", 3, 7), "3:7 tasks[0]"),
    ],
)
def test_a_problems_place_is_told_as_far_as_it_is_known(problem: Problem, words: str) -> None:
    assert place_words(problem) == words


def test_a_draft_is_kept_for_its_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    assert kept_draft(folder).text == TEMPLATE
    keep_draft(folder, "dagName: x\n")
    assert kept_draft(folder).text == "dagName: x\n"
    assert stat.S_IMODE((folder / "draft.yaml").stat().st_mode) == 0o600
    assert [path.name for path in folder.iterdir()] == ["draft.yaml"]


def test_an_empty_draft_gives_way_to_the_template(tmp_path: Path) -> None:
    keep_draft(tmp_path, "  \n")
    assert kept_draft(tmp_path).text == TEMPLATE


def test_a_file_is_opened_changed_and_saved(tmp_path: Path) -> None:
    file = tmp_path / "dag.yaml"
    file.write_text("dagName: x\n")
    draft = open_file(str(file))
    assert not draft.is_dirty
    draft.text = "dagName: y\n"
    assert draft.is_dirty
    saved = save_file(draft.text, str(file), replace=True)
    assert file.read_text() == "dagName: y\n"
    assert not saved.is_dirty
    assert not changed_meanwhile(saved)


def test_a_file_that_another_changed_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "dag.yaml"
    file.write_text("dagName: x\n")
    draft = open_file(str(file))
    file.write_text("dagName: other\n")
    os.utime(file, ns=(1, 1))
    assert changed_meanwhile(draft)
    assert not changed_meanwhile(Draft())


def test_a_file_is_not_replaced_unasked(tmp_path: Path) -> None:
    file = tmp_path / "dag.yaml"
    file.write_text("precious")
    with pytest.raises(FileExistsError):
        save_file("x", str(file), replace=False)
    assert file.read_text() == "precious"


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"#" * (LIMITS.max_payload_bytes + 1)])
def test_a_file_that_cannot_be_a_dag_is_refused_with_words(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "dag.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(CommandFailed) as failed:
        open_file(str(file))
    assert str(file) in failed.value.message
    assert failed.value.hint
