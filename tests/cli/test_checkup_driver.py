"""What `helios doctor` finds in a cluster whose nodes' agents serve the volumes of tasks."""

import pytest

from helios.settings import AGENT_DRIVER as DRIVER
from tests.cli.clusters import CSI_DRIVER, CSI_NODES, IMAGE, POLICY, TASK_PODS, Cluster, csi_node, workload

KEEPER = "/apis/apps/v1/namespaces/helios-tasks/daemonsets/helios-cache"


@pytest.fixture
def cluster() -> Cluster:
    found = Cluster()
    found.serve_volumes()
    return found


def test_a_cluster_where_all_is_well(cluster: Cluster) -> None:
    found = cluster.found()
    assert all(each.ok and not each.fix for each in found.values())
    assert found["namespace helios-tasks"].detail == "pod security: restricted"
    assert found["namespace helios-node"].detail == "pod security: privileged"
    assert found["node caches"].detail == "ready on 2 of 2 nodes"
    assert found["csi driver"].detail == DRIVER
    assert found["node kernels"].detail == "Linux 5.12 or later"
    assert found["csi registration"].detail == "registered on 2 of 2 nodes"
    assert found["image of helios-agent"].detail == f"{IMAGE} in 2 pods, sha256:{'ab' * 6}"
    assert "image of helios-cache" not in found


def test_without_agents_nobody_asks_for_a_driver() -> None:
    found = Cluster().found()
    assert "csi driver" not in found
    assert "csi registration" not in found


def test_a_node_that_does_not_know_the_driver_is_named(cluster: Cluster) -> None:
    cluster.documents[CSI_NODES] = {"items": [csi_node("n1", DRIVER), csi_node("n2", "other.test")]}
    finding = cluster.found()["csi registration"]
    assert not finding.ok
    assert finding.detail == "registered on 1 of 2 nodes, not on n2"
    assert "HELIOS_KUBELET_DIR" in finding.fix


@pytest.mark.parametrize(("version", "ok"), [("5.10.0-28-amd64", False), ("5.12.0", True), ("4.18.0-553.el8", False)])
def test_a_node_whose_kernel_is_too_old_for_the_agent_is_named(cluster: Cluster, version: str, ok: bool) -> None:
    """Its agent would only be seen to start again and again."""
    nodes = cluster.documents["/api/v1/nodes"]["items"]
    nodes[0]["status"] = {"nodeInfo": {"kernelVersion": "6.8.0-45-generic"}}
    nodes[1]["status"] = {"nodeInfo": {"kernelVersion": version}}
    finding = cluster.found()["node kernels"]
    assert finding.ok == ok
    assert ok or finding.detail == f"the agent needs Linux 5.12, older on n2 ({version})"


def test_of_many_such_nodes_some_are_named(cluster: Cluster) -> None:
    cluster.documents["/api/v1/nodes"] = {"items": [{"metadata": {"name": f"n{n}"}} for n in range(9)]}
    cluster.documents[CSI_NODES] = {"items": []}
    detail = cluster.found()["csi registration"].detail
    assert detail == "registered on 0 of 9 nodes, not on n0, n1, n2, n3, n4, …"


def test_a_driver_that_is_missing_or_declared_otherwise_is_said(cluster: Cluster) -> None:
    """Without podInfoOnMount the agent would not learn whose volume it is."""
    cluster.documents[CSI_DRIVER]["spec"]["podInfoOnMount"] = False
    finding = cluster.found()["csi driver"]
    assert (finding.ok, finding.detail) == (False, "podInfoOnMount is False, not True")
    assert finding.fix == "kubectl delete csidriver cache.helios.dev && kubectl apply -k k8s/overlays/csi"
    del cluster.documents[CSI_DRIVER]
    finding = cluster.found()["csi driver"]
    assert (finding.ok, finding.fix) == (False, "kubectl apply -k k8s/overlays/csi")


def test_what_is_missing_is_made_by_the_overlay_that_is_installed(cluster: Cluster) -> None:
    """k8s/ would bring the keeper back, beside or in place of the agent, and lift the tasks' level."""
    apps = "/apis/apps/v1/namespaces"
    for path in (POLICY, f"{apps}/helios-node/daemonsets/helios-agent", f"{apps}/helios/deployments/helios-collector"):
        del cluster.documents[path]
    cluster.allows = lambda user, _verb, resource: user == "me" and resource != "jobs"
    found = cluster.found()
    assert found["node caches"].detail == "there is no DaemonSet helios-agent"
    failed = (
        "node caches",
        "admission policy",
        "image of helios-agent",
        "image of helios-collector",
        "helios-jobrunner",
    )
    assert {found[check].fix for check in failed} == {"kubectl apply -k k8s/overlays/csi"}


def test_tasks_that_could_still_be_privileged_are_said(cluster: Cluster) -> None:
    cluster.documents["/api/v1/namespaces/helios-tasks"]["metadata"]["labels"] = {}
    finding = cluster.found()["namespace helios-tasks"]
    assert not finding.ok
    assert finding.fix.endswith("=restricted --overwrite")


def test_a_keeper_that_was_left_beside_the_agent_is_said(cluster: Cluster) -> None:
    """`kubectl apply` takes nothing away: after an upgrade two would look after one cache."""
    cluster.documents[KEEPER] = workload()
    finding = cluster.found()["former keeper"]
    assert not finding.ok
    assert finding.fix == "kubectl -n helios-tasks delete daemonset helios-cache"


def test_what_the_user_may_not_see_is_left_out_and_not_called_broken(cluster: Cluster) -> None:
    cluster.hidden = {CSI_DRIVER, CSI_NODES, "/api/v1/namespaces/helios-node"}
    found = cluster.found()
    assert all(each.ok for each in found.values())
    assert found["namespace helios-tasks"].detail == "pod security: restricted"
    assert "csi registration" not in found


def test_the_users_image_is_not_taken_for_the_agents(cluster: Cluster) -> None:
    cluster.documents[TASK_PODS] = {
        "items": [
            {
                "metadata": {"name": "a"},
                "spec": {"containers": [{"name": "task", "image": "alpine:3.20"}]},
                "status": {
                    "phase": "Running",
                    "containerStatuses": [{"name": "task", "imageID": "x", "state": {"running": {}}}],
                },
            }
        ]
    }
    assert cluster.found()["image of task pods"].detail == "none with a fetch of its own runs now"
