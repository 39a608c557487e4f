"""What `helios doctor` looks at in Kubernetes: namespaces, rights, the node caches, and which images really run.

Rule: the checks decide from the API server's JSON alone; `cli.cluster_api` reaches it.
"""

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import redis

from cli.checkup import Finding
from cli.cluster_api import Api, ApiAway, ApiRefused, cluster_api
from cli.connection import Link
from cli.figures import count
from helios.settings import Settings
from helios.streams import CLIENT_OPTIONS

SERVICES = "helios"
"""The services' namespace in k8s/; that of the tasks is a setting."""
LEVEL = "pod-security.kubernetes.io/enforce"
NAME = "app.kubernetes.io/name"
KEEPER = "helios-cache"
POLICIES = ("helios-tasks", "helios-tasks-unchanged")
APPLY = "kubectl apply -k k8s/"

DEPLOYMENTS = ("helios-submitter", "helios-jobrunner", "helios-collector")

Right = tuple[str, str, str, str]
"""API group, resource, subresource, verb."""


def _rights(group: str, resource: str, *verbs: str) -> list[Right]:
    name, _, sub = resource.partition("/")
    return [(group, name, sub, verb) for verb in verbs]


NEEDED: dict[str, list[Right]] = {
    "helios-jobrunner": _rights("batch", "jobs", "create", "get", "list", "delete"),
    "helios-collector": [
        *_rights("", "pods", "list", "watch", "patch", "delete"),
        *_rights("", "pods/log", "get"),
        *_rights("", "events", "list"),
        *_rights("batch", "jobs", "get", "list", "watch", "delete"),
        *_rights("", "nodes", "list", "watch"),
    ],
}
"""What each service asks of the API server; k8s/base/access.yaml grants it."""

TOO_MUCH = [*_rights("", "secrets", "get", "list"), *_rights("", "pods", "create"), *_rights("", "pods/exec", "create")]
"""What no service needs, and whoever breaks into one would like."""

CLUSTER_WIDE = ("nodes",)


def check_cluster(link: Link) -> Iterator[Finding]:
    """Everything Helios needs of the cluster that KUBECONFIG names."""
    try:
        api = cluster_api()
        yield from examine_cluster(api, link.settings)
    except ApiAway as away:
        yield Finding("kubernetes", False, str(away), "correct KUBECONFIG, or unset it to leave the cluster out")
    yield from check_logins(link)


def examine_cluster(api: Api, settings: Settings) -> Iterator[Finding]:
    version = api.get("/version")
    tasks = settings.namespace
    levels = {name: _level(api, name) for name in (SERVICES, tasks)}
    if set(levels.values()) == {None}:
        yield Finding("kubernetes", True, f"{version.get('gitVersion')}; Helios is not installed there ({APPLY})")
        return
    yield Finding("kubernetes", True, str(version.get("gitVersion")))
    checks = (
        lambda: check_namespaces(levels, tasks),
        lambda: check_policies(api),
        lambda: check_rights(api, tasks),
        lambda: check_keeper(api, tasks),
        lambda: check_images(api, tasks),
    )
    for check in checks:
        try:
            yield from check()
        except ApiRefused as refusal:
            # Whoever runs the doctor need not be allowed to see everything; what they cannot see is not broken.
            if refusal.status != 403:
                yield Finding("kubernetes", False, str(refusal), APPLY)
            else:
                yield Finding("kubernetes", True, f"not looked at: {refusal}")


def check_namespaces(levels: Mapping[str, str | None], tasks: str) -> Iterator[Finding]:
    """The services under the restricted level; the tasks under one that lets the cache's folder in."""
    for name, wanted in ((SERVICES, "restricted"), (tasks, "privileged")):
        level = levels[name]
        if level is None:
            yield Finding(f"namespace {name}", False, "there is none", APPLY)
            continue
        fix = "" if level == wanted else f"kubectl label namespace {name} {LEVEL}={wanted} --overwrite"
        yield Finding(f"namespace {name}", not fix, f"pod security: {level or 'not set'}", fix)


def check_policies(api: Api) -> Iterator[Finding]:
    """Without these the tasks' namespace, whose level is privileged, would take any pod."""
    base = "/apis/admissionregistration.k8s.io/v1"
    missing: list[str] = []
    for name in POLICIES:
        for kind in ("validatingadmissionpolicies", "validatingadmissionpolicybindings"):
            if _find(api, f"{base}/{kind}/{name}") is None:
                missing.append(f"{kind.removesuffix('s')} {name}")
    yield Finding(
        "admission policy",
        not missing,
        f"missing: {', '.join(missing)}" if missing else "pods of tasks are held to the cache and the agent's image",
        APPLY if missing else "",
    )


def check_rights(api: Api, tasks: str) -> Iterator[Finding]:
    """What each service account may do: all that it needs, nothing that it must not."""
    me = api.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", _review("authentication", "SelfSubjectReview"))
    own = str(me.get("status", {}).get("userInfo", {}).get("username", ""))
    for account, needed in NEEDED.items():
        user = f"system:serviceaccount:{SERVICES}:{account}"
        who = None if user == own else user
        lacking = [right for right in needed if not _may(api, who, right, tasks)]
        beyond = [right for right in TOO_MUCH if _may(api, who, right, tasks)]
        if lacking or beyond:
            words = [f"may not {_said(right)}" for right in lacking] + [f"may {_said(right)}" for right in beyond]
            fix = (
                APPLY
                if lacking
                else f"kubectl get rolebindings -A -o wide | grep {account}, and delete what k8s/ lacks"
            )
            yield Finding(account, False, ", ".join(words), fix)
        else:
            yield Finding(account, True, f"has its {count(len(needed), 'right')} and no more")


def check_keeper(api: Api, tasks: str) -> Iterator[Finding]:
    """The cache's folder is prepared on every node."""
    keeper = _find(api, f"/apis/apps/v1/namespaces/{tasks}/daemonsets/{KEEPER}")
    if keeper is None:
        yield Finding("node caches", False, f"there is no DaemonSet {KEEPER}", APPLY)
        return
    status: Any = keeper.get("status", {})
    ready, wanted = int(status.get("numberReady", 0)), int(status.get("desiredNumberScheduled", 0))
    with contextlib.suppress(ApiRefused):  # nodes are not everybody's to see; then those that it wants must do
        wanted = max(wanted, len(api.get("/api/v1/nodes").get("items") or ()))
    well = 0 < wanted <= ready
    fix = "" if well else f"kubectl -n {tasks} describe pods -l {NAME}={KEEPER}"
    yield Finding("node caches", well, f"ready on {ready} of {count(wanted, 'node')}", fix)


def check_images(api: Api, tasks: str) -> Iterator[Finding]:
    """Which image each pod runs, by digest, beside the one in its manifest: a tag can be moved, a digest cannot."""
    digests: dict[str, set[str]] = defaultdict(set)
    workloads = [(SERVICES, "deployments", name) for name in DEPLOYMENTS] + [(tasks, "daemonsets", KEEPER)]
    for namespace, kind, name in workloads:
        workload = _find(api, f"/apis/apps/v1/namespaces/{namespace}/{kind}/{name}")
        if workload is None:
            yield Finding(f"image of {name}", False, "it is not there", APPLY)
            continue
        wanted = str(workload["spec"]["template"]["spec"]["containers"][0]["image"])
        pods: list[Any] = (
            api.get(f"/api/v1/namespaces/{namespace}/pods?labelSelector={NAME}%3D{name}").get("items") or []
        )
        running = [each for pod in pods if (each := _running(pod)) is not None]
        for image, digest in running:
            digests[image].add(digest)
        others = sorted({image for image, _ in running} - {wanted})
        shown = f"{wanted} in {count(len(running), 'pod')}"
        fix = f"kubectl -n {namespace} rollout status {kind.removesuffix('s')}/{name}"
        if others:
            yield Finding(f"image of {name}", False, f"{wanted} is wanted, but {', '.join(others)} runs", fix)
        elif not running:
            yield Finding(f"image of {name}", False, f"{wanted}: no pod runs", fix)
        else:
            known = sorted({_short(digest) for _, digest in running})
            yield Finding(f"image of {name}", True, f"{shown}, {', '.join(known)}")
    for image, found in sorted(digests.items()):
        if len(found) > 1:
            detail = f"{image} is {len(found)} images: {', '.join(sorted(_short(digest) for digest in found))}"
            fix = "give each build a tag of its own (make images TAG=…): nodes keep what they pulled under a tag"
            yield Finding("image tag", False, detail, fix)
    agent = _find(api, f"/api/v1/namespaces/{SERVICES}/configmaps/helios-agent")
    launcher = _find(api, f"/apis/apps/v1/namespaces/{SERVICES}/deployments/helios-jobrunner")
    if agent is not None and launcher is not None:
        allowed = str(agent.get("data", {}).get("image"))
        wanted = str(launcher["spec"]["template"]["spec"]["containers"][0]["image"])
        fix = (
            ""
            if allowed == wanted
            else f"{APPLY}: an overlay that sets the image must repeat the replacements of k8s/base"
        )
        yield Finding(
            "agent image", not fix, allowed if not fix else f"{allowed}, but the jobrunner's is {wanted}", fix
        )


def check_logins(link: Link) -> Iterator[Finding]:
    """Redis lets nobody in without a password, and knows us by a user of our own."""
    parts = urlsplit(link.settings.redis_url)
    anonymous = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    fix = "load an ACL file that begins with `user default off`: k8s/users.acl"
    try:
        with redis.Redis.from_url(  # pyright: ignore[reportUnknownMemberType] -- the stubs leave a parameter open
            anonymous, **CLIENT_OPTIONS
        ) as stranger:
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


def _find(api: Api, path: str) -> Any:
    """The object, or None where there is none."""
    try:
        return api.get(path)
    except ApiRefused as refusal:
        if refusal.status != 404:
            raise
        return None


def _level(api: Api, namespace: str) -> str | None:
    """The namespace's Pod Security level, empty when it has none; None when there is no such namespace."""
    try:
        found = _find(api, f"/api/v1/namespaces/{namespace}")
    except ApiRefused as refusal:
        raise ApiAway(str(refusal)) from None
    return None if found is None else str(found["metadata"].get("labels", {}).get(LEVEL, ""))


def _review(group: str, kind: str, spec: Any = None) -> Any:
    return {"apiVersion": f"{group}.k8s.io/v1", "kind": kind, **({"spec": spec} if spec else {})}


def _may(api: Api, user: str | None, right: Right, tasks: str) -> bool:
    """Whether the user may; without one, whether we may ourselves."""
    group, resource, sub, verb = right
    asked: dict[str, str] = {"group": group, "resource": resource, "subresource": sub, "verb": verb}
    if resource not in CLUSTER_WIDE:
        asked["namespace"] = tasks
    spec: dict[str, Any] = {"resourceAttributes": asked}
    kind = "SelfSubjectAccessReview"
    if user is not None:
        kind, spec = "SubjectAccessReview", {**spec, "user": user, "groups": ["system:serviceaccounts"]}
    answer = api.post(f"/apis/authorization.k8s.io/v1/{kind.lower()}s", _review("authorization", kind, spec))
    return bool(answer.get("status", {}).get("allowed"))


def _said(right: Right) -> str:
    _, resource, sub, verb = right
    return f"{verb} {resource}{f'/{sub}' if sub else ''}"


def _running(pod: Any) -> tuple[str, str] | None:
    """The image that the pod's first container asks for, and the digest of what runs; None while nothing does."""
    name, image = (pod["spec"]["containers"][0][field] for field in ("name", "image"))
    for status in pod.get("status", {}).get("containerStatuses") or ():
        if status["name"] == name and "running" in status.get("state", {}):
            return str(image), str(status.get("imageID", ""))
    return None


def _short(digest: str) -> str:
    """`sha256:` and twelve characters, as people compare them."""
    _, at, digits = digest.rpartition("sha256:")
    return f"sha256:{digits[:12]}" if at else digest or "digest unknown"
