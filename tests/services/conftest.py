"""What several tests of the services need."""

from collections.abc import Iterator

import pytest
import structlog

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
