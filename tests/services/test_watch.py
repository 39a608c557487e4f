"""The watch against an API server that lists, tells, forgets, breaks off and stays away."""

import json
import threading
from collections.abc import Iterator

import pytest
from kubernetes.config import ConfigException

from services.collector import kube_watch
from services.collector.kube_api import token_headers
from services.collector.kube_objects import MANAGED, Pod
from services.collector.kube_watch import Watch
from tests.services.kube_server import NAMESPACE, KubeServer
from tests.waiting import wait_until

LABELS = {"app.kubernetes.io/managed-by": "helios"}


class Watched:
    """A watch of pods, and what it has said so far."""

    def __init__(self, kube: KubeServer) -> None:
        self.kube = kube
        self.watch = Watch(kube.api(), f"/api/v1/namespaces/{NAMESPACE}/pods", Pod, selector=MANAGED)
        self.thread = threading.Thread(target=self.watch.run, daemon=True)
        self.told: list[tuple[str, str | None]] = []

    def start(self) -> None:
        self.thread.start()
        wait_until("the first list is read", lambda: self.watch.synced and self.watch.live_for(0))

    def put(self, name: str, phase: str = "Pending", *, quietly: bool = False) -> None:
        self.kube.put("pods", name, {"metadata": {"labels": LABELS}, "status": {"phase": phase}}, quietly=quietly)

    def phases(self) -> dict[str, str]:
        """Of the copy, after which all that led to it is among what was told."""
        mirror = self.watch.mirror
        with mirror.lock:
            found = {name: pod.status.phase for name, pod in mirror.objects.items()}
        for name, pod in mirror.drain().items():
            self.told.append((name, pod.status.phase if pod else None))
        return found

    def becomes(self, **phases: str) -> None:
        wait_until(f"the copy is {phases}", lambda: self.phases() == phases)


@pytest.fixture
def watched(kube: KubeServer) -> Iterator[Watched]:
    found = Watched(kube)
    yield found
    found.watch.stop()
    kube.come_back()
    # It may just be opening one more connection.
    wait_until("the watch has ended", lambda: kube.cut() or not found.thread.is_alive())


def test_what_was_there_and_what_changes_is_told_once(watched: Watched) -> None:
    watched.put("a")
    watched.start()
    watched.becomes(a="Pending")
    watched.put("a", "Running")
    watched.put("b")
    watched.becomes(a="Running", b="Pending")
    watched.kube.delete("pods", "a")
    watched.becomes(b="Pending")
    assert sorted(watched.told, key=str) == [("a", "Pending"), ("a", "Running"), ("a", None), ("b", "Pending")]


def test_others_pods_are_not_asked_for(watched: Watched) -> None:
    watched.kube.put("pods", "stranger", {"status": {"phase": "Running"}})
    watched.put("a")
    watched.start()
    assert watched.phases() == {"a": "Pending"}
    assert all(query["labelSelector"] == MANAGED for query in watched.kube.watching())


def test_a_long_list_comes_in_pages(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube_watch, "PAGE_ITEMS", 3)
    for number in range(10):
        watched.put(f"p{number}")
    watched.start()
    assert len(watched.phases()) == 10


def test_a_broken_connection_goes_on_where_it_was(watched: Watched) -> None:
    """Without a new list, and with all that happened meanwhile: also a deletion."""
    watched.put("a")
    watched.put("b")
    watched.start()
    watched.put("a", "Running")
    watched.becomes(a="Running", b="Pending")
    lists = len(watched.kube.asked("GET", "/pods")) - len(watched.kube.watching())
    watched.kube.cut()
    watched.kube.delete("pods", "b")
    watched.put("c")
    watched.becomes(a="Running", c="Pending")
    assert len(watched.kube.asked("GET", "/pods")) - len(watched.kube.watching()) == lists
    assert ("b", None) in watched.told


@pytest.mark.parametrize("start", ['{"type":"ADDED","object":{"a":', '{"a":'])
def test_a_line_that_is_nested_without_end_does_not_end_the_watch(watched: Watched, start: str) -> None:
    watched.put("a")
    watched.start()
    wait_until("the watch is open", lambda: len(watched.kube.watching()) == 1)
    watched.kube.send("pods", start + "[" * 100_000)
    watched.put("b", quietly=True)
    watched.becomes(a="Pending", b="Pending")


def test_a_bookmark_is_where_a_watch_goes_on(watched: Watched) -> None:
    watched.put("a")
    watched.start()
    watched.kube.bookmark("pods")
    marked = watched.kube.version
    watched.put("a", "Running")
    watched.becomes(a="Running")
    watched.kube.bookmark("pods")
    wait_until("the watch is open", lambda: len(watched.kube.watching()) == 1)
    watched.kube.cut()
    wait_until("the watch is opened again", lambda: len(watched.kube.watching()) >= 2)
    assert int(watched.kube.watching()[1]["resourceVersion"]) >= marked
    assert watched.kube.watching()[0]["allowWatchBookmarks"] == "true"


def test_a_watch_that_is_too_old_lists_again_and_what_is_absent_was_deleted(watched: Watched) -> None:
    """HTTP 410, and a DELETED event that nobody will ever send."""
    watched.put("a")
    watched.put("b")
    watched.start()
    watched.becomes(a="Pending", b="Pending")
    watched.kube.go_away()
    watched.kube.delete("pods", "a", quietly=True)
    watched.put("b", "Succeeded", quietly=True)
    watched.put("c", quietly=True)
    watched.kube.expire()
    watched.kube.come_back()
    watched.becomes(b="Succeeded", c="Pending")
    assert watched.told[2:] == [("a", None), ("b", "Succeeded"), ("c", "Pending")]


def test_a_list_that_gets_too_old_between_its_pages_starts_over(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube_watch, "PAGE_ITEMS", 1)
    for name in "abc":
        watched.put(name)
    expired: list[bool] = []
    get = watched.watch.api.get

    def expires_once(path: str, query: dict[str, str] | None = None, **options: float) -> bytes:
        if query and "continue" in query and not expired:
            expired.append(True)
            watched.put("d")
            watched.kube.expire()
        return get(path, query, **options)

    monkeypatch.setattr(watched.watch.api, "get", expires_once)
    watched.start()
    assert watched.phases().keys() == set("abcd")


def test_a_deletion_that_was_never_told_is_seen_by_the_next_list(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube_watch, "RELIST_SECONDS", 1)
    watched.put("a")
    watched.put("b")
    watched.start()
    watched.kube.delete("pods", "a", quietly=True)
    watched.becomes(b="Pending")
    assert ("a", None) in watched.told


def test_an_api_server_that_is_away_is_waited_for_and_its_silence_is_known(watched: Watched) -> None:
    watched.put("a")
    watched.start()
    assert watched.watch.live_for(0)
    watched.kube.go_away()
    wait_until("the silence is noticed", lambda: not watched.watch.live_for(0))
    watched.put("a", "Failed")
    watched.kube.come_back()
    watched.becomes(a="Failed")
    wait_until("it is live again", lambda: watched.watch.live_for(0))


def test_a_connection_that_dies_without_a_word_is_noticed(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing resets it, so only the end that every watch should have by then tells."""
    monkeypatch.setattr(kube_watch, "WATCH_SECONDS", 1)
    # A busy machine is silent for seconds, too.
    monkeypatch.setattr(kube_watch, "SILENCE_SECONDS", 60)
    watched.put("a")
    watched.start()
    since = watched.watch.live_since
    wait_until("watches end and begin anew", lambda: len(watched.kube.watching()) > 2)
    assert watched.watch.live_since == since, "a watch that ends in time is well"
    monkeypatch.setattr(kube_watch, "SILENCE_SECONDS", 3)
    begun = len(watched.kube.watching())
    wait_until("a watch has begun since", lambda: len(watched.kube.watching()) > begun)
    watched.kube.mute = True
    watched.put("a", "Running")
    wait_until("the silence is noticed", lambda: not watched.watch.live_for(0))
    watched.kube.mute = False
    watched.kube.cut()
    watched.becomes(a="Running")


def test_no_watch_is_asked_for_longer_than_its_silence_is_borne(watched: Watched) -> None:
    watched.start()
    wait_until("it watches", watched.kube.watching)
    assert float(watched.kube.watching()[0]["timeoutSeconds"]) < kube_watch.SILENCE_SECONDS <= 30


def test_an_api_server_that_is_away_from_the_start_is_waited_for(watched: Watched) -> None:
    watched.put("a")
    watched.kube.go_away()
    watched.thread.start()
    watched.kube.come_back()
    watched.becomes(a="Pending")


def test_an_api_server_that_refuses_is_asked_again(watched: Watched) -> None:
    """As a new one does until it has read the roles."""
    watched.put("a")
    watched.kube.refuse["GET", "pods"] = 403
    watched.thread.start()
    wait_until("it has asked", lambda: watched.kube.requests)
    assert not watched.watch.live_for(0)
    watched.kube.refuse.clear()
    watched.becomes(a="Pending")


BROKEN = ['{"type":', "[]", "\x00", '{"type":"ADDED","object":{"metadata":{"name":"x","labels":3}}}', '{"type":"WHAT"}']


@pytest.mark.parametrize("line", [*BROKEN, json.dumps({"type": "ERROR", "object": {"code": 500, "message": "etcd"}})])
def test_a_line_that_makes_no_sense_costs_nothing_else(watched: Watched, line: str) -> None:
    watched.put("a")
    watched.start()
    watched.kube.send("pods", line)
    watched.put("b")
    watched.becomes(a="Pending", b="Pending")


class Tokens:
    """The official client's configuration, as far as it renews a token."""

    def __init__(self) -> None:
        self.trouble: Exception | None = None

    def get_api_key_with_prefix(self, identifier: str, alias: str) -> str:
        assert (identifier, alias) == ("BearerToken", "authorization")
        if self.trouble is not None:
            raise self.trouble
        return "bearer t"


@pytest.mark.parametrize("trouble", [FileNotFoundError("token"), ConfigException("Token file exists but empty.")])
def test_a_token_that_cannot_be_renewed_is_waited_for(watched: Watched, trouble: Exception) -> None:
    """Its file is empty for a moment, or not there: the watch goes on once it is."""
    tokens = Tokens()
    watched.watch.api.headers = token_headers(tokens)
    watched.put("a")
    watched.start()
    wait_until("the watch is open", watched.kube.watching)
    tokens.trouble = trouble
    watched.kube.cut()
    wait_until("the trouble is noticed", lambda: not watched.watch.live_for(0))
    assert watched.thread.is_alive()
    watched.put("a", "Running")
    tokens.trouble = None
    watched.becomes(a="Running")
