# pathlib costs ten milliseconds at every start:
# ruff: noqa: PTH101, PTH102, PTH103, PTH104, PTH108, PTH116, PTH120
"""The node's cache: blobs by the SHA-256 of their content, views of hard links for tasks, and what is known of sources.

    <root>/blobs/sha256/ab/<digest>      0444; complete and checked whenever it exists; mtime is its seal (agent.stamp)
          /refs/<sha256 of a key>        what a source's version contained, and what is known of each content
          /rate.json                     how fast the store is, from this node
          /views/<job>/<name>            hard links to blobs: what one task may see; the link count tells of use
          /locks/  /tmp/  /quarantine/

A blob gets its name in this order: written to tmp, digest checked, mode 0444, sealed, renamed. Nobody waits for the
disk on the way (the seal says why that is safe); `settle` does, later. A link is taken first and checked after, so an
eviction between the two cannot matter.

Every failure here is a CacheFault, and a CacheFault is a miss, never a failed task.
"""

import contextlib
import errno
import hashlib
import json
import os
import stat
import time
from collections.abc import Generator, Mapping

from agent.documents import Json
from agent.download import BUFFER, PartFile, SinkFault
from agent.folders import below, opened, remove, remove_tree, write_whole
from agent.frozen import TYPE_CHECKING, Frozen
from agent.locks import LockTimeout, acquire, held
from agent.names import check_digest, check_view, parts_of
from agent.room import has_room
from agent.saved import read_saved
from agent.stamp import Seal, boot_id, durable_ns, pending_ns, read_seal

LOCK_PATIENCE_SECONDS = 60.0
SPARE_BYTES = 64 * 1024 * 1024
"""What a download leaves free on the cache's file system."""

_TMP = "tmp"
_RATE = "rate.json"
_TELLING_BYTES = 1024 * 1024
_PRIVATE = ("blobs", "blobs/sha256", "refs", "locks", _TMP, "quarantine")

if TYPE_CHECKING:
    from typing import Literal

    Absence = Literal["never-here", "evicted", "changed", "corrupt"]
    Kind = Literal["store", "peer", "output", "seed"]
else:
    Absence = Kind = str


class CacheFault(Exception):
    """The cache cannot do it now: bypass it."""


class Identity(Frozen):
    """One version of an external object; `version` is its version id, or its ETag where it has none."""

    source: str
    version: str
    size: int

    def key(self) -> str:
        return f"object\n{self.source}\n{self.version}\n{self.size}"


class Linked(Frozen):
    """A blob's hard link in a view: the path that a task reads."""

    path: str


class Absent(Frozen):
    """Why a blob cannot be linked; `detail` has more on it, for people."""

    cause: Absence
    detail: str


class Origin(Frozen):
    """Where a blob's bytes came from, and how long that took: what it would take to bring them again."""

    kind: Kind
    ms: int | None
    """None where the bytes were made on this node, or did not come from the store."""


class Store:
    """One cache folder, as one job uses it. Safe from many threads and processes at once."""

    def __init__(self, root: str, job: str) -> None:
        self.root = root
        self._job = check_view(job)
        self._boot = boot_id()

    def prepare(self) -> None:
        """Makes the folders that are missing."""
        with _faults("preparing the cache"):
            os.makedirs(self.root, 0o755, exist_ok=True)
            for name in _PRIVATE:
                _make_folder(f"{self.root}/{name}", 0o700)
            for name in ("views", f"views/{self._job}"):
                _make_folder(f"{self.root}/{name}", 0o755)

    @contextlib.contextmanager
    def filling(self) -> Generator[None]:
        """Prepares the cache and holds the job's view alone while its inputs are brought, so that no keeper removes it.

        The end is the view's new age: it is how the keeper knows how long the task has been waited for.
        """
        try:
            with _faults("holding the view"):
                view = self._hold_view()
        except LockTimeout:
            raise CacheFault("the view is in use by an earlier pod of the same Job") from None
        try:
            yield
        finally:
            # Before the lock is given up, so that whoever locks it next sees this age. Not by the clock that the file
            # system takes for itself: it stands still for milliseconds, in which two fetches would look like one.
            now_ns = time.time_ns()
            with contextlib.suppress(OSError):  # its age is that of the last link then
                os.utime(view, ns=(now_ns, now_ns))
            os.close(view)

    def link(self, digest: str, size: int, name: str, *, read_through: bool) -> Linked | Absent:
        """Hard-links a blob into the job's view if it is there, whole and untouched; the cost does not depend on its
        size.

        With `read_through`, or when the blob is pending since before a crash, its digest is computed too.
        """
        with _faults("linking"), self._view_folder(name) as (folder, last):
            remove(last, folder)
            try:
                os.link(self._blob(digest), last, dst_dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError:
                known = self.content(digest)
                if known is None:
                    return Absent("never-here", "")
                # Written by the keeper, whose scrub found the damage before a task did.
                return Absent("corrupt", "") if "corruptAt" in known else Absent("evicted", _eviction(known))
            if self._is_sound(last, folder, digest, size, read_through):
                return Linked(self._view_path(name))
            remove(last, folder)
            return Absent("corrupt", "")

    def quarantine(self, digest: str) -> None:
        """Takes a blob out of use, keeping its bytes for whoever wants to know what happened. One that is gone is no
        error.
        """
        with _faults("quarantining"), contextlib.suppress(FileNotFoundError):
            os.rename(self._blob(digest), f"{self.root}/quarantine/{digest}.{os.getpid()}.{os.urandom(4).hex()}")

    def quarantine_linked(self, digest: str, name: str) -> None:
        """The same for the very file that the view links to: a sound blob that replaced it meanwhile stays."""
        with _faults("quarantining"), contextlib.suppress(FileNotFoundError):
            with self._view_folder(name) as (folder, last):
                linked = os.stat(last, dir_fd=folder, follow_symlinks=False)
            blob = os.stat(self._blob(digest), follow_symlinks=False)
            if (linked.st_dev, linked.st_ino) == (blob.st_dev, blob.st_ino):
                self.quarantine(digest)

    @contextlib.contextmanager
    def single_flight(self, key: str) -> Generator[tuple[bool, str]]:
        """One downloader for each `key` at a time; yields whether another was waited for, and the lock's name.

        A waiter gives up with a CacheFault when the holder's file has not grown for LOCK_PATIENCE_SECONDS.
        """
        lock = hashlib.sha256(key.encode()).hexdigest()

        def grown() -> object:
            try:
                found = os.stat(self._tmp(lock))
            except OSError:
                return None
            # mtime too: windows land out of order, and blocks are not counted before they are written back.
            return found.st_ino, found.st_size, found.st_mtime_ns

        try:
            with contextlib.ExitStack() as stack:
                with _faults("locking"):
                    waited = stack.enter_context(held(f"{self.root}/locks/{lock}", LOCK_PATIENCE_SECONDS, grown))
                stack.callback(_unlink, self._tmp(lock))
                yield waited, lock
        except LockTimeout as error:
            raise CacheFault(str(error)) from None

    def stir(self, lock: str) -> None:
        """Shows those who wait for `lock` that its holder is at work, as long as it has nothing to write yet."""
        now_ns = time.time_ns()
        with contextlib.suppress(OSError):  # they go around the cache then
            fd = os.open(self._tmp(lock), os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                os.utime(fd, ns=(now_ns, now_ns))
            finally:
                os.close(fd)

    @contextlib.contextmanager
    def part(self, lock: str, size: int) -> Generator[PartFile]:
        """A new file in tmp/ for the holder of `lock`, gone afterwards unless it became a blob. A dead holder's rest is
        removed first.
        """
        path = self._tmp(lock)
        with _faults("opening a file in tmp"):
            if size > 0 and not has_room(self.root, size + SPARE_BYTES):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            yield PartFile(fd)
        except SinkFault as fault:
            raise CacheFault(f"writing: {fault}") from fault
        finally:
            os.close(fd)
            with contextlib.suppress(OSError):
                os.unlink(path)

    @contextlib.contextmanager
    def own_part(self, size: int) -> Generator[tuple[PartFile, str]]:
        """A new file in tmp/ that nobody else waits for, with its lock's name."""
        with self._own_lock() as lock, self.part(lock, size) as part:
            yield part, lock

    def keep(self, part: PartFile, lock: str, digest: str, size: int, name: str, origin: Origin) -> Linked:
        """Makes a complete file whose digest is known a blob, and links it into the view."""
        with _faults("keeping a blob"):
            self._complete(part, digest, size)
            with self._view_folder(name) as (folder, last):
                # Linked before it has its name: an eviction that is quicker than this line cannot take it from the
                # task.
                remove(last, folder)
                os.link(self._tmp(lock), last, dst_dir_fd=folder, follow_symlinks=False)
            self._name(lock, digest, size, origin)
        return Linked(self._view_path(name))

    def admit(self, part: PartFile, lock: str, digest: str, size: int, origin: Origin) -> None:
        """Makes a complete file whose digest is known a blob that no view has yet. One that is here already stays."""
        with _faults("admitting a blob"):
            if os.access(self._blob(digest), os.F_OK):
                return
            self._complete(part, digest, size)
            self._name(lock, digest, size, origin)

    def adopt(self, fd: int, digest: str, size: int, origin: Origin) -> None:
        """Makes an open file of this file system a blob, without a copy; it keeps the name it had. It must be this
        process's, and open for writing nowhere. A blob that is here already stays.
        """
        with _faults("adopting a file"), self._own_lock() as lock:
            if os.access(self._blob(digest), os.F_OK):
                return
            with opened(f"{self.root}/{_TMP}") as tmp:
                try:
                    # By its descriptor: another file may have its name by now. Only with a folder's descriptor is
                    # this linkat, which follows.
                    os.link(f"/proc/self/fd/{fd}", lock, dst_dir_fd=tmp, follow_symlinks=True)
                    self._complete(PartFile(fd), digest, size)
                    self._name(lock, digest, size, origin)
                finally:
                    remove(lock, tmp)

    def content(self, digest: str) -> dict[str, Json] | None:
        """What is known of a content that is or was here: sha256, bytes, at, origin, ms, evictedAt, evictedFor; all but
        the first two may be missing. None if it was never here.
        """
        return self._read_ref(f"content\n{digest}")

    def bytes_per_second(self) -> float | None:
        """How fast downloads from the store were of late; None before the first."""
        found = read_saved(f"{self.root}/{_RATE}").get("bytesPerSecond")
        return float(found) if isinstance(found, int | float) and found > 0 else None

    def note_download(self, size: int, ms: int) -> None:
        """Counts a download from the store in the rate. Small ones say more about the way than about its width."""
        if size < _TELLING_BYTES:
            return
        now, before = size / max(ms, 1) * 1000, self.bytes_per_second()
        smoothed = now if before is None else before + (now - before) / 4
        document = json.dumps({"v": 1, "bytesPerSecond": round(smoothed)}).encode()
        with contextlib.suppress(OSError):  # an estimate less
            write_whole(f"{self.root}/{_RATE}", document, 0o600)

    def recall(self, identity: Identity) -> str | None:
        """The digest of a source's version, if it was ever here."""
        document = self._read_ref(identity.key())
        digest = document.get("sha256") if document is not None else None
        return digest if isinstance(digest, str) and len(digest) == 64 else None

    def other_version(self, identity: Identity) -> str | None:
        """The version of this source that was here last, if it was another; may be empty, from an older ref."""
        document = self._read_ref(f"source\n{identity.source}")
        if document is None or document.get("identity") == identity.key():
            return None
        version = document.get("version")
        return version if isinstance(version, str) else ""

    def remember(self, identity: Identity, digest: str) -> None:
        """Writes down what a source's version contained."""
        with _faults("writing a ref"):
            record = {"source": identity.source, "version": identity.version, "bytes": identity.size, "sha256": digest}
            self._remember(identity.key(), record)
            named = {
                "source": identity.source,
                "identity": identity.key(),
                "version": identity.version,
            }
            self._remember(f"source\n{identity.source}", named)

    def unlink(self, name: str) -> None:
        """Takes a name out of the view, for an input that the task gets as its own copy."""
        with _faults("unlinking"), self._view_folder(name) as (folder, last):
            remove(last, folder)

    def open_blob(self, digest: str) -> int | None:
        """A descriptor of a blob whose seal is whole; None when there is none such, or it would have to be read
        through first.
        """
        try:
            fd = os.open(self._blob(digest), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return None
        if self._fd_seal(fd, digest) in (Seal.DURABLE, Seal.PENDING):
            return fd
        os.close(fd)
        return None

    def check_view_link(self, digest: str, name: str) -> bool:
        """Whether the view's link is still the untouched blob; one that is gone counts as untouched, since the blob is
        not it.
        """
        with _faults("checking a link"):
            try:
                with self._view_folder(name) as (folder, last):
                    found = os.stat(last, dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError:
                return True
            return stat.S_ISREG(found.st_mode) and read_seal(found.st_mtime_ns, digest, self._boot) is not Seal.BROKEN

    def drop_view(self) -> None:
        """Removes the job's view, after which its blobs are no longer in use by it."""
        with _faults("dropping the view"), opened(f"{self.root}/views") as views:
            remove_tree(self._job, views)

    def settle(self, digest: str) -> bool:
        """Waits until a pending blob is on the disk, then seals it durable; True if it did. Meant for while the task
        runs.

        A disk that reports a write error gets the blob quarantined.
        """
        with _faults("settling"):
            try:
                fd = os.open(self._blob(digest), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                return False
            try:
                if self._fd_seal(fd, digest) is not Seal.PENDING:
                    return False
                try:
                    os.fsync(fd)
                except OSError:
                    self.quarantine(digest)
                    raise
                # Read again: a task that wrote to the blob meanwhile has broken the seal, and must not get a new one.
                if self._fd_seal(fd, digest) is not Seal.PENDING:
                    return False
                os.utime(fd, ns=(durable_ns(digest), durable_ns(digest)))
                with opened(os.path.dirname(self._blob(digest))) as folder:
                    os.fsync(folder)
                return True
            finally:
                os.close(fd)

    @contextlib.contextmanager
    def _own_lock(self) -> Generator[str]:
        """A lock that nobody else waits for."""
        with contextlib.ExitStack() as stack:
            lock = os.urandom(32).hex()
            with _faults("locking"):
                # Its name is nobody else's, so it may go; a lock that others wait for must stay.
                stack.callback(_unlink, f"{self.root}/locks/{lock}")
                stack.enter_context(held(f"{self.root}/locks/{lock}", 0.0, lambda: None))
            yield lock

    def _hold_view(self) -> int:
        path = f"{self.root}/views/{self._job}"
        while True:
            self.prepare()
            with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as closing:
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
                closing.callback(os.close, fd)
                acquire(fd, LOCK_PATIENCE_SECONDS, lambda: None)
                # A keeper may have removed it, as an earlier pod's, before it could be locked.
                if os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False)):
                    closing.pop_all()
                    return fd

    def _is_sound(self, last: str, folder: int, digest: str, size: int, read_through: bool) -> bool:
        found = os.stat(last, dir_fd=folder, follow_symlinks=False)
        if not stat.S_ISREG(found.st_mode) or found.st_size != size:
            return False
        seal = read_seal(found.st_mtime_ns, digest, self._boot)
        if seal is Seal.BROKEN:
            return False
        if seal is not Seal.PENDING_ELSEWHERE and not read_through:
            return True
        fd = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            if _digest_of(fd) != digest:
                return False
            if seal is Seal.PENDING_ELSEWHERE:
                os.fsync(fd)
                os.utime(fd, ns=(durable_ns(digest), durable_ns(digest)))
            return True
        finally:
            os.close(fd)

    def _complete(self, part: PartFile, digest: str, size: int) -> None:
        if os.fstat(part.fd).st_size != size:
            raise OSError(errno.EIO, "the file under way has another size than was written")
        os.fchmod(part.fd, 0o444)
        self._seal(part.fd, digest)

    def _name(self, lock: str, digest: str, size: int, origin: Origin) -> None:
        _make_folder(os.path.dirname(self._blob(digest)), 0o700)
        os.rename(self._tmp(lock), self._blob(digest))
        about: dict[str, object] = {"sha256": digest, "bytes": size, "at": int(time.time()), "origin": origin.kind}
        if origin.ms is not None:
            about["ms"] = origin.ms
        elif (known := self.content(digest)) is not None and isinstance(known.get("ms"), int):
            about["ms"] = known["ms"]  # what it took to bring it from the store stays known, whoever gave it this time
        self._remember(f"content\n{digest}", about)

    def _seal(self, fd: int, digest: str) -> None:
        if self._boot is None:
            os.fsync(fd)
            mtime_ns = durable_ns(digest)
        else:
            mtime_ns = pending_ns(digest, self._boot)
        os.utime(fd, ns=(mtime_ns, mtime_ns))
        if os.fstat(fd).st_mtime_ns != mtime_ns:
            raise OSError(errno.ENOTSUP, "the cache's file system does not keep times to the nanosecond")

    def _fd_seal(self, fd: int, digest: str) -> Seal:
        return read_seal(os.fstat(fd).st_mtime_ns, digest, self._boot)

    @contextlib.contextmanager
    def _view_folder(self, name: str) -> Generator[tuple[int, str]]:
        parts = parts_of(name)
        with opened(f"{self.root}/views/{self._job}") as view, below(view, parts[:-1], create=True) as folder:
            yield folder, parts[-1]

    def _view_path(self, name: str) -> str:
        return f"{self.root}/views/{self._job}/{name}"

    def _blob(self, digest: str) -> str:
        return f"{self.root}/blobs/sha256/{check_digest(digest)[:2]}/{digest}"

    def _tmp(self, lock: str) -> str:
        return f"{self.root}/{_TMP}/{lock}"

    def _ref(self, key: str) -> str:
        return f"{self.root}/refs/{hashlib.sha256(key.encode()).hexdigest()}"

    def _remember(self, key: str, record: Mapping[str, object]) -> None:
        if not self._same(key, record):
            write_whole(self._ref(key), json.dumps({"v": 1, **record}, separators=(",", ":")).encode(), 0o600)

    def _same(self, key: str, record: Mapping[str, object]) -> bool:
        return self._read_ref(key) == {"v": 1, **record}

    def _read_ref(self, key: str) -> dict[str, Json] | None:
        return read_saved(self._ref(key)) or None


def _eviction(known: Mapping[str, Json]) -> str:
    at, reason = known.get("evictedAt"), known.get("evictedFor")
    if not isinstance(at, int | float):
        return ""
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
    return f"evicted {when} to make room for {reason}" if isinstance(reason, str) and reason else f"evicted {when}"


def _unlink(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def _make_folder(path: str, mode: int) -> None:
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        return
    os.chmod(path, mode)


def _digest_of(fd: int) -> str:
    hasher = hashlib.sha256()
    buffer = memoryview(bytearray(BUFFER))
    offset = 0
    while count := os.preadv(fd, [buffer], offset):
        hasher.update(buffer[:count])
        offset += count
    return hasher.hexdigest()


@contextlib.contextmanager
def _faults(doing: str) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise CacheFault(f"{doing}: {error.strerror or error}") from error
