"""What the API server's answers to a new Job mean. Pure functions.

A refusal is final only where a repetition cannot end otherwise: while an API server starts, it denies what it will
allow a moment later, and finds nothing where much is.
"""

from enum import Enum
from typing import Any, NamedTuple

import msgspec

WORDS_CHARACTERS = 900


class Verdict(Enum):
    """What follows from an answer."""

    CREATED = "created"
    EXISTS = "exists"
    """A Job of that name is there already."""
    REFUSED = "refused"
    DENIED = "denied"
    """The jobrunner lacks the permission, or the API server has not read its roles yet."""
    LATER = "later"
    AWAY = "away"
    """As LATER, and the same goes for every other Job."""


class Answer(NamedTuple):
    """`words` are the API server's own."""

    verdict: Verdict
    words: str


class _Details(msgspec.Struct):
    kind: str = ""


class _Status(msgspec.Struct):
    """A `Status` of the Kubernetes API: why a request failed."""

    message: str = ""
    reason: str = ""
    details: _Details | None = None


_status_decoder = msgspec.json.Decoder(_Status)


def judge(code: int, body: bytes) -> Answer:
    """What the answer to the creation of a Job means."""
    status = _status(body)
    words = _short(f"HTTP {code}: {status.message or 'no reason given'}")
    return Answer(_verdict(code, status), words)


def words_of(code: int, body: bytes) -> str:
    """Why a request failed, for a person."""
    return _short(f"HTTP {code}: {_status(body).message or 'no reason given'}")


def is_missing(code: int, body: bytes, kind: str) -> bool:
    """Whether the answer is that there is no such object; `kind` is its resource, in the plural. An API server that
    starts has no such path yet, which is another 404.
    """
    details = _status(body).details
    return code == 404 and details is not None and details.kind == kind


def decoded(body: bytes, kind: Any) -> Any:
    """The answer as `kind`. Raises OSError."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise OSError(f"the API server's answer is not understood: {error}") from None


def _verdict(code: int, status: _Status) -> Verdict:
    if 200 <= code < 300:
        return Verdict.CREATED
    match code:
        case 409 if status.reason == "AlreadyExists":
            return Verdict.EXISTS
        case 401 | 408 | 409 | 425:  # a token that is being renewed; a quota that changed meanwhile
            return Verdict.LATER
        case 404:  # an API server that starts has no such path yet
            missing = status.details.kind if status.details else ""
            return Verdict.REFUSED if missing == "namespaces" else Verdict.LATER
        case 403 if "not yet ready to handle request" in status.message:
            return Verdict.LATER
        case 403 if " cannot create resource " in status.message:
            return Verdict.DENIED
        case 429 | 503:
            return Verdict.AWAY
        case _:
            return Verdict.REFUSED if 400 <= code < 500 else Verdict.LATER


def _status(body: bytes) -> _Status:
    try:
        return _status_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Status(message=body[:WORDS_CHARACTERS].decode("utf-8", "replace").strip())


def _short(text: str) -> str:
    return text if len(text) <= WORDS_CHARACTERS else text[: WORDS_CHARACTERS - 1] + "…"
