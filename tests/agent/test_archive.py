"""Folders of very many files: what they cost the process that packs or unpacks them, which on a node with an agent is
everybody's.
"""

import io
import os
import tarfile
import threading
import tracemalloc
from pathlib import Path

import pytest

from agent import archive, outputs
from agent.archive import UNSIGNED, ArchiveRefused, Entries, Entry, unpack_below, walk_folder
from agent.outputs import open_output
from tests.agent.conftest import wait_until


def entries(count: int) -> list[Entry]:
    return [
        Entry(f"folder/é-{number}", number % 3 == 0, number % 2 == 0, number, (1 << 40, number), -number & UNSIGNED)
        for number in range(count)
    ]


def test_entries_are_given_back_as_they_were_and_take_little() -> None:
    made = entries(1000)
    tracemalloc.start()
    try:
        packed = Entries()
        for entry in made:
            packed.add(entry)
        assert tracemalloc.get_traced_memory()[1] < 100 * len(made)
    finally:
        tracemalloc.stop()
    assert len(packed) == 1000
    assert list(packed) == made


def test_an_archive_is_unpacked_without_remembering_what_was_in_it(tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    with tarfile.open(packed, "w") as writing:
        for number in range(5000):
            info = tarfile.TarInfo(f"folder-{number % 3}")
            info.type = tarfile.DIRTYPE
            writing.addfile(info, io.BytesIO())
    target = os.open(tmp_path, os.O_RDONLY)
    with packed.open("rb") as file:
        tracemalloc.start()
        try:
            unpack_below(file.fileno(), target)
            assert tracemalloc.get_traced_memory()[1] < 500_000
        finally:
            tracemalloc.stop()
            os.close(target)
    assert sorted(os.listdir(tmp_path)) == ["folder-0", "folder-1", "folder-2", "packed"]


def test_a_folder_is_not_listed_beyond_what_an_archive_may_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MAX_ENTRIES", 10)
    for number in range(12):
        (tmp_path / f"{number}").touch()
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(ArchiveRefused, match="more than 10 files"):
            next(walk_folder(folder))
    finally:
        os.close(folder)


def test_of_very_large_folders_only_few_are_packed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "LARGE_ENTRIES", 2)
    monkeypatch.setattr(outputs, "_LARGE", threading.Semaphore(1))
    for name, count in (("large", 3), ("also", 3), ("small", 2)):
        for number in range(count):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / f"{number}").touch()
    opened: list[str] = []

    def open_also() -> None:
        with open_output(str(tmp_path), "also"):
            opened.append("also")

    waiting = threading.Thread(target=open_also)
    with open_output(str(tmp_path), "large"):
        waiting.start()
        with open_output(str(tmp_path), "small"):
            waiting.join(0.1)
            assert opened == []
    waiting.join(10)
    wait_until(lambda: opened == ["also"], "its turn came")
