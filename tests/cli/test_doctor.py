"""To whom `helios doctor` goes: the cluster, servers of one's own, or the embedded stack."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.checkup import Finding
from cli.commands import doctor
from cli.commands.doctor import examine
from tests.cli.clusters import Cluster, kubeconfig, served
from tests.cli.command import Helios

pytest.importorskip("kubernetes")


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def named(cluster: Cluster, tmp_path: Path) -> Iterator[Path]:
    """KUBECONFIG of a cluster that has a Helios."""
    with served(cluster, tmp_path) as file:
        yield file


@pytest.fixture
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No server is named, and what looks at the embedded stack says so instead of starting it."""
    for name in ("HELIOS_REDIS_URL", "KUBECONFIG", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(doctor, "examine_embedded", lambda: iter([Finding("embedded stack", True, "looked at")]))
    yield


def checks(cluster: bool | None = None) -> dict[str, Finding]:
    return {each.check: each for each in examine(cluster)}


def forget_helios(cluster: Cluster) -> None:
    for name in ("helios", "helios-tasks"):
        del cluster.documents[f"/api/v1/namespaces/{name}"]


def test_the_step_of_the_installation_checks_the_cluster_and_starts_nothing(named: Path, tmp_path: Path) -> None:
    """`KUBECONFIG=… helios doctor`, as docs/kubernetes.md has it, before anybody knows HELIOS_REDIS_URL."""
    helios = Helios(tmp_path, {"HELIOS_HOME": str(tmp_path / "home")})
    helios.environ["KUBECONFIG"] = str(named)
    done = helios("doctor", "-o", "json")
    found = {each["check"]: each for each in done.json()}
    assert done.code == 0
    assert found["image of helios-collector"]["ok"]
    assert found["redis"]["detail"] == "not looked at: HELIOS_REDIS_URL is not set"
    assert "port-forward svc/helios-redis" in done.err
    assert not (tmp_path / "home").exists()


def test_a_redis_that_is_down_does_not_hide_the_cluster(named: Path, helios: Helios, cluster: Cluster) -> None:
    cluster.keeper["status"]["numberReady"] = 1
    helios.environ["KUBECONFIG"] = str(named)
    helios.environ["HELIOS_S3_ENDPOINT"] = "http://127.0.0.1:1"
    done = helios("doctor", "-o", "json")
    found = {each["check"]: each for each in done.json()}
    assert done.code == 3
    assert not found["redis"]["ok"]
    assert found["helios-collector"]["ok"]
    assert not found["node caches"]["ok"]


@pytest.mark.usefixtures("nobody")
def test_a_cluster_for_other_work_leaves_local_mode_as_it_is(
    named: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_helios(cluster)
    monkeypatch.setenv("KUBECONFIG", str(named))
    found = checks()
    assert list(found) == ["kubernetes", "embedded stack"]
    assert all(each.ok for each in found.values())


@pytest.mark.usefixtures("nobody")
def test_a_cluster_that_is_away_leaves_local_mode_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, 1)))
    found = checks()
    assert list(found) == ["kubernetes", "embedded stack"]
    assert found["kubernetes"].ok
    assert "not looked at" in found["kubernetes"].detail


@pytest.mark.usefixtures("nobody")
def test_whoever_asks_for_the_cluster_gets_it_or_a_fault(
    named: Path, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_helios(cluster)
    monkeypatch.setenv("KUBECONFIG", str(named))
    assert [(each.check, each.ok) for each in examine(True)] == [("kubernetes", False)]
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "missing"))
    assert [(each.check, each.ok) for each in examine(True)] == [("kubernetes", False)]


@pytest.mark.usefixtures("nobody")
def test_a_cluster_can_be_left_out(named: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(named))
    assert list(checks(False)) == ["embedded stack"]


@pytest.mark.usefixtures("nobody")
def test_without_a_cluster_it_is_the_embedded_stack() -> None:
    assert list(checks()) == ["embedded stack"]


def test_heartbeats_are_held_against_the_pods(
    named: Path, cluster: Cluster, helios: Helios, shared_valkey: Any, valkey: Any
) -> None:
    """An image that was built as something else is seen only with both at hand."""
    from helios.keys import heartbeat
    from tests.cli.clusters import beat

    told: dict[Any, Any] = {**beat("collector", "helios-collector-a", "0.0.9")}
    valkey.hset(heartbeat("collector", "helios-collector-a"), mapping=told)
    helios.environ.update(HELIOS_REDIS_URL=shared_valkey.url, KUBECONFIG=str(named))
    found = {each["check"]: each for each in helios("doctor", "-o", "json").json()}
    assert "built as 0.0.9" in found["image of helios-collector"]["detail"]
