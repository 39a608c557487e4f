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
    waiting.join(60)
    wait_until(lambda: opened == ["also"], "its turn came")


def _header(name: str, kind: bytes, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.type = kind
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def _unpacked(tmp_path: Path, content: bytes, zeros: int = 0) -> None:
    packed = tmp_path / "packed"
    packed.write_bytes(content)
    os.truncate(packed, len(content) + zeros)
    (tmp_path / "target").mkdir()
    target = os.open(tmp_path / "target", os.O_RDONLY)
    try:
        with packed.open("rb") as file:
            unpack_below(file.fileno(), target)
    finally:
        os.close(target)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
@pytest.mark.parametrize("size", [64 * 1024**2, -512])
def test_a_name_without_end_is_refused_before_it_is_read(tmp_path: Path, kind: bytes, size: int) -> None:
    """On a node with an agent its memory is everybody's."""
    tracemalloc.start()
    try:
        with pytest.raises(ArchiveRefused, match="larger than any"):
            _unpacked(tmp_path, _header("x", kind, size), zeros=64 * 1024**2)
        assert tracemalloc.get_traced_memory()[1] < 2 * 1024**2
    finally:
        tracemalloc.stop()
    assert os.listdir(tmp_path / "target") == []


def test_names_that_follow_names_without_end_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveRefused, match="not a readable tar"):
        _unpacked(tmp_path, (_header("x", tarfile.GNUTYPE_LONGNAME, 5) + b"name\0".ljust(512, b"\0")) * 3_000)


def test_an_entry_that_leads_back_is_refused(tmp_path: Path) -> None:
    """Else the same entry would be read again and again."""
    with pytest.raises(ArchiveRefused, match="'x'"):
        _unpacked(tmp_path, _header("first", tarfile.DIRTYPE, 0) + _header("x", tarfile.DIRTYPE, -1024) + bytes(1024))


def test_an_archive_of_too_many_entries_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_ENTRIES", 3)
    entries = b"".join(_header(f"d{number}", tarfile.DIRTYPE, 0) for number in range(4))
    with pytest.raises(ArchiveRefused, match="more than 3"):
        _unpacked(tmp_path, entries + bytes(1024))
