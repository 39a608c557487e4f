"""The Pod Security level *restricted* for Linux pods, as Kubernetes documents it in its Pod Security Standards."""

from collections.abc import Iterator
from typing import Any

VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
SELINUX = {None, "", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
}
PROFILES = {"RuntimeDefault", "Localhost"}

Json = dict[str, Any]


def violations(spec: Json) -> list[str]:
    """What the level forbids of a pod's spec; nothing if a namespace that enforces it admits the pod."""
    return [*_of_the_pod(spec), *(each for container in _containers(spec) for each in _of_a_container(container, spec))]


def _containers(spec: Json) -> list[Json]:
    return [each for kind in ("containers", "initContainers", "ephemeralContainers") for each in spec.get(kind, ())]


def _of_the_pod(spec: Json) -> Iterator[str]:
    security = spec.get("securityContext", {})
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield name
    for volume in spec.get("volumes", ()):
        # A volume that names no source is an emptyDir.
        for kind in volume.keys() - {"name"} - VOLUMES:
            yield f"volume {volume['name']}: {kind}"
    if security.get("runAsUser") == 0:
        yield "the pod: runAsUser"
    yield from ("the pod: sysctl" for each in security.get("sysctls", ()) if each["name"] not in SYSCTLS)
    yield from (f"the pod: {each}" for each in _of_both(security))


def _of_both(security: Json) -> Iterator[str]:
    """What a pod's and a container's security context have in common, where it is set."""
    if security.get("windowsOptions", {}).get("hostProcess"):
        yield "hostProcess"
    linux = security.get("seLinuxOptions", {})
    if linux.get("type") not in SELINUX or linux.get("user") or linux.get("role"):
        yield "seLinuxOptions"
    if security.get("seccompProfile", {}).get("type", "RuntimeDefault") not in PROFILES:
        yield "seccompProfile"
    if security.get("appArmorProfile", {}).get("type", "RuntimeDefault") not in PROFILES:
        yield "appArmorProfile"


def _of_a_container(container: Json, spec: Json) -> Iterator[str]:
    own: Json = container.get("securityContext", {})
    pods: Json = spec.get("securityContext", {})
    name = container["name"]
    capabilities = own.get("capabilities", {})
    forbidden = {
        "privileged": own.get("privileged", False),
        "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is not False,
        "capabilities.drop": "ALL" not in capabilities.get("drop", ()),
        "capabilities.add": bool(set(capabilities.get("add", ())) - {"NET_BIND_SERVICE"}),
        "runAsNonRoot": own.get("runAsNonRoot", pods.get("runAsNonRoot")) is not True,
        "runAsUser": own.get("runAsUser") == 0,
        "no seccompProfile": "seccompProfile" not in own and "seccompProfile" not in pods,
        "procMount": own.get("procMount", "Default") != "Default",
        "hostPort": any(each.get("hostPort") for each in container.get("ports", ())),
        "probe host": any(_names_a_host(probe) for probe in _probes(container)),
    }
    yield from (f"{name}: {rule}" for rule, broken in forbidden.items() if broken)
    yield from (f"{name}: {each}" for each in _of_both(own))


def _probes(container: Json) -> list[Json]:
    probes = [container[kind] for kind in ("livenessProbe", "readinessProbe", "startupProbe") if kind in container]
    return [*probes, *container.get("lifecycle", {}).values()]


def _names_a_host(probe: Json) -> bool:
    return any(probe.get(kind, {}).get("host") for kind in ("httpGet", "tcpSocket"))
