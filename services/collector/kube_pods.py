"""The pods of a Kubernetes namespace, as the collector asks for them.

Watches keep copies of pods, Jobs and nodes, and the loop's questions are answered from those. Rules: no patience ends
unless every watch is live, since otherwise silence is no news; and a Job is gone only when the API server, asked for it
by name, says so.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import msgspec
import structlog

from helios.localjobs import PodStatus
from helios.settings import Settings
from helios.worker import Stop
from services.collector.kube_api import Api
from services.collector.kube_errands import Errands
from services.collector.kube_logs import PodLogs
from services.collector.kube_objects import (
    ATTEMPT_NOTE,
    FINALIZER,
    MANAGED,
    RUN_NOTE,
    TASK_NOTE,
    Job,
    Meta,
    Node,
    Pod,
)
from services.collector.kube_status import (
    PULL_SECONDS,
    Trouble,
    is_only_scheduled,
    job_failure,
    job_trouble,
    pod_trouble,
    status_of,
    termination_message,
)
from services.collector.kube_watch import Watch
from services.collector.loglines import LogPart
from services.collector.pods import JobOf

log = structlog.get_logger()

LOG_THREADS = 8

SETTLING_SECONDS = 2.0
"""After its watches are live again, what they missed may take so long to arrive; until then no patience ends."""

UNSEEN_SECONDS = 1.0
"""A Job that no watch has shown yet is asked for by name after this, and so again."""

WAITING_SECONDS = 0.5
"""A Job that has no pod yet is looked at this often at most, unless something of it changes."""

FOREVER = float("inf")

_OF_VOLUMES = ("MountVolume.", "Unable to attach or mount volumes")
"""How kubelet's events begin that say why a volume is not there."""

ENDED = ("Succeeded", "Failed")
"""Phases in which a pod takes nothing of its node any more."""


class _Seen(msgspec.Struct):
    """A pod, and what has been made of it."""

    pod: Pod
    status: PodStatus
    due: float = 0.0
    """When to look at it again though nothing changed."""
    since: dict[str, float] = {}
    """When each trouble was first seen."""
    scheduled_at: int | None = None
    """When it was first seen with a node, in epoch milliseconds; None if it may have had that for long, unseen."""


class _Gone(Exception):
    """Neither the Job nor a pod of it is left."""


class KubernetesPods:
    """Implements Pods. Safe to use from any thread."""

    def __init__(self, api: Api, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self.api = api
        self.settings = settings
        self.clock = clock
        namespace = settings.namespace
        self.pod_watch = Watch(api, f"/api/v1/namespaces/{namespace}/pods", Pod, selector=MANAGED, clock=clock)
        self.job_watch = Watch(api, f"/apis/batch/v1/namespaces/{namespace}/jobs", Job, selector=MANAGED, clock=clock)
        self.node_watch = Watch(api, "/api/v1/nodes", Node, clock=clock)
        self.watches = (self.pod_watch, self.job_watch, self.node_watch)
        self.threads: list[threading.Thread] = []
        self.errands = Errands(api, namespace, clock)
        self.readers = ThreadPoolExecutor(LOG_THREADS, "logs")
        self.logs = PodLogs(api, namespace, self.readers, clock)
        self.lock = threading.RLock()
        self.pods: dict[str, dict[str, _Seen]] = {}
        """By Job and by the pod's name; nearly always one pod a Job."""
        self.job_of: dict[str, str] = {}
        self.unready: dict[str, float] = {}
        """Nodes that are not ready, and since when we know."""
        self.lost: set[str] = set()
        self.unseen: dict[str, float] = {}
        self.stuck: dict[str, dict[str, float]] = {}
        """When each trouble of a Job without pod was first seen."""
        self.job_due: dict[str, float] = {}
        """When to look again at a Job without pod though nothing changed; a busy cluster has thousands."""

    # The watches.

    def start(self) -> None:
        for watch in self.watches:
            thread = threading.Thread(target=watch.run, name=f"watch {watch.path}", daemon=True)
            thread.start()
            self.threads.append(thread)

    def trouble(self) -> str:
        """What it waits for, without which no pod is seen; empty when there is nothing."""
        return next((words for watch in self.watches if (words := watch.trouble())), "")

    def supervise(self, stop: Stop) -> None:
        """Until stopped; a watch that dies ends the process, because nobody would see a pod again."""
        while not stop.wait(1):
            for thread in self.threads:
                if not thread.is_alive():
                    raise RuntimeError(f"{thread.name} has ended")
        self.close()

    def close(self) -> None:
        for watch in self.watches:
            watch.stop()
        self.errands.close()
        self.readers.shutdown(wait=False, cancel_futures=True)

    # What the collector asks.

    def statuses(self, jobs: Iterable[str]) -> dict[str, PodStatus | None]:
        found: dict[str, PodStatus | None] = {}
        with self.lock:
            now = self.clock()
            steady = self._take_news(now)
            for job in jobs:
                try:
                    found[job] = self._status(job, now, steady)
                except _Gone:
                    continue
        return found

    def message(self, job: str, step: str) -> str | None:
        pod = self._pod(job)
        return termination_message(pod, step) if pod else None

    def lines(self, job: str, step: str, after: int, *, final: bool, followed: bool) -> LogPart:  # noqa: ARG002 -- `finish` came first, and what was read is all there is
        pod = self._pod(job)
        if pod is None:
            return LogPart([], after)
        return self.logs.lines(pod, step, after, reachable=pod.spec.nodeName not in self.unready)

    def fetch_log(self, job: str) -> list[str]:
        pod = self._pod(job)
        return self.logs.fetch_log(pod) if pod else []

    def at_work(self) -> dict[str, int]:
        """How many pods that have not ended each node has; of nodes without any, nothing."""
        with self.lock:
            self._take_news(self.clock())
            pods = [seen.pod for of_job in self.pods.values() for seen in of_job.values()]
        return Counter(pod.spec.nodeName for pod in pods if pod.spec.nodeName and pod.status.phase not in ENDED)

    def over(self, jobs: Iterable[str]) -> list[str]:
        """Those whose pods have all ended, or that are gone; none while the watches cannot tell.

        What a node's agent does for a pod may go on when that has ended, so such a pod counts until it is let go.
        """
        with self.lock:
            if not self._take_news(self.clock()):
                return []
            return [
                job
                for job in jobs
                if all(
                    seen.pod.status.phase in ENDED and not seen.pod.by_agent for seen in self.pods.get(job, {}).values()
                )
                and (job in self.pods or self.job_watch.mirror.get(job) is None)
            ]

    def release(self, job: str) -> None:
        with self.lock:
            pods = [(name, seen.pod.spec.nodeName in self.unready) for name, seen in self.pods.get(job, {}).items()]
            self._forget_waiting(job)
        self.errands.forget(job, *(name for name, _ in pods))
        self.errands.release(job, pods)

    def unreleased(self) -> list[str]:
        with self.lock:
            steady = self._take_news(self.clock())
            if not all(watch.synced for watch in self.watches[:2]):
                return []
            here = set(self.job_watch.mirror.names())
            over = [
                job
                for job, pods in self.pods.items()
                if all(self._judged(seen, self.clock(), steady).final for seen in pods.values())
                and (job in here or any(self._is_held(seen.pod) for seen in pods.values()))
            ]
            return [*over, *(here - self.pods.keys())]

    def _is_held(self, pod: Pod) -> bool:
        """Whether it needs us to go: by our finalizer, or because nobody on its lost node confirms that it ended."""
        meta = pod.metadata
        return FINALIZER in meta.finalizers or (meta.deletionTimestamp is not None and pod.spec.nodeName in self.lost)

    def attempt_of(self, job: str) -> JobOf | None:
        with self.lock:
            seen, found = self._seen(job), self.job_watch.mirror.get(job)
            return _attempt(seen.pod.metadata if seen else found.metadata if found else None)

    def _pod(self, job: str) -> Pod | None:
        with self.lock:
            seen = self._seen(job)
            return seen.pod if seen else None

    # From objects to statuses.

    def _take_news(self, now: float) -> bool:
        """Take in what the watches brought; whether patience may end, going by the watches of pods and Jobs.

        One that may not watch nodes still sees the pods that Kubernetes itself takes off a lost one.
        """
        for name, pod in self.pod_watch.mirror.drain().items():
            self._take_pod(name, pod)
        for name, job in self.job_watch.mirror.drain().items():
            self.job_due.pop(name, None)
            if job is None:
                self.stuck.pop(name, None)
            for seen in self.pods.get(name, {}).values():
                seen.due = 0.0
        for name, node in self.node_watch.mirror.drain().items():
            self._take_node(name, node, now)
        for name, since in self.unready.items() if self.node_watch.live_for(SETTLING_SECONDS) else ():
            if name not in self.lost and now - since >= self.settings.node_lost_seconds:
                log.warning("a node is lost, and its attempts are repeated elsewhere", node=name)
                self.lost.add(name)
                self._look_again(name)
        return self.pod_watch.live_for(SETTLING_SECONDS) and self.job_watch.live_for(SETTLING_SECONDS)

    def _take_pod(self, name: str, pod: Pod | None) -> None:
        job = self.job_of.get(name, "") if pod is None else pod.job
        if pod is None:
            self.job_of.pop(name, None)
            self.logs.forget(name)
            pods = self.pods.get(job, {})
            pods.pop(name, None)
            if not pods:
                self.pods.pop(job, None)
        elif job:
            self.job_of[name] = job
            self._forget_waiting(job)
            seen = self.pods.setdefault(job, {}).get(name)
            had_node = seen is not None and seen.pod.spec.nodeName != ""
            if seen is None:
                seen = self.pods[job][name] = _Seen(pod, PodStatus(job=job, uid=pod.metadata.uid, node=""))
            else:
                seen.pod, seen.due = pod, 0.0
            # What the first list shows after a start or an outage is no news, and may be long past.
            if not had_node and is_only_scheduled(pod) and self.pod_watch.live_for(SETTLING_SECONDS):
                seen.scheduled_at = time.time_ns() // 1_000_000

    def _take_node(self, name: str, node: Node | None, now: float) -> None:
        if node is not None and node.ready:
            self.unready.pop(name, None)
            if name in self.lost:
                self.lost.discard(name)
                self._look_again(name)
        else:
            self.unready.setdefault(name, now)

    def _look_again(self, node: str) -> None:
        for pods in self.pods.values():
            for seen in pods.values():
                if seen.pod.spec.nodeName == node:
                    seen.due = 0.0

    def _status(self, job: str, now: float, steady: bool) -> PodStatus | None:
        seen = self._seen(job)
        if seen is None:
            return self._without_pod(job, now, steady)
        status = seen.status if now < seen.due else self._judged(seen, now, steady)
        if not status.final:
            return status
        reachable = seen.pod.spec.nodeName not in self.unready
        if self.logs.finish(seen.pod, reachable=reachable):
            return status
        return msgspec.structs.replace(status, logs_known=False)

    def _seen(self, job: str) -> _Seen | None:
        """The pod that speaks for the Job: one that succeeded, else the newest."""
        pods = self.pods.get(job)
        if not pods:
            return None
        if len(pods) > 1:
            return max(pods.values(), key=_weight)
        (seen,) = pods.values()
        return seen

    def _judged(self, seen: _Seen, now: float, steady: bool) -> PodStatus:
        if now < seen.due:
            return seen.status
        pod, seen.due = seen.pod, FOREVER
        trouble, expired = pod_trouble(pod, self.settings), None
        if trouble is not None:
            ends = seen.since.setdefault(trouble.kind, now) + trouble.seconds
            if not trouble.seconds or (steady and now >= ends):
                lasts = now - seen.since[trouble.kind]
                expired = self._explained("Pod", pod.metadata.name, trouble, lasts, by_agent=pod.by_agent)
            if expired is None:
                seen.due = ends if now < ends else now
        seen.status = status_of(
            pod,
            node_lost=pod.spec.nodeName in self.lost,
            job_failed=job_failure(self.job_watch.mirror.get(pod.job)),
            expired=expired,
        )
        seen.status.scheduledAt = seen.scheduled_at
        return seen.status

    def _forget_waiting(self, job: str) -> None:
        for known in (self.unseen, self.stuck, self.job_due):
            known.pop(job, None)

    def _without_pod(self, job: str, now: float, steady: bool) -> PodStatus | None:
        if now < self.job_due.get(job, 0.0):
            return None
        found = self.job_watch.mirror.get(job)
        if found is None:
            # Its launch may be news to us, or it is gone.
            if steady and now - self.unseen.setdefault(job, now) >= UNSEEN_SECONDS and self.errands.is_gone(job):
                raise _Gone
            return None
        self.unseen.pop(job, None)
        trouble = job_trouble(found, self.settings)
        began = self.stuck.setdefault(job, {}).setdefault(trouble.kind, now)
        if not steady or now - began < trouble.seconds:
            self.job_due[job] = max(began + trouble.seconds, now + WAITING_SECONDS)
            return None
        expired = self._explained("Job", job, trouble, now - began)
        if expired is None:
            return None
        if expired.events_know_more and now - began < self.settings.pod_start_seconds:
            self.job_due[job] = now + WAITING_SECONDS
            return None  # no event says that its pod is refused: the Job controller has yet to come to it
        return PodStatus(
            job=job,
            uid="",
            node="",
            phase="Failed",
            reason=expired.words,
            disrupted=expired.disrupted,
            overrules=True,
        )

    def _explained(
        self, kind: str, name: str, trouble: Trouble, lasts: float, *, by_agent: bool = False
    ) -> Trouble | None:
        """The trouble in the words of the object's events, if it has any; None while they are being read, or say that
        something goes on after all.
        """
        if not trouble.events_know_more:
            return trouble
        told = self.errands.events(kind, name)
        if told is None or (told.pulling and lasts < PULL_SECONDS):
            return None
        if told.pulling:
            return msgspec.structs.replace(trouble, words=f"{trouble.words}: its image is still being pulled")
        if not told.warning:
            return trouble
        text = told.warning if kind == "Job" else f"{trouble.words}: {told.warning}"
        # The one volume of a pod of that form is the agent's: nobody's task keeps it from being there.
        disrupted = by_agent and told.warning.startswith(_OF_VOLUMES)
        return msgspec.structs.replace(trouble, words=text, disrupted=disrupted, events_know_more=False)


def _weight(seen: _Seen) -> tuple[bool, float]:
    made = seen.pod.metadata.creationTimestamp
    return seen.pod.status.phase == "Succeeded", made.timestamp() if made else 0.0


def _attempt(found: Meta | None) -> JobOf | None:
    if found is None:
        return None
    notes = found.annotations
    number = notes.get(ATTEMPT_NOTE, "")
    if not number.isdecimal() or not notes.get(RUN_NOTE) or not notes.get(TASK_NOTE):
        return None
    return JobOf(notes[RUN_NOTE], notes[TASK_NOTE], int(number))
