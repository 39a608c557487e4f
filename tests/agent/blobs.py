"""Blobs in a cache, put there without a download."""

import hashlib
import json
import os
from pathlib import Path

from agent.stamp import durable_ns
from agent.store import Store


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def blob_file(cache: Path, digest: str) -> Path:
    return cache / "blobs" / "sha256" / digest[:2] / digest


def ref_file(cache: Path, digest: str) -> Path:
    return cache / "refs" / hashlib.sha256(f"content\n{digest}".encode()).hexdigest()


def read_ref(cache: Path, digest: str) -> dict[str, object]:
    return json.loads(ref_file(cache, digest).read_bytes())


def put_blob(cache: Path, data: bytes, **ref: object) -> str:
    """A durable blob as a keeper finds it, with the ref that fetch left; `ref` are further fields of that."""
    digest = digest_of(data)
    file = blob_file(cache, digest)
    file.parent.mkdir(mode=0o700, exist_ok=True)
    file.write_bytes(data)
    file.chmod(0o444)
    os.utime(file, ns=(durable_ns(digest), durable_ns(digest)))
    ref_file(cache, digest).write_text(json.dumps({"v": 1, "sha256": digest, "bytes": len(data), **ref}))
    return digest


def held(cache: Path) -> set[str]:
    """The digests of the blobs that are there."""
    return {path.name for path in (cache / "blobs" / "sha256").glob("*/*")}


def prepared(cache: Path) -> Path:
    cache.mkdir(exist_ok=True)
    Store(str(cache), "nobody").prepare()
    Store(str(cache), "nobody").drop_view()
    return cache
