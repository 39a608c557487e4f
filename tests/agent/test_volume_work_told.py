"""What the agent does for a volume and what the collector makes of it: the real endpoint over HTTP."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from waitress.server import create_server

from agent import volume_work
from agent.logs import Log
from agent.settings import Attempt
from agent.volume_work import Shared, VolumeTask, bring, look_ahead, report_failure
from agent.web import Web
from helios.dag import parse_dag
from helios.records import decode_attempt
from helios.transitions import commit_one
from services.collector.endpoint import PodEndpoint
from services.collector.store import Store
from services.submitter.accept import open_calls
from tests.agent.conftest import ObjectStore, wait_until
from tests.services.pod_calls import SETTINGS, attempt_token
from tests.stage import RUN, Stage

DAG = b"""
dagName: d
tasks:
  - {name: a, image: i, command: [x], inputs: [{uri: "s3://bucket/in", as: in}], outputs: [o]}
  - {name: plain, image: i, command: [x]}
"""


class Cluster:
    """A node and its collector."""

    def __init__(self, client: redis.Redis, objects: ObjectStore, folder: Path) -> None:
        self.stage = Stage(client)
        for call in open_calls(self.stage.keys, RUN, parse_dag(DAG), None):
            commit_one(client, call)
        settings = msgspec.structs.replace(SETTINGS, s3_endpoint=f"http://127.0.0.1:{objects.port}")
        endpoint = PodEndpoint(client, Store(settings), settings)
        self.server: Any = create_server(endpoint, host="127.0.0.1", port=0)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        self.folder = folder
        self.web, self.shared, self.printed = Web(), Shared(), list[bytes]()
        self.log = Log(self.printed.append)

    def close(self) -> None:
        """In the server's own thread, which ends when no connection is left."""
        self.server.trigger.pull_trigger(self.server.close)
        self.web.close()
        self.thread.join(60)

    def volume(self, task: str, inputs: int = 0, outputs: int = 0) -> VolumeTask:
        """Of a task whose Job was just made."""
        self.stage.launch(task)
        for name in ("artifacts", "control", "state"):
            (self.folder / task / name).mkdir(parents=True)
        url = f"http://127.0.0.1:{self.server.effective_port}"
        return VolumeTask(
            attempt=Attempt(url, attempt_token(task), RUN, task, 1, f"pod-{task}", "n1", 20.0),
            job=f"job-{task}-1",
            cache_dir=str(self.folder / "cache"),
            cache_enabled=True,
            artifacts=str(self.folder / task / "artifacts"),
            control_dir=str(self.folder / task / "control"),
            state_dir=str(self.folder / task / "state"),
            user=os.getuid(),
            inputs=inputs,
            outputs=outputs,
            parallel=4,
            compress=True,
            lib_dir=None,
            limit_bytes=0,
        )

    def end(self, task: str, record: str = '{"exitCode": 0}') -> None:
        for name, text in (("lock", ""), ("started", ""), ("exit", record)):
            (self.folder / task / "control" / name).write_text(text)

    def lines(self, task: str, step: str) -> list[str]:
        found: Any = self.stage.client.xrange(self.stage.keys.log(RUN, task, 1, step))
        return [fields["line"] for _, fields in found]

    def record(self, task: str) -> Any:
        return decode_attempt(self.stage.task(task)["record"])


@pytest.fixture
def cluster(client: redis.Redis, store: ObjectStore, tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(client, store, tmp_path)
    yield made
    made.close()


def test_a_task_with_inputs_and_outputs_ends_well(cluster: Cluster, store: ObjectStore) -> None:
    store.put("bucket/in", b"in")
    task = cluster.volume("a", inputs=1, outputs=1)
    manifest = bring(task, cluster.log, cluster.web, None, cluster.shared)
    assert (manifest["ok"], manifest["causes"]) == (True, {"never-here": 1})
    (cluster.folder / "a/artifacts/o").write_bytes(b"made")
    cluster.end("a")
    ahead = look_ahead(task, cluster.log, cluster.web)
    outcome = volume_work.store(task, cluster.log, cluster.web, ahead, cluster.shared)
    assert (outcome.told, cluster.stage.status("a")) == ("committed", "SUCCEEDED")
    assert store.objects[f"helios/runs/{RUN}/a/1/pod-a/o"] == b"made"
    record = cluster.record("a")
    assert [(each.name, each.bytes) for each in record.outputs] == [("o", 4)]
    assert (record.cache, record.cacheMissBytes) == ("Miss", 2)
    assert cluster.lines("a", "publish") == [
        "[HELIOS] Stored output 'o', 4 bytes",
        "[HELIOS] Task ended with exit code 0",
    ]
    wait_until(lambda: len(cluster.lines("a", "fetch")) == 5, "fetch's lines are there")
    assert cluster.lines("a", "fetch")[3] == "[HELIOS] Input 'in': miss never-here, 2 bytes"


def test_a_failed_fetch_ends_the_attempt_with_its_reason_at_once(cluster: Cluster) -> None:
    task = cluster.volume("a", inputs=1, outputs=1)
    manifest = bring(task, cluster.log, cluster.web, None, cluster.shared)
    error = "input 'in': no object at s3://bucket/in"
    assert (manifest["ok"], manifest["error"]) == (False, error)
    assert report_failure(task, cluster.log, cluster.web, error) == "committed"
    assert (cluster.stage.status("a"), cluster.record("a").reason) == ("FAILED", error)
    wait_until(lambda: f"[HELIOS] Error: {error}" in cluster.lines("a", "fetch"), "its log says why, too")
    assert report_failure(task, cluster.log, cluster.web, error) == "stale"


def test_a_task_that_failed_is_kept_until_its_pod_says_more(cluster: Cluster) -> None:
    task = cluster.volume("plain")
    assert bring(task, cluster.log, cluster.web, None, cluster.shared)["ok"]
    cluster.end("plain", '{"exitCode": 3}')
    assert volume_work.store(task, cluster.log, cluster.web, None, cluster.shared).told == "recorded"
    assert cluster.stage.status("plain") == "RUNNING"
