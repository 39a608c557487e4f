"""What `helios doctor` finds in a cluster, from the API server's answers."""

from collections.abc import Callable
from typing import Any

import pytest
import redis

from cli.checkup import Finding
from cli.checkup_cluster import LEVEL, NEEDED, check_logins, examine_cluster
from cli.cluster_api import ApiAway, ApiRefused, cluster_api, names_a_cluster
from cli.connection import Link
from helios.settings import Settings

IMAGE = "helios:0.1.0"
DIGEST = "helios@sha256:" + "ab" * 32


def workload(image: str = IMAGE) -> dict[str, Any]:
    return {"spec": {"template": {"spec": {"containers": [{"name": "main", "image": image}]}}}}


def pod(image: str = IMAGE, digest: str = DIGEST) -> dict[str, Any]:
    return {
        "spec": {"containers": [{"name": "main", "image": image}]},
        "status": {"containerStatuses": [{"name": "main", "imageID": digest, "state": {"running": {}}}]},
    }


class Cluster:
    """An API server that answers from a table; a path that is not in it is 404. All is well until a test changes it."""

    def __init__(self) -> None:
        policies = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolic"
        self.documents: dict[str, Any] = {
            "/version": {"gitVersion": "v1.36.0"},
            "/api/v1/nodes": {"items": [{}, {}]},
            "/api/v1/namespaces/helios": {"metadata": {"labels": {LEVEL: "restricted"}}},
            "/api/v1/namespaces/helios-tasks": {"metadata": {"labels": {LEVEL: "privileged"}}},
            "/api/v1/namespaces/helios/configmaps/helios-agent": {"data": {"image": IMAGE}},
            **{
                f"{policies}{kind}/{name}": {}
                for kind in ("ies", "ybindings")
                for name in ("helios-tasks", "helios-tasks-unchanged")
            },
        }
        for name in ("submitter", "jobrunner", "collector"):
            self.documents[f"/apis/apps/v1/namespaces/helios/deployments/helios-{name}"] = workload()
            self.documents[pods_of(f"helios-{name}")] = {"items": [pod(), pod()]}
        self.keeper: dict[str, Any] = {**workload(), "status": {"numberReady": 2, "desiredNumberScheduled": 2}}
        self.documents["/apis/apps/v1/namespaces/helios-tasks/daemonsets/helios-cache"] = self.keeper
        self.documents[pods_of("helios-cache", "helios-tasks")] = {"items": [pod(), pod()]}
        self.allows: Callable[[str, str, str], bool] = allowed
        self.me = "admin"
        self.asked: list[str] = []
        self.hidden: set[str] = set()

    def get(self, path: str) -> Any:
        if path in self.hidden:
            raise ApiRefused(403, f"you may not see {path}")
        if path not in self.documents:
            raise ApiRefused(404, "not found")
        return self.documents[path]

    def post(self, path: str, document: Any) -> Any:
        kind = document["kind"]
        self.asked.append(kind)
        if kind in self.hidden:
            raise ApiRefused(403, f"you may not create {kind}")
        if kind == "SelfSubjectReview":
            return {"status": {"userInfo": {"username": self.me}}}
        asked = document["spec"]["resourceAttributes"]
        user = document["spec"].get("user", self.me).rpartition(":")[2]
        resource = f"{asked['resource']}/{asked['subresource']}".rstrip("/")
        return {"status": {"allowed": self.allows(user, asked["verb"], resource)}}

    def found(self) -> dict[str, Finding]:
        return {each.check: each for each in examine_cluster(self, Settings())}


def pods_of(name: str, namespace: str = "helios") -> str:
    return f"/api/v1/namespaces/{namespace}/pods?labelSelector=app.kubernetes.io/name%3D{name}"


def allowed(user: str, verb: str, resource: str) -> bool:
    name, _, sub = resource.partition("/")
    return any(right[1:] == (name, sub, verb) for right in NEEDED[user])


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def test_a_cluster_where_all_is_well(cluster: Cluster) -> None:
    found = cluster.found()
    assert all(each.ok and not each.fix for each in found.values())
    assert found["node caches"].detail == "ready on 2 of 2 nodes"
    assert found["image of helios-collector"].detail == f"{IMAGE} in 2 pods, sha256:{'ab' * 6}"


def test_a_cluster_without_helios_is_no_fault(cluster: Cluster) -> None:
    del cluster.documents["/api/v1/namespaces/helios"], cluster.documents["/api/v1/namespaces/helios-tasks"]
    found = cluster.found()
    assert list(found) == ["kubernetes"]
    assert found["kubernetes"].ok
    assert "not installed" in found["kubernetes"].detail


def test_a_namespace_under_another_level_comes_with_the_label_to_set(cluster: Cluster) -> None:
    cluster.documents["/api/v1/namespaces/helios"]["metadata"]["labels"] = {}
    finding = cluster.found()["namespace helios"]
    assert not finding.ok
    assert finding.fix == f"kubectl label namespace helios {LEVEL}=restricted --overwrite"


def test_a_missing_policy_is_named(cluster: Cluster) -> None:
    name = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/helios-tasks"
    del cluster.documents[name]
    finding = cluster.found()["admission policy"]
    assert not finding.ok
    assert finding.detail == "missing: validatingadmissionpolicybinding helios-tasks"


def test_a_right_that_is_missing_and_one_too_many_are_named(cluster: Cluster) -> None:
    cluster.allows = lambda user, verb, resource: (
        (verb, resource) == ("get", "secrets")
        if user == "helios-collector" and resource in ("secrets", "pods/log")
        else allowed(user, verb, resource)
    )
    finding = cluster.found()["helios-collector"]
    assert finding.detail == "may not get pods/log, may get secrets"
    assert finding.fix == "kubectl apply -k k8s/"
    assert cluster.found()["helios-jobrunner"].ok


def test_a_service_asks_for_itself(cluster: Cluster) -> None:
    """Inside the cluster a service account may ask about its own rights, and about nobody else's."""
    cluster.me = "system:serviceaccount:helios:helios-jobrunner"
    cluster.found()
    assert "SelfSubjectAccessReview" in cluster.asked


def test_what_the_user_may_not_see_is_left_out_and_not_called_broken(cluster: Cluster) -> None:
    cluster.hidden = {"SubjectAccessReview", "/api/v1/nodes"}
    found = cluster.found()
    assert all(each.ok for each in found.values())
    assert "helios-jobrunner" not in found
    assert found["node caches"].detail == "ready on 2 of 2 nodes"


def test_a_node_without_its_keeper_is_seen(cluster: Cluster) -> None:
    cluster.documents["/api/v1/nodes"] = {"items": [{}, {}, {}]}
    finding = cluster.found()["node caches"]
    assert not finding.ok
    assert finding.detail == "ready on 2 of 3 nodes"
    assert "describe pods" in finding.fix


def test_pods_of_another_image_are_seen(cluster: Cluster) -> None:
    cluster.documents[pods_of("helios-jobrunner")] = {"items": [pod("helios:0.0.9"), pod()]}
    finding = cluster.found()["image of helios-jobrunner"]
    assert not finding.ok
    assert finding.detail == "helios:0.1.0 is wanted, but helios:0.0.9 runs"


def test_an_old_image_under_a_new_tag_is_seen(cluster: Cluster) -> None:
    """The first failure this system's users reported: nodes kept what they had pulled under the same tag."""
    cluster.documents[pods_of("helios-submitter")] = {"items": [pod(digest="helios@sha256:" + "cd" * 32)]}
    finding = cluster.found()["image tag"]
    assert not finding.ok
    assert finding.detail == f"helios:0.1.0 is 2 images: sha256:{'ab' * 6}, sha256:{'cd' * 6}"


def test_an_agent_image_that_is_not_the_jobrunners_is_seen(cluster: Cluster) -> None:
    """The policy would refuse every pod, and each task would fail."""
    cluster.documents["/api/v1/namespaces/helios/configmaps/helios-agent"] = {"data": {"image": "helios:0.0.9"}}
    assert not cluster.found()["agent image"].ok


def test_a_cluster_is_looked_at_only_when_one_is_named() -> None:
    assert not names_a_cluster({})
    assert names_a_cluster({"KUBECONFIG": "/k"})
    assert names_a_cluster({"KUBERNETES_SERVICE_HOST": "10.0.0.1"})


def test_a_kubeconfig_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("kubernetes")
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    with pytest.raises(ApiAway, match="KUBECONFIG"):
        cluster_api()


def test_a_redis_that_lets_anybody_in_is_named(link: Link, client: redis.Redis, only_real: None) -> None:
    (finding,) = check_logins(link)
    assert not finding.ok
    assert "user default off" in finding.fix
