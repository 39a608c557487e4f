"""A cache folder as the first version left it serves on, and is kept."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from agent.keep import Keeper
from agent.settings import keep_settings

DURABLE, PENDING = b"first version, durable", b"first version, pending elsewhere"
MTIMES_NS = {DURABLE: 1022448199061639530, PENDING: 1104598224515572188}
"""As that version sealed them; the second one in a boot that is over."""


def ref(cache: Path, key: str, document: dict[str, object]) -> None:
    file = cache / "refs" / hashlib.sha256(key.encode()).hexdigest()
    file.write_text(json.dumps({"v": 1, **document}, separators=(",", ":")))
    file.chmod(0o600)


def first_version(cache: Path) -> None:
    """Two blobs of external objects, one of another task's output that a view still links to, and what lay around."""
    cache.mkdir(mode=0o755)
    for name in ("blobs", "blobs/sha256", "refs", "locks", "tmp", "quarantine"):
        (cache / name).mkdir(mode=0o700)
    for name in ("views", "views/job-old"):
        (cache / name).mkdir(mode=0o755)
    for data, mtime_ns in MTIMES_NS.items():
        digest = hashlib.sha256(data).hexdigest()
        blob = cache / "blobs" / "sha256" / digest[:2] / digest
        blob.parent.mkdir(mode=0o700)
        blob.write_bytes(data)
        blob.chmod(0o444)
        os.utime(blob, ns=(mtime_ns, mtime_ns))
        ref(cache, f"content\n{digest}", {"sha256": digest, "bytes": len(data)})
        (cache / "locks" / hashlib.sha256(f"content\n{digest}".encode()).hexdigest()).touch(0o600)
        source = f"http://s3.local/bucket/{data.split()[-1].decode()}"
        version = f'etag "{hashlib.md5(data).hexdigest()}"'
        identity = f"object\n{source}\n{version}\n{len(data)}"
        ref(cache, identity, {"source": source, "version": version, "bytes": len(data), "sha256": digest})
        ref(cache, f"source\n{source}", {"source": source, "identity": identity})
    digest = hashlib.sha256(DURABLE).hexdigest()
    os.link(cache / "blobs" / "sha256" / digest[:2] / digest, cache / "views" / "job-old" / "x")
    os.utime(cache / "views" / "job-old", (1, 1))
    (cache / "quarantine" / f"{digest}.1.abcdef01").write_bytes(b"damaged")
    (cache / "inventory.json").write_text('{"event":"cache-inventory","node":"n","blobs":2,"bytes":54,"freeBytes":1}')


def test_a_cache_of_the_first_version_hits_and_is_scrubbed_bounded_and_told(
    tmp_path: Path, store: Any, endpoint: Any, make_node: Any
) -> None:
    cache = tmp_path / "cache"
    first_version(cache)
    names = {data.split()[-1].decode(): data for data in (DURABLE, PENDING)}
    for name, data in names.items():
        store.put(f"bucket/{name}", data)
        endpoint.add_input(name, f"bucket/{name}")
    keeper = Keeper(settings(cache))
    keeper.prepare()
    keeper.round()
    assert dict(keeper.deltas.snapshot()) == {hashlib.sha256(data).hexdigest(): len(data) for data in names.values()}
    found = keeper.inventory()
    assert (found["blobs"], found["evictedBlobs"], found["corruptBlobs"], found["faults"]) == (2, 0, 0, 0)
    assert not (cache / "views" / "job-old").exists()

    node = make_node("job-new")
    assert [item["cause"] for item in node.fetch()["inputs"]] == ["cached", "cached"]
    assert all(node.read(name) == data for name, data in names.items())

    os.utime(cache / "views" / "job-new", (1, 1))
    keeper = Keeper(settings(cache, HELIOS_CACHE_LIMIT_BYTES="10"))
    keeper.round()
    assert keeper.inventory()["evictedBlobs"] == 2
    assert [item["cause"] for item in make_node("job-next").fetch()["inputs"]] == ["evicted", "evicted"]


def settings(cache: Path, **env: str) -> Any:
    return keep_settings({"HELIOS_CACHE_DIR": str(cache), "HELIOS_NODE": "n", "HELIOS_CACHE_FREE_BYTES": "0", **env})
