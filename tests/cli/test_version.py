"""`helios version --services` joins what replicas tell of themselves with what the cluster knows of their pods."""

from pathlib import Path
from typing import Any

import pytest
import redis

from cli.cluster_pods import read_workloads
from cli.commands.version import joined
from helios.keys import heartbeat
from helios.version import VERSION
from tests.cli.clusters import IMAGE, Cluster, beat, beats, served
from tests.cli.command import Helios
from tests.redis_servers import Valkey

DIGEST = f"sha256:{'ab' * 6}"


@pytest.fixture
def reaching(tmp_path: Path, shared_valkey: Valkey, valkey: redis.Redis) -> Helios:
    """The command with a Redis in which every pod of the services has a heartbeat."""
    for each in beats():
        fields: dict[Any, Any] = {**each}
        valkey.hset(heartbeat(each["service"], each["replica"]), mapping=fields)
    return Helios(tmp_path, {"HELIOS_REDIS_URL": shared_valkey.url})


def test_heartbeats_and_pods_are_joined_by_the_pods_name() -> None:
    told = [*(each for each in beats() if each["replica"] != "helios-collector-b"), beat("submitter", "laptop", "")]
    rows = {row["replica"]: row for row in joined(told, list(read_workloads(Cluster(), "helios-tasks")))}
    assert len(rows) == 9
    assert rows["helios-jobrunner-a"] == {
        "service": "jobrunner",
        "replica": "helios-jobrunner-a",
        "version": "0.1.0",
        "image": "0.1.0",
        "podImage": IMAGE,
        "digest": DIGEST,
    }
    silent, keeper, laptop = rows["helios-collector-b"], rows["helios-cache-a"], rows["laptop"]
    assert (silent["service"], silent["version"], silent["podImage"]) == ("collector", None, IMAGE)
    assert (keeper["service"], keeper["version"], keeper["digest"]) == ("cache", None, DIGEST)
    assert (laptop["version"], laptop["image"], laptop["podImage"]) == ("0.1.0", None, None)


def test_an_older_replica_that_tells_no_image_is_shown_without() -> None:
    old = {name: text for name, text in beat("submitter", "r").items() if name != "image"}
    assert joined([old], [])[0]["image"] is None


def test_the_table_is_headed_by_the_commands_own_version(reaching: Helios) -> None:
    lines = reaching("version", "--services").out.splitlines()
    assert lines[0] == VERSION
    assert lines[1].split() == ["SERVICE", "REPLICA", "VERSION", "IMAGE"]
    assert lines[2].split() == ["collector", "helios-collector-a", "0.1.0", "0.1.0"]
    assert len(lines) == 8


def test_with_a_cluster_the_pods_are_in_it_too(reaching: Helios, tmp_path: Path) -> None:
    pytest.importorskip("kubernetes")
    with served(Cluster(), tmp_path) as kubeconfig:
        reaching.environ["KUBECONFIG"] = str(kubeconfig)
        lines = reaching("version", "--services").out.splitlines()
        document = reaching("version", "--services", "-o", "json").json()
    assert lines[1].split() == ["SERVICE", "REPLICA", "VERSION", "IMAGE", "POD", "IMAGE", "DIGEST"]
    assert lines[2].split() == ["cache", "helios-cache-a", IMAGE, DIGEST]
    assert lines[4].split() == ["collector", "helios-collector-a", "0.1.0", "0.1.0", IMAGE, DIGEST]
    assert document["version"] == VERSION
    assert [row["service"] for row in document["services"][:3]] == ["cache", "cache", "collector"]


def test_a_cluster_that_does_not_answer_is_said_and_left_out(reaching: Helios) -> None:
    reaching.environ["KUBECONFIG"] = "/nowhere"
    done = reaching("version", "--services")
    assert done.code == 0
    assert len(done.out.splitlines()) == 8
    assert "the cluster is not looked at" in done.err


def test_nothing_is_started_to_be_asked_for_its_version(tmp_path: Path) -> None:
    done = Helios(tmp_path, {"HELIOS_HOME": str(tmp_path / "home")})("version", "--services")
    assert done.code == 2
    assert done.out == ""
    assert "HELIOS_REDIS_URL" in done.err
    assert not (tmp_path / "home").exists()


def test_the_version_alone_needs_nobody(helios: Helios) -> None:
    assert helios("version", "-o", "json").json() == {"version": VERSION}
