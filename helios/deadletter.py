"""Giving an entry up: its run fails with the reason, then the entry moves to the dead letters."""

import redis
import structlog
from redis.exceptions import ResponseError

from helios.events import RunEnded
from helios.keys import Keys, partition_of, without_partition
from helios.measures import DEAD_LETTERS
from helios.settings import Settings
from helios.streams import Entry, Inbox
from helios.transitions import abandon_run, cancel_all, commit_one, dead_letter, pipelined
from helios.wire import TRANSIENT, error_code

log = structlog.get_logger()

LETTER_FIELDS = 16
LETTER_CHARACTERS = 4_096
"""So much of an entry goes with it to the dead letters: enough to recognise it, whatever it holds."""


def bury(inbox: Inbox, entry: Entry, reason: str, settings: Settings) -> None:
    """Fail the entry's run with the reason, then move the entry to the dead letters."""
    log.error("dead letter", stream=entry.stream, reason=reason)
    run = entry.fields.get("run", "")
    run = "" if has_raw_bytes(run) else run
    keys = Keys(partition_of(run, settings.partitions))
    letter, small = letter_of(entry, reason)
    if entry.stream.startswith(keys.prefix):
        subject = f"task {entry.fields['task'][:300]!r}: " if "task" in entry.fields else ""
        words = f"{subject}an entry of {entry.stream} was dead-lettered: {reason}"
        try:
            if entry.stream == keys.settled:
                # Asking for the run's finalisation once more would only bring it back here.
                commit_one(inbox.client, abandon_run(keys, run=run, reason=words, event=RunEnded(run, "FAILED")))
            else:
                fail_run(inbox.client, keys, run, words)
        except ResponseError as error:
            if error_code(error) in TRANSIENT:
                raise
            log.error("the run of a dead letter cannot be failed", error=str(error))
        commit_one(
            inbox.client,
            dead_letter(
                keys.dead,
                entry.stream,
                group=inbox.group,
                entry=entry.id,
                reason=reason,
                deliveries=entry.deliveries,
                fields=small,
            ),
        )
        DEAD_LETTERS.add((without_partition(entry.stream),))
        return
    # An ingress stream shares no partition with the dead letters, so this takes two steps: the letter may be doubled.
    pipelined(inbox.client).xadd(keys.dead, {**small, **letter}).execute()
    DEAD_LETTERS.add((without_partition(entry.stream),))
    acknowledge(inbox, entry)


def letter_of(entry: Entry, reason: str) -> tuple[dict[str, str], dict[str, str]]:
    """What a dead letter says of an entry, and as much of the entry itself as goes with it."""
    letter = {"stream": entry.stream, "entry": entry.id, "reason": reason, "deliveries": str(entry.deliveries)}
    small = {
        _readable(name[:LETTER_CHARACTERS]): _readable(text[:LETTER_CHARACTERS])
        for name, text in list(entry.fields.items())[:LETTER_FIELDS]
        if name not in letter
    }
    return letter, small


def has_raw_bytes(text: str) -> bool:
    """Whether it came as bytes that are not UTF-8. Such text can be read from Redis but not sent to it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _readable(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def acknowledge(inbox: Inbox, entry: Entry) -> None:
    """For ingress entries only: their effect is keyed by their id and lies in another slot."""
    pipeline = pipelined(inbox.client)
    pipeline.xack(entry.stream, inbox.group, entry.id)
    pipeline.xdel(entry.stream, entry.id)
    pipeline.execute()


def fail_run(client: redis.Redis, keys: Keys, run: str, reason: str) -> None:
    """Fail a run as a whole: its tasks are cancelled, it ends FAILED with the reason. One that ended is left alone."""
    cancel_all(client, keys, run=run, reason=reason)
