"""Where the tests' Kubernetes comes from: the one that KUBECONFIG names, or two nodes on this machine.

On this machine all of it, the tests too, is inside a network namespace, which `cluster exec` enters; `make
test-cluster` does that. Nothing is downloaded from there, so what needs a network is built before.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.images import TOOL, built_archive
from tests.cluster.server_images import MINIO, REDIS, server_archives

TASK_IMAGE = "cluster.test/busybox:1"


@dataclass(frozen=True)
class Cluster:
    """A running cluster and the images that its nodes have or can pull."""

    image: str
    """Services and agent, of this checkout."""
    task_image: str
    """A busybox, for the tasks of tests."""
    redis_image: str | None
    """None where the one of k8s/ can be pulled; so with the next."""
    minio_image: str | None
    home: Path | None
    """The tool's folder; None for a cluster that is not ours to break."""

    def tool(self, *arguments: str, seconds: float = 120) -> str:
        """`cluster ARGUMENTS`: stop-node, start-node, fsof, load."""
        assert self.home is not None, "this cluster is not ours"
        return run_tool(*arguments, seconds=seconds)


def run_tool(*arguments: str, seconds: float = 300) -> str:
    command = [str(TOOL / "cluster"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def why_none() -> str | None:
    """Why no cluster can be had here; None when one can."""
    if os.environ.get("CLUSTER_INSIDE"):
        if os.geteuid() != 0:
            return "a cluster on this machine needs root"
        if shutil.which("kubelet") is None and shutil.which("go") is None:
            return "a cluster on this machine is compiled with Go, which is not on PATH"
        return None
    if not os.environ.get("KUBECONFIG"):
        return "needs KUBECONFIG, or `make test-cluster`, which runs these tests inside a cluster's network"
    if shutil.which("kubectl") is None:
        return "KUBECONFIG is set, but kubectl is not on PATH"
    if not os.environ.get("HELIOS_TEST_IMAGE"):
        return "with KUBECONFIG, HELIOS_TEST_IMAGE must name an image of this checkout (make images … PUSH=1)"
    return None


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """A cluster that was not up before is down again afterwards."""
    if not os.environ.get("CLUSTER_INSIDE"):
        task_image = os.environ.get("HELIOS_TEST_TASK_IMAGE", "busybox:1.37")
        yield Cluster(os.environ["HELIOS_TEST_IMAGE"], task_image, redis_image=None, minio_image=None, home=None)
        return
    home = Path(os.environ["CLUSTER_HOME"])
    image, archive = built_archive(home)
    archives = [archive, *server_archives(home)]
    was_up = subprocess.run([str(TOOL / "cluster"), "status"], capture_output=True).returncode == 0
    if not was_up:
        run_tool("up", "2")
    try:
        for archive in archives:
            run_tool("load", str(archive))
        yield Cluster(image, TASK_IMAGE, REDIS, MINIO, home)
    finally:
        if not was_up:
            run_tool("down")
