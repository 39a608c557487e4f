"""Redis for tests: the same ones run on fakeredis and on a real Valkey. And who may run beside whom, and until when."""

import os
import signal
import time
from collections.abc import Generator, Iterator
from typing import Any

import fakeredis
import hypothesis
import pytest
import redis

from helios.streams import CLIENT_OPTIONS
from tests.real_s3 import RealS3, running_s3
from tests.redis_servers import Valkey
from tests.turns import turn

# `nohup make test &` ignores these, and every process of a test would inherit that.
for number in (signal.SIGHUP, signal.SIGQUIT):
    signal.signal(number, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes, to make or to check, says how busy the machine is.
PATIENT: dict[str, Any] = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("helios", **PATIENT)
# For tests.mutations.run: that a test fails is all it wants to know, and the smallest example may take minutes.
hypothesis.settings.register_profile(
    "unshrunk", **PATIENT, phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate]
)
hypothesis.settings.load_profile("helios")

BEGUN = time.monotonic()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """HELIOS_TEST_SECONDS is for whoever would be cut off otherwise, with nothing to show: what cannot be begun within
    the time is left out, and counted as skipped.
    """
    limit = os.environ.get("HELIOS_TEST_SECONDS")
    if limit and time.monotonic() - BEGUN > int(limit):
        pytest.skip(f"{item.name} is left out: HELIOS_TEST_SECONDS={limit} are over")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """`make test` runs several processes; while a test marked `alone` runs, with its fixtures, the others wait."""
    with turn(alone=item.get_closest_marker("alone") is not None):
        return (yield)


@pytest.fixture(scope="session")
def shared_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def real_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealS3]:
    """Started once; whoever counts or deletes objects takes a bucket of its own."""
    with running_s3(tmp_path_factory.mktemp("weed")) as real:
        yield real


@pytest.fixture
def valkey(shared_valkey: Valkey) -> Iterator[redis.Redis]:
    """A client of a real and empty Valkey."""
    client = shared_valkey.client()
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def own_valkey(tmp_path: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A server of the test's own, which keeps what it has acknowledged; the test may kill and start it."""
    server = Valkey(tmp_path, append_only=True)
    server.start()
    yield server
    server.kill()


@pytest.fixture(params=["fakeredis", "valkey"])
def client(request: pytest.FixtureRequest) -> Iterator[redis.Redis]:
    """A client of an empty Redis: an imitation first, then a real one."""
    if request.param == "valkey":
        yield request.getfixturevalue("valkey")
        return
    options = {name: CLIENT_OPTIONS[name] for name in ("decode_responses", "encoding_errors")}
    yield fakeredis.FakeRedis(server=fakeredis.FakeServer(), version=(7,), **options)


@pytest.fixture
def only_real(request: pytest.FixtureRequest, client: redis.Redis) -> None:
    """Skips the imitation where it lacks what the test is about."""
    if isinstance(client, fakeredis.FakeRedis):
        pytest.skip("fakeredis does not imitate this")
