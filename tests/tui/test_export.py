"""The table as a file."""

import csv
import io
import json
from pathlib import Path

import pytest

from cli.failure import CommandFailed
from helios.run_object import ORDER
from tests.tui.run_rows import row, run_id
from tests.tui.stage import NOW_MS
from tui.model.export import FIELDS, as_csv, as_json, table_file
from tui.source.saving import save

ROWS = [
    row(0, dag='a "quoted", name', nodes=("n1", "n2"), reason="line one\nline two"),
    row(1, status="RUNNING", ended_at=None, cache_enabled=False),
    row(2, status="REJECTED", started_at=None, ended_at=None, problems=2, dag="ümläut\udcff"),
]


def test_json_has_the_names_and_types_of_the_command_line() -> None:
    found = json.loads(as_json(ROWS, NOW_MS))
    assert [each["dagId"] for each in found] == [run_id(0), run_id(1), run_id(2)]
    assert set(FIELDS) - set(ORDER) == {"taskFailedOrUpstreamFailed", "problemCount"}
    assert found[0]["durationMs"] == 10_000
    assert found[1]["endTime"] is None
    assert found[1]["durationMs"] == NOW_MS - (ROWS[1].started_at or 0)
    assert found[1]["cacheEnabled"] is False
    assert found[2]["durationMs"] is None
    assert found[2]["problemCount"] == 2


def test_csv_is_read_back_as_it_was_by_anything_that_reads_csv() -> None:
    text = as_csv(ROWS, NOW_MS)
    assert text.startswith(b"dagId,dagName,status,startTime,")
    assert text.count(b"\r\n") == 4
    found = list(csv.DictReader(io.StringIO(text.decode("utf-8"), newline="")))
    assert found[0]["dagName"] == 'a "quoted", name'
    assert found[0]["nodes"] == "n1,n2"
    assert found[0]["reason"] == "line one\nline two"
    assert found[1]["cacheEnabled"] == "false"
    assert found[1]["endTime"] == ""
    assert found[2]["dagName"] == "ümläut�"


def test_the_name_says_which_of_the_two_it_is() -> None:
    assert table_file("a.JSON", ROWS, NOW_MS) == as_json(ROWS, NOW_MS)
    assert table_file("a.txt", ROWS, NOW_MS) == as_csv(ROWS, NOW_MS)
    assert json.loads(table_file("none.json", [], NOW_MS)) == []


def test_a_file_is_replaced_only_when_that_is_wanted(tmp_path: Path) -> None:
    file = tmp_path / "runs.csv"
    save(file, b"one")
    with pytest.raises(FileExistsError):
        save(file, b"two")
    assert file.read_bytes() == b"one"
    save(file, b"two", replace=True)
    assert file.read_bytes() == b"two"
    assert [path.name for path in tmp_path.iterdir()] == ["runs.csv"]


@pytest.mark.parametrize("name", ["no-such-folder/runs.csv", "a\0b", "x" * 300])
def test_a_file_that_cannot_be_written_is_told_with_what_to_do(tmp_path: Path, name: str) -> None:
    with pytest.raises(CommandFailed) as caught:
        save(tmp_path / name, b"one")
    assert "cannot write" in caught.value.message
    assert caught.value.hint
    assert list(tmp_path.iterdir()) == []
