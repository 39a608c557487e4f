"""The keeper's side of the cluster, against the collector's real endpoint and a real Redis."""

import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from urllib.request import urlopen
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import msgspec
import pytest
import redis
from backports import zstd

from agent import seed, sync
from agent.collector import Collector
from agent.follow import Follower
from agent.keep import Keeper as RealKeeper
from agent.logs import Log
from agent.settings import SettingsError, SyncSettings, keep_settings, sync_settings
from agent.shelves import Deltas
from agent.store import Origin
from agent.store import Store as Cache
from agent.sync import Sync
from agent.web import Web
from helios.grants import blob_url
from helios.keys import NODES, node_blobs, node_cache, source_known
from helios.podwire import SourceKnown, Stored
from helios.records import AttemptRecord, OutputRecord
from helios.settings import Settings
from services.collector.endpoint import PodEndpoint
from services.collector.nodes import adding
from services.collector.store import Store
from tests.agent.conftest import AGENT
from tests.redis_servers import free_port
from tests.services.pod_calls import KEY, tell
from tests.services.test_demand import CHAIN, Runs, dag, outside
from tests.stage import RUN
from tests.waiting import wait_until

A, B, C = ("a" * 64, "b" * 64, "c" * 64)


class Keeper:
    """A keeper whose cache is told by hand."""

    def __init__(self, **blobs: int) -> None:
        self.blobs: dict[str, int] = {}
        self.deltas = Deltas(lambda: iter(list(self.blobs.items())))
        self.unheld: dict[str, tuple[int, int]] = {}
        self.free = 900
        for name, size in blobs.items():
            self.put(name * 64, size)

    def state(self) -> dict[str, int]:
        return {"blobs": len(self.blobs), "bytes": sum(self.blobs.values()), "freeBytes": self.free, "limitBytes": 0}

    def note_over(self, views: Mapping[str, tuple[int, int]]) -> None:
        assert not views

    def put(self, digest: str, size: int) -> None:
        self.blobs[digest] = size
        self.deltas.note(bytes.fromhex(digest), size)

    def drop(self, digest: str) -> None:
        del self.blobs[digest]
        self.deltas.note(bytes.fromhex(digest), -1)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


class Site:
    """A collector's endpoint on a port, which a test may take away, and lose answers of."""

    def __init__(self, client: redis.Redis, object_port: int) -> None:
        self.client = client
        self.settings = Settings(
            token_key="k",
            keeper_key=KEY,
            s3_endpoint=f"http://127.0.0.1:{object_port}",
            s3_access_key="access",
            s3_secret_key="hidden",
            s3_bucket="helios",
        )
        self.application = PodEndpoint(client, Store(self.settings), self.settings)
        self.port = free_port()
        self.lost_answers = 0
        self.asked: list[str] = []
        self.closing: list[Callable[[], None]] = []
        """Ends threads that would try for ever to reach it."""
        self.server: _Server | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.server = make_server("127.0.0.1", self.port, self._serve, _Server, _Quiet)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None

    def _serve(self, environ: dict[str, Any], start_response: Any) -> Any:
        self.asked.append(environ["PATH_INFO"])
        if self.lost_answers > 0:
            self.lost_answers -= 1
            self.application(environ, lambda *_: None)
            start_response("502 Bad Gateway", [])
            return []
        return self.application(environ, start_response)

    def held(self, node: str = "n1") -> dict[str, str]:
        return self.client.hgetall(node_blobs(node))


@pytest.fixture
def site(valkey: redis.Redis, store: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(sync, "AGAIN_SECONDS", (0.01, 0.02))
    site = Site(valkey, store.port)
    yield site
    for each in site.closing:
        each()
    site.stop()


def log_of(lines: list[bytes]) -> Log:
    return Log(lines.append)


class Teller:
    """A keeper's Sync that is handed what changed, round by round."""

    def __init__(self, site: Site, keeper: Keeper, key: str = KEY) -> None:
        self.site = site
        self.keeper = keeper
        self.lines: list[bytes] = []
        self.told = threading.Event()
        collector = Collector(Web(), site.url, key, "n1")
        self.sync = Sync(collector, log_of(self.lines), told=self.told.set)
        self.sync.start()
        site.closing.append(self.sync.close)

    def round(self) -> None:
        self.sync.round(self.keeper.deltas, self.keeper.state(), "http://10.0.0.7:8415")

    def until_held(self, blobs: dict[str, int]) -> None:
        wanted = {digest: str(size) for digest, size in blobs.items()}

        def held() -> bool:
            self.round()
            return self.site.held() == wanted

        wait_until(f"the collector knows of {len(blobs)} blobs", held)


def test_the_collector_knows_what_a_cache_holds_and_then_what_changes(site: Site) -> None:
    keeper = Keeper(a=5, b=7)
    teller = Teller(site, keeper)
    teller.until_held({A: 5, B: 7})
    assert teller.told.wait(60)
    known = site.client.hgetall(node_cache("n1"))
    assert (known["url"], known["blobs"], known["bytes"], known["freeBytes"]) == (
        "http://10.0.0.7:8415",
        "2",
        "12",
        "900",
    )
    keeper.drop(A)
    keeper.put(C, 9)
    teller.until_held({B: 7, C: 9})


def test_an_empty_cache_is_known_too(site: Site) -> None:
    teller = Teller(site, Keeper())
    teller.until_held({})
    wait_until("the node is listed", lambda: site.client.zscore(NODES, "n1"))
    assert teller.told.wait(60)


def test_a_keeper_that_has_nothing_new_to_tell_says_that_it_lives(site: Site) -> None:
    teller = Teller(site, Keeper(a=5))
    teller.until_held({A: 5})
    site.client.zadd(NODES, {"n1": 1.0})

    def heard() -> bool:
        teller.round()
        return site.client.zscore(NODES, "n1") != 1.0

    wait_until("the node was heard of", heard)


def test_a_large_cache_is_told_in_parts_the_largest_blobs_first(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "CHUNK", 3)
    site.application.nodes.blobs_in_all = 5
    keeper = Keeper()
    for size in (4, 1, 9, 7, 2, 8, 3, 6):
        keeper.put(f"{size:064x}", size)
    teller = Teller(site, keeper)
    teller.until_held({f"{size:064x}": size for size in (9, 8, 7, 6, 4)})
    assert site.asked.count("/v1/node") >= 2


def test_answers_that_are_lost_lose_nothing(site: Site) -> None:
    keeper = Keeper(a=5, b=7)
    site.lost_answers = 2
    teller = Teller(site, keeper)
    teller.until_held({A: 5, B: 7})
    site.lost_answers = 2
    keeper.drop(A)
    keeper.put(C, 9)
    teller.until_held({B: 7, C: 9})


def test_what_redis_has_forgotten_is_told_again(site: Site) -> None:
    keeper = Keeper(a=5)
    teller = Teller(site, keeper)
    teller.until_held({A: 5})
    site.client.flushall()
    keeper.put(B, 7)
    teller.until_held({A: 5, B: 7})


@pytest.mark.alone
def test_a_collector_that_is_away_holds_up_no_round_and_hears_everything_later(site: Site) -> None:
    keeper = Keeper(a=5)
    teller = Teller(site, keeper)
    teller.until_held({A: 5})
    site.stop()
    keeper.put(B, 7)

    def noticed() -> bool:
        began = time.monotonic()
        teller.round()
        assert time.monotonic() - began < 1
        return len(teller.lines) == 1

    wait_until("the log says so", noticed)
    keeper.put(C, 7)
    assert noticed(), "it says so once"
    site.start()
    teller.until_held({A: 5, B: 7, C: 7})
    assert [b"does not take" in line for line in teller.lines] == [True, False]


def test_what_others_told_of_a_cache_meanwhile_outlasts_a_collector_that_was_away(site: Site) -> None:
    """All of a cache that could not be told is looked at anew before it is: a snapshot of then would undo what the
    collector was told since by publish.
    """
    keeper = Keeper(a=5)
    site.stop()
    teller = Teller(site, keeper)
    teller.round()
    wait_until("the log says so", lambda: teller.lines)
    keeper.put(B, 7)
    commands = adding("n1", {B: 7})
    pipeline = site.client.pipeline()
    for command in commands:
        pipeline.execute_command(*command)
    pipeline.execute()
    site.start()
    wiped: list[bool] = []

    def told() -> bool:
        teller.round()
        held = site.held()
        wiped.append(B not in held)
        return held == {A: "5", B: "7"}

    wait_until("all is told", told)
    assert not any(wiped)


def test_a_keeper_with_another_key_is_not_heard_and_its_log_says_why(site: Site) -> None:
    teller = Teller(site, Keeper(a=5), key="another")
    teller.round()
    wait_until("the log says so", lambda: teller.lines)
    assert b"HTTP 401" in teller.lines[0]
    assert site.held() == {}


def test_what_tasks_still_need_is_told_before_an_eviction(site: Site, valkey: redis.Redis) -> None:
    runs = Runs(valkey)
    valkey.set(
        source_known(f"127.0.0.1:{site.settings.s3_endpoint.rpartition(':')[2]}/bucket/in.csv"),
        msgspec.json.encode(SourceKnown(version="etag 1", bytes=9, sha256=C)),
    )
    runs.open(CHAIN)
    assert Teller(site, Keeper()).sync.needed([A, C]) == {C}


@pytest.mark.alone
def test_an_eviction_waits_once_for_a_collector_that_does_not_answer(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync, "DEMAND_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        collector = Collector(Web(), f"http://127.0.0.1:{silent.getsockname()[1]}", KEY, "n1")
        asking = Sync(collector, log_of([]), told=lambda: None)
        began = time.monotonic()
        assert [asking.needed([A]) for _ in range(50)] == [None] * 50
        assert time.monotonic() - began < 2


class Joined:
    """A node whose cache is new, its keeper's follower, and runs that want its blobs."""

    def __init__(self, site: Site, store: Any, folder: Path) -> None:
        self.site = site
        self.store = store
        self.root = str(folder / "cache")
        Cache(self.root, "test").prepare()
        self.lines: list[bytes] = []
        self.keeper = Keeper()
        self.runs = Runs(site.client)

    def source(self, key: str, content: bytes) -> str:
        """An object that the collector knows of."""
        digest = self.store.put(f"bucket/{key}", content)
        known = SourceKnown(version="etag 1", bytes=len(content), sha256=digest)
        self.site.client.set(source_known(f"127.0.0.1:{self.store.port}/bucket/{key}"), msgspec.json.encode(known))
        return digest

    def follower(self, *, bind: tuple[str, int] | None = None, url: str = "") -> Follower:
        settings = SyncSettings(
            cache_dir=self.root,
            node="n1",
            endpoint=self.site.url,
            key=KEY,
            url=url,
            bind=bind,
            seed_bytes=1000,
            free_bytes=0,
            lib_dir=None,
        )
        follower = Follower(settings, log_of(self.lines))
        self.site.closing.append(follower.close)
        return follower

    def path(self, digest: str) -> Path:
        return Path(self.root) / "blobs" / "sha256" / digest[:2] / digest

    def seeded(self, follower: Follower, digests: Sequence[str]) -> None:
        follower.round(self.keeper)
        wait_until("the seeding has ended", lambda: any(b"Seed" in line for line in self.lines))
        held = {path.name for path in (Path(self.root) / "blobs" / "sha256").glob("*/*")}
        assert held == set(digests)
        for digest in digests:
            assert hashlib.sha256(self.path(digest).read_bytes()).hexdigest() == digest

    def counters(self, follower: Follower) -> tuple[int, int]:
        """Bytes that were seeded, and of those in vain, as the collector knows after one more round."""

        def told() -> tuple[int, int] | None:
            follower.round(self.keeper)
            known = self.site.client.hmget(node_cache("n1"), "seededBytes", "seedWastedBytes", "freeBytes")
            return (int(known[0]), int(known[1])) if known[2] == str(self.keeper.free) else None

        self.keeper.free += 1
        return wait_until("the state is told", told)


@pytest.fixture
def joined(site: Site, store: Any, tmp_path: Path) -> Joined:
    return Joined(site, store, tmp_path)


def test_a_new_node_brings_what_queued_work_needs_from_nodes_and_the_store(joined: Joined) -> None:
    here, there, large = (joined.source(key, key.encode() * 9) for key in ("here", "there", "l" * 200))
    joined.runs.open(dag({"name": "a", "inputs": [outside("here"), outside("there"), outside("l" * 200)]}))
    blob = b"there" * 9
    joined.store.objects[f"v1/blob/{there}"] = blob
    joined.store.etags[f"v1/blob/{there}"] = f'"{there}"'
    tell(joined.site.application, "n2", {there: len(blob)}, url=f"http://127.0.0.1:{joined.store.port}")
    follower = joined.follower()
    joined.seeded(follower, [here, there])
    assert not joined.path(large).exists(), "it is more than the budget"
    assert joined.store.count("GET", "bucket/there") == 0
    assert joined.counters(follower) == (len(b"here" * 9) + len(blob), 0)


def test_an_output_that_lies_compressed_in_the_store_is_seeded_as_what_it_was(joined: Joined) -> None:
    content = b"much the same " * 60
    digest = hashlib.sha256(content).hexdigest()
    packed = zstd.compress(content)
    joined.runs.open(CHAIN)
    joined.runs.succeed("up")
    key = f"runs/{RUN}/up/1/p/made"
    lies = Stored(codec="zstd", bytes=len(packed))
    record = AttemptRecord(exitCode=0, outputs=[OutputRecord("made", len(content), digest, key, stored=lies)])
    joined.site.client.hset(joined.runs.stage.keys.task(RUN, "up"), "record", msgspec.json.encode(record))
    joined.store.put(f"helios/{key}", packed)
    joined.seeded(joined.follower(), [digest])
    assert joined.path(digest).read_bytes() == content


def test_bytes_of_another_digest_are_not_kept(joined: Joined) -> None:
    good, bad = joined.source("good", b"good"), joined.source("bad", b"bad")
    joined.store.put("bucket/bad", b"dab")
    joined.runs.open(dag({"name": "a", "inputs": [outside("good"), outside("bad")]}))
    joined.seeded(joined.follower(), [good])
    assert not joined.path(bad).exists()


def test_seeding_happens_once_in_a_caches_life(joined: Joined) -> None:
    first = joined.source("first", b"first")
    joined.runs.open(dag({"name": "a", "inputs": [outside("first")]}))
    joined.seeded(joined.follower(), [first])
    joined.path(first).unlink()
    again = joined.follower()
    assert joined.counters(again) == (5, 5)
    again.round(joined.keeper)
    assert joined.site.asked.count("/v1/seed") == 1


def test_a_cache_that_was_not_empty_is_not_seeded(joined: Joined) -> None:
    joined.source("first", b"first")
    joined.runs.open(dag({"name": "a", "inputs": [outside("first")]}))
    joined.keeper.put(A, 5)
    follower = joined.follower()
    assert joined.counters(follower) == (0, 0)
    wait_until("the cache was told", lambda: joined.site.held() == {A: "5"})
    assert joined.counters(follower) == (0, 0)
    assert "/v1/seed" not in joined.site.asked


def test_what_was_brought_and_evicted_unused_or_not_used_within_a_day_was_in_vain(
    joined: Joined, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = {name: joined.source(name, name.encode() * 9) for name in ("evicted", "linked", "used", "idle")}
    joined.runs.open(dag({"name": "a", "inputs": [outside(name) for name in digests]}))
    follower = joined.follower()
    joined.seeded(follower, list(digests.values()))
    all_bytes = 9 * sum(map(len, digests))
    joined.path(digests["evicted"]).unlink()
    view = Path(joined.root) / "linked"
    view.hardlink_to(joined.path(digests["linked"]))
    gone = Path(joined.root) / "gone"
    gone.hardlink_to(joined.path(digests["used"]))
    gone.unlink()
    assert joined.counters(follower) == (all_bytes, 9 * len("evicted"))
    monkeypatch.setattr(seed, "USED_WITHIN_SECONDS", -1.0)
    assert joined.counters(joined.follower()) == (all_bytes, 9 * (len("evicted") + len("idle")))


def test_half_of_the_free_room_stays_free(joined: Joined) -> None:
    for name in ("first", "second"):
        joined.source(name, b"12345")
    first = hashlib.sha256(b"12345").hexdigest()
    joined.runs.open(dag({"name": "a", "inputs": [outside("first"), outside("second")]}))
    joined.keeper.state = lambda: {"blobs": 0, "bytes": 0, "freeBytes": 1, "limitBytes": 11}
    joined.seeded(joined.follower(), [first])


def test_a_task_that_was_quicker_is_not_disturbed(joined: Joined, store: Any) -> None:
    digest = joined.source("first", b"first")
    joined.runs.open(dag({"name": "a", "inputs": [outside("first")]}))
    joined.path(digest).parent.mkdir()
    joined.path(digest).write_bytes(b"first")
    inode = os.stat(joined.path(digest)).st_ino
    follower = joined.follower()
    joined.seeded(follower, [digest])
    assert os.stat(joined.path(digest)).st_ino == inode
    assert joined.counters(follower) == (0, 0)
    assert store.count("GET", "bucket/first") == 0


def test_the_verb_tells_the_collector_gives_to_other_nodes_and_takes_back_what_is_gone(
    site: Site, tmp_path: Path
) -> None:
    """As in its container: standard library only."""
    root, port = str(tmp_path / "cache"), free_port()
    cache = Cache(root, "test")
    cache.prepare()
    digest = hashlib.sha256(b"content").hexdigest()
    with cache.own_part(7) as (part, lock):
        part.write_at(0, memoryview(b"content"))
        cache.admit(part, lock, digest, 7, Origin("output", None))
    environ = {
        "HELIOS_CACHE_DIR": root,
        "HELIOS_NODE": "n1",
        "HELIOS_KEEP_SECONDS": "0.1",
        "HELIOS_ENDPOINT": site.url,
        "HELIOS_KEEPER_KEY": KEY,
        "HELIOS_KEEPER_URL": f"http://127.0.0.1:{port}",
        "HELIOS_KEEPER_BIND": f"127.0.0.1:{port}",
        "HELIOS_CACHE_FREE_BYTES": "0",
    }
    process = subprocess.Popen([sys.executable, "-I", "-S", str(AGENT), "keep"], env=environ, stdout=subprocess.DEVNULL)
    try:
        wait_until("the collector knows the blob", lambda: site.held() == {digest: "7"})
        url = site.client.hget(node_cache("n1"), "url")
        assert url == f"http://127.0.0.1:{port}"
        with urlopen(blob_url(url, KEY, digest, int(time.time()) + 60)) as response:
            assert response.read() == b"content"
        cache.quarantine(digest)
        wait_until("the collector knows that it is gone", lambda: site.held() == {})
    finally:
        process.terminate()
        process.wait()


def test_a_keeper_that_cannot_listen_says_so_and_sends_nobody_to_itself(joined: Joined) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        bind = ("127.0.0.1", taken.getsockname()[1])
        follower = joined.follower(bind=bind, url="http://10.0.0.7:8415")
        joined.counters(follower)
        assert b"Other nodes cannot fetch from here" in joined.lines[0]
        assert joined.site.client.hget(node_cache("n1"), "url") == ""
    joined.counters(follower)
    joined.counters(follower)
    assert joined.site.client.hget(node_cache("n1"), "url") == "http://10.0.0.7:8415"
    follower.close()


ENV = {
    "HELIOS_CACHE_DIR": "/var/helios/cache",
    "HELIOS_NODE": "n1",
    "HELIOS_ENDPOINT": "http://collector:8414/",
    "HELIOS_KEEPER_KEY": "a key",
}


def test_without_a_key_a_keeper_looks_after_its_cache_alone() -> None:
    assert sync_settings({**ENV, "HELIOS_KEEPER_KEY": ""}) is None


@pytest.mark.parametrize(
    ("given", "url"),
    [("", ""), ("http://10.0.0.7:8415", "http://10.0.0.7:8415"), ("http://fd00::7:8415", "http://[fd00::7]:8415")],
)
def test_a_keepers_address_may_be_of_either_kind(given: str, url: str) -> None:
    settings = sync_settings({**ENV, "HELIOS_KEEPER_URL": given, "HELIOS_KEEPER_BIND": "[::]:8415"})
    assert settings is not None
    assert (settings.url, settings.bind, settings.endpoint) == (url, ("::", 8415), "http://collector:8414")
    assert "a key" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HELIOS_KEEPER_URL", "10.0.0.7:8415"),
        ("HELIOS_KEEPER_URL", "http://10.0.0.7"),
        ("HELIOS_KEEPER_BIND", "8415"),
        ("HELIOS_KEEPER_BIND", "0.0.0.0:http"),
        ("HELIOS_SEED_BYTES", "much"),
        ("HELIOS_ENDPOINT", "collector"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        sync_settings({**ENV, name: value})


def test_views_that_no_task_was_seen_to_hold_go_when_their_pods_are_over(joined: Joined) -> None:
    """As of tasks that were over between two rounds: their blobs must not count as in use for an hour."""
    views = Path(joined.root) / "views"
    made = time.time() - 60
    for name in ("job-over", "job-waits", "job-filled-again"):
        (views / name).mkdir()
        os.utime(views / name, (made, made))
    asked: list[Sequence[str]] = []

    def over(jobs: Sequence[str]) -> Sequence[str]:
        asked.append(sorted(jobs))
        os.utime(views / "job-filled-again", (made + 1, made + 1))
        return [*(job for job in jobs if job != "job-waits"), "job-of-somebody-else"]

    joined.site.application.keepers.over = over
    env = {"HELIOS_CACHE_DIR": joined.root, "HELIOS_NODE": "n1", "HELIOS_CACHE_FREE_BYTES": "0"}
    keeper = RealKeeper(keep_settings(env))
    follower = joined.follower()

    def left() -> set[str]:
        keeper.round()
        follower.round(keeper)
        return {each.name for each in views.iterdir()}

    wait_until("one is gone", lambda: "job-over" not in left() and asked[1:])
    assert asked[0] == ["job-filled-again", "job-over", "job-waits"]
    assert "job-waits" in left()
    joined.site.stop()
    assert "job-waits" in left()
