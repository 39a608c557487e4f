"""What memoized tasks came to, remembered over all runs: read before a task would run, written when one is over.

Rule: a success is remembered under the key of what was really there: the digests that fetch reported, and the image
that the pod's node reported. What is not known for certain is not remembered.
"""

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import redis
import structlog
from redis.exceptions import ResponseError

from helios.dag import ExternalInput, Task, TaskInput
from helios.dag_names import image_digest
from helios.keys import Keys, image_known, memo
from helios.memo import Claim, Memo, MemoCheck, content_of, decode_check, memo_key, memo_of, memo_parts
from helios.messages import Launched
from helios.records import AttemptRecord, OutputRecord, decode_attempt
from helios.settings import Settings
from helios.transitions import (
    commit_one,
    keep_memo,
    note_memo,
    pipelined,
    quarantine_memo,
    release_memo,
    warn_run,
)

log = structlog.get_logger()

IMAGE_KEPT_SECONDS = 30 * 86_400
NAMES_IN_A_WARNING = 3

_task_decoder = msgspec.json.Decoder(Task)


def memoized(spec: str | None) -> Task | None:
    """The task, if it is memoized. Looked for in the text first, because hardly any is."""
    if spec is None or '"memoize"' not in spec:
        return None
    task = _task_decoder.decode(spec)
    return task if task.memoize is not None else None


def kept_seconds(settings: Settings) -> int:
    return settings.memo_days * 86_400


def read_memo(client: redis.Redis, key: str) -> Memo:
    fields: Any = client.hgetall(memo(key))
    return memo_of(fields)


def image_counts_as(client: redis.Redis, settings: Settings, reference: str) -> str | None:
    """What an image is in a key: a digest, or in local mode, where no image is used, the reference itself.

    A tag counts as what ran last under it; None where nothing did.
    """
    if settings.launcher == "local":
        return reference
    known: Any = image_digest(reference) or client.get(image_known(reference))
    return known


def outputs_of(client: redis.Redis, keys: Keys, run: str, tasks: Iterable[str]) -> dict[tuple[str, str], OutputRecord]:
    """The stored outputs of a run's tasks, by task and name; of one without a readable record, nothing."""
    names = sorted(set(tasks))
    pipeline = pipelined(client)
    for name in names:
        pipeline.hget(keys.task(run, name), "record")
    found: list[str | None] = pipeline.execute() if names else []
    made: dict[tuple[str, str], OutputRecord] = {}
    for name, record in zip(names, found, strict=True):
        with contextlib.suppress(msgspec.DecodeError):
            made |= {(name, output.name): output for output in (decode_attempt(record).outputs if record else ())}
    return made


def digests_from_tasks(client: redis.Redis, keys: Keys, run: str, task: Task) -> dict[str, str]:
    """The content of the inputs that other tasks made, by `as_`; one that is not stored is missing."""
    sources = [each for each in task.inputs if isinstance(each, TaskInput)]
    made = outputs_of(client, keys, run, (each.from_task for each in sources))
    return {
        each.as_: content_of(output.sha256, output.archive)
        for each in sources
        if (output := made.get((each.from_task, each.name))) is not None
    }


def remember(client: redis.Redis, settings: Settings, keys: Keys, launched: Launched, task: Task, image: str) -> None:
    """An attempt of a memoized task is over and its pod's status known: remember its success, or give its work back.

    Repeating it changes nothing. `image` is the digest that the pod ran, empty where there is none. What Redis does not
    take is lost: the task runs again some time.
    """
    try:
        _remember(client, settings, keys, launched, task, image)
    except (ResponseError, ValueError) as error:
        log.warning("a memoized task is not remembered", error=str(error))


def _remember(client: redis.Redis, settings: Settings, keys: Keys, launched: Launched, task: Task, image: str) -> None:
    run, name, attempt = launched.run, launched.task, launched.attempt
    found: Any = client.hmget(keys.task(run, name), "status", "attempt", "record", "memo", "endedAt")
    status, current, text, looked, ended = found
    if current != str(attempt):
        return  # its claim names an attempt that is over, so nobody waits for it
    claim = Claim(run, name, attempt).text()
    check = decode_check(looked)
    record = decode_attempt(text) if status == "SUCCEEDED" and text else None
    known = _key_of(client, settings, keys, run, task, record, image) if record and not record.skipped else None
    if check is not None and check.key is not None and (known is None or known.key != check.key):
        commit_one(client, release_memo(memo(check.key), claim=claim))
    if known is None or record is None or known.key is None:
        return
    if check is not None and check.verify:
        _compare(client, settings, keys, Claim(run, name, attempt), record, read_memo(client, known.key), known.key)
    commit_one(
        client,
        keep_memo(
            memo(known.key),
            claim=claim,
            kept_seconds=kept_seconds(settings),
            run=run,
            task=name,
            attempt=attempt,
            node=record.node,
            outputs=msgspec.json.encode(record.outputs),
            parts=msgspec.json.encode(known.parts),
            ended_ms=int(ended or 0),
        ),
    )
    noted = msgspec.structs.replace(known, why=check.why if check else "", verify=bool(check and check.verify))
    if noted != check:
        commit_one(client, note_memo(keys, run=run, task=name, attempt=attempt, memo=msgspec.json.encode(noted)))


def _key_of(
    client: redis.Redis, settings: Settings, keys: Keys, run: str, task: Task, record: AttemptRecord, image: str
) -> MemoCheck | None:
    """The key of what ran; None if that cannot be told."""
    tagged = settings.launcher != "local" and image_digest(task.image) is None
    if tagged and image:
        client.set(image_known(task.image), image, ex=IMAGE_KEPT_SECONDS)
    counts = image if tagged else image_counts_as(client, settings, task.image)
    digests = digests_from_tasks(client, keys, run, task)
    external = {each.as_ for each in task.inputs if isinstance(each, ExternalInput)}
    digests |= {each.name: each.sha256 for each in record.inputs if each.name in external and each.sha256}
    if not counts or any(each.as_ not in digests for each in task.inputs):
        return None
    return MemoCheck(key=memo_key(task, counts, digests), parts=memo_parts(task, counts, digests))


def _compare(
    client: redis.Redis, settings: Settings, keys: Keys, ours: Claim, record: AttemptRecord, theirs: Memo, key: str
) -> None:
    """A task ran although it could have been skipped: if its outputs differ, nothing is skipped by its key any more."""
    if theirs.state != "good" or (theirs.run, theirs.task, theirs.attempt) == tuple(ours):
        return
    differing = _differing(record.outputs, theirs.outputs)
    if not differing:
        return
    names = ", ".join(repr(name) for name in differing[:NAMES_IN_A_WARNING])
    more = f" and {len(differing) - NAMES_IN_A_WARNING} more" if len(differing) > NAMES_IN_A_WARNING else ""
    reason = f"run {theirs.run} task {theirs.task} and run {ours.run} task {ours.task} made different {names}{more}"
    warning = (
        f"task {ours.task!r} made other outputs than in run {theirs.run}, from the same inputs ({names}{more}): "
        "it is not skipped any more"
    )
    log.warning("a memoized task is quarantined", reason=reason)
    commit_one(client, warn_run(keys, run=ours.run, warning=warning))
    commit_one(client, quarantine_memo(memo(key), reason=reason, kept_seconds=kept_seconds(settings)))


def _differing(ours: Iterable[OutputRecord], theirs: Iterable[OutputRecord]) -> list[str]:
    mine: Mapping[str, str] = {each.name: content_of(each.sha256, each.archive) for each in ours}
    others: Mapping[str, str] = {each.name: content_of(each.sha256, each.archive) for each in theirs}
    return [name for name in {**mine, **others} if mine.get(name) != others.get(name)]
