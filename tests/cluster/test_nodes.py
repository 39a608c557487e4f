"""The cluster itself: what every other test takes for granted."""

from tests.cluster.clusters import Cluster
from tests.cluster.kubectl import Kubectl, job


def test_a_bare_job_runs_on_each_node(cluster: Cluster, kubectl: Kubectl) -> None:
    nodes = kubectl.ready_nodes()
    assert len(nodes) >= 2
    kubectl.apply(
        *(
            job(f"on-{node}", image=cluster.task_image, command=["sh", "-c", f"echo {node}"], node=node)
            for node in nodes
        )
    )
    for node in nodes:
        pod = kubectl.wait_for_job(f"on-{node}", "Complete")
        assert pod["spec"]["nodeName"] == node
        assert kubectl.logs(pod["metadata"]["name"]) == f"{node}\n"
