"""Targets that are files: of a volume, of a task's wrapper, archives and compressed objects. What a task can write to
may hold anything; what only the agent writes may have been damaged, or be of another version."""

import io
import os
import tarfile
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.archive import ArchiveRefused, unpack_below
from agent.control import read_exit
from agent.kept import Kept
from agent.manifest import manifest_digests, read_manifest
from agent.plan import PlannedOutput
from agent.report import Outcome, report_document
from agent.saved import read_saved
from agent.settings import Attempt
from agent.volume import has_started
from agent.volume_record import FILE, Phase, VolumeRecord, read_record
from agent.zstd import Packer, Unpackable, Unpacker, load
from tests.fuzz.cases import Json, body_bytes, to_bytes, to_text
from tests.fuzz.engine import Check, Target
from tests.fuzz.texts import DIGEST, FETCHED, RUN

EXIT = {
    "exitCode": 0,
    "signal": None,
    "timedOut": False,
    "cpuMs": 1,
    "peakMemoryBytes": 2,
    "startedAt": 3,
    "endedAt": 4,
}
ATTEMPT = Attempt(
    endpoint="http://h",
    token="t",
    run_id=RUN,
    task="a",
    attempt=1,
    pod_uid="u",
    node="n",
    plan_patience_seconds=1.0,
)


@contextmanager
def control_folder() -> Generator[Check]:
    """What the task's wrapper leaves: the task can write to it, too."""
    with tempfile.TemporaryDirectory() as folder:
        control = Path(folder) / "control"
        control.mkdir()

        def check(case: Json) -> str:
            (control / "exit").write_bytes(body_bytes(case))
            record = read_exit(str(control))
            assert has_started(folder)
            if record is None:
                return "none"
            assert record.exit_code is not None and 0 <= record.exit_code <= 255
            assert all(0 <= each < 2**63 for each in (record.cpu_ms, record.started_at, record.ended_at))
            assert record.error is None or record.error.isprintable()
            report_document(ATTEMPT, Outcome(record, record.error), None)
            return "read"

        yield check


VOLUME = {
    "v": 1,
    "run": RUN,
    "task": "a",
    "attempt": 1,
    "job": "a-1",
    "cache_enabled": True,
    "token": "t",
    "user": 65532,
    "inputs": 1,
    "outputs": 1,
    "pod_uid": "u",
    "target": "/t",
    "boot": "b",
    "phase": "ready",
    "published": True,
    "reason": None,
    "disrupted": False,
}
_TEXTS = ("run", "task", "job", "token", "pod_uid", "target")
_NUMBERS = ("attempt", "user", "inputs", "outputs")


@contextmanager
def volume_folder() -> Generator[Check]:
    with tempfile.TemporaryDirectory() as folder:

        def check(case: Json) -> str:
            (Path(folder) / FILE).write_bytes(body_bytes(case))
            record = read_record(folder)
            if record is None:
                return "none"
            assert isinstance(record, VolumeRecord) and isinstance(record.phase, Phase)
            for name in _TEXTS:
                assert type(getattr(record, name)) is str, name
            for name in _NUMBERS:
                assert type(getattr(record, name)) is int and getattr(record, name) >= 0, name
            for name in ("cache_enabled", "published", "disrupted"):
                assert type(getattr(record, name)) is bool, name
            record.write(folder)
            assert read_record(folder) == record
            return "read"

        yield check


@contextmanager
def state_folder() -> Generator[Check]:
    """An agent's own notes of an attempt."""
    with tempfile.TemporaryDirectory() as folder:

        def check(case: Json) -> str:
            if not isinstance(case, dict):
                return "no case"
            names = {"report": "report.json", "stored": "stored", "saved": "saved"}
            for name, file in names.items():
                (Path(folder) / file).write_bytes(body_bytes(case.get(name)))
            kept = Kept(folder)
            kept.report()
            kept.stored(PlannedOutput("o", "k", "http://h"))
            read_saved(f"{folder}/saved")
            manifest = read_manifest(body_bytes(case.get("manifest")))
            digests = manifest_digests(manifest) if manifest is not None else []
            return f"{min(2, len(digests))} digests"

        yield check


STORED = {"name": "o", "key": "k", "bytes": 1, "sha256": DIGEST, "stored": {"codec": "zstd", "bytes": 1}}


def _tar(kind: int = tarfile.PAX_FORMAT) -> str:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=kind) as archive:
        for name, content in (("a", b"hello"), ("d/é" + "x" * 120, b"world"), ("e", b"")):
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o755
            archive.addfile(info, io.BytesIO(content))
        for kind_of in (tarfile.DIRTYPE, tarfile.SYMTYPE):
            info = tarfile.TarInfo("f" if kind_of == tarfile.DIRTYPE else "link")
            info.type, info.linkname = kind_of, "/etc"
            archive.addfile(info)
    return to_text(packed.getvalue())


@contextmanager
def archive_folder() -> Generator[Check]:
    """A folder's tar: nothing is written outside of where it goes, and no more than it holds."""
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder) / "packed"
        count = 0

        def check(case: Json) -> str:
            nonlocal count
            count += 1
            if not isinstance(case, str):
                return "no case"
            content = to_bytes(case)
            packed.write_bytes(content)
            outside = Path(folder) / str(count)
            target = outside / "target"
            target.mkdir(parents=True)
            word = "unpacked"
            into = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
            try:
                with packed.open("rb") as file:
                    unpack_below(file.fileno(), into)
            except ArchiveRefused as refused:
                word = f"refused: {refused}"
            except OSError as error:
                word = f"OSError {error.errno}"
            finally:
                os.close(into)
            assert os.listdir(outside) == ["target"]
            written = 0
            for path, folders, files in os.walk(outside, topdown=False):
                for name in files:
                    file = Path(path) / name
                    assert file.is_file() and not file.is_symlink()
                    written += file.stat().st_size
                    file.unlink()
                for name in folders:
                    assert not (Path(path) / name).is_symlink()
                    (Path(path) / name).rmdir()
            outside.rmdir()
            assert written <= len(content)
            return word

        yield check


@contextmanager
def compressed() -> Generator[Check]:
    """An object that is to unpack to the content's bytes, and never to one more."""
    library: Any = load(None)

    def check(case: Json) -> str:
        if not isinstance(case, dict) or not isinstance(case.get("object"), str):
            return "no case"
        size = case["size"] if type(case.get("size")) is int and 0 <= case["size"] <= 2**53 else 1000
        step = case["step"] if type(case.get("step")) is int and 0 < case["step"] < 2**20 else 4096
        content = to_bytes(case["object"])
        got = 0

        def write(piece: memoryview) -> None:
            nonlocal got
            got += len(piece)
            assert len(piece) <= 1024**2

        unpacker = Unpacker(library, size, write)
        try:
            for start in range(0, len(content), step):
                unpacker.feed(memoryview(content)[start : start + step])
            unpacker.finish()
        except Unpackable as refused:
            assert got <= size
            return f"refused: {refused}"
        assert got == size
        return "unpacked"

    yield check


def _packed(content: bytes) -> Json:
    packer = Packer(load(None), len(content))
    return {"object": to_text(packer.feed(memoryview(content)) + packer.finish()), "size": len(content), "step": 64}


TARGETS = [
    Target(
        "wrapper-files",
        [EXIT, {**EXIT, "exitCode": 137, "signal": "SIGKILL", "error": "no such program"}],
        control_folder,
    ),
    Target("volume-record", [VOLUME, {**VOLUME, "phase": "failed", "reason": "why"}], volume_folder),
    Target(
        "agent-notes",
        [{"report": EXIT, "stored": STORED, "saved": {"v": 1, "sent": 3}, "manifest": FETCHED}],
        state_folder,
    ),
    Target("archive", [_tar(), _tar(tarfile.GNU_FORMAT), _tar()[:1536]], archive_folder),
    Target("compressed", [_packed(bytes(100_000)), _packed(b"hello" * 99)], compressed),
]
