"""The HTTP API and the monitoring, added to an installation as docs/kubernetes.md says, and used from outside."""

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml

from tests.cluster.dags import dag, script
from tests.cluster.installed import ENDED, SERVICES, Installed, is_up
from tests.cluster.kubectl import Kubectl, KubectlFailed
from tests.waiting import wait_until

KINDS = {"ServiceMonitor": "servicemonitors", "PrometheusRule": "prometheusrules"}
GROUP = "monitoring.coreos.com"


@pytest.fixture
def components(helios: Installed) -> Iterator[Installed]:
    """Both, beside the form that is installed; the operator's kinds are there, though nobody acts on them."""
    if helios.cluster.home is None:
        pytest.skip("the API is reached at its Service's address")
    outside = Kubectl(None)
    outside.apply(*(_kind(name, plural) for name, plural in KINDS.items()))
    for plural in KINDS.values():
        outside.wait_for("customresourcedefinition", f"{plural}.{GROUP}", "Established")
        wait_until(f"{plural} are served", lambda plural=plural: is_served(outside, plural))
    own = helios.folder / "mine"
    own.mkdir(exist_ok=True)
    written = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": ["../base" if helios.agents.folder == "." else f"../{helios.agents.folder}"],
        "components": ["../components/http", "../components/monitoring"],
    }
    (own / "kustomization.yaml").write_text(yaml.safe_dump(written), encoding="utf-8")
    try:
        outside.run("apply", "--kustomize", str(own), seconds=120)
        helios.wait_ready()
        helios.rollout("deployment/helios-api", helios.services, 120)
        yield helios
    finally:
        for plural in KINDS.values():
            outside.run("delete", "customresourcedefinition", f"{plural}.{GROUP}", "--ignore-not-found", seconds=120)
        helios.services.run("delete", "deployment/helios-api", "--ignore-not-found")


def test_the_api_takes_a_run_to_its_end_and_every_replica_is_to_be_scraped(components: Installed) -> None:
    helios, client = components, _Client(components)
    with pytest.raises(urllib.error.HTTPError) as refused:
        client.ask("/system/status", token="nobody's")
    assert refused.value.code == 401

    wanted = dag("by-http", script(helios, "greet", "echo hello | tee said", outputs=["said"]))
    run = json.loads(client.ask("/dags", json.dumps(wanted).encode()))["dagId"]
    found = wait_until("the run ends", lambda: _if_ended(json.loads(client.ask(f"/dags/{run}"))), 180)
    assert found is not None
    assert found["status"] == "SUCCEEDED"
    assert client.ask(f"/dags/{run}/tasks/greet/logs") == b"hello\n"
    assert client.ask(f"/dags/{run}/tasks/greet/artifacts/said", to_store=True) == b"hello\n"

    monitors = json.loads(helios.services.run("get", "servicemonitors", "--output=json"))["items"]
    counted: dict[str, int] = {}
    for each in monitors:
        name = each["metadata"]["name"]
        (endpoint,) = each["spec"]["endpoints"]
        replicas = wait_until(
            f"{name} has two replicas, and none that ends",
            lambda name=name, port=endpoint["port"]: _if_two(_replicas(helios, name, port)),
            90,
        )
        for replica in replicas:
            assert "helios_info{" in _metrics(helios, replica)
            counted[name] = counted.get(name, 0) + 1
    assert counted == {"helios-submitter": 2, "helios-jobrunner": 2, "helios-collector": 2}
    collectors = [each["metadata"]["name"] for each in helios.pods_of_service("helios-collector") if is_up(each)]
    ended = [_metrics(helios, f"{name}:9464") for name in collectors]
    assert any(re.search(r'helios_runs_ended_total\{[^}]*status="SUCCEEDED"[^}]*\} [1-9]', text) for text in ended)


def is_served(kubectl: Kubectl, plural: str) -> bool:
    """Whether kubectl finds the kind: some time passes between its being established and that."""
    try:
        kubectl.run("get", f"{plural}.{GROUP}", "--all-namespaces")
    except KubectlFailed:
        return False
    return True


def _replicas(helios: Installed, service: str, port_name: str) -> list[str]:
    """Pods that a monitor's Service leads to, with their port, as POD:PORT."""
    slices = helios.services.labelled("endpointslices", {"kubernetes.io/service-name": f"{service}-metrics"})
    return [
        f"{replica['targetRef']['name']}:{port['port']}"
        for slice_ in slices
        for port in slice_.get("ports") or ()
        if port["name"] == port_name
        for replica in slice_.get("endpoints") or ()
    ]


def _if_two(replicas: list[str]) -> list[str]:
    return replicas if len(replicas) == 2 else []


def _metrics(helios: Installed, replica: str) -> str:
    return helios.services.run("get", "--raw", f"/api/v1/namespaces/{SERVICES}/pods/{replica}/proxy/metrics")


class _Client:
    """A client of the API, with the token that make-secrets made."""

    def __init__(self, helios: Installed) -> None:
        self.token = helios.credentials("http-token")["token"]
        self.store = helios.addresses["helios-minio"]
        self.base = f"http://{helios.services.get('service', 'helios-api')['spec']['clusterIP']}:8416/api/v1"

    def ask(self, path: str, body: bytes | None = None, *, token: str = "", to_store: bool = False) -> bytes:
        """The answer's body; `to_store`: of the object that it redirects to, by the store's address from here."""
        headers = {"Authorization": f"Bearer {token or self.token}", "Content-Type": "application/json"}
        asked = urllib.request.Request(f"{self.base}{path}", data=body, headers=headers)
        if not to_store:
            with urllib.request.urlopen(asked, timeout=30) as answer:
                return answer.read()
        with pytest.raises(urllib.error.HTTPError) as redirect:
            urllib.request.build_opener(_Stay).open(asked, timeout=30)
        place = urllib.parse.urlsplit(redirect.value.headers["Location"])
        signed_for = urllib.request.Request(place._replace(netloc=self.store).geturl(), headers={"Host": place.netloc})
        with urllib.request.urlopen(signed_for, timeout=30) as answer:
            return answer.read()


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows nothing: the address in a signed URL is one of inside of the cluster."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> None:
        return None


def _if_ended(run: dict[str, Any]) -> dict[str, Any] | None:
    return run if run["status"] in ENDED else None


def _kind(name: str, plural: str) -> Mapping[str, Any]:
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {"kind": name, "plural": plural, "singular": name.lower()},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }
