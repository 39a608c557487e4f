"""What a step says about itself: the fetch manifest, the task's report, and the termination messages that must fit.
Pure.

A termination message is at most MESSAGE_BYTES of compact JSON; what does not fit is shortened or left out, never cut in
the middle, so that it always parses.
"""

import json
from collections.abc import Mapping, Sequence

from agent.documents import Json, read_object
from agent.frozen import Frozen

MESSAGE_BYTES = 3000
"""Kubernetes keeps 12 KB of messages for a pod, in equal parts for its containers: 4,096 bytes for each of our three,
3,072 where something puts a fourth beside them. What is longer is cut there, and says nothing any more.
"""


class InputOutcome(Frozen):
    """How one input came to be in place."""

    name: str
    size: int
    hit: bool
    cause: str
    """cached, coalesced, warm; never-here, evicted, changed, corrupt, disabled, cache-fault."""
    sha256: str
    source: str
    """Where its bytes came from: cache, peer or store."""
    ms: int
    """What it took to bring it."""
    saved_ms: int
    """What the hit saved against bringing the bytes anew."""
    version: str | None
    """Of an external object."""
    detail: str
    """More on the cause, for people."""

    def document(self) -> dict[str, object]:
        document: dict[str, object] = {
            "name": self.name,
            "bytes": self.size,
            "hit": self.hit,
            "cause": self.cause,
            "sha256": self.sha256,
            "source": self.source,
            "ms": self.ms,
        }
        optional = {"savedMs": self.saved_ms, "version": self.version, "detail": self.detail}
        return document | {name: value for name, value in optional.items() if value}


def fetch_manifest(
    outcomes: Sequence[InputOutcome],
    *,
    cache_enabled: bool,
    error: str | None,
    elapsed_ms: int,
    ended_at: int,
    disrupted: bool = False,
) -> dict[str, object]:
    """The whole manifest: {"v", "step", "ok", "cacheEnabled", "hits", "misses", "hitBytes", "missBytes", "causes",
    "inputs", "error", "elapsedMs", "endedAt"}; the last in epoch ms. `disrupted` is in it if it is true: the failure is
    no fault of the task's.
    """
    causes: dict[str, int] = {}
    for outcome in outcomes:
        causes[outcome.cause] = causes.get(outcome.cause, 0) + 1
    hits = [outcome for outcome in outcomes if outcome.hit]
    misses = [outcome for outcome in outcomes if not outcome.hit]
    return {
        "v": 1,
        "step": "fetch",
        "ok": error is None,
        "cacheEnabled": cache_enabled,
        "hits": len(hits),
        "misses": len(misses),
        "hitBytes": sum(outcome.size for outcome in hits),
        "missBytes": sum(outcome.size for outcome in misses),
        "causes": causes,
        "inputs": [outcome.document() for outcome in outcomes],
        "error": error,
        "elapsedMs": elapsed_ms,
        "endedAt": ended_at,
        **({"disrupted": True} if disrupted else {}),
    }


def compact(document: Mapping[str, object]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def fetch_message(manifest: Mapping[str, object]) -> bytes:
    """The manifest as a termination message: whole with its own digest if it fits, else without `inputs`, its error
    shortened if need be.
    """
    import hashlib  # only here: publish imports this module too and digests nothing of it

    whole = compact(manifest)
    document = {**manifest, "manifestSha256": hashlib.sha256(whole).hexdigest()}
    if fits(document):
        return compact(document)
    del document["inputs"]
    return fitted(document, "error")


def fits(document: Mapping[str, object]) -> bool:
    return len(compact(document)) <= MESSAGE_BYTES


def fitted(document: Mapping[str, object], text_field: str) -> bytes:
    """The document in at most MESSAGE_BYTES, by shortening the one field that may be long."""
    data = compact(document)
    text = document.get(text_field)
    while len(data) > MESSAGE_BYTES and isinstance(text, str) and text:
        # Each round takes away at least what is too much at six bytes a character, JSON's longest, and at least one
        # character.
        text = text[: max(0, len(text) - max(1, (len(data) - MESSAGE_BYTES) // 6))]
        data = compact({**document, text_field: text + "..."})
    return data


def read_manifest(data: bytes) -> dict[str, Json] | None:
    """A manifest as fetch wrote it, or None when it is not one."""
    manifest = read_object(data)
    return manifest if manifest is not None and manifest.get("v") == 1 and manifest.get("step") == "fetch" else None


def manifest_digests(manifest: Mapping[str, Json]) -> list[tuple[str, str]]:
    """(name, sha256) of each input that fetch brought."""
    inputs = manifest.get("inputs")
    found: list[tuple[str, str]] = []
    for item in inputs if isinstance(inputs, list) else []:
        if isinstance(item, dict):
            name, sha256 = item.get("name"), item.get("sha256")
            if isinstance(name, str) and isinstance(sha256, str):
                found.append((name, sha256))
    return found
