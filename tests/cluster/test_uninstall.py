"""The way of docs/kubernetes.md to take Helios off a cluster, with a run on its way."""

from tests.cluster.dags import dag, script
from tests.cluster.installed import Installed
from tests.cluster.kubectl import Kubectl


def test_uninstalling_under_a_running_task_leaves_nothing(helios: Installed) -> None:
    """The session's last test, which this file's name sees to: the finalizers go, and the namespaces with them."""
    run = helios.submit(dag("left", *(script(helios, f"t{n}", "sleep 600") for n in range(3))))
    helios.at_work(run, 3)
    assert all("helios.dev/result" in pod["metadata"]["finalizers"] for pod in helios.task_pods(run))
    helios.uninstall()
    outside = Kubectl(None)
    assert outside.run("get", "namespaces", "helios", "helios-tasks", "helios-node", "--ignore-not-found") == ""
    kinds = "clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings,csidrivers"
    assert outside.run("get", kinds, "--selector=app.kubernetes.io/part-of=helios", "--output=name") == ""
