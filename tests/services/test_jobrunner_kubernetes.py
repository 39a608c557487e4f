"""Jobs of Kubernetes: what each answer of the API server comes to, over a real connection to a server that gives it."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import redis
from kubernetes.client import Configuration

from helios.dag import parse_dag
from helios.keys import COLLECTOR_GROUP, JOBRUNNER_GROUP
from helios.settings import SettingInvalid, Settings, settings_from
from helios.streams import Entry, Inbox
from helios.worker import Later, Stop
from services.collector.collect import Collector
from services.collector.pods import LocalPods
from services.jobrunner.__main__ import Sweep, jobs_in_hand, launcher_from, run
from services.jobrunner.answers import Verdict, judge
from services.jobrunner.jobs import ExistingJob, JobRefused, LauncherAway, WantedJob, job_name, wanted_job
from services.jobrunner.kubernetes import Api, KubernetesLauncher, connect_api
from services.jobrunner.launch import Deleter, JobRunner
from services.submitter.reconcile import Reconciler
from tests.redis_servers import free_port
from tests.services.job_server import SETTINGS, Answer, ApiServer, kubeconfig, status
from tests.stage import RUN, Stage
from tests.waiting import wait_until

INVALID = status(422, "Invalid", 'Job.batch "a" is invalid: spec.template.spec.containers[0].image: Required value')
QUOTA = status(403, "Forbidden", 'jobs.batch "a" is forbidden: exceeded quota: few, used: count/jobs.batch=2')
NO_RIGHTS = status(403, "Forbidden", 'jobs.batch is forbidden: User "x" cannot create resource "jobs" in API group')
UNREADY = status(403, "Forbidden", 'jobs.batch "a" is forbidden: not yet ready to handle request')
NO_NAMESPACE = status(404, "NotFound", 'namespaces "helios-tasks" not found', kind="namespaces")
BUSY = status(429, "TooManyRequests", "too many requests, please try again later")
WEBHOOK = status(500, "InternalError", "Internal error occurred: failed calling webhook")
MALFORMED = status(400, "BadRequest", "Job in version v1 cannot be handled as a Job")


@pytest.fixture
def launcher(api: Api) -> KubernetesLauncher:
    return KubernetesLauncher(api, SETTINGS, lambda: 0)


def wanted(task: str = "a", attempt: int = 1) -> WantedJob:
    dag = {"dagName": "d", "tasks": [{"name": task, "image": "i", "command": ["true"]}]}
    return wanted_job(
        job_name(RUN, task, attempt),
        parse_dag(json.dumps(dag).encode()).dag.tasks[0],
        run=RUN,
        attempt=attempt,
        cache_enabled=True,
        settings=SETTINGS,
        now_seconds=time.time(),
    )


class Scene:
    """A jobrunner between a Redis and an API server."""

    def __init__(self, client: redis.Redis, launcher: KubernetesLauncher, threads: int = 4) -> None:
        self.client = client
        self.stage = Stage(client)
        self.launcher = launcher
        self.runner = JobRunner(client, launcher, SETTINGS, threads)

    def ready(self) -> list[Entry]:
        stream = self.stage.keys.ready
        return [Entry(stream=stream, id=entry, fields=fields) for entry, fields in self.stage.deliver(stream)]

    def collect(self, folder: Path) -> None:
        """Let a collector handle what was launched."""
        stream = self.stage.keys.launched
        inbox = Inbox(
            self.client, group=COLLECTOR_GROUP, consumer="hand", streams=[stream], batch_entries=9, lease_seconds=60
        )
        collector = Collector(self.client, inbox, LocalPods(folder), SETTINGS)
        entries = [Entry(stream=stream, id=entry, fields=fields) for entry, fields in self.stage.deliver(stream)]
        assert collector.handle(entries) == []
        assert collector.held == {}


@pytest.fixture
def scene(valkey: redis.Redis, launcher: KubernetesLauncher) -> Scene:
    return Scene(valkey, launcher)


# One Job.


def test_a_job_is_created_with_the_token_of_the_kubeconfig(server: ApiServer, launcher: KubernetesLauncher) -> None:
    launcher.create(wanted())
    assert server.jobs[job_name(RUN, "a", 1)]["spec"]["backoffLimit"] == 0
    assert server.tokens == {"Bearer opaque"}


def test_a_job_of_the_same_attempt_is_adopted(server: ApiServer, launcher: KubernetesLauncher) -> None:
    """Created by another jobrunner, with another token and at another time."""
    launcher.create(wanted())
    first = dict(server.jobs)
    launcher.create(wanted())
    assert server.jobs == first


def test_a_job_of_that_name_with_another_spec_is_refused_and_left_alone(
    server: ApiServer, launcher: KubernetesLauncher
) -> None:
    launcher.create(wanted())
    job = server.jobs[wanted().name]
    job["metadata"]["annotations"]["helios.dev/spec-hash"] = "another"
    with pytest.raises(JobRefused, match=r"exists already in helios-tasks, and is another's"):
        launcher.create(wanted())
    assert server.jobs == {wanted().name: job}


def test_a_job_that_is_being_deleted_is_not_adopted(server: ApiServer, launcher: KubernetesLauncher) -> None:
    launcher.create(wanted())
    server.jobs[wanted().name]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    with pytest.raises(OSError, match="still being deleted"):
        launcher.create(wanted())
    server.jobs.clear()
    launcher.create(wanted())
    assert list(server.jobs) == [wanted().name]


def test_a_job_that_goes_between_two_requests_is_created_later(server: ApiServer, launcher: KubernetesLauncher) -> None:
    server.answers = [status(409, "AlreadyExists", "already exists")]
    with pytest.raises(OSError, match="not found"):
        launcher.create(wanted())
    launcher.create(wanted())
    assert list(server.jobs) == [wanted().name]


def test_a_creation_that_times_out_though_the_job_exists_is_adopted(server: ApiServer, api: Api) -> None:
    answer = threading.Event()
    server.before_answer = lambda name: bool(answer.wait(20))
    api.timeout_seconds = 0.2
    launcher = KubernetesLauncher(api, SETTINGS, lambda: 0)
    with pytest.raises(LauncherAway, match="does not answer"):
        launcher.create(wanted())
    wait_until("the Job exists", lambda: list(server.jobs) == [wanted().name])
    answer.set()
    api.timeout_seconds = 20
    launcher.create(wanted())
    assert list(server.jobs) == [wanted().name]


def test_an_api_server_that_is_down_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, f"http://127.0.0.1:{free_port()}")))
    launcher = KubernetesLauncher(connect_api(SETTINGS), SETTINGS, lambda: 0)
    with pytest.raises(LauncherAway):
        launcher.create(wanted())
    with pytest.raises(LauncherAway):
        launcher.delete("a")
    with pytest.raises(LauncherAway):
        launcher.jobs()


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ((201, {}), Verdict.CREATED),
        (status(409, "AlreadyExists"), Verdict.EXISTS),
        (status(409, "Conflict", "Operation cannot be fulfilled on resourcequotas"), Verdict.LATER),
        (INVALID, Verdict.REFUSED),
        (QUOTA, Verdict.REFUSED),
        (MALFORMED, Verdict.REFUSED),
        (NO_NAMESPACE, Verdict.REFUSED),
        (status(413, "RequestEntityTooLarge"), Verdict.REFUSED),
        (NO_RIGHTS, Verdict.DENIED),
        (UNREADY, Verdict.LATER),
        (status(401, "Unauthorized"), Verdict.LATER),
        (status(404, "NotFound", "the server could not find the requested resource", kind=""), Verdict.LATER),
        (BUSY, Verdict.AWAY),
        (status(503, "ServiceUnavailable"), Verdict.AWAY),
        (WEBHOOK, Verdict.LATER),
        (status(504, "Timeout"), Verdict.LATER),
    ],
)
def test_only_an_answer_that_a_repetition_cannot_change_is_final(answer: Answer, verdict: Verdict) -> None:
    found = judge(answer[0], json.dumps(answer[1]).encode())
    assert found.verdict is verdict
    assert answer[1].get("message", "") in found.words


@pytest.mark.parametrize("body", [b"", b"404 page not found\n", b"\xff\xfe", b"[]", b'{"message": 5}', b"x" * 100_000])
def test_an_answer_that_is_no_status_is_quoted_in_short(body: bytes) -> None:
    """A proxy in between may say anything."""
    found = judge(404, body)
    assert found.verdict is Verdict.LATER
    assert found.words.startswith("HTTP 404: ")
    assert len(found.words) <= 900


def test_a_lack_of_rights_is_believed_only_when_it_lasts(
    server: ApiServer, launcher: KubernetesLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An API server that starts denies everything until it has read its roles."""
    server.answers = [NO_RIGHTS]
    with pytest.raises(OSError, match="cannot create resource"):
        launcher.create(wanted())
    launcher.create(wanted())
    server.answers = [NO_RIGHTS, NO_RIGHTS]
    with pytest.raises(OSError, match="cannot create resource"):
        launcher.create(wanted())
    monkeypatch.setattr("services.jobrunner.kubernetes.DENIED_PATIENCE_SECONDS", 0.0)
    with pytest.raises(JobRefused, match="cannot create resource"):
        launcher.create(wanted())


def test_a_delete_takes_the_pod_along_and_minds_no_job_that_is_gone(
    server: ApiServer, launcher: KubernetesLauncher
) -> None:
    launcher.create(wanted())
    launcher.delete(wanted().name)
    launcher.delete(wanted().name)
    assert server.jobs == {}
    assert server.deletions == [(wanted().name, "propagationPolicy=Background")] * 2


def test_all_jobs_are_listed_page_by_page(server: ApiServer, launcher: KubernetesLauncher) -> None:
    for attempt in range(1, 6):
        launcher.create(wanted(attempt=attempt))
    server.jobs["x-foreign"] = {"metadata": {"name": "x-foreign"}}
    expected = {ExistingJob(job_name(RUN, "a", attempt), RUN, "a", attempt) for attempt in range(1, 6)}
    assert set(launcher.jobs()) == expected


# Batches.


def test_what_the_api_server_refuses_fails_the_attempt_with_its_words(
    scene: Scene, server: ApiServer, tmp_path: Path
) -> None:
    scene.stage.open({"a": []})
    server.answers = [INVALID]
    assert scene.runner.launch(scene.ready()) == []
    scene.collect(tmp_path)
    task = scene.stage.task("a")
    reason = json.loads(task["record"])["reason"]
    assert (task["status"], task["disrupted"], task["cache"]) == ("FAILED", "0", "N/A")
    assert reason.startswith("the API server refused its Job: HTTP 422: ")
    assert "image: Required value" in reason
    assert scene.stage.client.xlen(scene.stage.keys.launched) == 0


def test_a_refusal_stops_no_other_job_of_its_batch(scene: Scene, server: ApiServer) -> None:
    scene.stage.open({"a": [], "b": [], "c": []})
    server.answers = [QUOTA]
    assert scene.runner.launch(scene.ready()) == []
    refusals = [fields.get("refused") for _, fields in scene.stage.entries(scene.stage.keys.launched)]
    assert len(server.jobs) == 2
    assert [bool(each) for each in sorted(refusals, key=bool)] == [False, False, True]


def test_a_refused_attempt_is_not_taken_for_a_lost_entry(scene: Scene, server: ApiServer) -> None:
    scene.stage.open({"a": []})
    server.answers = [QUOTA]
    scene.runner.launch(scene.ready())
    reconciler = Reconciler(scene.client, 1)
    assert (reconciler.look(), reconciler.look()) == (0, 0)


def test_a_busy_api_server_puts_the_entry_off_and_then_gets_the_job(scene: Scene, server: ApiServer) -> None:
    scene.stage.open({"a": []})
    entries = scene.ready()
    server.answers = [BUSY]
    failures = scene.runner.launch(entries)
    assert [type(failure.error) for failure in failures] == [Later]
    assert "too many requests" in str(failures[0].error)
    assert scene.stage.status("a") == "QUEUED"
    assert scene.runner.launch(entries) == []
    assert list(server.jobs) == [job_name(RUN, "a", 1)]
    assert scene.stage.status("a") == "RUNNING"


def test_jobs_of_a_batch_are_created_at_the_same_time(scene: Scene, server: ApiServer) -> None:
    together = threading.Barrier(4)
    server.before_answer = lambda name: bool(together.wait(20))
    scene.stage.open({name: [] for name in "abcd"})
    assert scene.runner.launch(scene.ready()) == []
    assert len(server.jobs) == 4


def test_no_launch_waits_for_the_slowest_of_its_batch(scene: Scene, server: ApiServer) -> None:
    """The one that the API server keeps waiting gets its answer only when the others' launches are recorded."""
    slow = job_name(RUN, "a", 1)
    stage = scene.stage

    def wait_for_others(name: str) -> None:
        if name == slow:
            wait_until("the others are launched", lambda: stage.client.xlen(stage.keys.launched) == 3)

    server.before_answer = wait_for_others
    stage.open({name: [] for name in "abcd"})
    assert scene.runner.launch(scene.ready()) == []
    assert stage.client.xlen(stage.keys.launched) == 4


@pytest.mark.alone
def test_a_silent_api_server_costs_a_batch_one_wait_only(scene: Scene, server: ApiServer, api: Api) -> None:
    """Else the batch would outlast its lease, and each takeover would count against its entries."""
    silence = threading.Event()
    server.before_answer = lambda name: bool(silence.wait(20))
    api.timeout_seconds = 0.5
    tasks = [f"t{number}" for number in range(40)]
    scene.stage.open({name: [] for name in tasks})
    entries = scene.ready()
    began = time.monotonic()
    failures = scene.runner.launch(entries)
    took = time.monotonic() - began
    silence.set()
    assert [type(failure.error) for failure in failures] == [Later] * 40
    assert took < 3, "one by one they would take five seconds"
    api.timeout_seconds = 20
    assert scene.runner.launch(entries) == []
    assert len(server.jobs) == 40
    assert scene.stage.client.xlen(scene.stage.keys.launched) == 40


def test_a_cancel_while_the_job_is_being_created_leaves_no_job(scene: Scene, server: ApiServer) -> None:
    scene.stage.open({"a": []})
    server.before_answer = lambda name: bool(scene.stage.cancel(["a"]))
    assert scene.runner.launch(scene.ready()) == []
    assert server.jobs == {}
    assert scene.stage.client.xlen(scene.stage.keys.launched) == 0


def test_a_job_that_cannot_be_deleted_just_then_is_left_to_the_sweep(
    scene: Scene, server: ApiServer, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its entry is acknowledged by then, so nobody else comes back to it."""
    scene.stage.open({"a": []})

    def cancel_and_fall_silent(name: str) -> None:
        scene.stage.cancel(["a"])
        monkeypatch.setattr(api, "host", f"http://127.0.0.1:{free_port()}")

    server.before_answer = cancel_and_fall_silent
    assert scene.runner.launch(scene.ready()) == []
    assert len(server.jobs) == 1
    Sweep(scene.launcher, scene.client, SETTINGS).look()
    assert len(server.jobs) == 1
    monkeypatch.setattr(api, "host", server.url)
    Sweep(scene.launcher, scene.client, SETTINGS).look()
    assert server.jobs == {}


def test_cancelled_jobs_are_deleted_once_the_api_server_is_back(
    scene: Scene, api: Api, server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = scene.stage.keys
    scene.stage.open({"a": [], "b": []})
    scene.runner.launch(scene.ready())
    scene.stage.cancel(["a", "b"])
    entries = [Entry(stream=keys.cancelled, id=i, fields=f) for i, f in scene.stage.deliver(keys.cancelled)]
    inbox = Inbox(
        scene.client,
        group=JOBRUNNER_GROUP,
        consumer="hand",
        streams=[keys.cancelled],
        batch_entries=9,
        lease_seconds=60,
    )
    deleter = Deleter(scene.launcher, inbox)
    monkeypatch.setattr(api, "host", f"http://127.0.0.1:{free_port()}")
    assert [type(failure.error) for failure in deleter.delete(entries)] == [Later, Later]
    monkeypatch.setattr(api, "host", server.url)
    assert deleter.delete(entries) == []
    assert server.jobs == {}
    assert scene.stage.client.xlen(keys.cancelled) == 0


def test_a_sweep_deletes_the_jobs_that_nobody_wants(scene: Scene, server: ApiServer) -> None:
    scene.stage.open({"a": [], "b": []})
    scene.runner.launch(scene.ready())
    scene.launcher.create(wanted("gone"))
    scene.stage.cancel(["b"])
    sweep = Sweep(scene.launcher, scene.client, SETTINGS)
    sweep.look()
    assert len(server.jobs) == 2, "one of them is known to nobody, and that may change"
    sweep.look()
    assert list(server.jobs) == [job_name(RUN, "a", 1)]


def test_ready_tasks_stay_in_their_stream_while_enough_jobs_are_in_hand(
    scene: Scene, server: ApiServer, api: Api
) -> None:
    """The limit holds over all jobrunners, because what it counts is in Redis."""
    stage = scene.stage
    settings = Settings(token_key="k", agent_image="i", launcher="kubernetes", jobs_alive=3, replica="one")
    launcher = KubernetesLauncher(api, settings, lambda: jobs_in_hand(scene.client, 1))
    stage.open({f"t{number}": [] for number in range(10)})
    stop = Stop()
    service = threading.Thread(target=run, args=(settings, launcher, scene.client, stop))
    service.start()
    try:
        for ended in range(5):
            wait_until("as many as allowed are launched", lambda: stage.client.xlen(stage.keys.launched) == 3)
            assert len(server.jobs) == ended + 3
            assert stage.client.xlen(stage.keys.ready) == 10 - ended - 3
            name = stage.emitted(stage.keys.launched)[0][0]
            stage.end(name)
    finally:
        stop.event.set()
        service.join()


# Beginning.


def test_what_is_missing_is_named_by_its_variable(
    valkey: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SettingInvalid, match="HELIOS_AGENT_IMAGE and HELIOS_TOKEN_KEY must be set"):
        launcher_from(Settings(launcher="kubernetes"), valkey)
    with pytest.raises(SettingInvalid, match="HELIOS_LOCAL_DIR and HELIOS_TOKEN_KEY must be set"):
        launcher_from(Settings(), valkey)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nothing"))
    with pytest.raises(SettingInvalid, match="KUBECONFIG"):
        launcher_from(SETTINGS, valkey)
    monkeypatch.delenv("KUBECONFIG")
    with pytest.raises(SettingInvalid, match="no pod"):
        launcher_from(SETTINGS, valkey)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HELIOS_LAUNCHER", "docker"),
        ("HELIOS_JOB_CREATE_THREADS", "0"),
        ("HELIOS_JOBS_ALIVE", "-1"),
        ("HELIOS_JOB_TTL_SECONDS", "-1"),
        ("HELIOS_JOB_DEADLINE_MARGIN_SECONDS", "soon"),
        ("HELIOS_CACHE_HOST_PATH", "cache"),
        ("HELIOS_CACHE_HOST_PATH", "/var/../etc"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_named(variable: str, value: str) -> None:
    with pytest.raises(SettingInvalid, match=variable):
        settings_from({variable: value})


def test_local_mode_does_not_import_the_client_of_kubernetes() -> None:
    """It takes a quarter of a second and 40 MB."""
    code = "import sys, services.jobrunner.__main__; sys.exit('kubernetes' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_token_file_that_is_not_there_counts_as_no_answer() -> None:
    """It is being replaced, and the next try finds the new one."""
    configuration = Configuration()
    configuration.host = "http://127.0.0.1:9"

    def not_there(_configuration: Configuration) -> None:
        raise FileNotFoundError("token")

    configuration.refresh_api_key_hook = not_there
    with pytest.raises(LauncherAway, match="token"):
        Api(configuration, connections=1, timeout_seconds=1).request("GET", "/")


def test_a_jobrunner_without_an_api_server_is_not_ready(server: ApiServer, api: Api) -> None:
    """It says why, and is ready again by itself; so, too, where it may not even list Jobs."""
    launcher = KubernetesLauncher(api, SETTINGS, lambda: 0)
    assert launcher.trouble() == "the API server, which was not asked yet"
    launcher.look()
    assert launcher.trouble() == ""
    host, api.host = api.host, f"http://127.0.0.1:{free_port()}"
    launcher.look()
    assert "does not answer" in launcher.trouble()
    api.host = host
    launcher.look()
    assert launcher.trouble() == ""
    launcher.path = "/apis/batch/v1/namespaces/another/jobs"
    launcher.look()
    assert "the API server: " in launcher.trouble()
