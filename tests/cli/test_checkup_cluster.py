"""What `helios doctor` finds in a cluster, from the API server's answers."""

from pathlib import Path

import pytest
import redis

from cli.checkup_cluster import LEVEL, REACHING, check_logins
from cli.cluster_api import ApiAway, cluster_api, names_a_cluster
from cli.cluster_pods import tag_of
from cli.connection import Link
from tests.cli.clusters import (
    IMAGE,
    OTHER_DIGEST,
    POLICY,
    TASK_PODS,
    Cluster,
    allowed,
    beat,
    beats,
    pod,
    pods_of,
    policy,
    task_pod,
    workload,
)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def test_a_cluster_where_all_is_well(cluster: Cluster) -> None:
    found = cluster.found(beats())
    assert all(each.ok and not each.fix for each in found.values())
    assert found["node caches"].detail == "ready on 2 of 2 nodes"
    wanted = f"{IMAGE} in 2 pods, version 0.1.0, built as 0.1.0, sha256:{'ab' * 6}"
    assert found["image of helios-collector"].detail == wanted
    assert found["image of helios-cache"].detail == f"{IMAGE} in 2 pods, sha256:{'ab' * 6}"
    assert found["image of task pods"].detail == "none with a fetch of its own runs now"
    assert found["your rights"].detail == "enough for all that is here"


def test_without_redis_the_cluster_is_looked_at_all_the_same(cluster: Cluster) -> None:
    found = cluster.found(None)
    assert all(each.ok for each in found.values())
    assert found["image of helios-collector"].detail == f"{IMAGE} in 2 pods, sha256:{'ab' * 6}"


def test_a_cluster_without_helios_is_no_fault(cluster: Cluster) -> None:
    del cluster.documents["/api/v1/namespaces/helios"], cluster.documents["/api/v1/namespaces/helios-tasks"]
    found = cluster.found()
    assert list(found) == ["kubernetes"]
    assert found["kubernetes"].ok
    assert "not installed" in found["kubernetes"].detail


def test_a_cluster_without_helios_is_a_fault_where_it_was_asked_for(cluster: Cluster) -> None:
    del cluster.documents["/api/v1/namespaces/helios"], cluster.documents["/api/v1/namespaces/helios-tasks"]
    finding = cluster.found(must_have_helios=True)["kubernetes"]
    assert not finding.ok
    assert finding.fix == "kubectl apply -k k8s/"


def test_an_api_server_that_lets_nobody_in_is_away(cluster: Cluster) -> None:
    cluster.hidden = {"/version"}
    with pytest.raises(ApiAway, match="may not see"):
        cluster.found()


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
    cluster.documents[pods_of("helios-jobrunner")] = {"items": [pod("a", "helios:0.0.9"), pod("b")]}
    finding = cluster.found()["image of helios-jobrunner"]
    assert not finding.ok
    assert finding.detail == "helios:0.1.0 is wanted, but helios:0.0.9 runs"


def test_an_old_image_under_a_new_tag_is_seen(cluster: Cluster) -> None:
    """The first failure this system's users reported: nodes kept what they had pulled under the same tag."""
    cluster.documents[pods_of("helios-submitter")] = {"items": [pod("a", digest=OTHER_DIGEST)]}
    finding = cluster.found()["image tag"]
    assert not finding.ok
    assert finding.detail == f"helios:0.1.0 is 2 images: sha256:{'ab' * 6}, sha256:{'cd' * 6}"


def test_an_image_that_was_built_under_another_tag_is_seen(cluster: Cluster) -> None:
    """The same, where all nodes agree with each other: only the image itself knows what it is."""
    told = [each if each["service"] != "jobrunner" else beat("jobrunner", each["replica"], "0.0.9") for each in beats()]
    found = cluster.found(told)
    assert [name for name, each in found.items() if not each.ok] == ["image of helios-jobrunner"]
    finding = found["image of helios-jobrunner"]
    assert finding.detail == f"{IMAGE} is wanted, but what runs under that name was built as 0.0.9"
    assert "a tag of its own" in finding.fix


def test_replicas_that_are_no_pods_are_named_and_not_taken_for_them(cluster: Cluster) -> None:
    """A service that somebody runs beside the cluster takes work from the same streams."""
    finding = cluster.found([*beats(), beat("submitter", "laptop", "")])["image of helios-submitter"]
    assert finding.ok
    assert finding.detail.endswith("and outside of its pods laptop")


def test_pods_that_run_but_are_not_ready_are_seen(cluster: Cluster) -> None:
    cluster.documents["/apis/apps/v1/namespaces/helios/deployments/helios-collector"] = workload(ready=1)
    finding = cluster.found(beats())["image of helios-collector"]
    assert not finding.ok
    assert finding.detail.endswith("; 1 of 2 ready")


def test_the_agents_of_tasks_that_run_are_counted_by_image_and_digest(cluster: Cluster) -> None:
    """A node that kept an old image under the tag shows in the tasks it runs."""
    ended = task_pod("d", "helios:0.0.8", phase="Succeeded")
    pods = [task_pod("a"), task_pod("b", "helios:0.0.9"), task_pod("c", digest=OTHER_DIGEST), ended]
    cluster.documents[TASK_PODS] = {"items": pods}
    found = cluster.found(beats())
    old, new = (
        "helios:0.0.9 in 1 pod, sha256:abababababab",
        f"{IMAGE} in 2 pods, sha256:abababababab, sha256:cdcdcdcdcdcd",
    )
    assert found["image of task pods"].detail == f"{old}; {new}"
    assert not found["image tag"].ok


@pytest.mark.parametrize(
    ("image", "tag"),
    [
        ("helios:1.2", "1.2"),
        ("localhost:5000/team/helios:1.2", "1.2"),
        ("localhost:5000/helios", ""),
        ("helios:1.2@sha256:abcd", "1.2"),
        ("helios@sha256:abcd", ""),
    ],
)
def test_the_tag_of_an_image_is_what_follows_its_name(image: str, tag: str) -> None:
    assert tag_of(image) == tag


def test_what_the_user_may_not_do_is_named_and_not_called_broken(cluster: Cluster) -> None:
    cluster.allows = lambda user, verb, resource: resource != "pods/portforward" and allowed(user, verb, resource)
    finding = cluster.found()["your rights"]
    assert finding.ok
    assert finding.detail == "you may not create pods/portforward to reach Redis and MinIO"


def test_the_way_to_redis_is_the_one_that_the_page_describes() -> None:
    page = (Path(__file__).parents[2] / "docs" / "kubernetes.md").read_text()
    assert REACHING in page


def test_an_agent_image_that_is_not_the_jobrunners_is_seen(cluster: Cluster) -> None:
    """The policy would refuse every pod, and each task would fail."""
    cluster.documents[POLICY] = policy("helios:0.0.9")
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
