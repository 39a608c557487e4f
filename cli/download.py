"""From the artifact bucket to a folder of the user's.

Rule: a final name appears only when the whole content is there and its digest is right. What was fetched before an
interruption stays in `.<name>.<digest>.part` (compressed: `.<name>.<digest>.zstd.part`) beside it, and the next fetch
goes on from there. What was in the place before is replaced only when that is wanted.
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from minio import Minio

from agent.archive import ArchiveRefused, unpack_below
from agent.folders import opened
from agent.names import NameRefused, parts_of
from agent.plan import Stored as AgentStored
from agent.zstd import NoZstd, Unpackable, unpacker
from cli.failure import RUN_FAILED, CommandFailed
from cli.transfer_progress import TransferProgress
from helios.podwire import Stored
from helios.records import OutputRecord

CHUNK_BYTES = 1024 * 1024


class PlaceTaken(CommandFailed):
    """Something else is where the output is to go."""


class Progress(Protocol):
    """Is told of each piece of a transfer, and of its end; what it raises ends the transfer."""

    def add(self, count: int) -> None: ...
    def close(self) -> None: ...


Watch = Callable[[str, int, int], Progress]
"""Called with an output's name, its bytes, and how many are there already."""


def place_below(folder: Path, name: str) -> Path:
    """Where an output of that name goes; raises CommandFailed for a name that leads elsewhere."""
    try:
        return folder.joinpath(*parts_of(name))
    except NameRefused as refusal:
        raise CommandFailed(f"the output is refused: {refusal}", hint="helios doctor", code=RUN_FAILED) from None


def fetch_output(
    store: Minio,
    bucket: str,
    output: OutputRecord,
    target: Path,
    *,
    force: bool = False,
    watch: Watch = TransferProgress,
) -> bool:
    """Bring one output to its place; returns False when it is there already.

    Raises PlaceTaken, another CommandFailed, or OSError.

    `force`: whatever else is in that place is replaced.
    """
    if not output.archive and _is_there(target, output):
        return False
    if os.path.lexists(target) and not force:
        raise PlaceTaken(
            f"{target} is there already, {'a folder' if target.is_dir() else 'with other content'}",
            hint="move it away, give another --to, or --force to replace it",
            code=RUN_FAILED,
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name[:120]}.{output.sha256[:16]}.part")
    digest = _download(store, bucket, output, part, watch)
    if digest != output.sha256:
        part.unlink()
        raise CommandFailed(
            f"what the store holds of {output.name!r} is not what the task stored: its sha256 is {digest}, "
            f"but {output.sha256} was recorded",
            hint="run the DAG again; helios doctor checks the store",
            code=RUN_FAILED,
        )
    if output.archive:
        _unpack(part, target)
        part.unlink()
    else:
        with _replacing(target, is_needed=target.is_dir()):
            part.replace(target)
    return True


@contextlib.contextmanager
def _replacing(target: Path, *, is_needed: bool) -> Generator[None]:
    """Moves what is at the target out of the way, and removes it once the new content is there."""
    if not is_needed:
        yield
        return
    former = target.with_name(f".{target.name[:120]}.former-{os.getpid()}")
    target.rename(former)
    try:
        yield
    except BaseException:
        former.rename(target)
        raise
    if former.is_dir() and not former.is_symlink():
        shutil.rmtree(former)
    else:
        former.unlink()


def _is_there(target: Path, output: OutputRecord) -> bool:
    if not target.is_file() or target.stat().st_size != output.bytes:
        return False
    with target.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == output.sha256


def _download(store: Minio, bucket: str, output: OutputRecord, part: Path, watch: Watch) -> str:
    """Complete the part; returns the digest of all of it."""
    if output.stored is not None:
        return _download_packed(store, bucket, output, output.stored, part, watch)
    sha = hashlib.sha256()
    with part.open("ab+") as file:
        file.seek(0)
        while data := file.read(CHUNK_BYTES):
            sha.update(data)
        done = file.tell()
        if done > output.bytes:
            file.truncate(0)
            sha, done = hashlib.sha256(), 0
        if done < output.bytes:
            progress = watch(output.name, output.bytes, done)
            try:
                for data in _object(store, bucket, output, done, output.bytes - done):
                    file.write(data)
                    sha.update(data)
                    progress.add(len(data))
            finally:
                progress.close()
        file.flush()
        os.fsync(file.fileno())
    return sha.hexdigest()


def _download_packed(store: Minio, bucket: str, output: OutputRecord, stored: Stored, part: Path, watch: Watch) -> str:
    """The same for an output that lies compressed. What has come of the object stays beside the part until the content
    is whole; what an earlier fetch left of it is unpacked again, which costs less than to bring it.
    """
    packed = part.with_suffix(f".{stored.codec[:8]}{part.suffix}")
    try:
        with packed.open("ab+") as file, part.open("wb") as content:
            writing = _Unpacking(output, content, watch)
            try:
                done = _unpack_earlier(file, stored.bytes, writing)
                if done < stored.bytes:
                    for data in _object(store, bucket, output, done, stored.bytes - done):
                        file.write(data)
                        writing.feed(data)
                writing.finish()
            finally:
                writing.progress.close()
            content.flush()
            os.fsync(content.fileno())
    except Unpackable as fault:
        packed.unlink()
        part.unlink()
        raise CommandFailed(
            f"what the store holds of {output.name!r} is not what the task stored: {fault}",
            hint="run the DAG again; helios doctor checks the store",
            code=RUN_FAILED,
        ) from None
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    packed.unlink()
    return writing.sha.hexdigest()


class _Unpacking:
    """The content of a compressed output on its way into a file."""

    def __init__(self, output: OutputRecord, content: BinaryIO, watch: Watch) -> None:
        assert output.stored is not None
        self.sha = hashlib.sha256()
        self.progress = watch(output.name, output.bytes, 0)
        self._content = content
        try:
            stored = AgentStored(output.stored.codec, output.stored.bytes)
            self._unpacker = unpacker(stored, output.bytes, None, self._write)
        except NoZstd as lack:
            raise CommandFailed(
                f"the output {output.name!r} lies compressed in the store, and {lack}",
                hint="install Helios with its dependencies",
                code=RUN_FAILED,
            ) from None

    def feed(self, data: bytes) -> None:
        self._unpacker.feed(memoryview(data))

    def finish(self) -> None:
        self._unpacker.finish()

    def _write(self, piece: memoryview) -> None:
        self._content.write(piece)
        self.sha.update(piece)
        self.progress.add(len(piece))


def _unpack_earlier(file: BinaryIO, most: int, writing: _Unpacking) -> int:
    """Unpacks what is there of the object; returns how much that is."""
    file.seek(0)
    while data := file.read(CHUNK_BYTES):
        writing.feed(data)
    if file.tell() > most:
        raise Unpackable("more was fetched of it than it has")
    return file.tell()


def _object(store: Minio, bucket: str, output: OutputRecord, start: int, length: int) -> Generator[bytes]:
    """The object's bytes as they lie in the store; its Content-Encoding is ours to undo, as this may be its middle."""
    answer: Any = store.get_object(bucket, output.key, offset=start, length=length)
    try:
        yield from answer.stream(CHUNK_BYTES, decode_content=False)
    finally:
        answer.close()
        answer.release_conn()


def _unpack(part: Path, target: Path) -> None:
    """A folder appears whole, under its name, or not at all."""
    beside = target.with_name(f".{target.name[:120]}.unpacking-{os.getpid()}")
    beside.mkdir()
    try:
        with part.open("rb") as archive, opened(str(beside)) as folder:
            unpack_below(archive.fileno(), folder)
        with _replacing(target, is_needed=os.path.lexists(target)):
            beside.rename(target)
    except ArchiveRefused as refusal:
        raise CommandFailed(f"the folder {target.name!r} is refused: {refusal}", hint="", code=RUN_FAILED) from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(beside)
