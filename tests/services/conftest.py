"""What several tests of the services need."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from services.jobrunner.kubernetes import Api, connect_api
from tests.services.job_server import SETTINGS, ApiServer, kubeconfig, serving
from tests.services.kube_server import KubeServer


@pytest.fixture(autouse=True)
def quiet() -> None:
    """Log lines of provoked faults say nothing to whoever reads the tests' output, and formatting them takes time."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))


@pytest.fixture
def kube() -> Iterator[KubeServer]:
    server = KubeServer()
    yield server
    server.close()


@pytest.fixture
def server() -> Iterator[ApiServer]:
    """The API server of a jobrunner."""
    with serving() as server:
        yield server


@pytest.fixture
def api(server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Api:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, server.url)))
    return connect_api(SETTINGS)
