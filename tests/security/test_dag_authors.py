"""What somebody who writes DAGs cannot have, whatever the DAG says."""

import json
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helios.dag import DagInvalid, DagLimits, parse_dag
from helios.dag_names import uri_fault
from helios.settings import Settings
from services.collector.store import ObjectRefused, Store
from services.jobrunner.jobs import Form, job_name, wanted_job
from services.jobrunner.manifest import job_manifest
from tests.stage import RUN

SETTINGS = Settings(
    token_key="k", agent_image="helios:1", s3_endpoint="http://store.test:9000", s3_access_key="a", s3_secret_key="s"
)
STORE = Store(SETTINGS)

OF_PODS: dict[str, Any] = {
    "volumes": [{"name": "node", "hostPath": {"path": "/"}}],
    "volumeMounts": [{"name": "cache", "mountPath": "/x"}],
    "securityContext": {"privileged": True},
    "hostNetwork": True,
    "hostPID": True,
    "hostIPC": True,
    "initContainers": [{"name": "x", "image": "x"}],
    "containers": [],
    "ports": [{"containerPort": 1, "hostPort": 1}],
    "lifecycle": {"postStart": {"exec": {"command": ["x"]}}},
    "livenessProbe": {"exec": {"command": ["x"]}},
    "envFrom": [{"secretRef": {"name": "helios-keeper"}}],
    "imagePullSecrets": [{"name": "x"}],
    "imagePullPolicy": "Never",
    "automountServiceAccountToken": True,
    "affinity": {},
    "priorityClassName": "system-node-critical",
    "runtimeClassName": "x",
    "schedulerName": "x",
    "nodeName": "n",
    "hostAliases": [],
    "dnsConfig": {},
    "restartPolicy": "Always",
    "terminationGracePeriodSeconds": 0,
    "activeDeadlineSeconds": 0,
    "annotations": {"a": "b"},
    "labels": {"app.kubernetes.io/name": "helios-collector"},
    "namespace": "helios",
    "workingDir": "/",
    "stdin": True,
    "user": 0,
}
WISHES: dict[str, Any] = {
    "image": "helios:1",  # the agent's own
    "command": ["/opt/helios/exec", "--", "--after", "$(HELIOS_TOKEN)"],
    "args": ["--view", "/", "$(HELIOS_ENDPOINT)"],
    "env": {
        "HELIOS_TOKEN": "mine",
        "HELIOS_ENDPOINT": "http://elsewhere",
        "HELIOS_CACHE_DIR": "/",
        "LD_PRELOAD": "/artifacts/evil.so",
        "PATH": "/artifacts",
        "COPY": "$(HELIOS_TOKEN)",
        "KEY": {"secret": "helios-keeper", "key": "HELIOS_KEEPER_KEY"},
    },
    "inputs": [{"uri": "s3://helios/any/run/of/others"}],
    "nodeSelector": {"node-role.kubernetes.io/control-plane": ""},
    "tolerations": [{"operator": "Exists"}],
    "serviceAccountName": "helios-collector",
}


def dag(**fields: Any) -> bytes:
    return json.dumps({"dagName": "d", "tasks": [{"name": "t", "image": "i", "command": ["x"], **fields}]}).encode()


def pod(form: Form, **fields: Any) -> dict[str, Any]:
    job = wanted_job(
        job_name(RUN, "t", 1),
        parse_dag(dag(**fields)).dag.tasks[0],
        run=RUN,
        attempt=1,
        cache_enabled=True,
        settings=SETTINGS,
        now_seconds=1,
    )
    found: dict[str, Any] = job_manifest(job, SETTINGS, form)["spec"]["template"]["spec"]
    return found


@pytest.mark.parametrize("field", OF_PODS)
def test_what_a_pod_may_have_and_a_task_may_not_is_no_field_of_a_dag(field: str) -> None:
    for document in (
        dag(**{field: OF_PODS[field]}),
        json.dumps({**json.loads(dag()), field: OF_PODS[field]}).encode(),
    ):
        with pytest.raises(DagInvalid) as refused:
            parse_dag(document)
        assert field in str(refused.value)


@pytest.mark.parametrize("form", ["init", "csi"])
def test_whatever_a_dag_wishes_only_what_is_its_own_to_choose_differs_in_its_pod(form: Form) -> None:
    """Its image, command, variables, nodes and account; never what the pod shares, mounts, may do or is given."""
    plain = pod(form, inputs=[{"uri": "s3://corpora/any", "as": "others"}])
    wished = pod(form, **WISHES)
    chosen = {"nodeSelector", "tolerations", "serviceAccountName", "containers"}
    assert {name: each for name, each in wished.items() if name not in chosen} == {
        name: each for name, each in plain.items() if name not in chosen
    }
    for before, after in zip(plain["containers"], wished["containers"], strict=True):
        own = {"image", "command", "env"} if after["name"] == "task" else set[str]()
        assert {name: each for name, each in after.items() if name not in own} == {
            name: each for name, each in before.items() if name not in own
        }
    task = next(each for each in wished["containers"] if each["name"] == "task")
    wrapper = next(each for each in plain["containers"] if each["name"] == "task")["command"]
    assert task["command"][: wrapper.index("--") + 1] == wrapper[: wrapper.index("--") + 1]
    given_to_it = {each["name"]: each.get("value") for each in task["env"]}
    assert {name for name in given_to_it if name.startswith("HELIOS_")} == {
        "HELIOS_CACHE_ENABLED",
        "HELIOS_RUN_ID",
        "HELIOS_TASK_NAME",
        "HELIOS_ATTEMPT",
    }
    assert given_to_it["COPY"] == "$$(HELIOS_TOKEN)"  # which Kubernetes makes the text again that the user wrote


NAMES = st.text(st.sampled_from("ab./@:%#?&=\\ é\u2024"), min_size=1, max_size=12)


@settings(max_examples=400, deadline=None)
@given(NAMES | st.sampled_from(["corpora"]), NAMES)
def test_a_signed_url_is_for_the_object_that_was_named_in_the_store_of_the_settings(bucket: str, key: str) -> None:
    """No name leads a pod to another server, another object or another action."""
    if uri_fault(f"s3://{bucket}/{key}", DagLimits()) is not None:
        return
    try:
        url = urlsplit(STORE.get_url(bucket, key))
    except ObjectRefused:
        return
    assert (url.scheme, url.netloc) == ("http", "store.test:9000")
    assert unquote(url.path) == f"/{bucket}/{key}"
    assert {part.partition("=")[0] for part in url.query.split("&")} == {
        f"X-Amz-{name}" for name in ("Algorithm", "Credential", "Date", "Expires", "SignedHeaders", "Signature")
    }
