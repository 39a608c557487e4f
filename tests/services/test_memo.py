"""Memoized tasks through all services, over a real Valkey and a real S3; only their pods are made up."""

import hashlib
import io
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import msgspec
import pytest
import redis
from minio.error import S3Error

from helios.dag import parse_dag
from helios.events import Producer, TaskEnded
from helios.keys import COLLECTOR_GROUP, JOBRUNNER_GROUP, SUBMITTER_GROUP, Keys, image_known, memo, source_known
from helios.localjobs import PodStatus
from helios.memo import MemoCheck, claim_of, decode_check, memo_of
from helios.podwire import FetchedInput, FetchManifest, Report, SourceKnown, Stored, StoredOutput
from helios.records import decode_attempt, read_tasks
from helios.settings import Settings
from helios.streams import Inbox
from helios.tokens import TOKEN_SECONDS, Attempt
from helios.transitions import cancel_run, commit, commit_one, unskip
from helios.worker import Failure, Later
from services.collector import skip
from services.collector.collect import Collector
from services.collector.endpoint import PodEndpoint
from services.collector.metrics import disagreements, fold
from services.collector.skip import Skipper
from services.collector.store import ObjectHead, Store
from services.jobrunner.jobs import job_name
from services.jobrunner.launch import JobRunner
from services.submitter.accept import open_calls
from services.submitter.settle import Settler
from tests.real_s3 import RealS3
from tests.redis_servers import free_port
from tests.services.test_collect import FakePods
from tests.services.test_jobrunner import Launcher

KEYS = Keys(0)
BUCKET = "corpora"


def dag(**changes: Any) -> dict[str, Any]:
    task = {"name": "a", "image": "tool:1", "command": ["make", "it"], "outputs": ["o"], "memoize": True, **changes}
    return {"dagName": "d", "tasks": [task]}


class Pods(FakePods):
    """A Job that was created has a pod, which is not seen yet until the test says more."""

    def __init__(self, jobs: Launcher) -> None:
        super().__init__()
        self.jobs = jobs

    def statuses(self, jobs: Iterable[str]) -> dict[str, PodStatus | None]:
        return {job: self.found.get(job) for job in jobs if job in self.jobs.created}


class Town:
    """All services in this process, each batch handled by the function that its loop calls."""

    def __init__(self, client: redis.Redis, endpoint: str, launcher: str = "local") -> None:
        self.client = client
        self.settings = Settings(
            launcher=launcher,
            lease_seconds=600,
            token_key="k",
            s3_endpoint=f"http://{endpoint}",
            s3_access_key="helios",
            s3_secret_key="helios-secret",
            s3_bucket=BUCKET,
        )
        self.store = Store(self.settings)
        self.jobs = Launcher()
        self.pods = Pods(self.jobs)
        self.runner = JobRunner(client, self.jobs, self.settings)
        self.endpoint = PodEndpoint(client, self.store, self.settings)
        self.skipper = Skipper(client, self.store, self.settings)
        self.ready = self.inbox(JOBRUNNER_GROUP, KEYS.ready)
        self.checks = self.inbox(COLLECTOR_GROUP, KEYS.checks)
        self.launched = self.inbox(COLLECTOR_GROUP, KEYS.launched, KEYS.settled)
        self.finished = self.inbox(SUBMITTER_GROUP, KEYS.finished)
        self.collector = Collector(client, self.launched, self.pods, self.settings)
        self.settler = Settler(client, 1)
        self.runs = 0

    def inbox(self, group: str, *streams: str) -> Inbox:
        return Inbox(self.client, group=group, consumer="one", streams=streams, batch_entries=100, lease_seconds=600)

    def submit(self, document: Mapping[str, Any], *, memoize: bool | None = None) -> str:
        self.runs += 1
        run = f"{1764027260123 + self.runs}-0"
        for call in open_calls(KEYS, run, parse_dag(msgspec.json.encode(document)), None, memoize):
            commit_one(self.client, call)
        self.pump()
        return run

    def pump(self) -> list[Failure]:
        """Let every service handle what is there until nothing moves; returns what is put off."""
        waiting: list[Failure] = []
        while True:
            moved = False
            for inbox, handle in (
                (self.ready, self.runner.launch),
                (self.checks, self.skipper.handle),
                (self.launched, self.collector.handle),
                (self.finished, self.settler.handle),
            ):
                entries = inbox.read(1)
                if entries:
                    failures = list(handle(entries))
                    assert all(isinstance(each.error, Later) for each in failures), [
                        str(each.error) for each in failures
                    ]
                    waiting += failures
                    moved = True
            self.collector.turn()
            if not moved:
                return waiting

    def look_again(self) -> list[Failure]:
        """What was put off, handled once more, without the wait in between."""
        self.checks.history_unread = True
        return self.pump()

    def is_running(self, run: str, task: str = "a", attempt: int = 1) -> bool:
        return job_name(run, task, attempt) in self.jobs.created and self.status(run, task) == "RUNNING"

    def status(self, run: str, task: str = "a") -> str | None:
        found: Any = self.client.hget(KEYS.task(run, task), "status")
        return found

    def task(self, run: str, task: str = "a") -> dict[str, str]:
        found: Any = self.client.hgetall(KEYS.task(run, task))
        return found

    def run(self, run: str) -> dict[str, str]:
        found: Any = self.client.hgetall(KEYS.run(run))
        return found

    def check(self, run: str, task: str = "a") -> MemoCheck:
        found = decode_check(self.task(run, task).get("memo"))
        assert found is not None
        return found

    def finish(
        self,
        run: str,
        task: str = "a",
        *,
        outputs: Mapping[str, bytes] | None = None,
        fetched: Mapping[str, str] | None = None,
        attempt: int = 1,
        image: str = "",
    ) -> None:
        """The pod stores its outputs, reports and is over; `fetched` are the digests of its inputs."""
        self.report(run, task, outputs={"o": b"made"} if outputs is None else outputs, fetched=fetched, attempt=attempt)
        self.wrap_up(run, task, attempt=attempt, image=image)

    def report(
        self, run: str, task: str, *, outputs: Mapping[str, bytes], fetched: Mapping[str, str] | None, attempt: int = 1
    ) -> None:
        stored: list[StoredOutput] = []
        for name, content in outputs.items():
            key = f"runs/{run}/{task}/{attempt}/u/{name}"
            self.store.client.put_object(BUCKET, key, io.BytesIO(content), len(content))
            digest = hashlib.sha256(content).hexdigest()
            stored.append(StoredOutput(name=name, key=key, bytes=len(content), sha256=digest))
        inputs = [
            FetchedInput(name=name, bytes=1, hit=False, cause="never-here", sha256=digest)
            for name, digest in (fetched or {}).items()
        ]
        fetch = FetchManifest(ok=True, hits=0, misses=len(inputs), hitBytes=0, missBytes=len(inputs), inputs=inputs)
        report = Report(run=run, task=task, attempt=attempt, podUid="u", exitCode=0, outputs=stored, fetch=fetch)
        named = Attempt(run=run, task=task, attempt=attempt, expires=TOKEN_SECONDS)
        assert self.endpoint.result(named, report).status == "committed"

    def wrap_up(
        self, run: str, task: str = "a", *, attempt: int = 1, phase: str = "Succeeded", image: str = ""
    ) -> None:
        self.pods.over(job_name(run, task, attempt), phase, image=image)
        self.pump()

    def ran(self, document: Mapping[str, Any], **options: Any) -> str:
        """A run whose one task runs to its end."""
        run = self.submit(document)
        assert self.is_running(run), self.task(run)
        self.finish(run, **options)
        assert self.run(run)["status"] == "SUCCEEDED"
        return run

    def skipped(self, document: Mapping[str, Any], by: str) -> str:
        """A run whose one task is skipped by the success of the run `by`."""
        run = self.submit(document)
        assert decode_attempt(self.task(run)["record"]).skipped == Producer(by, "a"), self.task(run)
        assert self.run(run)["status"] == "SUCCEEDED"
        return run


@pytest.fixture
def town(valkey: redis.Redis, real_s3: RealS3) -> Iterator[Town]:
    made = Town(valkey, real_s3.endpoint)
    yield made
    made.skipper.close()


@pytest.fixture
def cluster(valkey: redis.Redis, real_s3: RealS3) -> Iterator[Town]:
    made = Town(valkey, real_s3.endpoint, "kubernetes")
    yield made
    made.skipper.close()


def test_the_second_run_of_an_unchanged_task_is_skipped_and_names_the_first(town: Town) -> None:
    first = town.ran(dag())
    second = town.skipped(dag(), by=first)
    assert town.jobs.created == [job_name(first, "a", 1)]
    (view,) = read_tasks(town.client, KEYS, second, ["a"])
    assert (view.status, view.skipped, view.cache, view.cacheMissBytes) == ("SUCCEEDED", Producer(first, "a"), "N/A", 0)
    assert [each.key for each in view.outputs] == [f"runs/{first}/a/1/u/o"]
    fields = town.run(second)
    assert (fields["taskSkipped"], fields["taskSucceeded"], town.run(first)["taskSkipped"]) == ("1", "1", "0")
    assert disagreements(fields, fold([view], fields)) == {}
    events = [msgspec.json.decode(text["event"]) for _, text in town.client.xrange(KEYS.events)]
    ended = [each for each in events if each["run"] == second and each["type"] == TaskEnded.__name__]
    assert [each["skipped"] for each in ended] == [{"run": first, "task": "a"}]
    assert town.check(second).parts == town.check(first).parts


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"command": ["make", "that"]}, "command"),
        ({"args": ["x"]}, "args"),
        ({"image": "tool:2"}, "image"),
        ({"env": {"A": "2"}}, "env A"),
        ({"env": {"A": {"secret": "s", "key": "1"}}}, "env A"),
        ({"env": {}}, "env A"),
        ({"outputs": ["o", "p"]}, "outputs"),
    ],
)
def test_whatever_changes_the_work_makes_it_run(town: Town, changes: dict[str, Any], part: str) -> None:
    first = town.ran(dag(env={"A": "1"}))
    run = town.submit(dag(**{"env": {"A": "1"}, **changes}))
    assert town.is_running(run)
    ours, theirs = town.check(run).parts, town.check(first).parts
    assert {name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)} == {part}
    assert town.check(run).why.startswith("no success")


def test_where_and_how_long_a_task_runs_is_no_part_of_its_work(town: Town) -> None:
    first = town.ran(dag())
    town.skipped(dag(resources={"requests": {"cpu": 1}}, timeoutSeconds=9, nodeSelector={"a": "b"}), by=first)


def test_another_tasks_output_counts_by_its_content(town: Town) -> None:
    chain = {
        "dagName": "d",
        "tasks": [
            {"name": "up", "image": "t", "command": ["x"], "outputs": ["o"]},
            dag(inputs=[{"fromTask": "up", "name": "o", "as": "i"}], outputs=["p"])["tasks"][0],
        ],
    }
    first, second, third = (town.submit(chain) for _ in range(3))
    town.finish(first, "up", outputs={"o": b"one"})
    town.finish(first, "a", outputs={"p": b"made"}, fetched={"i": "0" * 64})
    town.finish(second, "up", outputs={"o": b"one"})
    assert decode_attempt(town.task(second)["record"]).skipped == Producer(first, "a")
    town.finish(third, "up", outputs={"o": b"two"})
    assert town.is_running(third)


def put_source(town: Town, content: bytes) -> str:
    """An object that no task makes, and what a node told of it when it brought it."""
    digest = hashlib.sha256(content).hexdigest()
    town.store.client.put_object(BUCKET, "in.csv", io.BytesIO(content), len(content))
    head = town.store.head(BUCKET, "in.csv")
    assert head is not None
    known = SourceKnown(version=head.version, bytes=head.bytes, sha256=digest)
    town.client.set(source_known(town.store.source(BUCKET, "in.csv")), msgspec.json.encode(known))
    return digest


def test_an_external_input_counts_by_the_content_of_the_version_that_is_there(town: Town) -> None:
    """A version that no node ever brought is not known: the task runs, and is remembered by what was fetched."""
    document = dag(inputs=[{"uri": f"s3://{BUCKET}/in.csv"}])
    digest = put_source(town, b"one")
    source = source_known(town.store.source(BUCKET, "in.csv"))
    known = town.client.getdel(source)
    first = town.submit(document)
    assert town.check(first).why == "the digest of input 'in.csv' is not known"
    town.finish(first, fetched={"in.csv": digest})
    town.client.set(source, known)
    town.skipped(document, by=first)
    changed = put_source(town, b"two")
    second = town.submit(document)
    town.finish(second, fetched={"in.csv": changed})
    town.store.client.put_object(BUCKET, "in.csv", io.BytesIO(b"six"), 3)
    third = town.submit(document)
    assert town.check(third).why == "the digest of input 'in.csv' is not known"
    assert put_source(town, b"two") == changed
    town.skipped(document, by=second)
    town.store.client.remove_object(BUCKET, "in.csv")
    assert town.is_running(town.submit(document))


def test_a_store_that_is_slow_to_show_inputs_makes_the_task_run(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else its entry would be kept beyond the lease, and be looked at by every collector in turn."""
    monkeypatch.setattr(skip, "HEADS_SECONDS", 0.1)
    names = [f"{number}.csv" for number in range(40)]
    shown = threading.Event()

    class Slow(Store):
        def head(self, bucket: str, key: str) -> ObjectHead | None:
            shown.wait(60)
            return super().head(bucket, key)

    town.skipper.store = Slow(town.settings)
    began = time.monotonic()
    run = town.submit(dag(inputs=[{"uri": f"s3://{BUCKET}/{name}"} for name in names]))
    assert town.is_running(run)
    took = time.monotonic() - began
    shown.set()
    assert took < 30
    assert town.check(run).why == "the object store takes too long to show the task's inputs"


def test_a_run_without_memoize_runs_everything_and_is_remembered(town: Town) -> None:
    town.ran(dag())
    again = town.submit(dag(), memoize=False)
    assert town.is_running(again)
    assert town.run(again)["memoize"] == "false"
    town.finish(again)
    town.skipped(dag(), by=again)


def test_a_success_older_than_max_age_does_not_count(town: Town) -> None:
    first = town.ran(dag())
    key = memo(town.check(first).key or "")
    old = int(town.client.hget(key, "at")) - 3_600_000
    town.client.hset(key, "at", old)
    town.skipped(dag(memoize={"maxAge": "2h"}), by=first)
    young = town.submit(dag(memoize={"maxAge": "59m"}))
    assert town.is_running(young)
    assert town.check(young).why == f"the success of run {first} is older than maxAge"
    town.finish(young)
    town.skipped(dag(memoize={"maxAge": "59m"}), by=young)


def test_of_identical_tasks_at_the_same_time_one_runs_and_the_others_wait_for_it(town: Town) -> None:
    runs = [town.submit(dag()) for _ in range(4)]
    assert [town.is_running(run) for run in runs] == [True, False, False, False]
    assert len(town.look_again()) == 3
    (view,) = read_tasks(town.client, KEYS, runs[2], ["a"])
    assert (view.status, view.reason) == ("QUEUED", f"waits for run {runs[0]} task a, which does the same work")
    town.finish(runs[0])
    town.look_again()
    assert [decode_attempt(town.task(run)["record"]).skipped for run in runs[1:]] == [Producer(runs[0], "a")] * 3
    assert {town.run(run)["status"] for run in runs} == {"SUCCEEDED"}
    assert len(town.jobs.created) == 1


def test_those_that_wait_hold_no_place_of_a_job(town: Town) -> None:
    """Else a house full of them would keep out the very Job that they wait for."""
    for _ in range(3):
        town.submit(dag())
    assert (town.client.xlen(KEYS.launched), town.client.xlen(KEYS.checks)) == (1, 2)


@pytest.mark.parametrize("how", ["failed", "cancelled", "retried", "forgotten"])
def test_when_the_one_that_runs_comes_to_nothing_the_next_takes_over(town: Town, how: str) -> None:
    first = town.submit(dag(retries={"count": 1} if how == "retried" else {"count": 0}))
    second = town.submit(dag())
    if how == "cancelled":
        commit(town.client, cancel_run(KEYS, run=first, tasks=["a"]))
    elif how == "forgotten":
        town.client.delete(KEYS.task(first, "a"), KEYS.run(first))
    else:
        town.wrap_up(first, phase="Failed")
    town.look_again()
    assert town.is_running(second)
    if how == "retried":
        assert town.task(first)["attempt"] == "2"
        assert town.status(first) == "QUEUED"
    town.finish(second)
    town.look_again()
    if how == "retried":
        assert decode_attempt(town.task(first)["record"]).skipped == Producer(second, "a")
    third = town.skipped(dag(), by=second)
    assert town.run(third)["taskSkipped"] == "1"


def test_a_run_that_waits_can_be_cancelled(town: Town) -> None:
    first, second = town.submit(dag()), town.submit(dag())
    assert town.status(second) == "QUEUED"
    commit(town.client, cancel_run(KEYS, run=second, tasks=["a"]))
    town.look_again()
    assert town.run(second)["status"] == "CANCELLED"
    assert town.client.xlen(KEYS.checks) == 0
    town.finish(first)
    assert town.run(first)["status"] == "SUCCEEDED"


def test_a_compressed_output_is_there_when_its_object_has_the_compressed_size(town: Town) -> None:
    first = town.submit(dag())
    key = f"runs/{first}/a/1/u/o"
    town.store.client.put_object(BUCKET, key, io.BytesIO(b"packed"), 6)
    output = StoredOutput(name="o", key=key, bytes=99, sha256="0" * 64, stored=Stored(codec="zstd", bytes=6))
    fetch = FetchManifest(ok=True, hits=0, misses=0, hitBytes=0, missBytes=0, inputs=[])
    report = Report(run=first, task="a", attempt=1, podUid="u", exitCode=0, outputs=[output], fetch=fetch)
    assert town.endpoint.result(Attempt(run=first, task="a", attempt=1, expires=0), report).status == "committed"
    town.wrap_up(first)
    second = town.skipped(dag(), by=first)
    (view,) = read_tasks(town.client, KEYS, second, ["a"])
    assert view.outputs[0].stored == Stored(codec="zstd", bytes=6)


def test_a_success_that_is_used_is_remembered_anew(town: Town) -> None:
    """Its outputs are the skipped task's from then on: nobody may delete them before that task's record names them."""
    first = town.ran(dag())
    key = memo(town.check(first).key or "")
    town.client.expire(key, 60)
    town.skipped(dag(), by=first)
    assert town.client.ttl(key) > 80 * 86_400


def test_a_success_that_is_forgotten_while_its_outputs_are_looked_for_is_not_used(town: Town) -> None:
    """They may be on their way out of the store by then."""
    first = town.ran(dag())
    key = memo(town.check(first).key or "")

    class Slow(Store):
        def head(self, bucket: str, key_of_object: str) -> ObjectHead | None:
            town.client.delete(key)
            return super().head(bucket, key_of_object)

    town.skipper.store = Slow(town.settings)
    second = town.submit(dag())
    town.look_again()
    assert town.is_running(second)


@pytest.mark.parametrize("how", ["removed", "another size"])
def test_outputs_are_looked_for_and_without_them_the_task_runs(town: Town, how: str) -> None:
    first = town.ran(dag())
    name = f"runs/{first}/a/1/u/o"
    if how == "removed":
        town.store.client.remove_object(BUCKET, name)
    else:
        town.store.client.put_object(BUCKET, name, io.BytesIO(b"tampered"), 8)
    second = town.submit(dag())
    assert town.is_running(second)
    assert "output 'o'" in town.check(second).why
    town.finish(second)
    town.skipped(dag(), by=second)


def test_verify_finds_a_task_whose_outputs_differ_and_nothing_is_skipped_by_it_any_more(town: Town) -> None:
    first = town.ran(dag())
    verified = town.submit(dag(memoize={"verify": 1}))
    assert town.is_running(verified)
    town.finish(verified, outputs={"o": b"made otherwise"})
    assert f"made other outputs than in run {first}" in town.run(verified)["warnings"]
    for _ in range(2):
        later = town.submit(dag())
        assert town.is_running(later), "each runs at once: nobody waits for another"
        assert town.check(later).why.startswith("quarantined: ")
    town.finish(later)
    assert memo_of(town.client.hgetall(memo(town.check(first).key or ""))).state == "quarantined"


def test_verify_that_finds_the_same_outputs_remembers_the_newer_success(town: Town) -> None:
    town.ran(dag())
    verified = town.ran(dag(memoize={"verify": 1}))
    assert "made other outputs" not in town.run(verified).get("warnings", "")
    town.skipped(dag(), by=verified)


def test_on_kubernetes_a_tag_counts_as_the_image_that_last_ran_under_it(cluster: Town) -> None:
    one, two = "sha256:" + "1" * 64, "sha256:" + "2" * 64
    first = cluster.submit(dag())
    assert cluster.check(first).why == "which image its tag stands for is not known: none ran under it"
    cluster.finish(first, image=one)
    assert cluster.client.get(image_known("tool:1")) == one
    cluster.skipped(dag(), by=first)
    cluster.skipped(dag(image=f"elsewhere/tool@{one}"), by=first)
    other = cluster.submit(dag(command=["other"]))
    cluster.finish(other, image=two)
    assert cluster.is_running(cluster.submit(dag())), "the tag has moved"


def test_a_success_of_an_image_that_nobody_reported_is_not_remembered(cluster: Town) -> None:
    cluster.ran(dag())
    assert [key for key in cluster.client.scan_iter("helios:memo:*") if cluster.client.hget(key, "state")] == []


def test_a_store_that_is_away_puts_the_look_off_and_nothing_is_decided(town: Town) -> None:
    first = town.ran(dag())
    town.skipper.store = Store(msgspec.structs.replace(town.settings, s3_endpoint=f"http://127.0.0.1:{free_port()}"))
    second = town.submit(dag())
    assert town.status(second) == "QUEUED"
    assert len(town.look_again()) == 1
    town.skipper.store = town.store
    assert town.look_again() == []
    assert decode_attempt(town.task(second)["record"]).skipped == Producer(first, "a")


def test_a_damaged_memory_is_no_reason_not_to_run(town: Town) -> None:
    first = town.ran(dag())
    key = memo(town.check(first).key or "")
    town.client.delete(key)
    town.client.set(key, "of another kind")
    second = town.submit(dag())
    town.finish(second)
    assert town.run(second)["status"] == "SUCCEEDED"
    town.client.delete(key)
    town.client.hset(key, mapping={"state": "good", "outputs": "no JSON", "at": "1"})
    assert town.is_running(town.submit(dag()))


class Killed(BaseException):
    """The process is gone: nothing after this happens."""


class Mortal:
    """A client that is killed before, or after, its n-th script."""

    def __init__(self, client: redis.Redis, scripts: int) -> None:
        self.client = client
        self.left = scripts

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)

    @property
    def connection_pool(self) -> Any:
        if self.left == 0:
            raise Killed
        self.left -= 1
        return self.client.connection_pool


@pytest.mark.parametrize("scripts", range(6))
@pytest.mark.parametrize("service", ["skipper", "collector"])
def test_a_collector_that_is_killed_between_any_two_steps_changes_no_outcome(
    town: Town, service: str, scripts: int
) -> None:
    """Whoever takes its entries over comes to the same: one run of the work, and every other skipped."""
    mortal: Any = Mortal(town.client, scripts)
    whole = {"skipper": town.skipper, "collector": town.collector}[service]
    whole.client = mortal
    runs = []
    with suppress(Killed):
        for _ in range(2):
            runs.append(f"{1764027260123 + town.runs + 1}-0")
            town.submit(dag())
        town.finish(runs[0])
        town.look_again()
    whole.client = town.client
    if service == "collector":
        town.launched = town.inbox(COLLECTOR_GROUP, KEYS.launched, KEYS.settled)
        town.collector = Collector(town.client, town.launched, town.pods, town.settings)
    else:
        town.checks = town.inbox(COLLECTOR_GROUP, KEYS.checks)
    town.pump()
    while len(runs) < 2:
        runs.append(town.submit(dag()))
    if town.is_running(runs[0]):
        town.finish(runs[0])
    town.wrap_up(runs[0])
    town.look_again()
    assert town.jobs.created == [job_name(runs[0], "a", 1)]
    assert {town.run(run)["status"] for run in runs} == {"SUCCEEDED"}
    assert [town.run(run)["taskSkipped"] for run in runs] == ["0", "1"]
    for stream in (KEYS.ready, KEYS.checks, KEYS.launched, KEYS.finished, KEYS.dead):
        assert town.client.xlen(stream) == 0, stream


def test_repeated_deliveries_of_a_look_change_nothing(town: Town) -> None:
    """Such as when an entry that was only late was sent again: a Job that runs is not taken for a look."""
    first = town.submit(dag())
    for stream in (KEYS.checks, KEYS.ready):
        town.client.xadd(stream, {"run": first, "task": "a", "attempt": "1"})
    town.pump()
    assert town.is_running(first)
    late = unskip(KEYS, entry="1-1", run=first, task="a", attempt=1, memo=b"{}")
    assert commit_one(town.client, late) == 0, "what an earlier look came to is said once more"
    town.finish(first)
    second = town.skipped(dag(), by=first)
    for stream in (KEYS.checks, KEYS.ready):
        town.client.xadd(stream, {"run": second, "task": "a", "attempt": "1"})
    town.pump()
    assert town.run(second)["taskSkipped"] == "1"
    assert town.client.xlen(KEYS.checks) == town.client.xlen(KEYS.ready) == 0


def test_a_claim_names_its_attempt_and_goes_with_it(town: Town) -> None:
    run = town.submit(dag())
    key = memo(town.check(run).key or "")
    found = claim_of(town.client.hget(key, "claim"))
    assert found == (run, "a", 1)
    assert 0 < town.client.ttl(key) <= town.settings.memo_days * 86_400
    town.finish(run)
    assert town.client.hget(key, "claim") is None


def test_a_missing_object_has_no_head(town: Town) -> None:
    assert town.store.head(BUCKET, "nothing here") is None
    with pytest.raises(S3Error):
        town.store.client.stat_object(BUCKET, "nothing here")
