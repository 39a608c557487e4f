"""What only the API server can answer or do for a single Job or pod, done by a few threads so that no loop waits.

Rules: an errand that fails is forgotten, not repeated here; whoever needed it asks again. And however many questions
there are, no release waits for them.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, NamedTuple

import msgspec
import structlog

from services.collector.kube_api import Api, ApiAway, ApiRefused
from services.collector.kube_objects import FINALIZER, JOB_LABEL, Happening, ListMeta

log = structlog.get_logger()

RELEASE_THREADS = 8
QUESTION_THREADS = 4
CHECK_AGAIN_SECONDS = 1.0
EVENTS_AGAIN_SECONDS = 10.0
EVENTS_PAGE = 500

_PASSED = ("FailedScheduling",)
"""Warnings on what is over once a pod has a node, which is when its events are read."""
_OF_IMAGES = ("Pulling", "Pulled", "Failed", "BackOff")


class _Question(msgspec.Struct):
    future: Future[Any]
    asked: float


class Told(NamedTuple):
    """What an object's events say of why nothing goes on."""

    warning: str = ""
    """The last Warning, if there is one."""
    pulling: bool = False
    """An image is being pulled, as far as was told."""


class _AllTold(msgspec.Struct):
    """The same of every object of a kind."""

    of: dict[str, Told]
    read: float


class _Events(msgspec.Struct):
    metadata: ListMeta = msgspec.field(default_factory=ListMeta)
    items: list[Happening] | None = None


class _Items(msgspec.Struct):
    items: list[msgspec.Raw] = []


class Errands:
    """Safe to use from any thread. Answers come by asking again."""

    def __init__(self, api: Api, namespace: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.api = api
        self.core = f"/api/v1/namespaces/{namespace}"
        self.jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"
        self.clock = clock
        self.releasers = ThreadPoolExecutor(RELEASE_THREADS, "release")
        self.answerers = ThreadPoolExecutor(QUESTION_THREADS, "question")
        self.lock = threading.Lock()
        self.questions: dict[tuple[str, str], _Question] = {}
        self.releasing: set[str] = set()

    def close(self) -> None:
        """What is under way is finished; whatever is not is found by the next sweep."""
        for threads in (self.releasers, self.answerers):
            threads.shutdown(wait=False, cancel_futures=True)

    def is_gone(self, job: str) -> bool:
        """Whether the API server has said that there is neither the Job nor a pod of it."""
        return self._answer("exists", job, CHECK_AGAIN_SECONDS, self._whether_gone) is True

    def events(self, kind: str, name: str) -> Told | None:
        """What the object's events say; None while that is not known.

        They are read for all objects of the kind at once: to find those of one, the API server reads all events there
        are, and on a cluster that is behind, thousands of Jobs ask.
        """
        found: _AllTold | None = self._answer("events", kind, EVENTS_AGAIN_SECONDS, self._read_events)
        if found is None or self.clock() > found.read + EVENTS_AGAIN_SECONDS:
            return None
        return found.of.get(name, Told())

    def release(self, job: str, pods: Iterable[tuple[str, bool]]) -> None:
        """Delete the Job and let its pods go; each comes with whether its node was lost."""
        wanted = list(pods)
        with self.lock:
            if job in self.releasing:
                return
            self.releasing.add(job)
        if not self._submit(self.releasers, self._release, job, wanted):
            self.releasing.discard(job)

    def forget(self, *names: str) -> None:
        with self.lock:
            for key in [key for key in self.questions if key[1] in names]:
                del self.questions[key]

    def _answer(self, kind: str, name: str, again_seconds: float, ask: Callable[[str, str], Any]) -> Any:
        """The latest answer, if one came; puts the question, again when the answer is older than that."""
        now = self.clock()
        with self.lock:
            known = self.questions.get((kind, name))
            if known is not None and not known.future.done():
                return None
            if known is None or now >= known.asked + again_seconds:
                future = self._submit(self.answerers, ask, kind, name)
                if future is not None:
                    self.questions[kind, name] = _Question(future, now)
        return known.future.result() if known is not None and not known.future.cancelled() else None

    def _submit(self, threads: ThreadPoolExecutor, work: Callable[..., Any], *arguments: Any) -> Future[Any] | None:
        try:
            # With what the caller has said that its lines are about.
            return threads.submit(copy_context().run, work, *arguments)
        except RuntimeError:  # this process is stopping
            return None

    def _whether_gone(self, _kind: str, job: str) -> bool | None:
        """Asked without a version, the API server answers with the latest there is."""
        try:
            self.api.get(f"{self.jobs}/{job}")
        except ApiRefused as error:
            if error.status != 404:
                return None
        except ApiAway:
            return None
        else:
            return False
        try:
            answer = self.api.get(f"{self.core}/pods", {"labelSelector": f"{JOB_LABEL}={job}", "limit": "1"})
            return not msgspec.json.decode(answer, type=_Items).items
        except (ApiAway, ApiRefused, msgspec.DecodeError):
            return None

    def _read_events(self, _question: str, kind: str) -> _AllTold | None:
        of: dict[str, list[Happening]] = defaultdict(list)
        # Of a Job only what went wrong is of interest; a pod's events also tell how far its images are.
        which = "type=Warning," if kind == "Job" else ""
        query = {"fieldSelector": f"{which}involvedObject.kind={kind}", "limit": str(EVENTS_PAGE)}
        page = ""
        while True:
            try:
                answer = self.api.get(f"{self.core}/events", {**query, **({"continue": page} if page else {})})
                found = msgspec.json.decode(answer, type=_Events)
            except ApiRefused as error:
                log.warning("events cannot be read", error=str(error))
                break
            except (ApiAway, msgspec.DecodeError):
                return None
            for event in found.items or ():
                of[event.involvedObject.name].append(event)
            page = found.metadata.next_page
            if not page:
                break
        return _AllTold({name: _told(events) for name, events in of.items()}, self.clock())

    def _release(self, job: str, pods: list[tuple[str, bool]]) -> None:
        try:
            try:
                self._let_go(job, pods)
            except ApiAway:  # more often than not a connection alone is at fault
                self._let_go(job, pods)
        except (ApiAway, ApiRefused) as error:
            log.warning("a Job is not released yet", job=job, error=str(error))
        finally:
            with self.lock:
                self.releasing.discard(job)

    def _let_go(self, job: str, pods: list[tuple[str, bool]]) -> None:
        """The pods' finalizers first: as long as its Job is there, what is left over is found again, and the garbage
        collector, which the Job's end wakes, then finds pods that nobody changes under it.
        """
        for name, _ in pods:
            self._drop_finalizer(name)
        self._delete(f"{self.jobs}/{job}", {"propagationPolicy": "Background"})
        for name, lost in pods:
            if lost:
                # Its kubelet cannot confirm the end, for which the API server would wait for ever.
                self._delete(f"{self.core}/pods/{name}", {"gracePeriodSeconds": 0})

    def _delete(self, path: str, options: dict[str, Any]) -> None:
        try:
            self.api.delete(path, {"kind": "DeleteOptions", "apiVersion": "v1", **options})
        except ApiRefused as error:
            if error.status != 404:
                raise

    def _drop_finalizer(self, pod: str) -> None:
        """By a directive that takes one element out, so that nobody else's change to the list is undone."""
        change = {"metadata": {"$deleteFromPrimitiveList/finalizers": [FINALIZER]}}
        try:
            self.api.patch(f"{self.core}/pods/{pod}", change)
        except ApiRefused as error:
            if error.status != 404:
                raise


def _moment(event: Happening) -> float:
    return event.lastTimestamp.timestamp() if event.lastTimestamp else 0.0


def _told(events: list[Happening]) -> Told:
    warnings = [each for each in events if each.type == "Warning" and each.reason not in _PASSED]
    latest = max(warnings, key=_moment, default=None)
    # Of one second, what ended the pull is later.
    pull = max(
        (each for each in events if each.reason in _OF_IMAGES),
        key=lambda each: (_moment(each), each.reason != "Pulling"),
        default=None,
    )
    return Told(latest.message if latest else "", pull is not None and pull.reason == "Pulling")
