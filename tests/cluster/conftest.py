"""A real Kubernetes for the tests of this folder, which only `make test-cluster` runs."""

import uuid
from collections.abc import Iterator

import pytest

from tests.cluster.clusters import Cluster, running_cluster, why_none
from tests.cluster.installed import FORMS, Installed, installed
from tests.cluster.kubectl import Kubectl


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """One for the whole session, with this checkout's image on every node."""
    reason = why_none()
    if reason is not None:
        pytest.skip(reason)
    with running_cluster() as found:
        yield found


@pytest.fixture(scope="session", params=FORMS)
def helios(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Installed]:
    """Helios as k8s/ installs it: once with fetch and publish in each pod, once with the nodes' agents."""
    with installed(cluster, tmp_path_factory.mktemp("installed"), request.param) as found:
        yield found


@pytest.fixture
def kubectl(cluster: Cluster) -> Iterator[Kubectl]:
    """kubectl in a namespace of the test's own."""
    outside = Kubectl()
    namespace = f"test-{uuid.uuid4().hex[:8]}"
    outside.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    yield Kubectl(namespace)
    outside.delete("namespace", namespace, wait=False)
