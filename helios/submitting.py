"""How everybody sends a DAG, or asks for a run's end: one entry of a stream each.

Rule: an XADD whose reply is lost is repeated only where a repetition is harmless: with a request id, or for a cancel.
"""

import hashlib
import time
from typing import Any

import redis
from redis.exceptions import ReadOnlyError

from helios.keys import CONTROLS, SUBMISSIONS

TRIES = 3
PAUSE_SECONDS = 0.2


class ReplyLost(Exception):
    """The connection was lost while a submission without a request id was sent: it was added, or it was not."""


def submission_fields(
    text: bytes,
    *,
    use_cache: bool | None = None,
    memoize: bool | None = None,
    priority: str | None = None,
    params: str | None = None,
    traceparent: str | None = None,
    request_id: str | None = None,
) -> dict[Any, Any]:
    """A submission as an entry of its stream. What is None is left to the DAG. `params`: a JSON object."""
    fields: dict[Any, Any] = {"dag": text}
    if use_cache is not None:
        fields["useCache"] = "true" if use_cache else "false"
    if memoize is not None:
        fields["memoize"] = "true" if memoize else "false"
    if priority is not None:
        fields["priority"] = priority
    if params:
        fields["params"] = params
    if traceparent:
        fields["traceparent"] = traceparent
    if request_id is not None:
        fields["requestId"] = request_id
    return fields


def submission_digest(fields: dict[Any, Any]) -> str:
    """By which a repeated request is known: of the text, and of what was said beside it."""
    # A submission without the newer fields keeps the digest that it had before there were any.
    switches = fields.get("useCache") or ""
    switches += f"\0{fields['memoize']}" if fields.get("memoize") else ""
    switches += f"\0priority {fields['priority']}" if fields.get("priority") else ""
    switches += f"\0params {fields['params']}" if fields.get("params") else ""
    text: bytes = fields["dag"]
    return hashlib.sha256(text + b"\0" + switches.encode("utf-8", "surrogateescape")).hexdigest()


def add_submission(client: redis.Redis, fields: dict[Any, Any]) -> str:
    """Add it; returns its entry's id, which will be the run's. Raises ReplyLost, or redis.RedisError when nothing was
    added: with a request id also when that is not known.
    """
    for left in reversed(range(TRIES)):
        try:
            return str(client.xadd(SUBMISSIONS, fields))
        except ReadOnlyError:  # nothing was added; after a failover the next try meets the new primary
            if left == 0:
                raise
        except (redis.ConnectionError, redis.TimeoutError) as error:
            if "requestId" not in fields and not _was_refused(error):
                raise ReplyLost(str(error)) from None
            if left == 0:
                raise
        time.sleep(PAUSE_SECONDS)
    raise AssertionError


def _was_refused(error: Exception) -> bool:
    """Whether no connection came about at all, so that nothing can have been sent."""
    return isinstance(error.__cause__ or error.__context__, ConnectionRefusedError | FileNotFoundError)


def ask_cancel(client: redis.Redis, run: str, *, on_exit: bool = False) -> None:
    """Ask for a run to be cancelled; asking twice changes nothing. `on_exit`: its onExit task too, which else runs.
    Raises redis.RedisError.
    """
    fields: dict[Any, Any] = {"run": run, "action": "cancel", **({"onExit": "true"} if on_exit else {})}
    for left in reversed(range(TRIES)):
        try:
            client.xadd(CONTROLS, fields)
            return
        except (redis.ConnectionError, redis.TimeoutError, ReadOnlyError):
            if left == 0:
                raise
            time.sleep(PAUSE_SECONDS)
