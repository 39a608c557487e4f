"""Finds the artifacts that helios/retention.py lets go, and deletes them: for `helios gc` and for the collector's duty.

Rule of the order: the store is listed before Redis is asked which runs are stored, because a run's record is there
before its first artifact; so what is listed and not stored can never become stored. Memos are read before records,
because a task may take over a memo's outputs, never the other way round.
Everything may be broken off and repeated at any point.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import redis
from minio import Minio
from minio.deleteobjects import DeleteObject
from minio.error import S3Error

from helios.keys import MEMO_PREFIX, Keys, all_partitions
from helios.records import ENDED
from helios.retention import ARTIFACTS, UNKNOWN, Account, Artifact, Tally, run_of, verdict
from helios.wire import hash_values, send

BATCH = 1_000
"""Objects deleted by one request, which is what S3 takes; and keys asked for in one round trip."""

PARTITIONS_AT_MOST = 1024


class NothingStored(Exception):
    """Redis holds no run at all: it was emptied, or is another one. Then everything would go."""


class Upload(NamedTuple):
    """An upload in parts that was begun and not completed."""

    key: str
    id: str


class NotDeleted(NamedTuple):
    """An object that the store did not delete: its error code and words."""

    key: str
    code: str
    message: str


class _Output(msgspec.Struct):
    key: str = ""


class _Record(msgspec.Struct):
    outputs: Sequence[_Output] = ()


_record_decoder = msgspec.json.Decoder(_Record)
_outputs_decoder = msgspec.json.Decoder(Sequence[_Output])


class Leftovers:
    """What the bucket holds of runs that are no longer stored. `account` grows while `batches` is read.

    `unknown`: take what belongs to runs that this Redis does not remember, too.
    """

    def __init__(self, client: redis.Redis, store: Minio, bucket: str, *, before: float, unknown: bool) -> None:
        self.client = client
        self.store = store
        self.bucket = bucket
        self.before = before
        self.unknown = unknown
        self.account = Account()

    def batches(self, *, force: bool = False) -> Iterator[list[Artifact]]:
        """What goes, at most a thousand at a time. Raises NothingStored unless forced."""
        listed = self._listed_runs()
        if not listed:
            return
        partitions = partitions_in_use(self.client)
        memos = memo_outputs(self.client)
        stored = stored_runs(self.client, partitions)
        if not any(stored.values()) and not force:
            raise NothingStored
        known = frozenset(run for runs in stored.values() for run in runs)
        gone = [run for run in listed if run not in known]
        if not gone:
            return
        referred = memos | record_outputs(self.client, stored, known)
        names = forgotten_names(self.client, partitions)
        batch: list[Artifact] = []
        for run in gone:
            for artifact in self._going(run, referred, names.get(run)):
                batch.append(artifact)
                if len(batch) == BATCH:
                    yield batch
                    batch = []
        if batch:
            yield batch

    def _listed_runs(self) -> list[str]:
        folders = self.store.list_objects(self.bucket, prefix=ARTIFACTS)
        return [run for folder in folders if (run := run_of(folder.object_name or ""))]

    def _going(self, run: str, referred: frozenset[str], dag: str | None) -> Iterator[Artifact]:
        account, counted = self.account, False
        for found in self.store.list_objects(self.bucket, prefix=f"{ARTIFACTS}{run}/", recursive=True):
            if found.is_dir or found.object_name is None or found.last_modified is None:
                continue
            artifact = Artifact(found.object_name, found.size or 0, found.last_modified.timestamp())
            match verdict(artifact, referred=referred, before=self.before):
                case "young":
                    account.young.add(artifact)
                case "referred":
                    account.referred.add(artifact)
                case "goes":
                    leaves = dag is None and not self.unknown
                    tally = account.left if leaves else account.by_dag.setdefault(dag or UNKNOWN, Tally())
                    tally.add(artifact)
                    tally.runs += not counted
                    counted = True
                    if not leaves:
                        yield artifact

    def delete(self, batch: Sequence[Artifact]) -> list[NotDeleted]:
        """Delete them; one that is gone already counts as deleted."""
        errors = self.store.remove_objects(self.bucket, [DeleteObject(artifact.key) for artifact in batch])
        return [
            NotDeleted(error.name or "", error.code, error.message or "")
            for error in errors
            if error.code not in ("NoSuchKey", "NoSuchObject")
        ]

    def uploads(self, *, before: float) -> Iterator[Upload]:
        """Uploads in parts of artifacts that were begun before that moment and are not completed, whosever they are.

        MinIO lists none, and ends them by itself after a day.
        """
        marker = None
        while True:
            page: Any = self.store._list_multipart_uploads(  # pyright: ignore[reportPrivateUsage] -- there is no public one
                self.bucket, prefix=ARTIFACTS, key_marker=marker
            )
            for each in page.uploads:
                begun = each.initiated_time
                if run_of(each.object_name) and begun is not None and begun.timestamp() < before:
                    yield Upload(each.object_name, each.upload_id)
            if not page.is_truncated or not page.next_key_marker or page.next_key_marker == marker:
                return
            marker = page.next_key_marker

    def abort(self, upload: Upload) -> None:
        """End the upload; one that is gone already is fine."""
        try:
            self.store._abort_multipart_upload(self.bucket, upload.key, upload.id)  # pyright: ignore[reportPrivateUsage] -- as above
        except S3Error as error:
            if error.code != "NoSuchUpload":
                raise


def partitions_in_use(client: redis.Redis) -> list[Keys]:
    """Every partition that holds runs, whatever HELIOS_PARTITIONS says: a wrong setting must delete nothing."""
    every = all_partitions(PARTITIONS_AT_MOST)
    found = _asked(client, [("EXISTS", keys.runs) for keys in every])
    return [keys for keys, exists in zip(every, found, strict=True) if exists]


def stored_runs(client: redis.Redis, partitions: Sequence[Keys]) -> dict[Keys, list[str]]:
    return {keys: _asked(client, [("ZRANGE", keys.runs, 0, -1)])[0] for keys in partitions}


def memo_outputs(client: redis.Redis) -> frozenset[str]:
    """The keys of the outputs that a later task may still take over."""
    found: set[str] = set()
    scan: Any = client.scan_iter  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] -- the stubs leave a parameter open
    for memos in _chunks(scan(f"{MEMO_PREFIX}*", count=BATCH)):
        for (outputs,) in _read(client, memos, "outputs"):
            if outputs:
                found |= _decoded(_outputs_decoder, outputs)
    return frozenset(found)


def record_outputs(client: redis.Redis, stored: dict[Keys, list[str]], known: frozenset[str]) -> frozenset[str]:
    """The keys that stored tasks name as their outputs although they belong to runs that are not stored."""
    found: set[str] = set()
    for keys, runs in stored.items():
        for tasks in _chunks(_task_keys(client, keys, list(_with_skipped(client, keys, runs)))):
            for (record,) in _read(client, tasks, "record"):
                if record:
                    found |= {key for key in _decoded(_record_decoder, record) if run_of(key) not in known}
    return frozenset(found)


def forgotten_names(client: redis.Redis, partitions: Sequence[Keys]) -> dict[str, str]:
    """The DAGs of the runs that fell out of the window, by run."""
    names: dict[str, str] = {}
    for keys in partitions:
        entries: Any = client.xrange(keys.forgotten)
        names.update((fields["run"], fields["dag"]) for _, fields in entries if "run" in fields and "dag" in fields)
    return names


def _with_skipped(client: redis.Redis, keys: Keys, runs: Sequence[str]) -> Iterator[str]:
    """Runs that may name others' outputs: those that go on, and those in which tasks were skipped."""
    for chunk in _chunks(runs):
        found = hash_values(client, [keys.run(run) for run in chunk], ("status", "taskSkipped"))
        for run, values in zip(chunk, found, strict=True):
            if isinstance(values, Exception) or values[0] not in ENDED or values[1] != "0":
                yield run


def _task_keys(client: redis.Redis, keys: Keys, runs: Sequence[str]) -> Iterator[str]:
    for chunk in _chunks(runs, 100):
        lists = _asked(client, [("LRANGE", keys.task_names(run), 0, -1) for run in chunk])
        for run, names in zip(chunk, lists, strict=True):
            yield from (keys.task(run, name) for name in names)


def _chunks(items: Iterable[str], size: int = BATCH) -> Iterator[list[str]]:
    chunk: list[str] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _read(client: redis.Redis, keys: Sequence[str], field: str) -> Iterator[tuple[str | None]]:
    """One field of many hashes. A key of another type is damaged, and nobody can take anything over from it."""
    for values in hash_values(client, keys, (field,)):
        yield (None,) if isinstance(values, Exception) else (values[0],)


def _asked(client: redis.Redis, commands: Sequence[tuple[str | int, ...]]) -> list[Any]:
    """The replies; raises the first error, because what cannot be read must not be taken for nothing."""
    replies = send(client, commands)
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


def _decoded(decoder: Any, text: str) -> set[str]:
    """The keys in a JSON text; none if it is damaged, because then nobody can use it."""
    try:
        value = decoder.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return set()
    return {output.key for output in (value.outputs if isinstance(value, _Record) else value)}
