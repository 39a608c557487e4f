"""What is stored of runs that go on, in case Redis is lost: written by one replica at a time, and read for a run that
is being rebuilt (helios/recovery.py says what, and where).
"""

import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec
import redis
import structlog
import urllib3
from minio import Minio
from minio.error import MinioException
from redis.exceptions import ResponseError

from helios.dag_written import written
from helios.keys import RECOVERY_DUTY, Keys, all_partitions, keys_of_run
from helios.leftovers import forgotten_names
from helios.logged import about
from helios.records import ENDED, decode_attempt
from helios.recovery import (
    OBJECT_BYTES,
    RECOVERY,
    StoredRun,
    StoredTask,
    StoredTasks,
    done_key,
    done_prefix,
    folder,
    run_in,
    run_key,
    spec_digest,
)
from helios.settings import Settings
from helios.wire import hash_values
from services.collector.store import ObjectMissing, Store, StoreRefused

log = structlog.get_logger()

RECORD_SECONDS = 5.0
"""What succeeded within this before Redis was lost may run again."""
DUTY_SECONDS = 20
"""A replica that has not recorded for so long is not at it any more."""
STORE_SECONDS = 10.0
TASKS_AT_A_TIME = 2_000
READ_AGAIN_SECONDS = 30.0
RUNS_READ = 64

_tasks_decoder = msgspec.json.Decoder(StoredTasks)


def listing(settings: Settings) -> Minio:
    """A client that lists and deletes, and gives up soon. It asks nobody yet."""
    place = urlsplit(settings.s3_endpoint)
    return Minio(
        place.netloc,
        access_key=settings.s3_access_key,
        secret_key=settings.s3_secret_key,
        secure=place.scheme == "https",
        region=settings.s3_region,
        http_client=urllib3.PoolManager(timeout=STORE_SECONDS, retries=False),
    )


class Recorder:
    """Stores what runs that go on came to so far. `look` may be repeated, broken off, and done by two at once."""

    def __init__(self, client: redis.Redis, store: Store, settings: Settings) -> None:
        self.client = client
        self.store = store
        self.settings = settings
        self.names = listing(settings)
        self.stored: dict[str, set[str]] = {}
        """The tasks that are stored as succeeded, of each run that is stored."""
        self.counts: dict[str, str] = {}
        """taskSucceeded of each run when it was looked at last."""
        self.is_new = True

    def look(self) -> None:
        """Store what is news; delete what is stored of runs that have ended."""
        if not self.settings.s3_access_key or not self._is_mine():
            self.stored.clear()
            self.counts.clear()
            self.is_new = True
            return
        try:
            active = self._active()
            for run, (keys, values) in active.items():
                with about(run=run):
                    self._record(keys, run, values)
            known = {*self.stored, *(self._listed() if self.is_new else ())}
            self._forget(known - active.keys())
            self.is_new = False
        except (MinioException, urllib3.exceptions.HTTPError, StoreRefused) as error:
            log.warning("what runs came to so far is not stored", error=str(error))

    def _is_mine(self) -> bool:
        """Whether this replica has the duty, or takes it now."""
        replica = self.settings.replica
        if self.client.set(RECOVERY_DUTY, replica, nx=True, ex=DUTY_SECONDS):
            return True
        if self.client.get(RECOVERY_DUTY) != replica:
            return False
        self.client.expire(RECOVERY_DUTY, DUTY_SECONDS)
        return True

    def _active(self) -> dict[str, tuple[Keys, list[Any]]]:
        found: dict[str, tuple[Keys, list[Any]]] = {}
        for keys in all_partitions(self.settings.partitions):
            runs: Any = self.client.zrange(keys.active, 0, -1)  # pyright: ignore[reportUnknownMemberType] -- no stub
            values = hash_values(
                self.client, [keys.run(run) for run in runs], ("taskSucceeded", "cacheEnabled", "memoize")
            )
            found |= {
                run: (keys, each) for run, each in zip(runs, values, strict=True) if not isinstance(each, ResponseError)
            }
        return found

    def _record(self, keys: Keys, run: str, values: list[Any]) -> None:
        count, use_cache, memoize = values
        if run not in self.stored:
            dag: Any = self.client.get(keys.dag(run))
            if dag is None:
                return
            text = written(str(dag).encode("utf-8", "surrogateescape")).decode("utf-8", "replace")
            stored = StoredRun(run=run, dag=text, useCache=use_cache == "true", memoize=memoize != "false")
            self.store.write(run_key(run), msgspec.json.encode(stored))
            self.stored[run] = set()
        if count == self.counts.get(run, "0"):
            return
        names: Any = self.client.lrange(keys.task_names(run), 0, -1)
        wanted = [name for name in names if name not in self.stored[run]]
        for start in range(0, len(wanted), TASKS_AT_A_TIME):
            self._record_tasks(keys, run, wanted[start : start + TASKS_AT_A_TIME])
        self.counts[run] = count or "0"

    def _record_tasks(self, keys: Keys, run: str, names: list[str]) -> None:
        states = hash_values(self.client, [keys.task(run, name) for name in names], ("status",))
        done = [name for name, state in zip(names, states, strict=True) if state == ["SUCCEEDED"]]
        fields = ("status", "attempt", "spec", "record")
        found = hash_values(self.client, [keys.task(run, name) for name in done], fields)
        tasks = [task for name, values in zip(done, found, strict=True) if (task := _stored_task(name, values))]
        if not tasks:
            return
        content = msgspec.json.encode(StoredTasks(run=run, tasks=tasks))
        self.store.write(done_key(run, content), content)
        self.stored[run] |= {task.task for task in tasks}

    def _listed(self) -> Iterator[str]:
        """The runs of which something is stored, whoever stored it."""
        for each in self.names.list_objects(self.settings.s3_bucket, prefix=RECOVERY):
            if run := run_in(each.object_name or ""):
                yield run

    def _forget(self, runs: set[str]) -> None:
        """Delete what is stored of those runs that have ended. One that Redis does not know may be one that it lost."""
        if not runs:
            return
        forgotten = forgotten_names(self.client, all_partitions(self.settings.partitions))
        for run in runs:
            keys = keys_of_run(run, self.settings.partitions)
            if self.client.hget(keys.run(run), "status") in ENDED or run in forgotten:
                for each in self.names.list_objects(self.settings.s3_bucket, prefix=folder(run)):
                    self.names.remove_object(self.settings.s3_bucket, each.object_name or "")
                self.stored.pop(run, None)
            # One that Redis lost stays known here: rebuilt, it may end before it is looked at again.
            self.counts.pop(run, None)


def _stored_task(name: str, values: Any) -> StoredTask | None:
    """None for what cannot be read: then it is done again."""
    if isinstance(values, ResponseError):
        return None
    status, attempt, spec, record = values
    if status != "SUCCEEDED" or not spec or not record or not attempt:
        return None
    try:
        outputs = decode_attempt(record).outputs
    except msgspec.DecodeError:
        return None
    return StoredTask(task=name, attempt=int(attempt), spec=spec_digest(spec), outputs=outputs)


class Rebuilt:
    """What is stored of runs that are being rebuilt. Safe to use from any thread."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self.store = store
        self.settings = settings
        self.names = listing(settings)
        self.lock = threading.Lock()
        self.read: dict[str, tuple[float, Mapping[str, StoredTask]]] = {}

    def success(self, run: str, task: str, spec: str) -> StoredTask | None:
        """The task's success before Redis was lost, if one is stored. Raises StoreRefused."""
        with self.lock:
            at, tasks = self.read.get(run, (0.0, {}))
            if not at or time.monotonic() - at > READ_AGAIN_SECONDS:
                tasks = self._tasks(run)
                if len(self.read) >= RUNS_READ:
                    self.read.clear()
                self.read[run] = (time.monotonic(), tasks)
        found = tasks.get(task)
        return found if found is not None and found.spec == spec_digest(spec) else None

    def _tasks(self, run: str) -> Mapping[str, StoredTask]:
        found: dict[str, StoredTask] = {}
        try:
            listed = list(self.names.list_objects(self.settings.s3_bucket, prefix=done_prefix(run)))
        except (MinioException, urllib3.exceptions.HTTPError) as error:
            raise StoreRefused(f"the object store does not show what is stored of the run: {error}") from None
        for each in listed:
            try:
                stored = _tasks_decoder.decode(self.store.read(each.object_name or "", OBJECT_BYTES))
            except (ObjectMissing, msgspec.DecodeError, UnicodeError) as error:
                log.warning("what is stored of a run cannot be read", key=each.object_name, error=str(error))
                continue
            found |= {task.task: task for task in stored.tasks if stored.run == run}
        return found
