"""What a memoized task is known by: the key under which its success is remembered. Pure functions.

Two tasks with the same key do the same work: the same image, command, arguments, environment (secrets by name, never by
value), inputs by content, and outputs by name. What only decides where and how long it runs is no part of it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from helios.dag import EnvValue, Memoize, Task
from helios.records import OutputRecord

FORMAT = 1
"""Counts in every key: raised when the parts change their meaning, so that no older success is taken."""

PARTS_AT_MOST = 200
"""A task with more inputs or variables than this has one part for all of them."""

PART_CHARACTERS = 16
"""Of each part's digest: they only say which part differs, and are no part of the key."""


class MemoCheck(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What the look for an earlier success came to, as the task's record keeps it in its field `memo`."""

    key: str | None = None
    """None: not to be told, because the digest of the image or of an input is not known."""
    parts: dict[str, str] = {}
    why: str = ""
    """Why the task ran all the same; empty if it was skipped."""
    verify: bool = False
    """It runs although it could have been skipped, and its outputs are compared."""


class Memo(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered under a key (`helios.keys.memo`): a success, who is at work on it, or both."""

    state: str = ""
    """good or quarantined; empty: no success is remembered."""
    reason: str = ""
    """Of a quarantined one: which runs made different outputs."""
    run: str = ""
    task: str = ""
    attempt: int = 0
    node: str = ""
    at: str = ""
    """When it ended, in epoch milliseconds of the Redis server's clock."""
    outputs: Sequence[OutputRecord] = ()
    parts: dict[str, str] = {}
    claim: str = ""
    claimedAt: str = ""


class Claim(NamedTuple):
    """The attempt that is at work on a key; others that have the same key wait for it."""

    run: str
    task: str
    attempt: int

    def text(self) -> str:
        return msgspec.json.encode(self).decode()


def memo_of(fields: Mapping[str, str]) -> Memo:
    """The hash of one key. One that cannot be read counts as no success; its `at` stays, by which others know it."""
    known: dict[str, Any] = dict(fields)
    try:
        for name in ("outputs", "parts"):
            if name in known:
                known[name] = msgspec.json.decode(known[name])
        return msgspec.convert(known, Memo, strict=False)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return Memo(claim=fields.get("claim", ""), at=fields.get("at", ""))


def claim_of(text: str) -> Claim | None:
    """The claim as `Claim.text` wrote it; None for anything else."""
    try:
        return msgspec.json.decode(text, type=Claim)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return None


def why_not(memo: Memo, memoize: Memoize, now_ms: int) -> str:
    """Why what is remembered cannot stand for a task; empty if it can, as far as Redis knows."""
    if memo.state == "quarantined":
        return f"quarantined: {memo.reason}"
    if memo.state != "good":
        return "no success with the same image, command, env and inputs is remembered"
    age = now_ms - (int(memo.at) if memo.at.isdecimal() else 0)
    if memoize.max_age_seconds is not None and age > memoize.max_age_seconds * 1000:
        return f"the success of run {memo.run} is older than maxAge"
    return ""


def memo_parts(task: Task, image: str, input_digests: Mapping[str, str]) -> dict[str, str]:
    """The parts of the key by name, each as a short digest: `image`, `command`, `args`, `env NAME`, `input NAME`,
    `outputs`. An input whose digest is not known (`input_digests` lacks its `as_`) is left out.
    """
    return {name: _digest(value)[:PART_CHARACTERS] for name, value in _named(task, image, input_digests).items()}


def memo_key(task: Task, image: str, input_digests: Mapping[str, str]) -> str:
    """64 hex digits. `image` is what the image counts as, `input_digests` the content of every input by its `as_`.

    Raises KeyError, with its `as_`, for an input whose digest is missing.
    """
    return _digest(
        (
            FORMAT,
            image,
            task.command,
            task.args,
            sorted(_variables(task)),
            sorted((each.as_, each.mode, input_digests[each.as_]) for each in task.inputs),
            sorted(task.outputs),
        )
    )


def differing_parts(ours: Mapping[str, str], theirs: Mapping[str, str]) -> list[str]:
    """The names of the parts that are not the same in both, those of ours first."""
    return [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]


def content_of(sha256: str, archive: bool) -> str:
    """What an input counts as: a folder is stored as a tar, and is not the same as a file that holds that tar."""
    return f"tar {sha256}" if archive else sha256


def is_drawn(run: str, task: str, share: float) -> bool:
    """Whether this skip is one of the share that runs all the same. The same for every look at the same task."""
    drawn = int(hashlib.sha256(f"{run}\0{task}".encode()).hexdigest()[:8], 16)
    return drawn < share * 2**32


def decode_check(text: str | bytes | None) -> MemoCheck | None:
    """The task's field `memo`; None where there is none that can be read."""
    try:
        return _check_decoder.decode(text) if text else None
    except msgspec.DecodeError:
        return None


_check_decoder = msgspec.json.Decoder(MemoCheck)


def _named(task: Task, image: str, input_digests: Mapping[str, str]) -> dict[str, object]:
    named: dict[str, object] = {"image": image, "command": task.command, "args": task.args}
    variables = _variables(task)
    if len(variables) > PARTS_AT_MOST:
        named["env"] = sorted(variables)
    else:
        named |= {f"env {name}": rest for name, *rest in variables}
    inputs = [(each.as_, each.mode, input_digests[each.as_]) for each in task.inputs if each.as_ in input_digests]
    if len(inputs) > PARTS_AT_MOST:
        named["inputs"] = sorted(inputs)
    else:
        named |= {f"input {name}": rest for name, *rest in inputs}
    named["outputs"] = sorted(task.outputs)
    return named


def _variables(task: Task) -> list[tuple[str, str, str]]:
    """Name, kind and content of each; of a secret only where it is."""
    return [
        (each.name, "value", each.value)
        if isinstance(each, EnvValue)
        else (each.name, "secret", f"{each.secret}/{each.key}")
        for each in task.env
    ]


def _digest(value: object) -> str:
    return hashlib.sha256(msgspec.json.encode(value)).hexdigest()
