"""What `kubectl apply -k k8s/` would send, and the overlays: rights, limits and names."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.settings import keep_settings, sync_settings
from cli.checkup_driver import WANTED
from cli.checkup_rights import NEEDED
from cli.cluster_pods import AGENT, AGENTS
from helios.dag import parse_dag
from helios.settings import AGENT_DRIVER, Settings, settings_from
from services.jobrunner.jobs import wanted_job
from services.jobrunner.manifest import job_manifest
from tests.k8s.conftest import K8S, OVERLAYS, ROOT, Document, Manifests, env_file

WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet")
PRIVILEGED = "helios-agent/agent"
"""The one privileged container, of overlays/csi alone."""


@pytest.fixture(params=OVERLAYS)
def documents(request: pytest.FixtureRequest, manifests: Manifests) -> list[Document]:
    """Each kustomization in turn."""
    return manifests.render(request.param)


@pytest.fixture
def csi(manifests: Manifests) -> list[Document]:
    """The one whose pods of tasks have a volume of the agent's."""
    return manifests.render("overlays/csi")


def is_csi(documents: list[Document]) -> bool:
    return bool(named(documents, "CSIDriver"))


def keeper_of(documents: list[Document]) -> tuple[Document, dict[str, Any]]:
    """What looks after each node's cache, and its container."""
    (keeper,) = named(documents, "DaemonSet")
    (container,) = keeper["spec"]["template"]["spec"]["containers"]
    return keeper, container


def named(documents: list[Document], kind: str, name: str = "") -> list[Document]:
    return [each for each in documents if each["kind"] == kind and name in ("", each["metadata"]["name"])]


def pods(documents: list[Document]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and pod spec of every workload."""
    for each in documents:
        if each["kind"] in WORKLOADS:
            yield each["metadata"]["name"], each["spec"]["template"]["spec"]


def containers(documents: list[Document]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    for name, pod in pods(documents):
        for container in (*pod.get("initContainers", ()), *pod["containers"]):
            yield f"{name}/{container['name']}", container, pod


def test_every_container_is_bounded_and_locked_down(documents: list[Document]) -> None:
    seen = 0
    for name, container, pod in containers(documents):
        seen += 1
        assert set(container["resources"]["requests"]) == {"cpu", "memory"}, name
        assert "memory" in container["resources"]["limits"], name
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert security.get("privileged", False) is (name == PRIVILEGED), name
        if name == PRIVILEGED:
            continue
        assert security["allowPrivilegeEscalation"] is False, name
        assert security["capabilities"]["drop"] == ["ALL"], name
        assert security["capabilities"].get("add", []) == (["CHOWN"] if name == "helios-cache/own" else []), name
        user = security.get("runAsUser", pod["securityContext"].get("runAsUser"))
        assert user == 0 if name == "helios-cache/own" else user > 0, name
    has_api = any(name.startswith("helios-api/") for name, _, _ in containers(documents))
    assert seen == (7 if is_csi(documents) else 8) + has_api


def test_no_pod_shares_anything_with_its_node_but_the_cache(documents: list[Document]) -> None:
    """And with kubelet, where the agent serves volumes."""
    kubelets = {f"/var/lib/kubelet/{name}" for name in ("pods", "plugins/cache.helios.dev", "plugins_registry")}
    for name, pod in pods(documents):
        assert not any(pod.get(each) for each in ("hostNetwork", "hostPID", "hostIPC")), name
        folders = {volume["hostPath"]["path"] for volume in pod.get("volumes", ()) if "hostPath" in volume}
        if name == "helios-agent":
            assert folders == {"/var/helios/cache"} | kubelets
        elif folders:
            assert name == "helios-cache"
            (folder,) = folders
            assert folder in ("/var/helios/cache", "/var/helios/cache/namespaces/helios-tasks")


def test_only_those_who_ask_the_api_server_have_a_token(documents: list[Document]) -> None:
    for name, pod in pods(documents):
        asks = name in ("helios-jobrunner", "helios-collector")
        assert pod["automountServiceAccountToken"] is asks, name
    assert all(account["automountServiceAccountToken"] is False for account in named(documents, "ServiceAccount"))


def test_images_are_pinned_short_names(documents: list[Document]) -> None:
    for name, container, _ in containers(documents):
        image, _, tag = container["image"].rpartition(":")
        assert image, f"{name}: {container['image']} has no tag"
        assert tag != "latest", name
        if not image.endswith("helios"):  # `make images` may have set that one to a registry of one's own
            assert re.search(r"\d", tag), f"{name}: {container['image']}"
            assert "." not in image.partition("/")[0], f"{name} names a registry: {image}"


def test_the_agents_image_is_the_services(documents: list[Document]) -> None:
    """One value in kustomization.yaml: the jobrunner's Jobs, the admission policy and the node's agent follow it."""
    images = {container["image"] for name, container, _ in containers(documents) if "redis" not in name}
    (jobrunner,) = named(documents, "Deployment", "helios-jobrunner")
    (policy,) = named(documents, "ValidatingAdmissionPolicy", "helios-tasks")
    environment = {
        each["name"]: each.get("value") for each in jobrunner["spec"]["template"]["spec"]["containers"][0]["env"]
    }
    image = environment["HELIOS_AGENT_IMAGE"]
    assert {each for each in images if "minio" not in each} == {image}
    if not is_csi(documents):
        expressions = {each["name"]: each["expression"] for each in policy["spec"]["variables"]}
        assert expressions["agent"] == f"'{image}'"


def test_an_upgrade_lets_the_pods_of_the_former_image_in(tmp_path: Path) -> None:
    folder = tmp_path / "k8s"
    shutil.copytree(K8S, folder)

    def name_image(tag: str) -> None:
        subprocess.run([K8S / "set-image", "registry.test/helios", tag, folder], check=True)

    name_image("1.2.3")
    name_image("1.2.4")
    name_image("1.2.4")
    (image,) = (
        each
        for each in yaml.safe_load((folder / "base/kustomization.yaml").read_text())["images"]
        if each["name"] == "helios"
    )
    (policy, *_) = yaml.safe_load_all((folder / "base/admission.yaml").read_text())
    expressions = {each["name"]: each["expression"] for each in policy["spec"]["variables"]}
    assert (image["newName"], image["newTag"]) == ("registry.test/helios", "1.2.4")
    assert expressions["replaced"] == "'registry.test/helios:1.2.3'"


RIGHTS = {
    "helios-jobrunner": {("batch", "jobs"): {"create", "get", "list", "delete"}},
    "helios-collector": {
        ("", "pods"): {"list", "watch", "patch", "delete"},
        ("", "pods/log"): {"get"},
        ("", "events"): {"list"},
        ("batch", "jobs"): {"get", "list", "watch", "delete"},
    },
    "helios-nodes": {("", "nodes"): {"list", "watch"}},
    "helios-forms": {
        ("storage.k8s.io", "csidrivers"): {"get"},
        ("storage.k8s.io", "csinodes"): {"list"},
        ("", "nodes"): {"list"},
    },
}
CLUSTER_WIDE = {"helios-nodes": "helios-collector", "helios-forms": "helios-jobrunner"}
"""ClusterRoles, and who has them."""


def test_roles_grant_what_is_listed_here_and_no_more(documents: list[Document]) -> None:
    roles = [*named(documents, "Role"), *named(documents, "ClusterRole")]
    granted = {
        role["metadata"]["name"]: {
            (group, resource): set(rule["verbs"])
            for rule in role["rules"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
        }
        for role in roles
    }
    assert granted == RIGHTS
    assert {role["metadata"]["namespace"] for role in named(documents, "Role")} == {"helios-tasks"}
    for binding in (*named(documents, "RoleBinding"), *named(documents, "ClusterRoleBinding")):
        (subject,) = binding["subjects"]
        role = binding["roleRef"]["name"]
        assert subject["name"] == CLUSTER_WIDE.get(role, role)
        assert (subject["kind"], subject["namespace"]) == ("ServiceAccount", "helios")


def test_the_doctor_asks_for_the_same_rights() -> None:
    asked: dict[str, dict[tuple[str, str], set[str]]] = {}
    for account, rights in NEEDED.items():
        for group, resource, sub, verb in rights:
            cluster_wide = next((role for role, whose in CLUSTER_WIDE.items() if whose == account))
            role = cluster_wide if resource in ("nodes", "csidrivers", "csinodes") else account
            asked.setdefault(role, {}).setdefault((group, f"{resource}/{sub}".rstrip("/")), set()).add(verb)
    assert asked == RIGHTS


def test_the_driver_is_declared_as_the_doctor_asks_for_it(csi: list[Document]) -> None:
    (driver,) = named(csi, "CSIDriver")
    assert driver["metadata"]["name"] == AGENT_DRIVER
    assert {name: driver["spec"][name] for name in WANTED} == WANTED
    assert named(csi, "Namespace", AGENTS)
    assert {(each["metadata"]["namespace"], each["metadata"]["name"]) for each in named(csi, "DaemonSet")} == {
        (AGENTS, AGENT)
    }


def test_kubelet_and_the_agent_call_its_files_by_the_same_paths(csi: list[Document]) -> None:
    """kubelet names a pod's folder by its own path, and the agent names its socket by its own. Mounts in pods' folders
    reach the node; nothing else that the agent mounts does.
    """
    (keeper,) = named(csi, "DaemonSet")
    pod = keeper["spec"]["template"]["spec"]
    (agent,) = pod["containers"]
    folders = {each["name"]: each["hostPath"]["path"] for each in pod["volumes"]}
    assert {each["name"]: each["mountPath"] for each in agent["volumeMounts"]} == folders
    (kubelet,) = (each["value"] for each in agent["env"] if each["name"] == "HELIOS_KUBELET_DIR")
    names = ("pods", f"plugins/{AGENT_DRIVER}", "plugins_registry")
    assert {f"{kubelet}/{name}" for name in names} == {path for name, path in folders.items() if name != "cache"}
    propagated = {each["name"] for each in agent["volumeMounts"] if "mountPropagation" in each}
    assert propagated == {"pods"}


def test_a_task_has_the_drivers_volume_and_the_level_does_the_rest(csi: list[Document]) -> None:
    """The cache, the agent's image and the keepers' key are no exceptions in this namespace any more."""
    (policy,) = named(csi, "ValidatingAdmissionPolicy", "helios-tasks")
    assert AGENT_DRIVER in policy["spec"]["validations"][0]["expression"]
    assert "hostPath" not in json.dumps(policy)
    assert named(csi, "ValidatingAdmissionPolicy", "helios-tasks-unchanged")
    for name in ("helios-tasks", "helios-tasks-unchanged"):
        (binding,) = named(csi, "ValidatingAdmissionPolicyBinding", name)
        selector = binding["spec"]["matchResources"]["namespaceSelector"]
        assert selector == {"matchLabels": {"kubernetes.io/metadata.name": "helios-tasks"}}


def test_namespaces_have_their_levels(documents: list[Document]) -> None:
    levels = {
        each["metadata"]["name"]: each["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
        for each in named(documents, "Namespace")
    }
    if is_csi(documents):
        assert levels == {"helios": "restricted", "helios-tasks": "restricted", AGENTS: "privileged"}
    else:
        assert levels == {"helios": "restricted", "helios-tasks": "privileged"}


def test_everything_is_in_a_namespace_of_ours(documents: list[Document]) -> None:
    cluster_wide = {
        "Namespace",
        "ClusterRole",
        "ClusterRoleBinding",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
        "CSIDriver",
    }
    ours = {each["metadata"]["name"] for each in named(documents, "Namespace")}
    for each in documents:
        where = each["metadata"].get("namespace")
        assert where is None if each["kind"] in cluster_wide else where in ours, each["kind"]


def test_every_namespace_denies_by_default_and_tasks_never_reach_redis(documents: list[Document]) -> None:
    denying = named(documents, "NetworkPolicy", "default-deny")
    assert {each["metadata"]["namespace"] for each in denying} == {
        each["metadata"]["name"] for each in named(documents, "Namespace")
    }
    for policy in denying:
        assert policy["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    of_tasks = [each for each in named(documents, "NetworkPolicy") if each["metadata"]["namespace"] == "helios-tasks"]
    (tasks,) = (each["spec"] for each in of_tasks if each["metadata"]["name"] in ("tasks", "tasks-to-names"))
    ports = sorted(port["port"] for rule in tasks["egress"] for port in rule["ports"])
    assert ports == ([53, 53] if is_csi(documents) else [53, 53, 8414, 8415, 9000])
    (guard,) = named(documents, "NetworkPolicy", "redis")
    assert "helios-tasks" not in json.dumps(guard)


def test_prometheus_alone_is_let_in_to_the_metrics_alone(manifests: Manifests) -> None:
    """The overlay adds one policy to the base's, from one kind of pod of one namespace, to one port of the services."""
    ours, base = manifests.render("overlays/monitoring"), manifests.render(".")
    names = {each["metadata"]["name"] for each in named(ours, "NetworkPolicy")}
    assert names - {each["metadata"]["name"] for each in named(base, "NetworkPolicy")} == {"prometheus-to-metrics"}
    (policy,) = named(ours, "NetworkPolicy", "prometheus-to-metrics")
    (rule,) = policy["spec"]["ingress"]
    (source,) = rule["from"]
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    assert source["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "monitoring"}
    assert source["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "prometheus"}
    assert rule["ports"] == [{"protocol": "TCP", "port": 9464}]
    for each in named(base, "NetworkPolicy"):
        assert "9464" not in json.dumps(each), each["metadata"]["name"]


def test_every_service_is_scraped_where_it_serves(manifests: Manifests) -> None:
    """Monitor, Service, port and setting of each agree."""
    ours = manifests.render("overlays/monitoring")
    for service in ("submitter", "jobrunner", "collector"):
        (monitor,) = named(ours, "ServiceMonitor", f"helios-{service}")
        (scraped,) = [
            each
            for each in named(ours, "Service")
            if monitor["spec"]["selector"]["matchLabels"].items() <= each["metadata"]["labels"].items()
        ]
        (endpoint,) = monitor["spec"]["endpoints"]
        (port,) = [each for each in scraped["spec"]["ports"] if each["name"] == endpoint["port"]]
        (deployment,) = named(ours, "Deployment", f"helios-{service}")
        template = deployment["spec"]["template"]
        assert scraped["spec"]["selector"].items() <= template["metadata"]["labels"].items()
        (container,) = template["spec"]["containers"]
        (served,) = [each for each in container["ports"] if each["name"] == port["targetPort"]]
        (bound,) = [each["value"] for each in container["env"] if each["name"] == "HELIOS_METRICS_BIND"]
        assert bound == f"0.0.0.0:{served['containerPort']}"
        assert served["containerPort"] == 9464
    (dashboard,) = [each for each in named(ours, "ConfigMap") if each["metadata"]["name"] == "helios-dashboard"]
    assert json.loads(dashboard["data"]["helios.json"])["title"] == "Helios"


def test_the_keeper_runs_on_every_node(documents: list[Document]) -> None:
    keeper, _ = keeper_of(documents)
    pod = keeper["spec"]["template"]["spec"]
    assert pod["tolerations"] == [{"operator": "Exists"}]
    assert "nodeSelector" not in pod


def test_a_keeper_reaches_its_like_the_collector_and_the_store_and_is_reached_by_tasks_only(
    documents: list[Document],
) -> None:
    """An agent by its like only: pods of tasks fetch nothing where it does."""
    keeper, _ = keeper_of(documents)
    name, where = keeper["metadata"]["name"], keeper["metadata"]["namespace"]
    (policy,) = named(documents, "NetworkPolicy", "agents" if is_csi(documents) else "cache")
    assert policy["spec"]["podSelector"] == {"matchLabels": {"app.kubernetes.io/name": name}}
    assert policy["metadata"]["namespace"] == where
    reached = {
        (target["podSelector"]["matchLabels"]["app.kubernetes.io/name"], port["port"])
        for rule in policy["spec"]["egress"]
        for target in rule["to"]
        if "podSelector" in target
        for port in rule["ports"]
    }
    assert reached == {(name, 8415), ("helios-collector", 8414), ("helios-minio", 9000)}
    (ingress,) = policy["spec"]["ingress"]
    who = {"matchLabels": {"app.kubernetes.io/name": name}} if is_csi(documents) else {}
    assert (ingress["from"], [port["port"] for port in ingress["ports"]]) == ([{"podSelector": who}], [8415])
    for server in ("helios-collector", "helios-minio"):
        guards = [
            each["spec"]
            for each in named(documents, "NetworkPolicy")
            if each["spec"]["podSelector"] == {"matchLabels": {"app.kubernetes.io/name": server}}
        ]
        sources = [source for guard in guards for rule in guard["ingress"] for source in rule["from"]]
        spaces = [each["namespaceSelector"]["matchLabels"] for each in sources if "namespaceSelector" in each]
        assert spaces == [{"kubernetes.io/metadata.name": where}]


def test_keepers_find_the_collector_where_pods_do(documents: list[Document]) -> None:
    (services,) = (
        each["data"] for each in named(documents, "ConfigMap") if "helios-settings" in each["metadata"]["name"]
    )
    (keepers,) = (each["data"] for each in named(documents, "ConfigMap") if "helios-cache" in each["metadata"]["name"])
    assert keepers["HELIOS_ENDPOINT"] == services["HELIOS_POD_ENDPOINT_URL"]


def test_every_setting_of_the_keeper_is_understood(documents: list[Document]) -> None:
    _, container = keeper_of(documents)
    (configured,) = (
        each["data"] for each in named(documents, "ConfigMap") if "helios-cache" in each["metadata"]["name"]
    )
    given = {each["name"]: each.get("value", "x") for each in container["env"]}
    read = (ROOT / "agent" / "settings.py").read_text()
    ours = [name for name in (*configured, *given) if name not in ("HELIOS_POD_IP", "MALLOC_ARENA_MAX")]
    assert [name for name in ours if f'"{name}"' not in read] == []
    environ = {name: value.replace("$(HELIOS_POD_IP)", "fd00::7") for name, value in {**configured, **given}.items()}
    settings = sync_settings(environ)
    assert settings is not None
    assert (settings.url, settings.bind) == ("http://[fd00::7]:8415", ("fd00::7", 8415))
    keep_settings(environ)


def test_the_keepers_key_is_one_and_only_keepers_and_the_collector_have_it(documents: list[Document]) -> None:
    keeper, container = keeper_of(documents)
    secrets = named(documents, "Secret", "helios-keeper")
    assert {each["metadata"]["namespace"] for each in secrets} == {"helios", keeper["metadata"]["namespace"]}
    assert len({each["data"]["HELIOS_KEEPER_KEY"] for each in secrets}) == 1
    have_it = {name for name, each, _ in containers(documents) if "helios-keeper" in json.dumps(each)}
    name = keeper["metadata"]["name"]
    assert have_it == {f"{name}/{container['name']}", "helios-collector/collector"}


def test_isolated_all_who_name_the_cache_on_the_node_name_the_namespaces_own(manifests: Manifests) -> None:
    """The keeper, what the admission policy lets in, and what the jobrunner puts into Jobs."""
    documents = manifests.render("overlays/isolated")
    (settings,) = (
        each["data"] for each in named(documents, "ConfigMap") if "helios-settings" in each["metadata"]["name"]
    )
    scoped = settings_from({name: value for name, value in settings.items() if name.startswith("HELIOS_")})
    parsed = parse_dag(
        b"{dagName: d, tasks: [{name: a, image: i, command: [x], inputs: [{uri: 's3://raw/k', as: k}]}]}"
    )
    (task,) = parsed.dag.tasks
    job = wanted_job("a-0", task, run="1-0", attempt=1, cache_enabled=True, settings=scoped, now_seconds=0)
    pod = job_manifest(job, scoped)["spec"]["template"]["spec"]
    folders = {volume["hostPath"]["path"] for volume in pod["volumes"] if "hostPath" in volume}
    own = "/var/helios/cache/namespaces/helios-tasks"
    assert folders == {own, f"{own}/views/{job.name}"}
    (keeper,) = named(documents, "DaemonSet", "helios-cache")
    (volume,) = keeper["spec"]["template"]["spec"]["volumes"]
    (policy,) = named(documents, "ValidatingAdmissionPolicy", "helios-tasks")
    expressions = {each["name"]: each["expression"] for each in policy["spec"]["variables"]}
    assert volume["hostPath"]["path"] == own
    assert expressions["folder"] == f"'{own}'"


def test_services_are_replicated_spread_and_not_all_drained_at_once(manifests: Manifests) -> None:
    documents = manifests.render()
    for service in ("helios-submitter", "helios-jobrunner", "helios-collector"):
        (deployment,) = named(documents, "Deployment", service)
        assert deployment["spec"]["replicas"] >= 2
        pod = deployment["spec"]["template"]["spec"]
        assert pod["topologySpreadConstraints"][0]["topologyKey"] == "kubernetes.io/hostname"
        assert pod["terminationGracePeriodSeconds"] >= 30
        for container in pod["containers"]:
            assert "readinessProbe" in container
            assert "livenessProbe" in container
        (budget,) = named(documents, "PodDisruptionBudget", service)
        assert budget["spec"]["selector"]["matchLabels"] == deployment["spec"]["selector"]["matchLabels"]


def test_every_setting_exists(documents: list[Document], credentials: Any) -> None:
    """A misspelt variable would be ignored without a word."""
    known = {f"HELIOS_{field.upper()}" for field in Settings.__struct_fields__}
    shared = [each for each in named(documents, "ConfigMap") if each["metadata"]["namespace"] == "helios"]
    given = {name for each in shared for name in each["data"] if "HELIOS" in name}
    for file in credentials.glob("*.env"):
        given |= {name for name in env_file(file) if name.startswith("HELIOS_")}
    for owner, container, _ in containers(documents):
        if owner.startswith(("helios-cache", "helios-agent")):
            continue  # the agent's own
        given |= {each["name"] for each in container.get("env", ()) if each["name"].startswith("HELIOS_")}
    assert given - known == set()
    assert "HELIOS_LAUNCHER" in given


def test_no_credential_is_in_a_file_that_is_committed(credentials: Any) -> None:
    secrets = [
        value
        for file in credentials.glob("*.env")
        for value in env_file(file).values()
        if not value.startswith(("redis://", "helios-")) and value != "scaler"
    ]
    assert len(secrets) >= 5
    committed = [
        path for path in K8S.rglob("*") if path.is_file() and path.suffix in ("", ".yaml", ".conf", ".acl", ".py")
    ]
    for path in committed:
        if path.parent.name == "secrets" and path.name != "kustomization.yaml":
            continue
        text = path.read_text()
        assert not re.search(r"(?i)(password|secret_?key|token_key)\s*[:=]\s*['\"]?[0-9a-f]{16}", text), path
        assert "777" not in text, path


def test_secrets_are_where_the_services_look(manifests: Manifests) -> None:
    documents = manifests.render()
    keys = {each["metadata"]["name"]: set(each["data"]) for each in named(documents, "Secret")}
    assert keys["helios-submitter"] == {"HELIOS_REDIS_URL"}
    assert keys["helios-jobrunner"] == {"HELIOS_REDIS_URL", "HELIOS_TOKEN_KEY"}
    assert keys["helios-collector"] == {
        "HELIOS_REDIS_URL",
        "HELIOS_TOKEN_KEY",
        "HELIOS_S3_ACCESS_KEY",
        "HELIOS_S3_SECRET_KEY",
    }
    for name, pod in pods(documents):
        for container in pod["containers"]:
            for source in container.get("envFrom", ()):
                if "secretRef" in source:
                    own = (name, "helios-minio") if name != "helios-collector" else (name, "helios-keeper")
                    assert source["secretRef"]["name"] in own, name


def test_redis_keeps_what_it_acknowledged(manifests: Manifests) -> None:
    (settings,) = [
        each["data"]["redis.conf"]
        for each in named(manifests.render(), "ConfigMap")
        if each["metadata"]["name"].startswith("helios-redis")
    ]
    lines = settings.splitlines()
    for line in ("appendonly yes", "appendfsync everysec", "maxmemory-policy noeviction"):
        assert line in lines
    (server,) = named(manifests.render(), "StatefulSet", "helios-redis")
    assert server["spec"]["volumeClaimTemplates"][0]["metadata"]["name"] == "data"


def test_kind_needs_one_small_node(manifests: Manifests) -> None:
    documents = manifests.render("overlays/kind")
    assert {each["spec"]["replicas"] for each in named(documents, "Deployment")} == {1}
    assert named(documents, "PodDisruptionBudget") == []


def test_another_overlay_goes_beside_csi_as_the_page_says(manifests: Manifests) -> None:
    kind = yaml.safe_load((manifests.folder / "overlays/kind/kustomization.yaml").read_text())
    own = manifests.folder / "overlays/mine"
    own.mkdir()
    (own / "kustomization.yaml").write_text(yaml.safe_dump({**kind, "resources": ["../csi"]}))
    documents = manifests.render("overlays/mine")
    made = {(each["kind"], each["metadata"]["name"]): each for each in documents}
    assert ("DaemonSet", "helios-agent") in made
    assert made["Deployment", "helios-collector"]["spec"]["replicas"] == 1


def test_components_go_beside_csi_as_the_page_says(manifests: Manifests) -> None:
    """The page's own kustomization, in the place that it names."""
    page = (ROOT / "docs/kubernetes.md").read_text().partition("## Several of them")[2]
    (written,) = re.findall(r"```yaml\n(.*?)```", page.partition("\n## ")[0], re.DOTALL)
    own = manifests.folder / "overlays/together"
    own.mkdir()
    (own / "kustomization.yaml").write_text(written.replace("k8s/", "../../"))
    documents = manifests.render("overlays/together")
    made = {(each["kind"], each["metadata"]["name"]): each for each in documents}
    assert made.keys() >= {
        *(("DaemonSet", "helios-agent"), ("Deployment", "helios-api"), ("ServiceMonitor", "helios-collector")),
        ("NetworkPolicy", "prometheus-to-metrics"),
    }
    (image,) = {
        container["image"]
        for name, pod in pods(documents)
        if name in ("helios-api", "helios-collector")
        for container in pod["containers"]
    }
    assert image.startswith("helios:")
    for each in documents:
        assert each["metadata"]["labels"]["app.kubernetes.io/part-of"] == "helios", each["metadata"]["name"]


@pytest.mark.parametrize(("overlay", "kind"), [("", "ScaledObject"), ("/hpa", "HorizontalPodAutoscaler")])
def test_whoever_scales_sets_the_number_alone(manifests: Manifests, overlay: str, kind: str) -> None:
    documents = manifests.render(f"overlays/autoscale{overlay}")
    assert all("replicas" not in each["spec"] for each in named(documents, "Deployment"))
    assert {each["metadata"]["name"] for each in named(documents, kind)} == {
        each["metadata"]["name"] for each in named(documents, "Deployment")
    }


def test_the_scaler_looks_at_streams_and_groups_that_exist(manifests: Manifests) -> None:
    from helios.keys import COLLECTOR_GROUP, JOBRUNNER_GROUP, SUBMISSIONS, SUBMITTER_GROUP, Keys

    keys = Keys(0)
    looked_at = {
        (trigger["metadata"]["stream"], trigger["metadata"]["consumerGroup"])
        for each in named(manifests.render("overlays/autoscale"), "ScaledObject")
        for trigger in each["spec"]["triggers"]
    }
    assert looked_at == {
        (SUBMISSIONS, SUBMITTER_GROUP),
        (keys.finished, SUBMITTER_GROUP),
        *((stream, JOBRUNNER_GROUP) for stream in keys.ready_streams),
        (keys.launched, COLLECTOR_GROUP),
        (keys.settled, COLLECTOR_GROUP),
    }
