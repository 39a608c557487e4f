"""From an entry of `tasks:checks` to a task that is skipped, ready to run, or replaced by those that it stands for: a
loop of its own, because it asks the object store.

Rule: a task is skipped only for a success that is remembered and whose outputs are all there, each of its size, at that
moment. Whatever is not known makes it run; a server that is away makes it wait.
"""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import Any, NamedTuple, NoReturn

import msgspec
import redis
import structlog
from redis.exceptions import ResponseError

from helios.dag import ExternalInput, Memoize, Task
from helios.events import Producer, TaskEnded
from helios.keys import Keys, keys_of_run, memo, source_known
from helios.logged import about_entry
from helios.memo import Claim, Memo, MemoCheck, claim_of, is_drawn, memo_key, memo_parts, why_not
from helios.messages import Check, decode
from helios.podwire import SourceKnown
from helios.records import AttemptRecord, OutputRecord
from helios.settings import Settings
from helios.streams import Entry
from helios.transitions import claim_memo, commit_one, forget_memo, note_wait, renew_memo, skip, unskip
from helios.wire import PERMANENT, error_code
from helios.worker import Failure, Later, Waits
from services.collector.counted import count_skip
from services.collector.grow import Grower
from services.collector.memo import digests_from_tasks, image_counts_as, kept_seconds, read_memo
from services.collector.recovery import Rebuilt
from services.collector.store import ObjectRefused, Store, StoreRefused

log = structlog.get_logger()

THREADS = 8
"""Tasks looked at side by side; a batch has no more, so that a slow store never keeps entries beyond their lease."""
HEAD_THREADS = 16
HEADS_SECONDS = 8.0
"""For all inputs of one task, then for all outputs; above that it is quicker to run it, and entries must not be kept
beyond their lease."""
WAITING_AT_MOST = 100_000
"""So many tasks may wait for others that do the same work."""
TOLD_AFTER_MS = 60_000
"""A success is remembered when its pod is wrapped up; so long after its end nobody waits for that any more."""

_task_decoder = msgspec.json.Decoder(Task)
_source_decoder = msgspec.json.Decoder(SourceKnown)


class _Asked(NamedTuple):
    """An entry whose attempt waits to be looked at."""

    entry: Entry
    keys: Keys
    claim: Claim
    task: Task
    memoize: Memoize


class Skipper:
    """Handles batches of attempts that get no Job before they are looked at."""

    def __init__(self, client: redis.Redis, store: Store, settings: Settings) -> None:
        self.client = client
        self.store = store
        self.settings = settings
        self.rebuilt = Rebuilt(store, settings)
        self.grower = Grower(client, store)
        self.pool = ThreadPoolExecutor(THREADS, "skip")
        self.heads = ThreadPoolExecutor(HEAD_THREADS, "heads")

    def close(self) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)
        self.heads.shutdown(wait=False, cancel_futures=True)

    def handle(self, entries: list[Entry]) -> Sequence[Failure]:
        """Skip each attempt, make it ready, or put it off. Raises redis.RedisError when Redis is out of reach."""
        away = threading.Event()
        tried = self.pool.map(self._tried, entries, repeat(away))
        return [each for each in tried if each is not None]

    def _tried(self, entry: Entry, away: threading.Event) -> Failure | None:
        """`away` spares the rest of the batch a store that does not answer, and the lease with it."""
        try:
            if away.is_set():
                raise Later("others of its batch found the object store away")
            with about_entry(entry.stream, entry.id, entry.fields):
                self._look(entry)
        except StoreRefused as error:
            away.set()
            return Failure(entry, Later(f"what becomes of it is not to be told yet: {error}"))
        except (ResponseError, Later, msgspec.DecodeError, ValueError) as error:
            return Failure(entry, error)
        return None

    def _look(self, entry: Entry) -> None:
        check = decode(entry.fields, Check)
        keys = keys_of_run(check.run, self.settings.partitions)
        claim = Claim(check.run, check.task, check.attempt)
        found: Any = self.client.hmget(keys.task(check.run, check.task), "status", "attempt", "checking", "spec")
        status, attempt, checking, spec = found
        if (status, attempt, checking) != ("QUEUED", str(check.attempt), str(check.attempt)) or spec is None:
            self._run(entry, keys, claim, MemoCheck())  # its fence refuses, and acknowledges the entry
            return
        task = _task_decoder.decode(spec)
        if task.for_each is not None:
            self.grower.look(entry, keys, claim, task)
            return
        switches: Any = self.client.hmget(keys.run(check.run), "recovered", "memoize")
        if switches[0] == "true" and self._stood_before(entry, keys, claim, spec):
            return
        if task.memoize is None or switches[1] == "false":
            self._run(entry, keys, claim, MemoCheck())
            return
        try:
            self._decide(_Asked(entry, keys, claim, task, task.memoize))
        except ResponseError as error:
            if error_code(error) not in PERMANENT:
                raise
            # What is remembered is damaged: no reason to fail a run.
            self._run(entry, keys, claim, MemoCheck(why=f"what is remembered cannot be read: {error}"))

    def _stood_before(self, entry: Entry, keys: Keys, claim: Claim, spec: str) -> bool:
        """Skip the attempt of a run that is being rebuilt if its task's success, and all its outputs, are stored."""
        success = self.rebuilt.success(claim.run, claim.task, spec)
        if success is None or any(self._fault(output) is not None for output in success.outputs):
            return False
        why = f"it had succeeded in attempt {success.attempt}, before Redis was lost"
        self._stand_for(entry, keys, claim, MemoCheck(why=why), Producer(claim.run, claim.task), success.outputs)
        return True

    def _decide(self, asked: _Asked) -> None:
        known = self._key(asked)
        if known.key is None:
            self._run(asked.entry, asked.keys, asked.claim, known)
            return
        success = read_memo(self.client, known.key)
        why = why_not(success, asked.memoize, self._now_ms())
        if not why and is_drawn(asked.claim.run, asked.claim.task, asked.memoize.verify):
            known = msgspec.structs.replace(known, why=f"to verify the success of run {success.run}", verify=True)
            self._run(asked.entry, asked.keys, asked.claim, known)
            return
        if not why:
            why = self._missing(known.key, success)
            if not why:
                self._renew(known.key, success)
                self._skip(asked, known, success)
                return
            success = read_memo(self.client, known.key)
        if success.state != "quarantined":
            self._claim(asked, known.key, success)
        self._run(asked.entry, asked.keys, asked.claim, msgspec.structs.replace(known, why=why))

    def _key(self, asked: _Asked) -> MemoCheck:
        """The attempt's key and its parts; without a key, what is not known."""
        task, unknown = asked.task, ""
        digests = digests_from_tasks(self.client, asked.keys, asked.claim.run, task)
        outside = [each for each in task.inputs if isinstance(each, ExternalInput)]
        try:
            looked = self.heads.map(self._external, outside, timeout=HEADS_SECONDS)
            digests |= {each.as_: digest for each, digest in zip(outside, looked, strict=True) if digest is not None}
        except TimeoutError:
            unknown = "the object store takes too long to show the task's inputs"
        for each in task.inputs:
            if each.as_ not in digests:
                unknown = unknown or f"the digest of input {each.as_!r} is not known"
        image = image_counts_as(self.client, self.settings, task.image)
        if image is None:
            unknown = "which image its tag stands for is not known: none ran under it"
        parts = memo_parts(task, image or "", digests)
        if unknown:
            return MemoCheck(parts=parts, why=unknown)
        return MemoCheck(key=memo_key(task, image or "", digests), parts=parts)

    def _external(self, source: ExternalInput) -> str | None:
        """The digest of the object as it is now, if any node ever brought this version. Raises StoreRefused."""
        try:
            head = self.store.head(source.bucket, source.key)
        except ObjectRefused:
            return None
        except StoreRefused as error:
            if not error.lasting:
                raise
            return None
        text: Any = self.client.get(source_known(self.store.source(source.bucket, source.key)))
        if head is None or text is None:
            return None
        try:
            known = _source_decoder.decode(text)
        except msgspec.DecodeError:
            return None
        return known.sha256 if (known.version, known.bytes) == (head.version, head.bytes) else None

    def _renew(self, key: str, success: Memo) -> None:
        """Remembered until the skipped task's record names its outputs, it keeps them from being deleted meanwhile.
        Raises Waits if it is not the one that is remembered any more.
        """
        call = renew_memo(
            memo(key),
            run=success.run,
            task=success.task,
            attempt=success.attempt,
            kept_seconds=kept_seconds(self.settings),
        )
        if not commit_one(self.client, call):
            raise Waits("what is remembered has just changed")

    def _missing(self, key: str, success: Memo) -> str:
        """Why the success cannot stand for anybody; empty if its outputs are all there. One whose outputs are gone is
        forgotten. Raises StoreRefused.
        """
        try:
            looked = self.heads.map(self._fault, success.outputs, timeout=HEADS_SECONDS)
            faults = [each for each in looked if each is not None]
        except TimeoutError:
            return f"the object store takes too long to show the {len(success.outputs)} outputs of run {success.run}"
        if not faults:
            return ""
        if all(gone for _, gone in faults):
            commit_one(self.client, forget_memo(memo(key), run=success.run, task=success.task, attempt=success.attempt))
        return f"{faults[0][0]} of run {success.run}"

    def _fault(self, output: OutputRecord) -> tuple[str, bool] | None:
        """What is wrong with a stored output, and whether it is gone for good."""
        try:
            head = self.store.head(self.store.bucket, output.key)
        except StoreRefused as error:
            if not error.lasting:
                raise
            return f"the object store does not show output {output.name!r}", False
        if head is None:
            return f"output {output.name!r} is not in the store any more, that", True
        size = output.stored.bytes if output.stored is not None else output.bytes
        return None if head.bytes == size else (f"output {output.name!r} has another size in the store, that", True)

    def _claim(self, asked: _Asked, key: str, known: Memo) -> None:
        """Take the work, so that others with this key wait. Raises Waits while somebody else is at it."""
        claim, dead = asked.claim.text(), ""
        while True:
            call = claim_memo(
                memo(key), claim=claim, dead=dead, known_at=known.at, kept_seconds=kept_seconds(self.settings)
            )
            holder: str = commit_one(self.client, call)
            if holder == claim:
                return
            if not holder:
                raise Waits("a success has just been remembered")
            if holder == dead or self._is_alive(holder, known):
                self._waits(asked, holder)
            dead = holder

    def _waits(self, asked: _Asked, holder: str) -> NoReturn:
        """Put the look off, and let people see why."""
        other = claim_of(holder)
        words = f"run {other.run} task {other.task}" if other is not None else "another attempt"
        run, task, attempt = asked.claim
        commit_one(self.client, note_wait(asked.keys, run=run, task=task, attempt=attempt, waits_for=words))
        raise Waits(f"{words} does the same work")

    def _is_alive(self, text: str, known: Memo) -> bool:
        """Whether the attempt that claims the work may still come to a success."""
        holder = claim_of(text)
        if holder is None:
            return False
        keys = keys_of_run(holder.run, self.settings.partitions)
        task = keys.task(holder.run, holder.task)
        found: Any = self.client.hmget(task, "status", "attempt", "checking", "endedAt")
        status, attempt, checking, ended = found
        if attempt != str(holder.attempt):
            return False
        if checking == attempt and known.claim == text and known.claimedAt.isdecimal():
            # Its entry is about to be acknowledged, or its collector died just then, and another looks again.
            return self._now_ms() - int(known.claimedAt) < TOLD_AFTER_MS
        if status == "SUCCEEDED" and ended:
            return self._now_ms() - int(ended) < TOLD_AFTER_MS
        return status in ("QUEUED", "RUNNING")

    def _run(self, entry: Entry, keys: Keys, claim: Claim, known: MemoCheck) -> None:
        call = unskip(
            keys,
            entry=entry.id,
            run=claim.run,
            task=claim.task,
            attempt=claim.attempt,
            memo=msgspec.json.encode(known),
        )
        commit_one(self.client, call)

    def _skip(self, asked: _Asked, known: MemoCheck, success: Memo) -> None:
        producer = Producer(success.run, success.task)
        self._stand_for(asked.entry, asked.keys, asked.claim, known, producer, success.outputs)

    def _stand_for(
        self,
        entry: Entry,
        keys: Keys,
        claim: Claim,
        known: MemoCheck,
        producer: Producer,
        outputs: Sequence[OutputRecord],
    ) -> None:
        """End the attempt well: what that task stored is what it would have."""
        run, task, attempt = claim
        record = AttemptRecord(exitCode=0, outputs=outputs, skipped=producer)
        call = skip(
            keys,
            entry=entry.id,
            run=run,
            task=task,
            attempt=attempt,
            record=msgspec.json.encode(record),
            memo=msgspec.json.encode(known),
            event=TaskEnded(run, task, attempt, "SUCCEEDED", "N/A", 0, 0, "", None, producer),
        )
        if commit_one(self.client, call):
            count_skip()
            log.info("a task is skipped", producer=producer.run)

    def _now_ms(self) -> int:
        found: Any = self.client.time()  # pyright: ignore[reportUnknownMemberType] -- the stubs leave a parameter open
        seconds, micros = found
        return int(seconds) * 1000 + int(micros) // 1000
