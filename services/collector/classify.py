"""Hit, Partial, Miss, N/A or Unknown: what an attempt's inputs cost, from the best account of it. Pure functions.

The fetch manifest in the report comes first, then fetch's termination message, then its own log lines; when all are
gone the outcome is Unknown, never Miss. The task's own log is never looked at, so nothing in it can be taken for an
account.
"""

import re
from collections.abc import Iterable, Sequence

import msgspec

from helios.podwire import FetchedInput, FetchManifest
from helios.records import SOURCES, InputRecord

_INPUT_LINE = re.compile(r"^\[HELIOS\] Input '((?:[^'\\]|\\.)*)': (hit|miss) ([a-z-]+), (\d{1,15}) bytes$")
_PLAN_LINE = re.compile(r"^\[HELIOS\] Plan: (\d{1,15}) inputs, cache (on|off)$")
_STARTING = "[HELIOS] Init container starting for task '"
_COMPLETED = "[HELIOS] Init container completed."

COUNTED_AT_MOST = 2**49
"""Of bytes, inputs or milliseconds in one account: ten thousand tasks of these still add up below 2**63."""

VERSION_CHARACTERS = 1_100
"""A longer version is not kept at all, since part of one compares with nothing; S3's version ids have 1,024 at most."""
DETAIL_CHARACTERS = 300
NAME_CHARACTERS = 1_024
CAUSE_CHARACTERS = 40
DIGEST_CHARACTERS = 64


class Classification(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt's outcome. `inputs` may be empty although bytes were counted: only a short message was left."""

    cache: str
    hit_bytes: int = 0
    miss_bytes: int = 0
    fetch_ms: int = 0
    saved_ms: int = 0
    peer_bytes: int = 0
    store_bytes: int = 0
    """Sums over the inputs, so 0 without them, and 0 by an account from fetch's log, which tells neither."""
    elapsed_ms: int | None = None
    """How long fetch was at work."""
    inputs: Sequence[InputRecord] = ()


UNKNOWN = Classification(cache="Unknown")
NOT_APPLICABLE = Classification(cache="N/A")


def classify(
    *,
    inputs_declared: int,
    cache_enabled: bool,
    manifest: FetchManifest | None,
    message: str | None,
    log: Iterable[str] | None,
) -> Classification:
    """The outcome of one attempt. `message` is fetch's termination message, `log` the lines of its log."""
    if inputs_declared == 0:
        return NOT_APPLICABLE
    accounts = (manifest, _from_message(message), _from_log(log))
    account = next((each for each in accounts if each is not None and _plausible(each, inputs_declared)), None)
    if account is None:
        return UNKNOWN
    inputs = account.inputs or ()
    return Classification(
        cache=_outcome(cache_enabled and account.cacheEnabled, inputs_declared, account),
        hit_bytes=account.hitBytes,
        miss_bytes=account.missBytes,
        fetch_ms=sum(each.ms for each in inputs),
        saved_ms=sum(each.savedMs for each in inputs if each.hit),
        peer_bytes=_bytes_from("peer", inputs),
        store_bytes=_bytes_from("store", inputs),
        elapsed_ms=account.elapsedMs or None,
        inputs=tuple(_input_record(each) for each in inputs),
    )


def _bytes_from(source: str, inputs: Iterable[FetchedInput]) -> int:
    return sum(each.bytes for each in inputs if each.source == source and not each.hit)


def _input_record(each: FetchedInput) -> InputRecord:
    return InputRecord(
        each.name[:NAME_CHARACTERS],
        each.bytes,
        each.cause[:CAUSE_CHARACTERS],
        source=each.source if each.source in SOURCES else "",
        ms=each.ms,
        savedMs=each.savedMs if each.hit else 0,
        sha256=each.sha256 if each.sha256 and len(each.sha256) == DIGEST_CHARACTERS else "",
        version=each.version if each.version and len(each.version) <= VERSION_CHARACTERS else "",
        detail=each.detail[:DETAIL_CHARACTERS],
    )


def _plausible(account: FetchManifest, inputs_declared: int) -> bool:
    """Whether it accounts for no more inputs than there are, in numbers that Redis can add up for the largest run."""
    numbers = [account.hits, account.misses, account.hitBytes, account.missBytes, account.elapsedMs]
    inputs = account.inputs or ()
    if len(inputs) > inputs_declared:
        return False
    for each in inputs:
        numbers += (each.bytes, each.ms, each.savedMs)
    # No sum of theirs is above the bound either, since none is negative.
    total = sum(each.bytes + each.ms + each.savedMs for each in inputs)
    return all(0 <= number <= COUNTED_AT_MOST for number in (*numbers, total)) and (
        account.hits + account.misses <= inputs_declared
    )


def _outcome(cache_enabled: bool, inputs_declared: int, account: FetchManifest) -> str:
    """A fetch that failed brought fewer inputs than were declared, so it is never a Hit."""
    if not cache_enabled or account.hits + account.misses == 0:
        return "N/A"
    if account.hits == inputs_declared:
        return "Hit"
    return "Partial" if account.hits else "Miss"


def _from_message(message: str | None) -> FetchManifest | None:
    if not message:
        return None
    try:
        found = msgspec.json.decode(message, type=FetchManifest)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    return found if found.step == "fetch" else None


def _from_log(lines: Iterable[str] | None) -> FetchManifest | None:
    """What fetch printed, if it printed all of it; agent/logs.py states the grammar of these lines."""
    planned: int | None = None
    cache_enabled = True
    completed = False
    found: dict[str, tuple[bool, str, int]] = {}
    for line in lines or ():
        if line.startswith(_STARTING):
            planned, completed, found = None, False, {}
        elif match := _PLAN_LINE.match(line):
            planned, cache_enabled = int(match[1]), match[2] == "on"
        elif match := _INPUT_LINE.match(line):
            found[match[1]] = (match[2] == "hit", match[3], int(match[4]))
        elif line == _COMPLETED:
            completed = True
    if not completed or planned != len(found):
        return None
    return account_of(found, cache_enabled)


def account_of(found: dict[str, tuple[bool, str, int]], cache_enabled: bool) -> FetchManifest:
    """A manifest from single inputs: (hit, cause, bytes) by name."""
    hits = [size for hit, _, size in found.values() if hit]
    misses = [size for hit, _, size in found.values() if not hit]
    return FetchManifest(
        ok=True,
        cacheEnabled=cache_enabled,
        hits=len(hits),
        misses=len(misses),
        hitBytes=sum(hits),
        missBytes=sum(misses),
        inputs=[
            FetchedInput(name=name, bytes=size, hit=hit, cause=cause) for name, (hit, cause, size) in found.items()
        ],
    )
