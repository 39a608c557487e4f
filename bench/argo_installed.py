"""Argo Workflows' controller on the tests' cluster: compiled by `cluster build argo`, installed for one namespace.

As its namespaced install does, without the server and its page. Its settings are the defaults; what is not one is an
argument here. Its workflows keep their artifacts in the object store of the Helios that is installed beside it.
"""

import json
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from bench.servers import PROJECT
from tests.cluster.clusters import Cluster
from tests.cluster.kubectl import Kubectl, KubectlFailed, Manifest
from tests.cluster.server_images import program_archive
from tests.waiting import wait_until

NAMESPACE = "argo"
GROUP = "argoproj.io"
ACCOUNT = "workflow"
"""Of the workflows' pods."""

BUCKET = "bench"
CONTROLLER = "workflow-controller"
EXECUTOR = "argoexec"
IMAGES = {name: f"helios.test/{name}:1" for name in (CONTROLLER, EXECUTOR)}
KINDS = {
    "Workflow": "workflows",
    "WorkflowTemplate": "workflowtemplates",
    "CronWorkflow": "cronworkflows",
    "WorkflowTaskSet": "workflowtasksets",
    "WorkflowTaskResult": "workflowtaskresults",
    "WorkflowArtifactGCTask": "workflowartifactgctasks",
}
ALL = ("create", "get", "list", "watch", "update", "patch", "delete", "deletecollection")
RULES: Sequence[tuple[str, Sequence[str], Sequence[str]]] = (
    # By name: with `*` the controller takes itself for one that may read the whole cluster, and waits for it for ever.
    (GROUP, tuple(f"{plural}{part}" for plural in KINDS.values() for part in ("", "/finalizers", "/status")), ALL),
    ("", ("pods", "pods/exec"), ALL),
    ("", ("configmaps", "serviceaccounts", "secrets"), ("get", "list", "watch")),
    ("", ("events",), ("create", "patch")),
    ("", ("persistentvolumeclaims", "persistentvolumeclaims/finalizers"), ("create", "get", "update", "delete")),
    ("policy", ("poddisruptionbudgets",), ("create", "get", "delete")),
    ("coordination.k8s.io", ("leases",), ("create", "get", "update")),
)
"""What the controller may do in its namespace: API group, resources, verbs."""


def version() -> str:
    """Of the Argo Workflows that `cluster build argo` compiles."""
    wanted = (PROJECT / "tests" / "cluster" / "tool" / "go" / "argo" / "go.mod").read_text(encoding="utf-8")
    found = re.search(r"argoproj/argo-workflows/v\d+ v(\S+)", wanted)
    assert found is not None
    return found[1]


@contextmanager
def argo_installed(
    cluster: Cluster,
    store: str,
    keys: tuple[str, str],
    *,
    arguments: Sequence[str] = (),
    requeue: str = "",
    security: Mapping[str, Any] | None = None,
) -> Generator[None]:
    """The controller is ready inside, and all of it gone afterwards. `store` is the S3 endpoint that pods reach, with a
    bucket BUCKET; `arguments` are the controller's, `requeue` its DEFAULT_REQUEUE_TIME, and `security` is the security
    context of its own containers in a workflow's pods.
    """
    assert cluster.home is not None, "Argo is compiled for the tests' own cluster only"
    for name, image in IMAGES.items():
        cluster.tool("load", str(program_archive(cluster.home, image, cluster.home / "bin" / name)))
    try:
        Kubectl().apply(*_kinds(), {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        here = Kubectl(NAMESPACE)
        for plural in KINDS.values():
            wait_until(f"{plural} are served", lambda plural=plural: _served(here, plural), 60)
        here.apply(*_accounts(), *_settings(store, keys, security), _deployment(arguments, requeue))
        here.run("rollout", "status", f"deployment/{CONTROLLER}", "--timeout=120s", seconds=140)
        yield
    finally:
        # The workflows first: with their kinds gone nobody could delete them, and nothing would delete their pods.
        Kubectl(NAMESPACE).run("delete", "workflows", "--all", "--ignore-not-found", seconds=120)
        Kubectl().delete("namespace", NAMESPACE)
        for plural in KINDS.values():
            Kubectl().delete("customresourcedefinition", f"{plural}.{GROUP}")


def _served(kubectl: Kubectl, plural: str) -> bool:
    """A new kind is established some seconds before the API server lists it."""
    try:
        kubectl.run("get", "--raw", f"/apis/{GROUP}/v1alpha1/namespaces/{NAMESPACE}/{plural}")
    except KubectlFailed:
        return False
    return True


def _kinds() -> Iterator[Manifest]:
    """Without schemas: the controller checks its workflows itself."""
    anything = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    for kind, plural in KINDS.items():
        names = {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"}
        one = {"name": "v1alpha1", "served": True, "storage": True, "schema": anything}
        if kind == "WorkflowTaskSet":
            one["subresources"] = {"status": {}}
        yield {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": f"{plural}.{GROUP}"},
            "spec": {"group": GROUP, "names": names, "scope": "Namespaced", "versions": [one]},
        }


def _accounts() -> Iterator[Manifest]:
    """The controller's, and the workflows', whose executor may tell its results and nothing else."""
    tells: Sequence[tuple[str, Sequence[str], Sequence[str]]] = (
        (GROUP, ("workflowtaskresults",), ("create", "patch")),
    )
    rbac = "rbac.authorization.k8s.io"
    for name, rules in ((CONTROLLER, RULES), (ACCOUNT, tells)):
        yield {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}
        granted = [{"apiGroups": [group], "resources": [*what], "verbs": [*verbs]} for group, what, verbs in rules]
        yield {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": {"name": name}, "rules": granted}
        yield {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name}],
        }


def _settings(store: str, keys: tuple[str, str], security: Mapping[str, Any] | None) -> Iterator[Manifest]:
    access, secret = keys
    data = {"access": access, "secret": secret}
    yield {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "store"}, "stringData": data}
    s3 = {
        "endpoint": store,
        "bucket": BUCKET,
        "insecure": True,
        "accessKeySecret": {"name": "store", "key": "access"},
        "secretKeySecret": {"name": "store", "key": "secret"},
    }
    executor = {"imagePullPolicy": "IfNotPresent"} | ({} if security is None else {"securityContext": security})
    yield {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"{CONTROLLER}-configmap"},
        # Both values are YAML, of which JSON is a part.
        "data": {"artifactRepository": json.dumps({"s3": s3}), "executor": json.dumps(executor)},
    }


def _deployment(arguments: Sequence[str], requeue: str) -> Manifest:
    labels = {"app": CONTROLLER}
    leader = {"name": "LEADER_ELECTION_IDENTITY", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    container = {
        "name": CONTROLLER,
        "image": IMAGES[CONTROLLER],
        "imagePullPolicy": "IfNotPresent",
        "args": ["--namespaced", f"--executor-image={IMAGES[EXECUTOR]}", *arguments],
        "env": [leader, *([{"name": "DEFAULT_REQUEUE_TIME", "value": requeue}] if requeue else [])],
        # It answers there once it works; the rollout waits for it.
        "readinessProbe": {"httpGet": {"port": 6060, "path": "/healthz"}, "periodSeconds": 2},
    }
    pod = {"serviceAccountName": CONTROLLER, "containers": [container]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": CONTROLLER},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}},
    }
