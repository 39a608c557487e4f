"""What a user has settled for all dashboards."""

from pathlib import Path

import pytest

from tui.preferences import (
    Preferences,
    PreferencesInvalid,
    keep_theme,
    read_preferences,
    theme_chosen,
)


def test_no_file_means_no_preferences(tmp_path: Path) -> None:
    assert read_preferences(tmp_path / "tui.yaml") == Preferences()


def test_an_empty_file_is_no_fault(tmp_path: Path) -> None:
    file = tmp_path / "tui.yaml"
    file.write_text("# nothing yet\n")
    assert read_preferences(file) == Preferences()


def test_a_theme_and_keys_are_read(tmp_path: Path) -> None:
    file = tmp_path / "tui.yaml"
    file.write_text("theme: nord\nascii: true\nkeys:\n  runs.cancel: ctrl+x\n")
    assert read_preferences(file) == Preferences(theme="nord", ascii=True, keys={"runs.cancel": "ctrl+x"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("theme: [", "parsing"),
        ("colour: red\n", "colour"),
        ("keys: ctrl+x\n", "$.keys"),
        ("- theme\n", "object"),
        ("keys: {runs.cancel: 7}\n", "$.keys"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_its_fault(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "tui.yaml"
    file.write_text(text)
    with pytest.raises(PreferencesInvalid) as raised:
        read_preferences(file)
    assert str(file) in str(raised.value)
    assert said in str(raised.value)


def test_bytes_that_are_no_text_are_a_fault_too(tmp_path: Path) -> None:
    file = tmp_path / "tui.yaml"
    file.write_bytes(b"theme: \xff\xfe\n")
    with pytest.raises(PreferencesInvalid):
        read_preferences(file)


def test_the_theme_chosen_last_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    assert theme_chosen(folder) == ""
    keep_theme(folder, "nord")
    keep_theme(folder, "dracula")
    assert theme_chosen(folder) == "dracula"
    assert [path.name for path in folder.iterdir()] == ["theme"]
