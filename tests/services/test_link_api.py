"""How the jobrunner's and the collector's clients meet an API server again after their connections fell silent."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import urllib3
from kubernetes.client import Configuration

from services.collector.kube_api import Api, ApiAway
from services.collector.kube_errands import Errands
from services.jobrunner import kubernetes
from services.jobrunner.jobs import LauncherAway
from tests.faulty_link import Fault, FaultyLink, long
from tests.services.kube_server import NAMESPACE, KubeServer
from tests.waiting import wait_until

CONNECTIONS = 6
SECONDS = 3.0
"""In place of the time that an answer is waited for."""
PATH = "/api/v1/nodes"


@pytest.fixture
def link(kube: KubeServer) -> Iterator[FaultyLink]:
    with FaultyLink(("127.0.0.1", kube.http.server_port)) as link:
        yield link


@pytest.fixture(params=["collector", "jobrunner"])
def ask(request: pytest.FixtureRequest, link: FaultyLink) -> Callable[[], object]:
    """Asks the API server something over the client of that service."""
    host = f"http://127.0.0.1:{link.port}"
    if request.param == "collector":
        api = Api(host, urllib3.PoolManager(maxsize=CONNECTIONS), dict)
        return lambda: api.get(PATH, read_seconds=SECONDS)
    configuration = Configuration()
    configuration.host = host
    other = kubernetes.Api(configuration, connections=CONNECTIONS, timeout_seconds=SECONDS)
    return lambda: other.request("GET", PATH)


def at_once(ask: Callable[[], object]) -> None:
    barrier = threading.Barrier(CONNECTIONS)
    with ThreadPoolExecutor(CONNECTIONS) as threads:
        for done in [threads.submit(lambda: (barrier.wait(), ask())) for _ in range(CONNECTIONS)]:
            done.result()


def test_after_one_silence_no_other_kept_connection_is_trusted(link: FaultyLink, ask: Callable[[], object]) -> None:
    """Or else each of them would cost a wait of its own, now or at the next rush."""
    link.on(Fault.DELAY, seconds=0.05)
    # One that asks late uses the connection of one that has its answer.
    wait_until("all connections are kept", lambda: at_once(ask) or link.open_connections == CONNECTIONS)
    link.heal()
    link.on(Fault.HALF_OPEN)
    link.heal()
    with pytest.raises((ApiAway, LauncherAway)):
        ask()
    began = time.monotonic()
    at_once(ask)
    assert time.monotonic() - began < SECONDS
    wait_until("nothing is kept of what fell silent", lambda: link.open_connections <= CONNECTIONS)


@long
def test_an_api_server_that_answers_no_connection_is_waited_for_as_long_as_stated(
    link: FaultyLink, ask: Callable[[], object]
) -> None:
    link.on(Fault.SILENT)
    began = time.monotonic()
    with pytest.raises((ApiAway, LauncherAway)):
        ask()
    assert time.monotonic() - began < SECONDS + 3
    link.heal()
    ask()


@pytest.mark.parametrize("fault", [Fault.RESET_REQUEST, Fault.RESET_SENT, Fault.RESET_REPLY, Fault.CUT_REPLY])
def test_a_release_whose_connection_breaks_is_repeated_at_once(
    kube: KubeServer, link: FaultyLink, fault: Fault
) -> None:
    """Not by the next sweep only: its pod would keep its place on the node until then."""
    kube.put("jobs", "job-a-1", {"metadata": {}})
    errands = Errands(Api(f"http://127.0.0.1:{link.port}", urllib3.PoolManager(), dict), NAMESPACE)
    try:
        link.once(fault)
        errands.release("job-a-1", [])
        wait_until("the Job is gone", lambda: "job-a-1" not in kube.objects["jobs"])
        wait_until("the release is over", lambda: not errands.releasing)
        assert link.counts == {fault: 1}
    finally:
        errands.close()
