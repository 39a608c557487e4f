"""Who may do what in the cluster: the services' accounts, and whoever runs `helios doctor`."""

from collections.abc import Iterator
from typing import Any

from cli.checkup import Finding
from cli.cluster_api import Api
from cli.cluster_pods import SERVICES
from cli.figures import count
from helios.settings import AGENT_DRIVER

Right = tuple[str, str, str, str]
"""API group, resource, subresource, verb."""


def _rights(group: str, resource: str, *verbs: str) -> list[Right]:
    name, _, sub = resource.partition("/")
    return [(group, name, sub, verb) for verb in verbs]


NEEDED: dict[str, list[Right]] = {
    "helios-jobrunner": [
        *_rights("batch", "jobs", "create", "get", "list", "delete"),
        *_rights("storage.k8s.io", "csidrivers", "get"),
        *_rights("storage.k8s.io", "csinodes", "list"),
        *_rights("", "nodes", "list"),
    ],
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

CLUSTER_WIDE = ("nodes", "csidrivers", "csinodes", "subjectaccessreviews")
NAMED = {"csidrivers": AGENT_DRIVER}
"""Of these a service may see the one."""

Purpose = tuple[Right, str, str]
"""A right, the namespace, and what people need it for."""


def _for_people(tasks: str) -> list[Purpose]:
    group = "authorization.k8s.io"
    return [
        (("", "pods", "portforward", "create"), SERVICES, "to reach Redis and MinIO"),
        (("", "secrets", "", "get"), SERVICES, "to read their passwords"),
        (("", "pods", "", "list"), SERVICES, "to see which image each service runs"),
        (("", "pods", "", "list"), tasks, "to see which image each task runs"),
        (("", "pods", "log", "get"), SERVICES, "to read a service's log"),
        ((group, "subjectaccessreviews", "", "create"), "", "to check the services' rights"),
    ]


def check_rights(api: Api, tasks: str, apply: str) -> Iterator[Finding]:
    """What each service account may do: all that it needs, nothing that it must not."""
    for account, needed in NEEDED.items():
        user = f"system:serviceaccount:{SERVICES}:{account}"
        lacking = [right for right in needed if not _may(api, user, right, tasks)]
        beyond = [right for right in TOO_MUCH if _may(api, user, right, tasks)]
        if lacking or beyond:
            words = [f"may not {_said(right)}" for right in lacking] + [f"may {_said(right)}" for right in beyond]
            fix = (
                apply
                if lacking
                else f"kubectl get rolebindings -A -o wide | grep {account}, and delete what k8s/ lacks"
            )
            yield Finding(account, False, ", ".join(words), fix)
        else:
            yield Finding(account, True, f"has its {count(len(needed), 'right')} and no more")


def check_own_rights(api: Api, tasks: str) -> Iterator[Finding]:
    """What whoever asks may not do themselves. That is for an administrator to decide, so nothing of it is a fault."""
    lacking = [
        f"{_said(right)} {purpose}"
        for right, namespace, purpose in _for_people(tasks)
        if not _may(api, None, right, namespace)
    ]
    yield Finding(
        "your rights", True, f"you may not {'; '.join(lacking)}" if lacking else "enough for all that is here"
    )


def _may(api: Api, user: str | None, right: Right, namespace: str) -> bool:
    """Whether the user may; without one, whether we may ourselves."""
    group, resource, sub, verb = right
    asked: dict[str, str] = {"group": group, "resource": resource, "subresource": sub, "verb": verb}
    if resource not in CLUSTER_WIDE:
        asked["namespace"] = namespace
    if resource in NAMED:
        asked["name"] = NAMED[resource]
    spec: dict[str, Any] = {"resourceAttributes": asked}
    kind = "SelfSubjectAccessReview"
    if user is not None:
        kind, spec = "SubjectAccessReview", {**spec, "user": user, "groups": ["system:serviceaccounts"]}
    document = {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec}
    answer = api.post(f"/apis/authorization.k8s.io/v1/{kind.lower()}s", document)
    return bool(answer.get("status", {}).get("allowed"))


def _said(right: Right) -> str:
    _, resource, sub, verb = right
    return f"{verb} {resource}{f'/{sub}' if sub else ''}"
