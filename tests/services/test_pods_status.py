"""From pods and Jobs as a Kubernetes 1.36 shows them to statuses and reasons: tables of pure decisions."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from helios.settings import Settings
from services.collector.kube_objects import Job, Pod
from services.collector.kube_status import (
    CONFIG_SECONDS,
    HOOK_FAILED,
    OUT_OF_MEMORY,
    OUT_OF_TIME,
    PUBLISH_SECONDS,
    Trouble,
    job_failure,
    job_trouble,
    pod_trouble,
    status_of,
    termination_message,
)

SETTINGS = Settings()
AT = "2026-11-25T01:00:{:02d}Z"
Json = dict[str, Any]


def ended(code: int = 0, reason: str = "", message: str = "", *, began: int = 1, at: int = 5) -> Json:
    found = {"exitCode": code, "reason": reason or ("Error" if code else "Completed"), "startedAt": AT.format(began)}
    return {"terminated": {**found, "finishedAt": AT.format(at), "message": message, "containerID": "containerd://c"}}


def waiting(reason: str, message: str = "") -> Json:
    return {"waiting": {"reason": reason, **({"message": message} if message else {})}}


RUNS: Json = {"running": {"startedAt": AT.format(3)}}
STARTS = waiting("ContainerCreating")


def container(name: str, state: Json, **more: Any) -> Json:
    return {
        "name": name,
        "image": "i",
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "started": False,
        "lastState": {},
        "state": state,
        **more,
    }


def condition(kind: str, status: str = "True", reason: str = "", message: str = "") -> Json:
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": AT.format(1)}


def pod(
    phase: str = "Running",
    fetch: Json | None = None,
    task: Json | None = None,
    publish: Json | None = None,
    *,
    node: str = "node1",
    meta: Json | None = None,
    **status: Any,
) -> Pod:
    document = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "job-x-abcde",
            "namespace": "helios-tasks",
            "uid": "3b1c",
            "resourceVersion": "812",
            "creationTimestamp": AT.format(0),
            "labels": {"app.kubernetes.io/managed-by": "helios", "helios.dev/job": "job-x"},
            "finalizers": ["batch.kubernetes.io/job-tracking", "helios.dev/result"],
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "job-x"}],
            **(meta or {}),
        },
        "spec": {"restartPolicy": "Never", "containers": [], **({"nodeName": node} if node else {})},
        "status": {
            "phase": phase,
            "qosClass": "BestEffort",
            "podIP": "10.244.0.7",
            "containerStatuses": [
                container(n, s) for n, s in (("fetch", fetch), ("task", task), ("publish", publish)) if s
            ],
            **status,
        },
    }
    return msgspec.json.decode(msgspec.json.encode(document), type=Pod)


def job(*conditions: Json) -> Job:
    document = {"metadata": {"name": "job-x"}, "spec": {"backoffLimit": 0}, "status": {"conditions": conditions}}
    return msgspec.json.decode(msgspec.json.encode(document), type=Job)


PHASES: dict[str, tuple[Pod, str]] = {
    "nothing is known yet": (pod("Pending", node=""), "Pending"),
    "fetch's image is pulled": (pod("Pending", STARTS, STARTS, STARTS), "Pending"),
    "fetch runs": (pod("Pending", RUNS, STARTS, STARTS), "Fetching"),
    "the others wait for fetch": (pod("Running", RUNS, RUNS, RUNS), "Fetching"),
    "the task's image is pulled": (pod("Pending", ended(), STARTS, STARTS), "Fetching"),
    "publish is ahead of the task": (pod("Running", ended(), STARTS, RUNS), "Fetching"),
    "the task runs": (pod("Running", ended(), RUNS, RUNS), "Running"),
    "the task has ended": (pod("Running", ended(), ended(3), RUNS), "Publishing"),
    "all have ended": (pod("Running", ended(), ended(), ended()), "Publishing"),
    "the pod succeeded": (pod("Succeeded", ended(), ended(), ended()), "Succeeded"),
    "the pod failed": (pod("Failed", ended(), ended(1), ended(1)), "Failed"),
}


@pytest.mark.parametrize("case", PHASES)
def test_the_phase_is_the_step_that_is_under_way(case: str) -> None:
    found, phase = PHASES[case]
    status = status_of(found)
    assert (status.phase, status.job, status.uid, status.disrupted) == (phase, "job-x", "3b1c", False)


def test_steps_have_their_times_and_exit_codes() -> None:
    status = status_of(pod("Running", ended(began=1, at=2), ended(7, began=3, at=9), RUNS))
    steps = {name: (step.startedAt, step.endedAt, step.exitCode) for name, step in status.steps.items()}
    second = 1_000
    epoch = 1_795_568_400 * second
    assert steps == {
        "fetch": (epoch + 1 * second, epoch + 2 * second, 0),
        "task": (epoch + 3 * second, epoch + 9 * second, 7),
        "publish": (epoch + 3 * second, None, None),
    }
    assert status.node == "node1"


def test_a_container_that_a_restarted_kubelet_forgot_is_known_by_its_last_state() -> None:
    again = container("task", waiting("ContainerCreating"), lastState=ended(0, message="", at=8))
    status = status_of(pod("Running", ended(), containerStatuses=[again, container("publish", RUNS)]))
    assert status.steps["task"].exitCode == 0
    assert status.phase == "Publishing"


@pytest.mark.parametrize(
    ("message", "expected"), [('{"ok":true}', '{"ok":true}'), ("", None), ("x" * 4097, None), ("é" * 2048, "é" * 2048)]
)
def test_a_termination_message_is_taken_whole_or_not_at_all(message: str, expected: str | None) -> None:
    found = pod("Running", ended(message=message), RUNS, RUNS)
    assert termination_message(found, "fetch") == expected
    assert termination_message(found, "task") is None
    forgotten = container("fetch", {}, lastState=ended(message=message))
    assert termination_message(pod(containerStatuses=[forgotten]), "fetch") == expected


DISRUPTED = condition(
    "DisruptionTarget", reason="DeletionByTaintManager", message="Taint manager: deleting due to NoExecute taint"
)
DELETED = {"deletionTimestamp": AT.format(34), "deletionGracePeriodSeconds": 30}

FAILURES: dict[str, tuple[Pod, str | None, bool]] = {
    "out of memory": (pod("Failed", ended(), ended(137, "OOMKilled"), ended(1)), OUT_OF_MEMORY, False),
    "fetch out of memory": (
        pod("Failed", ended(137, "OOMKilled"), STARTS, STARTS),
        "OOMKilled: fetch was killed for exceeding its memory limit",
        False,
    ),
    "evicted for what it used itself": (
        pod("Failed", reason="Evicted", message='Usage of EmptyDir volume "artifacts" exceeds the limit "1Gi". '),
        'it was evicted: Usage of EmptyDir volume "artifacts" exceeds the limit "1Gi". ',
        False,
    ),
    "evicted because its node was short": (
        pod(
            "Failed",
            ended(),
            ended(137),
            ended(137),
            reason="Evicted",
            message="The node was low on resource: memory.",
            conditions=[
                condition(
                    "DisruptionTarget", reason="TerminationByKubelet", message="The node was low on resource: memory."
                )
            ],
        ),
        "its pod was disrupted: The node was low on resource: memory.",
        True,
    ),
    "preempted": (
        pod(
            "Failed",
            ended(),
            ended(143),
            ended(143),
            meta=DELETED,
            conditions=[
                condition("DisruptionTarget", reason="PreemptionByScheduler", message="default-scheduler: preempting")
            ],
        ),
        "its pod was disrupted: default-scheduler: preempting",
        True,
    ),
    "its node shut down": (
        pod("Failed", reason="NodeShutdown", message="Pod was rejected as the node is shutting down."),
        "its node node1 refused it: Pod was rejected as the node is shutting down.",
        True,
    ),
    "another pod was faster": (
        pod("Failed", reason="OutOfcpu", message="Node didn't have enough resource: cpu"),
        "its node node1 refused it: Node didn't have enough resource: cpu",
        True,
    ),
    "past its deadline": (
        pod("Failed", ended(), ended(137), ended(137), reason="DeadlineExceeded", message="Pod was active too long"),
        OUT_OF_TIME,
        False,
    ),
    "its kubelet lost the container": (
        pod("Failed", ended(), ended(137, "ContainerStatusUnknown", "could not be located"), ended(137)),
        "its node lost task: could not be located",
        True,
    ),
    "its node was restarted": (
        pod("Failed", ended(), ended(255, "Unknown"), ended(255, "Unknown")),
        "its node lost task: how it ended is not known",
        True,
    ),
    "somebody deleted it": (pod("Failed", ended(), ended(143), ended(143), meta=DELETED), "its pod was deleted", True),
    "it failed long before it was deleted": (
        pod("Failed", ended(), ended(143, at=1), ended(0, at=1), meta={"deletionTimestamp": AT.format(40)}),
        None,
        False,
    ),
    "there is no such program": (
        pod("Failed", ended(), ended(128, "StartError", 'exec: "/x": no such file'), ended(1)),
        'task could not be started: exec: "/x": no such file',
        False,
    ),
    "fetch was never started, nor was what it brings": (
        pod("Failed", ended(128, "StartError", "no space left"), ended(128, "StartError", "no such file"), ended(1)),
        "fetch could not be started: no space left",
        False,
    ),
    "fetch failed and left no wrapper to start": (
        pod("Failed", ended(1), ended(128, "StartError", 'exec: "/helios/exec/exec": no such file'), ended(1)),
        None,
        False,
    ),
    "fetch's hook failed": (pod("Failed", ended(143), ended(125), ended(1)), HOOK_FAILED, True),
    "it was deleted while fetch was at work": (
        pod("Failed", ended(143), ended(143), ended(143), meta=DELETED),
        "its pod was deleted",
        True,
    ),
    "the command failed": (pod("Failed", ended(), ended(2), ended(0)), None, False),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_failed_pod_says_why(case: str) -> None:
    """What only Kubernetes knows overrules the report; where it knows nothing, the report is asked."""
    found, reason, disrupted = FAILURES[case]
    status = status_of(found)
    assert (status.phase, status.reason, status.disrupted) == ("Failed", reason, disrupted)
    assert status.overrules == (reason is not None)


def test_an_oom_kill_of_a_child_that_the_command_survived_is_no_failure() -> None:
    assert status_of(pod("Succeeded", ended(), ended(0, "OOMKilled"), ended())).phase == "Succeeded"
    assert status_of(pod("Failed", ended(), ended(0, "OOMKilled"), ended(1))).reason is None


CUT_SHORT: dict[str, tuple[Pod, dict[str, Any], str]] = {
    "its node is lost": (pod("Running", ended(), RUNS, RUNS), {"node_lost": True}, "its node node1 was lost"),
    "Kubernetes calls it unknown": (pod("Unknown", ended(), RUNS, RUNS), {}, "its node node1 was lost"),
    "Kubernetes calls its node lost": (pod("Running", reason="NodeLost"), {}, "its node node1 was lost"),
    "it is being taken off its node": (
        pod("Running", ended(), RUNS, RUNS, meta=DELETED, conditions=[DISRUPTED]),
        {},
        "its pod was disrupted: Taint manager: deleting due to NoExecute taint",
    ),
    "it was deleted before it had a node": (
        pod("Pending", node="", meta=DELETED),
        {},
        "its pod was deleted before it had a node",
    ),
}


@pytest.mark.parametrize("case", CUT_SHORT)
def test_what_ends_an_attempt_though_its_pod_is_not_over_is_a_disruption(case: str) -> None:
    found, around, reason = CUT_SHORT[case]
    status = status_of(found, **around)
    assert (status.phase, status.reason, status.disrupted, status.overrules) == ("Failed", reason, True, True)


def test_a_disruption_that_is_only_announced_leaves_the_task_its_time() -> None:
    assert status_of(pod("Running", ended(), RUNS, RUNS, conditions=[DISRUPTED])).phase == "Running"


def test_a_pod_that_was_over_before_its_node_was_lost_keeps_its_end() -> None:
    assert status_of(pod("Succeeded", ended(), ended(), ended()), node_lost=True).phase == "Succeeded"


def test_the_jobs_deadline_is_the_reason_of_a_pod_that_it_ended() -> None:
    late = job(condition("FailureTarget", reason="DeadlineExceeded"), condition("Failed", reason="DeadlineExceeded"))
    assert job_failure(late) == OUT_OF_TIME
    for found in (pod("Failed", ended(), ended(143), ended(143), meta=DELETED), pod("Pending", node="", meta=DELETED)):
        status = status_of(found, job_failed=job_failure(late))
        assert (status.reason, status.disrupted) == (OUT_OF_TIME, False)
    assert job_failure(job(condition("Failed", reason="BackoffLimitExceeded"))) is None
    assert job_failure(None) is None


UNSCHEDULABLE = condition(
    "PodScheduled", "False", "Unschedulable", "0/2 nodes are available: 2 Insufficient cpu. preemption: 0/2 nodes"
)
NO_SECRET = 'secret "db" not found'

TROUBLES: dict[str, tuple[Pod, float | None, str]] = {
    "a limit too low to start in": (
        pod("Running", ended(), ended(128, "StartError", "init was OOM-killed (memory limit too low?)"), RUNS),
        0,
        "task could not be started: init was OOM-killed (memory limit too low?)",
    ),
    "a node of another architecture": (
        pod("Running", ended(), ended(128, "ContainerCannotRun", "exec format error"), RUNS),
        0,
        "task could not be started: exec format error",
    ),
    "publish cannot be started under a running task": (
        pod("Running", ended(), RUNS, ended(128, "StartError", "no space left")),
        0,
        "publish could not be started: no space left",
    ),
    "killed before it could say that it had started": (
        pod("Running", ended(), ended(137, "OOMKilled"), RUNS),
        PUBLISH_SECONDS,
        OUT_OF_MEMORY,
    ),
    "it failed, and publish does not end": (
        pod("Running", ended(), ended(3), RUNS),
        PUBLISH_SECONDS,
        "it exited with code 3",
    ),
    "its outputs are being stored": (pod("Running", ended(), ended(), RUNS), None, ""),
    "no image": (
        pod("Pending", ended(), waiting("ErrImagePull", "not found"), RUNS),
        SETTINGS.image_pull_seconds,
        "the image of task cannot be pulled: not found",
    ),
    "still no image": (
        pod("Pending", ended(), waiting("ImagePullBackOff", 'Back-off pulling image "x"'), RUNS),
        SETTINGS.image_pull_seconds,
        'the image of task cannot be pulled: Back-off pulling image "x"',
    ),
    "no image of fetch": (
        pod("Pending", waiting("ImagePullBackOff"), STARTS, STARTS),
        SETTINGS.image_pull_seconds,
        "the image of fetch cannot be pulled: ImagePullBackOff",
    ),
    "no name of an image": (
        pod("Pending", ended(), waiting("InvalidImageName", "couldn't parse image name"), STARTS),
        0,
        "the image of task cannot be used: couldn't parse image name",
    ),
    "an image that must not be pulled": (
        pod("Pending", ended(), waiting("ErrImageNeverPull", "not present"), STARTS),
        0,
        "the image of task cannot be used: not present",
    ),
    "a missing Secret": (
        pod("Running", ended(), waiting("CreateContainerConfigError", NO_SECRET), RUNS),
        CONFIG_SECONDS,
        f"task cannot be started: {NO_SECRET}",
    ),
    "a container that cannot be made": (
        pod("Running", ended(), waiting("CreateContainerError", "no command"), RUNS),
        CONFIG_SECONDS,
        "task cannot be started: no command",
    ),
    "no node": (
        pod("Pending", node="", conditions=[UNSCHEDULABLE]),
        SETTINGS.unschedulable_seconds,
        f"no node takes it: {UNSCHEDULABLE['message']}",
    ),
    "a scheduling gate": (
        pod("Pending", node="", conditions=[condition("PodScheduled", "False", "SchedulingGated")]),
        SETTINGS.unschedulable_seconds,
        "no node takes it: SchedulingGated",
    ),
    "no scheduler": (
        pod("Pending", node=""),
        SETTINGS.unschedulable_seconds,
        "no node takes it: no scheduler has looked at it",
    ),
    "a volume that cannot be mounted": (
        pod("Pending", STARTS, STARTS, STARTS),
        SETTINGS.pod_start_seconds,
        "fetch did not start within 600 s of being scheduled",
    ),
    "a kubelet that says nothing": (
        pod("Pending"),
        SETTINGS.pod_start_seconds,
        "fetch did not start within 600 s of being scheduled",
    ),
    "a task that does not follow": (
        pod("Pending", ended(), waiting("ContainerCreating"), RUNS),
        SETTINGS.pod_start_seconds,
        "task did not start within 600 s of being scheduled",
    ),
    "a deletion nobody confirms": (
        pod("Running", ended(), RUNS, RUNS, meta=DELETED),
        60,
        "its pod was deleted, and its node does not say that it ended",
    ),
    "fetch runs, and the others wait for it": (pod("Running", RUNS, RUNS, RUNS), None, ""),
    "the task's image is pulled while fetch runs": (
        pod("Pending", RUNS, waiting("ErrImagePull", "not found"), STARTS),
        60,
        "the image of task cannot be pulled: not found",
    ),
    "a task that does not follow while fetch runs": (
        pod("Running", RUNS, waiting("ContainerCreating"), RUNS),
        SETTINGS.pod_start_seconds,
        "task did not start within 600 s of being scheduled",
    ),
    "the task runs": (pod("Running", ended(), RUNS, RUNS), None, ""),
    "it is over": (pod("Failed", ended(), waiting("ImagePullBackOff"), ended(1)), None, ""),
}


@pytest.mark.parametrize("case", TROUBLES)
def test_whatever_keeps_a_pod_waiting_ends_its_attempt_after_a_stated_time(case: str) -> None:
    """Or else a run hangs."""
    found, seconds, words = TROUBLES[case]
    trouble = pod_trouble(found, SETTINGS)
    if seconds is None:
        assert trouble is None
        return
    assert trouble is not None
    assert (trouble.seconds, trouble.words) == (seconds, words)
    status = status_of(found, expired=trouble)
    assert (status.phase, status.reason, status.overrules) == ("Failed", words, True)
    assert status.disrupted == trouble.kind.startswith(("deletion", "start:"))
    assert status_of(found).phase not in ("Succeeded", "Failed")


FETCH_FAILED: dict[str, Pod] = {
    "and the task's image is still being pulled": pod("Pending", ended(1), waiting("ContainerCreating"), ended(1)),
    "and the task's image cannot be pulled": pod("Pending", ended(1), waiting("ImagePullBackOff"), ended(1)),
    "and left no wrapper to start": pod("Running", ended(1), ended(128, "StartError", "no such file"), RUNS),
    "and left publish waiting": pod("Running", ended(1), RUNS, RUNS),
    "and the command was not run": pod("Running", ended(1), ended(125), RUNS),
    "and nothing more is heard": pod("Pending", ended(1), STARTS, STARTS),
}


@pytest.mark.parametrize("case", FETCH_FAILED)
def test_a_pod_whose_fetch_failed_is_waited_for_a_minute_and_fetch_says_why(case: str) -> None:
    """The others have nothing to do then, and an image need not be there for an attempt that has failed."""
    found = FETCH_FAILED[case]
    trouble = pod_trouble(found, SETTINGS)
    assert trouble is not None
    assert (trouble.seconds, trouble.words) == (PUBLISH_SECONDS, "fetch exited with code 1")
    status = status_of(found, expired=trouble)
    assert (status.phase, status.reason, status.disrupted) == ("Failed", "fetch exited with code 1", False)
    assert not status.overrules, "its own message has more to say"


def test_a_pod_whose_fetch_was_ended_for_its_hook_is_no_fault_of_the_tasks() -> None:
    trouble = pod_trouble(pod("Pending", ended(143), waiting("ContainerCreating"), ended(1)), SETTINGS)
    assert trouble is not None
    assert (trouble.seconds, trouble.words, trouble.disrupted) == (PUBLISH_SECONDS, HOOK_FAILED, True)


def test_a_pull_that_goes_back_and_forth_is_one_trouble() -> None:
    kinds = {
        trouble.kind
        for reason in ("ErrImagePull", "ImagePullBackOff")
        if (trouble := pod_trouble(pod("Pending", ended(), waiting(reason), RUNS), SETTINGS))
    }
    assert kinds == {"image:task"}


JOBS: dict[str, tuple[Job, Callable[[Trouble], bool]]] = {
    "young": (job(), lambda it: it.seconds == SETTINGS.pod_refused_seconds and it.events_know_more),
    "suspended": (
        job(condition("Suspended", reason="JobSuspended", message="Job suspended")),
        lambda it: it.seconds == SETTINGS.unschedulable_seconds and "JobSuspended" in it.words and not it.disrupted,
    ),
    "late": (
        job(condition("Failed", reason="DeadlineExceeded", message="Job was active longer than specified deadline")),
        lambda it: it.seconds < 5 and it.words == OUT_OF_TIME and not it.disrupted,
    ),
    "failed for another reason": (
        job(condition("Failed", reason="PodFailurePolicy", message="Container task failed with exit code 3")),
        lambda it: it.words == "its Job failed: PodFailurePolicy: Container task failed with exit code 3",
    ),
    "its pod failed and is gone": (
        job(condition("Failed", reason="BackoffLimitExceeded")),
        lambda it: it.seconds < 5 and it.words == "its pod is gone" and it.disrupted,
    ),
    "its pod succeeded and is gone": (job(condition("Complete")), lambda it: it.disrupted),
    "no longer suspended": (job(condition("Suspended", "False")), lambda it: it.kind == "no pod"),
}


@pytest.mark.parametrize("case", JOBS)
def test_a_job_without_a_pod_ends_its_attempt_after_a_stated_time(case: str) -> None:
    found, holds = JOBS[case]
    trouble = job_trouble(found, SETTINGS)
    assert holds(trouble), trouble


@pytest.mark.parametrize(
    ("shown", "digest"),
    [
        ("docker.io/library/alpine@sha256:" + "a" * 64, "sha256:" + "a" * 64),
        ("docker-pullable://alpine@sha256:" + "a" * 64, "sha256:" + "a" * 64),
        ("sha256:" + "a" * 64, "sha256:" + "a" * 64),
        ("docker.io/library/alpine:3.20", ""),
        ("", ""),
    ],
)
def test_the_image_of_the_task_is_known_by_its_digest(shown: str, digest: str) -> None:
    """Whichever way the container runtime writes it; that of the agent's steps does not matter."""
    found = status_of(
        pod(
            "Succeeded",
            containerStatuses=[
                container("fetch", ended(), imageID="agent@sha256:" + "b" * 64),
                container("task", ended(), imageID=shown),
            ],
        )
    )
    assert found.image == digest


def agents(phase: str = "Running", task: Json | None = None, *, node: str = "node1", **more: Any) -> Pod:
    """A pod of the task alone, whose node's agent does fetch and publish."""
    meta = {"annotations": {"helios.dev/form": "csi"}, **more.pop("meta", {})}
    return pod(phase, None, task, None, node=node, meta=meta, **more)


BY_AGENTS: dict[str, tuple[Pod, str]] = {
    "nothing is known yet": (agents("Pending", node=""), "Pending"),
    "its volume is being filled": (agents("Pending", STARTS), "Fetching"),
    "its kubelet has said nothing yet": (agents("Pending"), "Fetching"),
    "the task runs": (agents("Running", RUNS), "Running"),
    "the task has ended": (agents("Running", ended(3)), "Publishing"),
    "the pod succeeded": (agents("Succeeded", ended()), "Succeeded"),
    "the pod failed": (agents("Failed", ended(3)), "Failed"),
}


@pytest.mark.parametrize("case", BY_AGENTS)
def test_a_pod_of_the_task_alone_has_the_same_phases(case: str) -> None:
    found, phase = BY_AGENTS[case]
    assert status_of(found).phase == phase


AGENT_ENDS: dict[str, tuple[Pod, dict[str, Any], str | None, bool]] = {
    "it succeeded": (agents("Succeeded", ended()), {}, None, True),
    "its command failed": (agents("Failed", ended(3)), {}, None, True),
    "out of memory": (agents("Failed", ended(137, "OOMKilled")), {}, OUT_OF_MEMORY, True),
    "somebody deleted it": (agents("Failed", ended(143), meta=DELETED), {}, "its pod was deleted", True),
    "it was deleted before its task began": (
        agents("Failed", STARTS, meta=DELETED),
        {},
        "its pod was deleted",
        False,
    ),
    "its node refused it": (
        agents("Failed", reason="OutOfcpu", message="no cpu"),
        {},
        "its node node1 refused it: no cpu",
        False,
    ),
    "its node is lost": (agents("Running", RUNS), {"node_lost": True}, "its node node1 was lost", False),
    "a task that could not be started": (
        agents("Failed", ended(128, "StartError", "no such file")),
        {},
        "task could not be started: no such file",
        False,
    ),
    "its node was restarted": (
        agents("Failed", ended(255, "Unknown")),
        {},
        "its node lost task: how it ended is not known",
        True,
    ),
}


@pytest.mark.parametrize("case", AGENT_ENDS)
def test_an_agent_reports_on_pods_whose_task_began_while_its_node_is_there(case: str) -> None:
    found, around, reason, reports = AGENT_ENDS[case]
    status = status_of(found, **around)
    assert (status.final, status.reason, status.agent_reports) == (True, reason, reports)


AGENT_TROUBLES: dict[str, tuple[Pod, float | None, str, bool]] = {
    "a volume that is not there": (
        agents("Pending", STARTS),
        SETTINGS.pod_start_seconds,
        "task did not start within 600 s of being scheduled",
        True,
    ),
    "a kubelet that says nothing": (
        agents("Pending"),
        SETTINGS.pod_start_seconds,
        "task did not start within 600 s of being scheduled",
        True,
    ),
    "an image that cannot be pulled": (
        agents("Pending", waiting("ErrImagePull", "not found")),
        SETTINGS.image_pull_seconds,
        "the image of task cannot be pulled: not found",
        False,
    ),
    "a missing secret": (
        agents("Pending", waiting("CreateContainerConfigError", NO_SECRET)),
        CONFIG_SECONDS,
        f"task cannot be started: {NO_SECRET}",
        False,
    ),
    "the task runs": (agents("Running", RUNS), None, "", False),
}


@pytest.mark.parametrize("case", AGENT_TROUBLES)
def test_what_keeps_a_pod_of_the_task_alone_waiting_is_told_of_the_task(case: str) -> None:
    """An agent may be filling the volume for hours; once that is there, it has no more to say until the task began."""
    found, seconds, words, reports = AGENT_TROUBLES[case]
    trouble = pod_trouble(found, SETTINGS)
    if seconds is None:
        assert trouble is None
        return
    assert trouble is not None
    assert (trouble.seconds, trouble.words) == (seconds, words)
    assert status_of(found, expired=trouble).agent_reports == reports


def test_no_agent_reports_on_a_pod_that_has_its_own_steps() -> None:
    for found in (pod("Succeeded", ended(), ended(), ended()), pod("Failed", ended(), ended(1), ended(1))):
        assert not status_of(found).agent_reports
    stuck = pod("Pending", STARTS, STARTS, STARTS)
    assert not status_of(stuck, expired=pod_trouble(stuck, SETTINGS)).agent_reports
