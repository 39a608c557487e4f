"""Whether kubelets can ask the nodes' agents for volumes: the driver is declared, every node's kernel can do what it
needs, and every kubelet knows it.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from cli.checkup import Finding
from cli.checkup_images import APPLY_CSI
from cli.cluster_api import Api, ApiRefused, find
from cli.cluster_pods import AGENT, AGENTS, NAME
from cli.figures import count
from helios.settings import AGENT_DRIVER

STORAGE = "/apis/storage.k8s.io/v1"
WANTED: dict[str, Any] = {"attachRequired": False, "podInfoOnMount": True, "volumeLifecycleModes": ["Ephemeral"]}
"""Without these kubelet waits for an attachment that nobody makes, does not say whose the volume is, or refuses it."""
KERNEL = (5, 12)
"""The first with mount_setattr(2), with which agent/mounts.py makes what a task sees read-only."""
NODES_NAMED = 5


def has_agents(api: Api, level: str | None) -> bool:
    """Whether k8s/overlays/csi is installed, be it in part. Where that may not be seen, the Pod Security level of the
    tasks' namespace tells.
    """
    is_hidden = False
    for path in (f"{STORAGE}/csidrivers/{AGENT_DRIVER}", f"/api/v1/namespaces/{AGENTS}"):
        try:
            if find(api, path) is not None:
                return True
        except ApiRefused:
            is_hidden = True
    return is_hidden and level == "restricted"


def check_driver(api: Api) -> Iterator[Finding]:
    driver = find(api, f"{STORAGE}/csidrivers/{AGENT_DRIVER}")
    if driver is None:
        yield Finding("csi driver", False, f"there is no CSIDriver {AGENT_DRIVER}", APPLY_CSI)
        return
    spec: dict[str, Any] = driver.get("spec", {})
    wrong = [f"{name} is {spec.get(name)}, not {wanted}" for name, wanted in WANTED.items() if spec.get(name) != wanted]
    # What the API server lets nobody change has to be made anew.
    fix = f"kubectl delete csidriver {AGENT_DRIVER} && {APPLY_CSI}" if wrong else ""
    yield Finding("csi driver", not wrong, ", ".join(wrong) or AGENT_DRIVER, fix)


def check_registration(api: Api) -> Iterator[Finding]:
    """A pod on a node whose kubelet does not know the driver waits in ContainerCreating."""
    nodes = [str(each["metadata"]["name"]) for each in _items(api, "/api/v1/nodes")]
    registered = {
        str(each["metadata"]["name"])
        for each in _items(api, f"{STORAGE}/csinodes")
        if any(driver["name"] == AGENT_DRIVER for driver in each.get("spec", {}).get("drivers") or ())
    }
    lacking = sorted(set(nodes) - registered)
    detail = f"registered on {len(nodes) - len(lacking)} of {count(len(nodes), 'node')}"
    if not lacking:
        yield Finding("csi registration", True, detail)
        return
    fix = (
        f"kubectl -n {AGENTS} logs -l {NAME}={AGENT} --prefix; where an agent runs well, its HELIOS_KUBELET_DIR and "
        "the three paths beside it are not that kubelet's --root-dir"
    )
    yield Finding("csi registration", False, f"{detail}, not on {_named(lacking)}", fix)


def check_kernels(api: Api) -> Iterator[Finding]:
    """On an older one the agent does not start. What a node does not tell is not held against it."""
    wanted = f"Linux {KERNEL[0]}.{KERNEL[1]}"
    versions = {
        str(each["metadata"]["name"]): str(each.get("status", {}).get("nodeInfo", {}).get("kernelVersion", ""))
        for each in _items(api, "/api/v1/nodes")
    }
    older = [f"{name} ({version})" for name, version in sorted(versions.items()) if _is_older(version)]
    if not older:
        yield Finding("node kernels", True, f"{wanted} or later")
        return
    fix = f"give these nodes a kernel from {wanted} on, or take k8s/ without the overlay, which needs none"
    yield Finding("node kernels", False, f"the agent needs {wanted}, older on {_named(older)}", fix)


def _is_older(version: str) -> bool:
    found = re.match(r"(\d+)\.(\d+)", version)
    return found is not None and (int(found[1]), int(found[2])) < KERNEL


def _named(nodes: Sequence[str]) -> str:
    return ", ".join(nodes[:NODES_NAMED]) + (", …" if len(nodes) > NODES_NAMED else "")


def _items(api: Api, path: str) -> list[Any]:
    return api.get(path).get("items") or []
