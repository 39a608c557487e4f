"""Jobs: created once for a wanted attempt, deleted when nobody wants them, never for a stale entry."""

import os
from pathlib import Path

import pytest
import redis

from agent.wrapper import task_environment
from helios.dag import Task, parse_dag
from helios.keys import JOBRUNNER_GROUP
from helios.localjobs import LocalJob, create_job, job_file, jobs_folder, list_jobs, read_job
from helios.settings import Settings
from helios.streams import Entry, Inbox
from helios.tokens import check
from helios.worker import Later
from services.jobrunner.__main__ import Sweep
from services.jobrunner.jobs import ExistingJob, JobRefused, WantedJob, job_name, wanted_job
from services.jobrunner.launch import Deleter, JobRunner, superseded
from services.jobrunner.local import LocalLauncher, local_job
from services.jobrunner.pod_parts import task_env
from tests.stage import RUN, Stage

SETTINGS = Settings(token_key="k", lease_seconds=600, unknown_job_seconds=0)


class Launcher:
    """Jobs in memory; may refuse."""

    def __init__(self) -> None:
        self.jobs: dict[str, WantedJob] = {}
        self.created: list[str] = []
        self.deleted: list[str] = []
        self.refusal: OSError | JobRefused | None = None

    def create(self, job: WantedJob) -> None:
        if self.refusal:
            raise self.refusal
        if job.name not in self.jobs:
            self.created.append(job.name)
        self.jobs[job.name] = job

    def delete(self, name: str) -> None:
        if self.refusal:
            raise self.refusal
        self.jobs.pop(name, None)
        self.deleted.append(name)

    def room(self) -> int:
        return 1_000

    def jobs(self) -> list[ExistingJob]:
        return []


class Setting:
    def __init__(self, client: redis.Redis) -> None:
        self.stage = Stage(client)
        self.launcher = Launcher()
        self.runner = JobRunner(client, self.launcher, SETTINGS)
        inbox = Inbox(
            client,
            group=JOBRUNNER_GROUP,
            consumer="hand",
            streams=[self.stage.keys.cancelled],
            batch_entries=10,
            lease_seconds=600,
        )
        self.deleter = Deleter(self.launcher, inbox)

    def ready(self) -> list[Entry]:
        stream = self.stage.keys.ready
        return [Entry(stream=stream, id=entry, fields=fields) for entry, fields in self.stage.deliver(stream)]

    def cancelled(self) -> list[Entry]:
        stream = self.stage.keys.cancelled
        return [Entry(stream=stream, id=entry, fields=fields) for entry, fields in self.stage.deliver(stream)]


@pytest.fixture
def setting(client: redis.Redis) -> Setting:
    return Setting(client)


def test_a_ready_attempt_gets_its_job_and_the_collector_is_told(setting: Setting) -> None:
    setting.stage.open({"a": []})
    assert setting.runner.launch(setting.ready()) == []
    name = job_name(RUN, "a", 1)
    assert setting.launcher.created == [name]
    assert setting.stage.task("a")["job"] == name
    assert [fields["job"] for _, fields in setting.stage.entries(setting.stage.keys.launched)] == [name]
    job = setting.launcher.jobs[name]
    named = check("k", job.agent_env["HELIOS_TOKEN"], 0)
    assert (named.run, named.task, named.attempt) == (RUN, "a", 1)
    assert job.agent_env["HELIOS_CACHE_ENABLED"] == "true"


def test_a_ready_entry_that_comes_twice_creates_one_job(setting: Setting) -> None:
    setting.stage.open({"a": []})
    entries = setting.ready()
    setting.runner.launch(entries + entries)
    setting.runner.launch(entries)
    assert setting.launcher.created == [job_name(RUN, "a", 1)]
    assert setting.launcher.deleted == []
    assert len(setting.stage.entries(setting.stage.keys.launched)) == 1


def test_a_stale_ready_entry_creates_no_job_after_the_first_was_collected(setting: Setting) -> None:
    setting.stage.open({"a": []})
    entries = setting.ready()
    setting.runner.launch(entries)
    setting.stage.end("a")
    setting.launcher.jobs.clear()
    setting.runner.launch(entries)
    assert setting.launcher.jobs == {}
    assert setting.stage.client.xlen(setting.stage.keys.launched) == 0


def test_the_job_of_a_superseded_attempt_is_deleted(setting: Setting) -> None:
    """The entry of attempt 1 is replayed while attempt 2 runs."""
    setting.stage.open({"a": []}, retries={"a": 1})
    entries = setting.ready()
    setting.runner.launch(entries)
    setting.stage.end("a", status="FAILED")
    setting.stage.settle("a")
    setting.runner.launch(setting.ready())
    setting.runner.launch(entries)
    assert setting.launcher.deleted == [job_name(RUN, "a", 1)]
    assert list(setting.launcher.jobs) == [job_name(RUN, "a", 1), job_name(RUN, "a", 2)][1:]


def test_a_cancel_while_the_job_is_being_created_leaves_no_job(setting: Setting) -> None:
    """The fence is checked again once the Job exists."""
    setting.stage.open({"a": []})
    entries = setting.ready()
    create = setting.launcher.create

    def create_then_cancel(job: WantedJob) -> None:
        create(job)
        setting.stage.cancel(["a"])

    setting.launcher.create = create_then_cancel  # type: ignore[method-assign]
    setting.runner.launch(entries)
    assert setting.launcher.jobs == {}
    assert setting.stage.client.xlen(setting.stage.keys.launched) == 0
    assert setting.stage.finalise() == 1
    assert setting.stage.run()["taskCancelled"] == "1"


def test_a_cancelled_running_attempt_loses_its_job(setting: Setting) -> None:
    setting.stage.open({"a": []})
    setting.runner.launch(setting.ready())
    setting.stage.cancel(["a"])
    entries = setting.cancelled()
    assert setting.deleter.delete(entries + entries) == []
    assert setting.launcher.jobs == {}
    assert setting.stage.client.xlen(setting.stage.keys.cancelled) == 0


def test_what_the_launcher_refuses_just_now_is_put_off(setting: Setting) -> None:
    setting.stage.open({"a": [], "b": []})
    entries = setting.ready()
    setting.launcher.refusal = OSError("disk full")
    failures = setting.runner.launch(entries)
    assert [type(failure.error) for failure in failures] == [Later, Later]
    assert "disk full" in str(failures[0].error)
    setting.launcher.refusal = None
    assert setting.runner.launch(entries) == []
    assert len(setting.launcher.jobs) == 2
    setting.stage.cancel(["a", "b"])
    setting.launcher.refusal = OSError("away")
    cancelled = setting.cancelled()
    assert [type(failure.error) for failure in setting.deleter.delete(cancelled)] == [Later, Later]
    assert setting.stage.client.xlen(setting.stage.keys.cancelled) == 2


def test_a_job_that_is_refused_for_good_is_launched_with_the_reason(setting: Setting) -> None:
    """The collector ends the attempt; nothing is left to try again, and there is no Job to delete."""
    setting.stage.open({"a": []})
    entries = setting.ready()
    setting.launcher.refusal = JobRefused("the API server said no")
    assert setting.runner.launch(entries) == []
    assert setting.runner.launch(entries) == []
    launched = [fields for _, fields in setting.stage.entries(setting.stage.keys.launched)]
    assert [fields["refused"] for fields in launched] == ["the API server said no"]
    assert setting.stage.status("a") == "RUNNING"
    assert setting.stage.client.xlen(setting.stage.keys.ready) == 0
    assert setting.launcher.deleted == []


def test_one_bad_record_keeps_no_other_job_from_starting(setting: Setting) -> None:
    setting.stage.open({"a": [], "b": [], "c": []})
    keys = setting.stage.keys
    setting.stage.client.hset(keys.task(RUN, "a"), "spec", "{broken")
    setting.stage.client.delete(keys.task(RUN, "b"))
    setting.stage.client.set(keys.task(RUN, "b"), "of the wrong type")
    failures = setting.runner.launch(setting.ready())
    assert len(failures) == 2
    assert setting.launcher.created == [job_name(RUN, "c", 1)]


@pytest.mark.parametrize(
    ("found", "gone"),
    [
        ((None, None), True),
        (("CANCELLED", "1"), True),
        (("UPSTREAM_FAILED", "1"), True),
        (("QUEUED", "2"), True),
        (("QUEUED", "1"), False),
        (("RUNNING", "1"), False),
        (("SUCCEEDED", "1"), False),
        (("FAILED", "1"), False),
    ],
)
def test_the_job_of_the_current_attempt_is_never_superseded(found: tuple[str | None, str | None], gone: bool) -> None:
    """It may be running, or wait to be wrapped up."""
    assert superseded(found, 1) is gone


@pytest.mark.parametrize("task", ["a", "A.b_c-d", "x" * 253, "9", "a" + "-" * 100, "Z..."])
def test_a_job_name_is_a_dns_label_and_one_attempts_own(task: str) -> None:
    names = {job_name(run, task, attempt) for run in ("1-0", "1-1") for attempt in (1, 2)}
    assert len(names) == 4
    for name in names:
        assert 1 <= len(name) <= 63
        assert name.isascii()
        assert name == name.lower()
        assert name[0].isalnum()
        assert name[-1].isalnum()
        assert all(letter.isalnum() or letter == "-" for letter in name)


TASK = b"""
dagName: d
tasks:
  - name: a
    image: i
    command: [sh, -c]
    args: [exit 0]
    timeoutSeconds: 7
    env: {PLAIN: x, KEY: {secret: s, key: k}}
"""


def one_task() -> Task:
    return parse_dag(TASK).dag.tasks[0]


def wanted(name: str = "job-1") -> WantedJob:
    return wanted_job(name, one_task(), run=RUN, attempt=1, cache_enabled=False, settings=SETTINGS, now_seconds=1.0)


def test_a_local_job_is_a_file_that_appears_whole_and_once(tmp_path: Path) -> None:
    launcher = LocalLauncher(tmp_path, 2)
    launcher.create(wanted())
    launcher.create(wanted())
    assert list_jobs(tmp_path) == ["job-1"]
    assert [path.name for path in (tmp_path / "jobs").iterdir()] == ["job-1.json"]
    job = read_job(tmp_path, "job-1")
    assert job == local_job(wanted())
    assert job is not None
    assert (job.command, job.timeoutSeconds, job.env) == (["sh", "-c", "exit 0"], 7, {"PLAIN": "x"})
    assert [(each.name, each.secret, each.key) for each in job.secrets] == [("KEY", "s", "k")]
    assert job.agentEnv["HELIOS_CACHE_ENABLED"] == "false"
    assert "HELIOS_TOKEN" not in job.env
    assert launcher.room()
    launcher.create(wanted("job-2"))
    assert not launcher.room()
    launcher.delete("job-1")
    launcher.delete("job-1")
    assert launcher.room()


def test_a_start_deletes_the_jobs_that_nobody_wants(client: redis.Redis, tmp_path: Path) -> None:
    """What a crash between creating a Job and deleting it has left."""
    stage = Stage(client)
    stage.open({"a": [], "b": []})
    launcher = LocalLauncher(tmp_path, 10)
    for task in ("a", "b", "gone"):
        job = local_job(wanted(f"job-{task}"))
        create_job(tmp_path, type(job)(job=f"job-{task}", run=RUN, task=task, attempt=1, command=["x"]))
    stage.cancel(["b"])
    sweep = Sweep(launcher, client, SETTINGS)
    sweep.look()
    assert sorted(list_jobs(tmp_path)) == ["job-a", "job-gone"], "its run may just be opened again"
    sweep.look()
    assert list_jobs(tmp_path) == ["job-a"]


def test_a_job_whose_run_is_opened_again_after_a_loss_stays(client: redis.Redis, tmp_path: Path) -> None:
    """Redis lost the opening, not the submission: the second time the run wants the same Job."""
    stage = Stage(client)
    launcher = LocalLauncher(tmp_path, 10)
    create_job(tmp_path, LocalJob(job="job-a", run=RUN, task="a", attempt=1, command=["x"]))
    sweep = Sweep(launcher, client, SETTINGS)
    sweep.look()
    stage.open({"a": []})
    sweep.look()
    sweep.look()
    assert list_jobs(tmp_path) == ["job-a"]


def test_a_damaged_job_file_does_not_hide_the_others(tmp_path: Path) -> None:
    """Disk damage to one Job costs that Job, not the service's sweep."""
    launcher = LocalLauncher(tmp_path, jobs_alive=10)
    create_job(tmp_path, LocalJob(job="good", run="1-0", task="a", attempt=1, command=["true"]))
    job_file(tmp_path, "bad").write_bytes(b"{")
    assert [job.job for job in launcher.jobs()] == ["good"]


def test_what_is_left_of_a_job_whose_writer_was_killed_goes_after_a_while(tmp_path: Path) -> None:
    """It may hold a token; one that is being written just now is left alone."""
    launcher = LocalLauncher(tmp_path, 10)
    left, fresh = (jobs_folder(tmp_path) / f".{name}.0a1b2c3d.partial" for name in ("left", "fresh"))
    jobs_folder(tmp_path).mkdir()
    for file in (left, fresh):
        file.write_bytes(b'{"job":')
    os.utime(left, (0, 0))
    launcher.look()
    assert not left.exists()
    assert fresh.exists()


def test_what_comes_last_is_told_how_the_others_ended_and_nobody_else_is(setting: Setting) -> None:
    setting.stage.open({"a": [], "b": ["a"]}, on_exit="bye")
    setting.runner.launch(setting.ready())
    setting.stage.end("a", status="FAILED")
    setting.stage.fail("a", ["b"])
    setting.runner.launch(setting.ready())
    first, last = (setting.launcher.jobs[job_name(RUN, task, 1)] for task in ("a", "bye"))
    told = {"HELIOS_RUN_STATUS": "FAILED", "HELIOS_FAILED_TASKS": "a"}
    assert {name: last.agent_env[name] for name in told} == told
    assert not first.agent_env.keys() & told.keys()
    assert {each["name"]: each["value"] for each in task_env(last)}.items() >= told.items()
    kept = task_environment(local_job(last).agentEnv)
    assert kept.items() >= told.items()


def test_a_cancelled_runs_last_task_gets_its_job(setting: Setting) -> None:
    setting.stage.open({"a": []}, on_exit="bye")
    setting.runner.launch(setting.ready())
    setting.stage.cancel(["a", "bye"])
    setting.runner.launch(setting.ready())
    assert setting.stage.status("bye") == "RUNNING"
    assert setting.launcher.jobs[job_name(RUN, "bye", 1)].agent_env["HELIOS_RUN_STATUS"] == "CANCELLED"


@pytest.mark.parametrize("skipped", [0, 1])
def test_after_a_loss_what_comes_last_is_looked_for_only_where_nothing_else_ran(setting: Setting, skipped: int) -> None:
    """Else it would not have seen what ran since."""
    setting.stage.open({"a": []}, on_exit="bye")
    setting.stage.pass_through("a")
    setting.stage.client.hset(setting.stage.keys.run(RUN), mapping={"recovered": "true", "taskSkipped": str(skipped)})
    setting.runner.launch(setting.ready())
    assert len(setting.stage.entries(setting.stage.keys.checks)) == skipped
    assert len(setting.launcher.created) == 1 - skipped
