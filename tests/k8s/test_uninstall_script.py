"""k8s/uninstall names what the manifests and the jobrunner make, and ends at once where there is no cluster.

What it does to a cluster, tests/cluster shows.
"""

import importlib.util
import os
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

from helios.settings import Settings
from services.jobrunner.manifest import HELIOS, MANAGED_BY, RESULT_FINALIZER
from tests.k8s.conftest import K8S, Manifests, find_kubectl

SCRIPT = K8S / "uninstall"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    loader = SourceFileLoader("uninstall", str(SCRIPT))
    spec = importlib.util.spec_from_loader("uninstall", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["uninstall"] = module  # dataclasses look their module up
    loader.exec_module(module)
    return module


def test_it_finds_the_pods_that_the_jobrunner_makes(script: ModuleType) -> None:
    assert f"{MANAGED_BY}={HELIOS}" == script.OURS
    assert script.FINALIZER == RESULT_FINALIZER
    assert Settings().namespace == script.TASKS


@pytest.mark.parametrize("overlay", [".", "overlays/csi"])
def test_without_the_credentials_it_still_names_all_that_is_in_no_namespace(
    script: ModuleType, manifests: Manifests, overlay: str
) -> None:
    key, _, value = script.PART.partition("=")
    for each in manifests.render(overlay):
        if each["kind"] == "Namespace":
            assert each["metadata"]["name"] in (script.SERVICES, script.TASKS, script.AGENTS)
        elif each["metadata"].get("namespace") is None:
            assert f"{each['kind'].lower().removesuffix('y')}" in script.CLUSTER_WIDE, each["kind"]
            assert each["metadata"]["labels"][key] == value


def test_the_agents_go_after_the_tasks_whose_volumes_they_unmount(script: ModuleType, tmp_path: Path) -> None:
    """What is rendered is not what was installed: all is gone nevertheless."""
    there = tmp_path / "there"
    there.mkdir()
    for name in (script.SERVICES, script.TASKS, script.AGENTS):
        (there / name).touch()
    (tmp_path / "kubectl").write_text(KUBECTL.format(python=sys.executable, there=there, log=tmp_path / "log"))
    (tmp_path / "kubectl").chmod(0o755)
    ended = run({"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert (ended.returncode, ended.stderr) == (0, "")
    deleted = (tmp_path / "log").read_text().splitlines()
    assert deleted[-4:] == [
        f"namespace {script.TASKS}",
        "--filename=-",
        f"{script.CLUSTER_WIDE} --selector={script.PART}",
        f"namespace {script.SERVICES} {script.TASKS} {script.AGENTS}",
    ]


KUBECTL = """#!{python}
import os, sys
words = [word for word in sys.argv[1:] if not word.startswith(("--request-timeout", "--ignore", "--timeout"))]
if words[:2] == ["get", "namespace"]:
    print("".join("namespace/" + name + "\\n" for name in words[2:-1] if name in os.listdir("{there}")))
if "get" in words and "--output=json" in words:
    print('{{"items": []}}')
if words[0] == "delete":
    with open("{log}", "a") as log:
        log.write(" ".join(words[1:]) + "\\n")
    gone = ["helios"] if words[1:] == ["--filename=-"] else words[2:] if words[1] == "namespace" else []
    for name in gone:
        if name in os.listdir("{there}"):
            os.unlink("{there}/" + name)
"""
"""A cluster that knows namespaces only, in which the rendered manifests are those of another overlay."""


def test_a_cluster_that_does_not_answer_is_said(tmp_path: Path) -> None:
    kubectl = find_kubectl()
    if kubectl is None:
        pytest.skip("no kubectl")
    config = tmp_path / "config"
    config.write_text(
        "{apiVersion: v1, kind: Config, current-context: c, users: [{name: u, user: {}}],"
        " clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}],"
        " contexts: [{name: c, context: {cluster: c, user: u}}]}"
    )
    path = f"{Path(kubectl).parent}:{os.environ['PATH']}"
    ended = run({"KUBECONFIG": str(config), "PATH": path})
    assert ended.returncode == 1
    assert ended.stderr.startswith("uninstall: ")
    assert "127.0.0.1:1" in ended.stderr
    assert ended.stdout == ""


def test_a_machine_without_kubectl_is_told_so(tmp_path: Path) -> None:
    ended = run({"PATH": str(tmp_path)})
    assert (ended.returncode, ended.stderr) == (1, "uninstall: kubectl is not on PATH\n")


def run(environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--yes"]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
