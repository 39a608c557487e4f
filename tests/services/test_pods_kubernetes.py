"""Pods of an API server, as the collector asks for them: what is gone, what hangs, what is lost, what is let go."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from typing import Any

import msgspec
import pytest
import redis

from helios.keys import COLLECTOR_GROUP, NODES, node_cache
from helios.localjobs import PodStatus
from helios.records import decode_attempt
from helios.settings import Settings
from helios.streams import Inbox
from services.collector.__main__ import sweep
from services.collector.collect import Collector
from services.collector.kube_logs import END_SECONDS, TURN_SECONDS, PodLogs
from services.collector.kube_objects import Pod
from services.collector.kube_pods import SETTLING_SECONDS, KubernetesPods
from services.collector.kube_status import PULL_SECONDS
from services.collector.kube_watch import LOST_SECONDS
from services.collector.node_loads import NodeLoads
from tests.services.kube_server import NAMESPACE, Json, KubeServer
from tests.stage import RUN, Stage
from tests.waiting import wait_until

SETTINGS = Settings()
LABELS = {"app.kubernetes.io/managed-by": "helios"}
RUNS = {"running": {"startedAt": "2026-11-25T01:00:02Z"}}


def ended(code: int = 0, **more: Any) -> Json:
    times = {"startedAt": "2026-11-25T01:00:02Z", "finishedAt": "2026-11-25T01:00:05Z"}
    return {"terminated": {"exitCode": code, **times, **more}}


class Clock:
    """Real time, and what the test adds to it."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


class Cluster:
    """An API server, and pods seen through it."""

    def __init__(self, kube: KubeServer) -> None:
        self.kube = kube
        self.clock = Clock()
        self.pods = KubernetesPods(kube.api(), SETTINGS, self.clock)
        for node in ("node1", "node2"):
            self.node(node)

    def start(self) -> None:
        self.pods.start()
        wait_until("all is listed", lambda: all(watch.synced for watch in self.pods.watches))
        self.later(SETTLING_SECONDS)

    def later(self, seconds: float) -> None:
        self.clock.ahead += seconds

    def node(self, name: str, ready: str = "True") -> None:
        self.kube.put("nodes", name, {"status": {"conditions": [{"type": "Ready", "status": ready}]}})

    def job(self, task: str, *conditions: Json) -> str:
        name = f"job-{task}-1"
        notes = {"helios.dev/run": RUN, "helios.dev/task": task, "helios.dev/attempt": "1"}
        meta = {"labels": LABELS, "annotations": notes}
        self.kube.put("jobs", name, {"metadata": meta, "status": {"conditions": list(conditions)}})
        return name

    def pod(
        self, task: str, phase: str, *states: Json, meta: Json | None = None, spec: Json | None = None, **status: Any
    ) -> None:
        """`states` are those of fetch, task and publish."""
        job = f"job-{task}-1"
        named = [
            {"name": name, "state": state} for name, state in zip(("fetch", "task", "publish"), states, strict=False)
        ]
        self.kube.put(
            "pods",
            f"{job}-x",
            {
                "metadata": {
                    "uid": "u1",
                    "labels": {**LABELS, "helios.dev/job": job},
                    "annotations": {"helios.dev/run": RUN, "helios.dev/task": task, "helios.dev/attempt": "1"},
                    "finalizers": ["batch.kubernetes.io/job-tracking", "helios.dev/result"],
                    **(meta or {}),
                },
                "spec": {"nodeName": "node1"} if spec is None else spec,
                "status": {
                    "phase": phase,
                    "containerStatuses": named,
                    **status,
                },
            },
        )

    def over(self, task: str, phase: str = "Succeeded") -> None:
        code = 0 if phase == "Succeeded" else 3
        self.pod(task, phase, ended(), ended(code), ended())

    def status(self, job: str) -> PodStatus | None:
        return self.pods.statuses([job])[job]

    def is_gone(self, job: str) -> bool:
        return job not in self.pods.statuses([job])

    def failed(self, job: str) -> PodStatus:
        def failure() -> PodStatus | None:
            found = self.pods.statuses([job]).get(job)
            return found if found is not None and found.phase == "Failed" else None

        return wait_until(f"{job} failed", failure)

    def stays(self, job: str, phase: str | None) -> None:
        """Looked at often enough for anything under way to have come."""
        looks = len(self.kube.requests) + 3
        for _ in range(30):
            found = self.status(job)
            assert (found.phase if found else None) == phase
            if len(self.kube.requests) >= looks:
                break


@pytest.fixture
def cluster(kube: KubeServer) -> Iterator[Cluster]:
    found = Cluster(kube)
    yield found
    found.pods.close()
    kube.cut()


def test_a_pod_is_followed_from_its_job_to_its_end(cluster: Cluster) -> None:
    cluster.start()
    job = cluster.job("a")
    assert cluster.status(job) is None
    for phase, states in (("Pending", (RUNS, {}, {})), ("Running", (ended(), RUNS, RUNS))):
        cluster.pod("a", phase, *states)
        told = "Fetching" if phase == "Pending" else "Running"
        wait_until(told, lambda told=told: (found := cluster.status(job)) and found.phase == told)
    cluster.pod("a", "Running", ended(), ended(message="from the task"), RUNS)
    wait_until("Publishing", lambda: (found := cluster.status(job)) and found.phase == "Publishing")
    cluster.pod("a", "Succeeded", ended(message='{"step":"fetch"}'), ended(), ended())
    found = wait_until("the end", lambda: (found := cluster.status(job)) and found.final and found)
    assert (found.phase, found.node, found.uid) == ("Succeeded", "node1", "u1")
    assert cluster.pods.message(job, "fetch") == '{"step":"fetch"}'
    assert cluster.pods.message(job, "publish") is None


NOT_STARTED = [{"waiting": {"reason": "PodInitializing"}}] * 3


def test_it_is_noted_when_a_pod_is_first_seen_with_a_node(cluster: Cluster) -> None:
    """Whatever the pod does later, and until its end."""
    cluster.start()
    job = cluster.job("a")
    cluster.pod("a", "Pending", spec={})
    assert wait_until("Pending", lambda: cluster.status(job)).scheduledAt is None
    before = time.time_ns() // 1_000_000
    cluster.pod("a", "Pending", *NOT_STARTED)
    scheduled = wait_until("a node", lambda: (found := cluster.status(job)) and found.scheduledAt)
    assert before <= scheduled <= time.time_ns() // 1_000_000
    cluster.pod("a", "Pending", RUNS, {}, {})
    found = wait_until("Fetching", lambda: (found := cluster.status(job)) and found.phase == "Fetching" and found)
    assert found.scheduledAt == scheduled
    cluster.over("a")
    found = wait_until("the end", lambda: (found := cluster.status(job)) and found.final and found)
    assert found.scheduledAt == scheduled


def test_a_node_that_a_pod_may_have_had_for_long_is_no_news(cluster: Cluster) -> None:
    """One that the first list shows with a node, or that is at work when it is first seen."""
    listed, late = cluster.job("listed"), cluster.job("late")
    cluster.pod("listed", "Pending", *NOT_STARTED)
    cluster.pods.start()
    wait_until("it is listed", lambda: cluster.status(listed))
    cluster.later(SETTLING_SECONDS)
    cluster.pod("late", "Pending", RUNS, {}, {})
    cluster.pod("listed", "Pending", RUNS, {}, {})
    for job in (listed, late):
        found = wait_until("Fetching", lambda job=job: (it := cluster.status(job)) and it.phase == "Fetching" and it)
        assert (found.node, found.scheduledAt) == ("node1", None)


def test_a_job_that_nobody_has_shown_yet_is_not_taken_for_gone(cluster: Cluster) -> None:
    """Its launch may be known before the watch brings it, so the API server is asked for it by name."""
    cluster.start()
    name = "job-a-1"
    cluster.kube.put("jobs", name, {"metadata": {"labels": LABELS}}, quietly=True)
    cluster.stays(name, None)
    cluster.later(2)
    for _ in range(3):
        cluster.stays(name, None)
        cluster.later(2)
    wait_until("it is asked for", lambda: cluster.kube.asked("GET", f"/jobs/{name}"))
    assert not cluster.is_gone(name)


def test_a_job_is_gone_when_the_api_server_says_so(cluster: Cluster) -> None:
    cluster.start()
    assert not cluster.is_gone("job-a-1")
    cluster.later(2)
    wait_until("it is gone", lambda: cluster.is_gone("job-a-1"))


def test_a_pod_whose_job_is_gone_is_still_there(cluster: Cluster) -> None:
    """Found by its label, though no watch has shown it."""
    cluster.start()
    cluster.kube.put("pods", "p", {"metadata": {"labels": {**LABELS, "helios.dev/job": "job-a-1"}}}, quietly=True)
    cluster.stays("job-a-1", None)
    cluster.later(2)
    cluster.stays("job-a-1", None)
    wait_until("it is asked for", lambda: cluster.kube.asked("GET", "/jobs/job-a-1"))
    cluster.stays("job-a-1", None)
    assert not cluster.is_gone("job-a-1")


def test_nothing_is_gone_and_no_patience_ends_while_the_api_server_is_away(cluster: Cluster) -> None:
    cluster.pod("a", "Pending", ended(), {"waiting": {"reason": "ImagePullBackOff"}}, RUNS)
    cluster.job("a")
    cluster.start()
    cluster.stays("job-a-1", "Fetching")
    cluster.kube.go_away()
    wait_until("it is noticed", lambda: not any(watch.live_for(0) for watch in cluster.pods.watches))
    cluster.later(3600)
    cluster.stays("job-a-1", "Fetching")
    cluster.stays("job-b-1", None)
    cluster.pod("a", "Running", ended(), RUNS, RUNS)
    cluster.kube.come_back()
    wait_until("it runs", lambda: (found := cluster.status("job-a-1")) and found.phase == "Running")


@pytest.mark.parametrize(
    ("state", "seconds", "words"),
    [
        (
            {"reason": "ErrImagePull", "message": "no such image"},
            60,
            "the image of task cannot be pulled: no such image",
        ),
        ({"reason": "CreateContainerConfigError", "message": 'secret "db" not found'}, 15, 'secret "db" not found'),
        ({"reason": "InvalidImageName", "message": "bad"}, 0, "the image of task cannot be used: bad"),
    ],
)
def test_a_pod_that_cannot_go_on_fails_after_its_time_and_not_before(
    cluster: Cluster, state: Json, seconds: int, words: str
) -> None:
    job = cluster.job("a")
    cluster.pod("a", "Pending", ended(), {"waiting": state}, RUNS)
    cluster.start()
    if seconds:
        cluster.stays(job, "Fetching")
        cluster.later(seconds - 5)
        cluster.stays(job, "Fetching")
        cluster.later(6)
    found = cluster.failed(job)
    assert words in (found.reason or "")
    assert (found.disrupted, found.overrules) == (False, True)


def test_a_trouble_that_passes_in_time_is_forgotten(cluster: Cluster) -> None:
    job = cluster.job("a")
    cluster.pod("a", "Running", ended(), {"waiting": {"reason": "CreateContainerConfigError"}}, RUNS)
    cluster.start()
    cluster.stays(job, "Fetching")
    cluster.pod("a", "Running", ended(), RUNS, RUNS)
    wait_until("it runs", lambda: (found := cluster.status(job)) and found.phase == "Running")
    cluster.later(3600)
    cluster.stays(job, "Running")


def test_a_pod_that_does_not_start_fails_with_the_last_warning(cluster: Cluster) -> None:
    job = cluster.job("a")
    cluster.pod("a", "Pending", *[{"waiting": {"reason": "PodInitializing"}}] * 3)
    about = {"kind": "Pod", "name": f"{job}-x"}
    for number, words in enumerate(("an older one", 'MountVolume.SetUp failed for volume "cache"')):
        event = {"involvedObject": about, "type": "Warning", "message": words}
        cluster.kube.put("events", f"e{number}", {**event, "lastTimestamp": f"2026-11-25T01:00:0{number}Z"})
    cluster.start()
    cluster.stays(job, "Pending")
    cluster.later(SETTINGS.pod_start_seconds)
    found = cluster.failed(job)
    assert ("MountVolume.SetUp failed" in (found.reason or ""), found.disrupted) == (True, False)


def test_an_image_that_is_still_being_pulled_is_waited_for_and_costs_no_retry(cluster: Cluster) -> None:
    """A large image is not the user's failure; a scheduler's earlier warning is none of the start's."""
    job = cluster.job("a")
    cluster.pod("a", "Pending", ended(), {"waiting": {"reason": "PodInitializing"}}, RUNS)
    about = {"kind": "Pod", "name": f"{job}-x"}
    told = [
        ("Warning", "FailedScheduling", "0/2 nodes are available", 0),
        ("Normal", "Pulled", "Successfully pulled image of fetch", 2),
        ("Normal", "Pulling", "Pulling image of the task", 2),
        ("Normal", "Pulling", "Pulling image of the task", 3),
    ]
    for number, (kind, reason, words, second) in enumerate(told):
        event = {"involvedObject": about, "type": kind, "reason": reason, "message": words}
        cluster.kube.put("events", f"e{number}", {**event, "lastTimestamp": f"2026-11-25T01:00:0{second}Z"})
    cluster.start()
    cluster.stays(job, "Fetching")
    cluster.later(SETTINGS.pod_start_seconds)
    cluster.stays(job, "Fetching")
    wait_until("its events are read", lambda: cluster.kube.asked("GET", "/events"))
    cluster.stays(job, "Fetching")
    cluster.later(PULL_SECONDS)
    found = cluster.failed(job)
    assert (found.disrupted, "its image is still being pulled" in (found.reason or "")) == (True, True)


def test_a_start_that_nothing_explains_costs_no_retry(cluster: Cluster) -> None:
    job = cluster.job("a")
    cluster.pod("a", "Pending", ended(), {"waiting": {"reason": "PodInitializing"}}, RUNS)
    cluster.start()
    cluster.stays(job, "Fetching")
    cluster.later(SETTINGS.pod_start_seconds)
    found = cluster.failed(job)
    assert (found.disrupted, "task did not start" in (found.reason or "")) == (True, True)


REFUSALS = [
    'Error creating: pods "job-a-1-x" is forbidden: exceeded quota: few, requested: pods=1, used: pods=5',
    'Error creating: admission webhook "policy.example" denied the request: no',
]


@pytest.mark.parametrize("words", REFUSALS)
def test_a_job_whose_pod_is_refused_fails_in_the_api_servers_words(cluster: Cluster, words: str) -> None:
    """No pod ever appears, so only the Job's events tell."""
    job = cluster.job("a")
    event = {"involvedObject": {"kind": "Job", "name": job}, "type": "Warning", "reason": "FailedCreate"}
    cluster.kube.put("events", "e", {**event, "message": words})
    cluster.start()
    cluster.stays(job, None)
    cluster.later(SETTINGS.pod_refused_seconds)
    found = cluster.failed(job)
    assert (found.reason, found.disrupted) == (words, False)


def test_a_job_that_the_controller_has_not_come_to_is_waited_for_longer(cluster: Cluster) -> None:
    job = cluster.job("a")
    cluster.start()
    cluster.stays(job, None)
    cluster.later(SETTINGS.pod_refused_seconds)
    cluster.stays(job, None)
    wait_until("its events are read", lambda: cluster.kube.asked("GET", "/events"))
    cluster.stays(job, None)
    cluster.later(SETTINGS.pod_start_seconds)
    found = cluster.failed(job)
    assert (found.reason, found.disrupted) == ("no pod was created for its Job", True)


def test_the_events_of_many_waiting_jobs_are_read_at_once(cluster: Cluster) -> None:
    """The API server reads every event for each such question, so thousands of them would leave it no time to help."""
    jobs = [cluster.job(f"t{number}") for number in range(20)]
    about = {"kind": "Job", "name": jobs[7]}
    cluster.kube.put("events", "e", {"involvedObject": about, "type": "Warning", "message": "exceeded quota: few"})
    cluster.start()
    cluster.pods.statuses(jobs)
    cluster.later(SETTINGS.pod_refused_seconds)

    def refused() -> list[str]:
        found = cluster.pods.statuses(jobs)
        return [job for job, status in found.items() if status is not None and status.phase == "Failed"]

    assert wait_until("the refusal is seen", refused) == [jobs[7]]
    assert len(cluster.kube.asked("GET", "/events")) == 1


def test_a_suspended_job_fails_after_its_time(cluster: Cluster) -> None:
    job = cluster.job(
        "a", {"type": "Suspended", "status": "True", "reason": "JobSuspended", "message": "Job suspended"}
    )
    cluster.start()
    cluster.stays(job, None)
    cluster.later(SETTINGS.unschedulable_seconds)
    assert cluster.failed(job).reason == "its Job is suspended: JobSuspended: Job suspended"


@pytest.mark.parametrize("ready", ["False", "Unknown"])
def test_a_node_that_is_not_ready_for_its_time_is_lost_with_its_pods(cluster: Cluster, ready: str) -> None:
    job, other = cluster.job("a"), cluster.job("b")
    cluster.pod("a", "Running", ended(), RUNS, RUNS)
    cluster.over("b")
    cluster.start()
    cluster.stays(job, "Running")
    cluster.node("node1", ready)
    wait_until("it is known", lambda: cluster.status(job) and cluster.pods.unready)
    cluster.stays(job, "Running")
    cluster.later(SETTINGS.node_lost_seconds)
    found = cluster.failed(job)
    assert (found.reason, found.disrupted) == ("its node node1 was lost", True)
    assert wait_until("the end", lambda: cluster.status(other)).phase == "Succeeded"
    cluster.pods.release(job)
    wait_until(
        "the pod is gone",
        lambda: f"{job}-x" not in cluster.kube.objects["pods"] or cluster.kube.asked("DELETE", f"/pods/{job}-x"),
    )
    assert cluster.kube.asked("DELETE", f"/pods/{job}-x")[0][1]["gracePeriodSeconds"] == 0


def test_a_node_that_comes_back_in_time_loses_nothing(cluster: Cluster) -> None:
    job = cluster.job("a")
    cluster.pod("a", "Running", ended(), RUNS, RUNS)
    cluster.start()
    cluster.node("node1", "Unknown")
    wait_until("it is known", lambda: cluster.status(job) and cluster.pods.unready)
    cluster.node("node1")
    wait_until("it is back", lambda: cluster.status(job) and not cluster.pods.unready)
    cluster.later(3600)
    cluster.stays(job, "Running")


def test_one_that_may_not_see_nodes_still_sees_pods(cluster: Cluster) -> None:
    cluster.kube.refuse["GET", "nodes"] = 403
    job = cluster.job("a")
    cluster.pod("a", "Pending", ended(), {"waiting": {"reason": "ErrImagePull"}}, RUNS)
    cluster.pods.start()
    wait_until("pods are listed", lambda: all(watch.synced for watch in cluster.pods.watches[:2]))
    cluster.later(SETTLING_SECONDS)
    cluster.stays(job, "Fetching")
    cluster.later(60)
    assert cluster.failed(job)


def test_a_release_deletes_the_job_and_takes_our_finalizer_alone(cluster: Cluster) -> None:
    job = cluster.job("a")
    cluster.over("a")
    cluster.start()
    wait_until("it is over", lambda: cluster.status(job))
    assert cluster.pods.unreleased() == [job]
    cluster.pods.release(job)
    wait_until("it is released", lambda: cluster.pods.unreleased() == [])
    assert job not in cluster.kube.objects["jobs"]
    assert cluster.kube.asked("DELETE", f"/jobs/{job}")[0][1]["propagationPolicy"] == "Background"
    left = cluster.kube.objects["pods"][f"{job}-x"]["metadata"]["finalizers"]
    assert left == ["batch.kubernetes.io/job-tracking"]
    assert cluster.kube.asked("DELETE", f"/pods/{job}-x") == []


def test_a_release_that_fails_is_repeated_by_the_sweep(cluster: Cluster, client: redis.Redis) -> None:
    stage = Stage(client)
    stage.open({"a": [], "b": [], "c": [], "d": []})
    for task in "abcd":
        cluster.job(task)
    for task in "abc":
        cluster.over(task)
    stage.launch("a")
    stage.end("a")
    stage.launch("b")
    cluster.start()
    cluster.kube.refuse["PATCH", "job-a-1-x"] = 500
    sweep(cluster.pods, client, SETTINGS)
    wait_until("it was tried", lambda: cluster.kube.asked("PATCH", "/pods/job-a-1-x"))
    wait_until("it has failed", lambda: not cluster.pods.errands.releasing)
    cluster.kube.refuse.clear()
    assert "job-a-1" in cluster.pods.unreleased()
    sweep(cluster.pods, client, SETTINGS)
    wait_until("it is released", lambda: "job-a-1" not in cluster.pods.unreleased())
    # b is still to be wrapped up, the launches of c and d are about to be recorded
    assert sorted(cluster.pods.unreleased()) == ["job-b-1", "job-c-1", "job-d-1"]


def test_a_pod_whose_node_is_lost_after_its_release_is_deleted_by_the_sweep(
    cluster: Cluster, client: redis.Redis
) -> None:
    """It stays Terminating without our finalizer, because its kubelet cannot confirm its end."""
    stage = Stage(client)
    stage.open({"a": []})
    stage.launch("a")
    stage.end("a")
    going = {"deletionTimestamp": "2026-11-25T01:00:09Z", "deletionGracePeriodSeconds": 30, "finalizers": []}
    cluster.pod("a", "Succeeded", ended(), ended(), ended(), meta=going)
    cluster.start()
    wait_until("it is known", lambda: cluster.status("job-a-1"))
    assert cluster.pods.unreleased() == []
    cluster.node("node1", "Unknown")
    wait_until("it is not ready", lambda: cluster.status("job-a-1") and cluster.pods.unready)
    assert cluster.pods.unreleased() == [], "its node may just be restarting"
    cluster.later(SETTINGS.node_lost_seconds)
    sweep(cluster.pods, client, SETTINGS)
    wait_until("it is gone", lambda: "job-a-1-x" not in cluster.kube.objects["pods"])
    assert cluster.kube.asked("DELETE", "/pods/job-a-1-x")[0][1]["gracePeriodSeconds"] == 0


# Logs.


def log_of(*lines: tuple[float, str]) -> bytes:
    return b"".join(f"2026-11-25T01:00:{second:012.9f}Z {text}\n".encode() for second, text in lines)


class Tailed:
    """A collector over the cluster, and what it copies."""

    def __init__(self, cluster: Cluster, client: redis.Redis) -> None:
        self.cluster = cluster
        self.client = client
        self.stage = Stage(client)
        self.stage.open({"a": []})
        cluster.job("a")
        self.stage.launch("a")
        inbox = Inbox(
            client,
            group=COLLECTOR_GROUP,
            consumer="one",
            streams=[self.stage.keys.launched, self.stage.keys.settled],
            batch_entries=10,
            lease_seconds=600,
        )
        self.collector = Collector(client, inbox, cluster.pods, SETTINGS)

    def take(self) -> None:
        assert self.collector.handle(self.collector.inbox.read(1)) == []

    def turn(self) -> None:
        self.collector.next_tail = 0.0
        self.collector.turn()

    def lines(self, step: str) -> list[str]:
        self.turn()
        return [fields["line"] for _, fields in self.client.xrange(self.stage.keys.log(RUN, "a", 1, step))]

    def becomes(self, step: str, lines: list[str]) -> None:
        wait_until(f"{step}'s log is {lines}", lambda: self.lines(step) == lines)


@pytest.fixture
def tailed(cluster: Cluster, valkey: redis.Redis) -> Tailed:
    return Tailed(cluster, valkey)


def test_a_watched_log_grows_line_by_line_and_nothing_comes_twice(tailed: Tailed) -> None:
    """Though each answer begins a second back."""
    cluster = tailed.cluster
    cluster.pod("a", "Running", ended(), RUNS, RUNS)
    cluster.start()
    tailed.take()
    tailed.client.set(tailed.stage.keys.watched(RUN), "1")
    cluster.kube.logs["job-a-1-x", "task"] = log_of((7.25, "one"), (7.25, "two"), (7.5, ""))
    tailed.becomes("task", ["one", "two", ""])
    cluster.kube.logs["job-a-1-x", "task"] += log_of((7.5, "three"), (7.4, "out of order"), (9, "four"))
    cluster.later(1)
    tailed.becomes("task", ["one", "two", "", "three", "out of order", "four"])
    cluster.later(1)
    tailed.becomes("task", ["one", "two", "", "three", "out of order", "four"])

    def since() -> str | None:
        asked = [query for query, _ in cluster.kube.asked("GET", "/log") if query["container"] == "task"]
        return asked[-1].get("sinceTime")

    wait_until("the last second is asked for again", lambda: since() == "2026-11-25T01:00:09Z" or tailed.turn())
    tailed.becomes("task", ["one", "two", "", "three", "out of order", "four"])
    ids = [entry for entry, _ in tailed.client.xrange(tailed.stage.keys.log(RUN, "a", 1, "task"))]
    assert ids[0] == "1795568407250-0"


def test_what_nobody_watches_is_read_at_the_end_and_before_the_end_is_told(tailed: Tailed) -> None:
    cluster = tailed.cluster
    cluster.pod("a", "Running", ended(), RUNS, RUNS)
    for step in ("fetch", "task", "publish"):
        cluster.kube.logs["job-a-1-x", step] = log_of((5, f"{step} says"), (5.5, "more"))
    cluster.start()
    tailed.take()
    tailed.becomes("fetch", ["fetch says", "more"])
    assert tailed.lines("task") == []
    assert {query["container"] for query, _ in cluster.kube.asked("GET", "/log")} == {"fetch"}
    cluster.over("a")
    wait_until("it is wrapped up", lambda: tailed.turn() or not tailed.collector.held)
    assert tailed.stage.status("a") == "SUCCEEDED"
    for step in ("fetch", "task", "publish"):
        assert tailed.lines(step) == [f"{step} says", "more"]


def test_a_collector_that_takes_over_adds_no_line_twice(tailed: Tailed) -> None:
    cluster = tailed.cluster
    cluster.kube.logs["job-a-1-x", "fetch"] = log_of((5, "one"), (5, "two"), (6, "three"))
    cluster.pod("a", "Running", ended(), RUNS, RUNS)
    cluster.start()
    tailed.take()
    tailed.becomes("fetch", ["one", "two", "three"])
    heir = KubernetesPods(cluster.kube.api(), SETTINGS, cluster.clock)
    heir.start()
    wait_until("all is listed", lambda: all(watch.synced for watch in heir.watches))
    tailed.collector.pods = heir
    for held in tailed.collector.held.values():
        held.tail.reached = dict.fromkeys(held.tail.reached, 0)
    heir.statuses(["job-a-1"])
    wait_until("the heir has read it", lambda: tailed.turn() or heir.fetch_log("job-a-1"))
    assert tailed.lines("fetch") == ["one", "two", "three"]
    heir.close()


def test_a_log_that_cannot_be_read_is_said_to_be_lost_and_holds_nothing_up(tailed: Tailed) -> None:
    cluster = tailed.cluster
    for step in ("fetch", "task"):
        cluster.kube.log_errors["job-a-1-x", step] = 500
    cluster.kube.logs["job-a-1-x", "publish"] = log_of((5, "stored"))
    cluster.over("a")
    cluster.start()
    tailed.take()
    for _ in range(4):
        wait_until(
            "it was tried", lambda: tailed.turn() or not any(log.reading for log in cluster.pods.logs.logs.values())
        )
        cluster.later(1)
    wait_until("it is wrapped up", lambda: tailed.turn() or not tailed.collector.held)
    assert "the rest of this log is lost" in tailed.lines("task")[0]
    assert "in time" not in tailed.lines("task")[0], "it was given up for its answers, before its time was up"
    assert tailed.lines("publish") == ["stored"]


def test_the_logs_of_a_lost_node_are_said_to_be_lost_at_once(tailed: Tailed) -> None:
    cluster = tailed.cluster
    cluster.pod("a", "Running", ended(), RUNS, RUNS)
    cluster.start()
    tailed.take()
    cluster.node("node1", "Unknown")
    wait_until("it is known", lambda: tailed.turn() or cluster.pods.unready)
    cluster.later(SETTINGS.node_lost_seconds)
    wait_until("it is wrapped up", lambda: tailed.turn() or not tailed.collector.held)
    assert tailed.lines("task") == ["[HELIOS] the rest of this log is lost: its node was lost"]
    assert tailed.stage.task("a")["disrupted"] == "1"


def test_of_a_huge_log_the_end_is_kept(tailed: Tailed) -> None:
    cluster = tailed.cluster
    lines = [(5 + number / 10_000, f"{number:0400}") for number in range(9_000)]
    cluster.kube.logs["job-a-1-x", "task"] = log_of(*lines)
    cluster.over("a")
    cluster.start()
    tailed.take()
    wait_until("it is wrapped up", lambda: tailed.turn() or not tailed.collector.held)
    found = tailed.lines("task")
    assert found[0] == "[HELIOS] lines before this are not kept"
    assert found[-1] == lines[-1][1]
    assert 600 < len(found) < 700
    assert sorted(found[1:]) == found[1:]


def test_a_task_that_cannot_be_started_fails_at_once_though_publish_waits_for_it(tailed: Tailed) -> None:
    cluster = tailed.cluster
    cluster.pod("a", "Running", ended(), ended(128, reason="StartError", message="exec format error"), RUNS)
    cluster.start()
    tailed.take()
    wait_until("it is wrapped up", lambda: tailed.turn() or not tailed.collector.held)
    task = tailed.stage.task("a")
    assert (task["status"], task["disrupted"]) == ("FAILED", "0")
    assert '"reason":"task could not be started: exec format error"' in task["record"]
    wait_until("its pod is ended", lambda: cluster.kube.asked("DELETE", "/jobs/job-a-1"))


class Turns(Executor):
    """Threads that are all busy until the test lets one work."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], object]] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.waiting.append(lambda: fn(*args, **kwargs))
        return Future()

    def work(self) -> None:
        for each in self.waiting:
            each()
        self.waiting.clear()


def over_now() -> Pod:
    status = {"containerStatuses": [{"name": "task", "state": ended()}]}
    return msgspec.convert({"metadata": {"name": "p"}, "status": status}, type=Pod)


def told(logs: PodLogs) -> list[str]:
    return [line.text for line in logs.lines(over_now(), "task", 0).lines]


def test_a_log_whose_turn_is_late_is_read_all_the_same(kube: KubeServer) -> None:
    """As when hundreds of pods end together: its time runs from when its reading begins."""
    clock, turns = Clock(), Turns()
    logs = PodLogs(kube.api(), NAMESPACE, turns, clock)
    kube.logs["p", "task"] = log_of((5, "all of it"))
    assert not logs.finish(over_now(), reachable=True)
    clock.ahead += TURN_SECONDS - 1
    assert not logs.finish(over_now(), reachable=True)
    turns.work()
    assert logs.finish(over_now(), reachable=True)
    assert told(logs) == ["all of it"]


def test_a_log_whose_turn_does_not_come_is_lost_and_not_read_later(kube: KubeServer) -> None:
    clock, turns = Clock(), Turns()
    logs = PodLogs(kube.api(), NAMESPACE, turns, clock)
    kube.logs["p", "task"] = log_of((5, "too late"))
    assert not logs.finish(over_now(), reachable=True)
    clock.ahead += TURN_SECONDS + 1
    assert logs.finish(over_now(), reachable=True)
    turns.work()
    assert told(logs) == ["[HELIOS] the rest of this log is lost: it could not be read in time"]


def test_a_reading_that_takes_too_long_is_given_up(kube: KubeServer) -> None:
    clock, turns = Clock(), Turns()
    logs = PodLogs(kube.api(), NAMESPACE, turns, clock)
    kube.log_errors["p", "task"] = 500
    assert not logs.finish(over_now(), reachable=True)
    turns.work()
    clock.ahead += END_SECONDS + 1
    assert logs.finish(over_now(), reachable=True)
    assert "lost: it could not be read in time" in told(logs)[0]


def test_a_finished_pod_that_is_deleted_while_no_collector_runs_is_found_with_its_result(tailed: Tailed) -> None:
    """Its finalizer keeps it until the next collector has committed what it left."""
    cluster = tailed.cluster
    cluster.kube.logs["job-a-1-x", "task"] = log_of((5, "said before the end"))
    said = '{"ok":true,"exitCode":0,"outputs":0,"stored":[],"cpuMs":7}'
    only = {"finalizers": ["helios.dev/result"]}
    cluster.pod("a", "Succeeded", ended(), ended(), ended(message=said), meta=only)
    cluster.kube.api().delete(f"/api/v1/namespaces/{NAMESPACE}/pods/job-a-1-x", {"gracePeriodSeconds": 0})
    cluster.kube.delete("jobs", "job-a-1")
    assert cluster.kube.objects["pods"]["job-a-1-x"]["metadata"]["deletionTimestamp"]
    cluster.start()
    tailed.take()
    wait_until("it is wrapped up", lambda: tailed.turn() or not tailed.collector.held)
    task = tailed.stage.task("a")
    assert (task["status"], decode_attempt(task["record"]).cpuMs) == ("SUCCEEDED", 7)
    assert tailed.lines("task") == ["said before the end"]
    wait_until("the pod may go", lambda: "job-a-1-x" not in cluster.kube.objects["pods"])


def test_the_pods_at_work_on_each_node_are_noted_when_their_number_changes(
    cluster: Cluster, client: redis.Redis
) -> None:
    """The jobrunner weighs a node's load by it. What nothing changed is not written again."""
    cluster.start()
    loads = NodeLoads(client, cluster.pods.at_work)

    def noted() -> list[str | None]:
        loads.note()
        found: list[str | None] = [client.hget(node_cache(node), "pods") for node in ("node1", "node2")]  # pyright: ignore[reportAssignmentType]
        return found

    assert noted() == [None, None]
    cluster.pod("a", "Running", RUNS)
    cluster.pod("b", "Pending", spec={"nodeName": "node2"})
    cluster.pod("c", "Pending", spec={})
    wait_until("both are counted", lambda: noted() == ["1", "1"])
    client.delete(node_cache("node2"))
    cluster.over("a")
    wait_until("one is over", lambda: noted() == ["0", None])


def test_what_an_earlier_collector_noted_of_nodes_that_are_idle_by_now_does_not_stay(
    cluster: Cluster, client: redis.Redis
) -> None:
    cluster.start()
    client.zadd(NODES, {"node1": 1, "node2": 1})
    for node in ("node1", "node2"):
        client.hset(node_cache(node), "pods", 9)
    cluster.pod("a", "Running", RUNS)
    loads = NodeLoads(client, cluster.pods.at_work)

    def noted() -> list[str | None]:
        loads.note()
        found: list[str | None] = [client.hget(node_cache(node), "pods") for node in ("node1", "node2")]  # pyright: ignore[reportAssignmentType]
        return found

    wait_until("one has a pod, the other none", lambda: noted() == ["1", "0"])


def test_whose_pods_are_over_is_known_of_ended_and_of_gone_jobs_and_only_while_the_watches_live(
    cluster: Cluster,
) -> None:
    """Views of the nodes' caches go by it."""
    jobs = [cluster.job(task) for task in ("runs", "ended", "waits")]
    cluster.pod("runs", "Running", {"running": {}}, {"running": {}}, {"running": {}})
    cluster.over("ended")
    asked = [*jobs, "job-nobody-knows-1"]
    assert cluster.pods.over(asked) == []
    cluster.start()
    assert wait_until("it is known", lambda: cluster.pods.over(asked)) == ["job-ended-1", "job-nobody-knows-1"]


AGENTS = {
    "helios.dev/run": RUN,
    "helios.dev/task": "a",
    "helios.dev/attempt": "1",
    "helios.dev/form": "csi",
}


def of_agent(cluster: Cluster, phase: str, state: Json | None = None, **status: Any) -> None:
    """The pod of the task `a` alone, whose node's agent does the rest."""
    containers = [{"name": "task", "state": state}] if state is not None else []
    cluster.pod("a", phase, meta={"annotations": AGENTS}, containerStatuses=containers, **status)


def test_of_a_pod_of_the_task_alone_only_that_log_is_asked_for(tailed: Tailed) -> None:
    """Live and at the end; what its agent logs comes by itself. Its report is waited for."""
    cluster = tailed.cluster
    cluster.kube.logs["job-a-1-x", "task"] = log_of((5, "one"))
    of_agent(cluster, "Running", RUNS)
    cluster.start()
    tailed.take()
    tailed.client.set(tailed.stage.keys.watched(RUN), "1")
    tailed.becomes("task", ["one"])
    cluster.kube.logs["job-a-1-x", "task"] += log_of((6, "two"))
    of_agent(cluster, "Succeeded", ended())
    wait_until("it is waited for", lambda: tailed.turn() or tailed.stage.task("a").get("phase") == "Publishing")
    tailed.becomes("task", ["one", "two"])
    assert tailed.stage.status("a") == "RUNNING"
    assert cluster.pods.over(["job-a-1"]) == [], "the agent may still store what is in its volume"
    tailed.stage.end("a", entry="")
    wait_until("it is wrapped up", lambda: tailed.turn() or not tailed.collector.held)
    wait_until("it is let go", lambda: cluster.pods.unreleased() == [])
    assert {query["container"] for query, _ in cluster.kube.asked("GET", "/log")} == {"task"}


def test_a_volume_that_its_agent_cannot_bring_costs_no_retry(cluster: Cluster) -> None:
    """The event tells how far the agent was."""
    job = cluster.job("a")
    of_agent(cluster, "Pending", {"waiting": {"reason": "ContainerCreating"}})
    words = (
        'MountVolume.SetUp failed for volume "artifacts" : rpc error: code = DeadlineExceeded desc = fetching: 3 of 5'
    )
    event = {"involvedObject": {"kind": "Pod", "name": f"{job}-x"}, "type": "Warning", "message": words}
    cluster.kube.put("events", "e", {**event, "lastTimestamp": "2026-11-25T01:00:00Z"})
    cluster.start()
    cluster.stays(job, "Fetching")
    cluster.later(SETTINGS.pod_start_seconds)
    found = cluster.failed(job)
    assert ("fetching: 3 of 5" in (found.reason or ""), found.disrupted, found.agent_reports) == (True, True, True)
    of_agent(cluster, "Running", RUNS)
    wait_until("it runs after all", lambda: (it := cluster.status(job)) and it.phase == "Running")


def test_the_pod_of_a_deleted_job_that_never_had_its_volume_is_over_when_its_node_says_so(cluster: Cluster) -> None:
    """As after a fetch that failed for good: nothing of it is waited for."""
    job = cluster.job("a")
    of_agent(cluster, "Pending", {"waiting": {"reason": "ContainerCreating"}})
    cluster.start()
    cluster.stays(job, "Fetching")
    going = {"deletionTimestamp": "2026-11-25T01:01:00Z", "deletionGracePeriodSeconds": 30}
    cluster.pod("a", "Failed", meta={"annotations": AGENTS, **going}, containerStatuses=[])
    found = cluster.failed(job)
    assert (found.reason, found.agent_reports, found.logs_known) == ("its pod was deleted", False, True)


def test_a_collector_without_its_watches_is_not_ready(kube: KubeServer) -> None:
    """Before the first lists, and when the API server has been away for longer than a gap that nobody notices."""
    cluster = Cluster(kube)
    assert "the first list of" in cluster.pods.trouble()
    cluster.start()
    assert cluster.pods.trouble() == ""
    kube.close()
    wait_until("the watches are lost", lambda: cluster.pods.pod_watch.live_since is None)
    assert cluster.pods.trouble() == "", "a moment is no trouble"
    cluster.later(LOST_SECONDS + 1)
    assert "which the API server does not serve" in cluster.pods.trouble()
    cluster.pods.close()
