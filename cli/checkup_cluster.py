"""What `helios doctor` looks at in Kubernetes: namespaces, rights, the node caches, and which images really run.

Rule: the checks decide from the API server's JSON and from heartbeats; `cli.cluster_api` reaches the cluster. None of
them needs Redis, which is asked for by `check_logins` alone.
"""

import contextlib
from collections.abc import Generator, Iterator, Mapping
from typing import Any

import redis

from cli.checkup import Finding
from cli.checkup_driver import check_driver, check_kernels, check_registration, has_agents
from cli.checkup_images import ADMISSION, APPLY, APPLY_CSI, Beats, check_images
from cli.checkup_rights import check_own_rights, check_rights
from cli.cluster_api import Api, ApiAway, ApiRefused, cluster_api, find
from cli.cluster_pods import AGENTS, KEEPER, NAME, SERVICES, keeper_of
from cli.connection import Link
from cli.figures import count
from helios.redis_client import without_login
from helios.settings import Settings

LEVEL = "pod-security.kubernetes.io/enforce"
POLICIES = ("helios-tasks", "helios-tasks-unchanged")

REACHING = """\
kubectl -n helios port-forward svc/helios-redis 6379 & kubectl -n helios port-forward svc/helios-minio 9000 &
secret() { kubectl -n helios get secret helios-client -o "jsonpath={.data.$1}" | base64 -d; }
export HELIOS_REDIS_URL=$(secret HELIOS_REDIS_URL | sed 's/@[^/]*/@127.0.0.1:6379/') HELIOS_S3_ENDPOINT=http://127.0.0.1:9000
export HELIOS_S3_ACCESS_KEY=$(secret HELIOS_S3_ACCESS_KEY) HELIOS_S3_SECRET_KEY=$(secret HELIOS_S3_SECRET_KEY)
"""
"""How a shell outside of the cluster reaches what is in it; docs/kubernetes.md has the same lines."""


def check_cluster(
    settings: Settings, beats: Beats | None, *, must_answer: bool, must_have_helios: bool
) -> Generator[Finding, None, bool]:
    """Everything Helios needs of the cluster; the answer is whether Helios is installed there."""
    try:
        return (yield from examine_cluster(cluster_api(), settings, beats, must_have_helios=must_have_helios))
    except ApiAway as away:
        if must_answer:
            fix = "correct KUBECONFIG, or leave the cluster out: helios doctor --no-cluster"
            yield Finding("kubernetes", False, str(away), fix)
        else:
            yield Finding("kubernetes", True, f"not looked at: {away}")
        return False


def examine_cluster(
    api: Api, settings: Settings, beats: Beats | None = None, *, must_have_helios: bool = False
) -> Generator[Finding, None, bool]:
    tasks = settings.namespace
    try:
        version = api.get("/version").get("gitVersion")
        levels = {name: _level(api, name) for name in (SERVICES, tasks)}
    except ApiRefused as refusal:
        raise ApiAway(str(refusal)) from None
    if set(levels.values()) == {None}:
        detail = f"{version}; Helios is not installed there"
        if must_have_helios:
            yield Finding("kubernetes", False, detail, APPLY)
        else:
            yield Finding("kubernetes", True, f"{detail} ({APPLY})")
        return False
    yield Finding("kubernetes", True, str(version))
    agents = has_agents(api, levels[tasks])
    apply = APPLY_CSI if agents else APPLY
    if agents:
        with contextlib.suppress(ApiRefused):
            levels[AGENTS] = _level(api, AGENTS)
    checks = (
        lambda: check_namespaces(levels, tasks, has_agents=agents),
        lambda: check_policies(api, apply),
        lambda: check_rights(api, tasks, apply),
        lambda: check_own_rights(api, tasks),
        lambda: check_keeper(api, tasks, apply),
        *((lambda: check_driver(api), lambda: check_kernels(api), lambda: check_registration(api)) if agents else ()),
        lambda: check_images(api, tasks, beats, apply),
    )
    for check in checks:
        try:
            yield from check()
        except ApiRefused as refusal:
            # Whoever runs the doctor need not be allowed to see everything; what they cannot see is not broken.
            if refusal.status != 403:
                yield Finding("kubernetes", False, str(refusal), apply)
            else:
                yield Finding("kubernetes", True, f"not looked at: {refusal}")
    return True


def check_namespaces(levels: Mapping[str, str | None], tasks: str, *, has_agents: bool) -> Iterator[Finding]:
    """The services under the restricted level; the tasks too where agents serve their volumes, else under one that lets
    the cache's folder in. The agents, who mount for others, under none.
    """
    wishes = {SERVICES: "restricted", tasks: "restricted" if has_agents else "privileged", AGENTS: "privileged"}
    for name, level in levels.items():
        wanted = wishes[name]
        if level is None:
            yield Finding(f"namespace {name}", False, "there is none", APPLY_CSI if has_agents else APPLY)
            continue
        fix = "" if level == wanted else f"kubectl label namespace {name} {LEVEL}={wanted} --overwrite"
        yield Finding(f"namespace {name}", not fix, f"pod security: {level or 'not set'}", fix)


def check_policies(api: Api, apply: str) -> Iterator[Finding]:
    """Without these the tasks' namespace would take more than tasks; any pod at all where its level is privileged."""
    missing: list[str] = []
    for name in POLICIES:
        for kind in ("validatingadmissionpolicies", "validatingadmissionpolicybindings"):
            if find(api, f"{ADMISSION}/{kind}/{name}") is None:
                missing.append(f"{kind.removesuffix('s')} {name}")
    yield Finding(
        "admission policy",
        not missing,
        f"missing: {', '.join(missing)}" if missing else "pods of tasks have of their node what the policies let in",
        apply if missing else "",
    )


def check_keeper(api: Api, tasks: str, apply: str) -> Iterator[Finding]:
    """The cache's folder is prepared on every node, and looked after by one process."""
    namespace, _, name = keeper_of(api, tasks)
    keeper = find(api, f"/apis/apps/v1/namespaces/{namespace}/daemonsets/{name}")
    if keeper is None:
        yield Finding("node caches", False, f"there is no DaemonSet {name}", apply)
        return
    status: Any = keeper.get("status", {})
    ready, wanted = int(status.get("numberReady", 0)), int(status.get("desiredNumberScheduled", 0))
    with contextlib.suppress(ApiRefused):  # nodes are not everybody's to see; then those that it wants must do
        wanted = max(wanted, len(api.get("/api/v1/nodes").get("items") or ()))
    well = 0 < wanted <= ready
    fix = "" if well else f"kubectl -n {namespace} describe pods -l {NAME}={name}"
    yield Finding("node caches", well, f"ready on {ready} of {count(wanted, 'node')}", fix)
    if namespace == AGENTS and find(api, f"/apis/apps/v1/namespaces/{tasks}/daemonsets/{KEEPER}") is not None:
        detail = f"beside the agent there is still the DaemonSet {KEEPER}, for the same folder"
        yield Finding("former keeper", False, detail, f"kubectl -n {tasks} delete daemonset {KEEPER}")


def check_logins(link: Link) -> Iterator[Finding]:
    """Redis lets nobody in without a password, and knows us by a user of our own."""
    fix = "load an ACL file that begins with `user default off`: k8s/users.acl"
    try:
        with without_login(link.settings) as stranger:
            stranger.ping()  # pyright: ignore[reportUnknownMemberType] -- as above
        yield Finding("redis logins", False, "anybody gets in without a password", fix)
    except redis.AuthenticationError:
        try:
            user: Any = link.client.acl_whoami()  # pyright: ignore[reportUnknownMemberType] -- as above
            yield Finding("redis logins", True, f"nobody without a password; this is {user}")
        except redis.ResponseError:
            yield Finding("redis logins", True, "nobody without a password")
    except redis.RedisError as error:
        yield Finding("redis logins", False, str(error), fix)


def _level(api: Api, namespace: str) -> str | None:
    """The namespace's Pod Security level, empty when it has none; None when there is no such namespace."""
    found = find(api, f"/api/v1/namespaces/{namespace}")
    return None if found is None else str(found["metadata"].get("labels", {}).get(LEVEL, ""))
