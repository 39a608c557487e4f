"""The logs of pods by the API server: read in the background, a line's id being its time, so that repeats add nothing.

Kubernetes gives a log only from its start, its end or a second on, and each line with its time in nanoseconds. So a
running container's log is asked for from the second of its last known line on, while somebody wants it, and once more
when it has ended. Rule: threads are few; what a lost node keeps, or Kubernetes will not give, is said to be lost.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from datetime import UTC, datetime

import msgspec

from helios.localjobs import STEPS
from services.collector.kube_api import Api, ApiAway, ApiRefused
from services.collector.kube_objects import ContainerStatus, Pod
from services.collector.kube_stamps import NS, PER_NS, entry_id, split, stamped
from services.collector.loglines import NOT_KEPT, WATCHED_BYTES, LogLine, LogPart, readable

POLL_SECONDS = 1.0
"""A log that somebody watches is asked for this often."""

END_SECONDS = 3.0
"""Reading the end of a log may take so long from when it began; then it is lost."""

TURN_SECONDS = 60.0
"""Its turn may take so long to come, when hundreds of pods end together."""

TRIES_AT_END = 3
TAIL_LINES = 5_000

READ_BYTES = 16 * 1024**2
"""Of one answer no more is taken; what follows comes with the next."""

READ_SECONDS = 3.0
FETCH_BYTES = 1024**2
"""So much of fetch's own log stays in memory until the pod is released."""


class _Log(msgspec.Struct):
    """What is known of one container's log."""

    pod: str
    step: str
    lines: deque[tuple[int, str]]
    bytes: int = 0
    last: int = 0
    began: int = 0
    reading: bool = False
    tail_only: bool = True
    """The next answer starts near the log's end: nothing is known yet, or one second holds more than we take."""
    due: float = 0.0
    tries: int = 0
    asked_at_end: bool = False
    asked_since: float | None = None
    """When its end was first wanted, and when reading that began."""
    reading_since: float | None = None
    complete: bool = False


class PodLogs:
    """The logs of all pods in hand. Safe to use from any thread."""

    def __init__(
        self, api: Api, namespace: str, threads: Executor, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.api = api
        self.namespace = namespace
        self.threads = threads
        self.clock = clock
        self.lock = threading.Lock()
        self.logs: dict[tuple[str, str], _Log] = {}

    def lines(self, pod: Pod, step: str, after: int, *, reachable: bool = True) -> LogPart:
        """What is known after the position; asks for more if it is time and the pod's node can be reached."""
        container = pod.container(step)
        if container is None or not container.began:
            return LogPart([], after)
        with self.lock:
            known = self._known(pod, step)
            if reachable:
                self._ask(known, ended=container.ended is not None)
            part = [(position, text) for position, text in known.lines if position > after]
            while step != "fetch" and known.lines and known.lines[0][0] <= after:
                known.bytes -= len(known.lines.popleft()[1])
        found = [LogLine(entry_id(position), text) for position, text in part]
        return LogPart(found, part[-1][0] if part else after)

    def fetch_log(self, pod: Pod) -> list[str]:
        with self.lock:
            return [text for _, text in self._known(pod, "fetch").lines]

    def finish(self, pod: Pod, *, reachable: bool) -> bool:
        """Whether all is known of the pod's logs that will be, now that it is over; asks for what is missing."""
        done = True
        for step in STEPS:
            container = pod.container(step)
            if container is None or not container.began:
                continue
            with self.lock:
                known = self._known(pod, step)
                if not known.complete:
                    self._finish(known, container, reachable)
                done = done and known.complete
        return done

    def forget(self, pod: str) -> None:
        with self.lock:
            for step in STEPS:
                self.logs.pop((pod, step), None)

    def _finish(self, known: _Log, container: ContainerStatus, reachable: bool) -> None:
        now = self.clock()
        if known.asked_since is None:
            known.asked_since = now
        began = container.ended or container.state.running
        if began is not None and began.startedAt is not None:
            known.began = int(began.startedAt.timestamp()) * NS * PER_NS
        if not reachable:
            self._lose(known, "its node was lost")
        elif (
            now - known.asked_since > TURN_SECONDS
            if known.reading_since is None
            else now - known.reading_since > END_SECONDS
        ):
            self._lose(known, "it could not be read in time")
        else:
            self._ask(known, ended=True)

    def _known(self, pod: Pod, step: str) -> _Log:
        key = (pod.metadata.name, step)
        if key not in self.logs:
            self.logs[key] = _Log(pod.metadata.name, step, deque())
        return self.logs[key]

    def _ask(self, known: _Log, *, ended: bool) -> None:
        """Have a thread read on, unless one does, or did just now; the first time after the end does not wait."""
        early = self.clock() < known.due and (known.asked_at_end or not ended)
        if known.complete or known.reading or early:
            return
        known.reading = True
        known.asked_at_end = ended
        known.due = self.clock() + POLL_SECONDS
        try:
            self.threads.submit(self._read, known, ended)
        except RuntimeError:  # this process is stopping; whoever takes over reads it
            known.reading = False

    def _read(self, known: _Log, ended: bool) -> None:
        failure: ApiAway | ApiRefused | None = None
        whole = False
        with self.lock:
            if known.complete:  # given up before its turn came
                known.reading = False
                return
            if ended and known.reading_since is None:
                known.reading_since = self.clock()
        try:
            whole = self._copy(known, ended)
        except (ApiAway, ApiRefused) as error:
            failure = error
        with self.lock:
            known.reading = False
            known.tries = known.tries + 1 if failure else 0
            if not ended:
                return
            if failure is None and not whole:
                known.due = 0.0
            elif failure is None:
                known.complete = True
            elif known.tries >= TRIES_AT_END or (isinstance(failure, ApiRefused) and failure.status == 404):
                self._lose(known, str(failure))

    def _copy(self, known: _Log, ended: bool) -> bool:
        """Take what follows the last known line; whether that was all there is."""
        path = f"/api/v1/namespaces/{self.namespace}/pods/{known.pod}/log"
        query = {"container": known.step, "timestamps": "true", "limitBytes": str(READ_BYTES)}
        after, tail_only = known.last, known.tail_only
        if tail_only:
            query["tailLines"] = str(TAIL_LINES)
        else:
            query["sinceTime"] = datetime.fromtimestamp(after // PER_NS // NS, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        sizes: list[int] = []
        taken = 0
        with self.api.stream(path, query, silence_seconds=READ_SECONDS) as chunks:
            for position, text in stamped(split(chunks, sizes, READ_BYTES if ended else 0), after):
                taken += 1
                with self.lock:
                    if taken == 1 and tail_only and after:
                        self._append(known, position - 1, NOT_KEPT)
                    self._append(known, position, readable(text))
        full = sum(sizes) >= READ_BYTES
        with self.lock:
            if taken == TAIL_LINES and not after and known.lines and known.lines[0][1] != NOT_KEPT:
                known.lines.appendleft((known.lines[0][0] - 1, NOT_KEPT))
            known.tail_only = known.last == after and (full or not after)
        return not full or (tail_only and known.last == after)

    def _append(self, known: _Log, position: int, text: str) -> None:
        known.lines.append((position, text))
        known.last = max(known.last, position)
        known.bytes += len(text)
        limit = FETCH_BYTES if known.step == "fetch" else WATCHED_BYTES
        if known.bytes <= limit:
            return
        place = 0
        while known.bytes > limit - 1_000 and len(known.lines) > 1:
            place, dropped = known.lines.popleft()
            known.bytes -= len(dropped)
        known.lines.appendleft((place, NOT_KEPT))
        known.bytes += len(NOT_KEPT)

    def _lose(self, known: _Log, why: str) -> None:
        known.complete = True
        self._append(known, max(known.last, known.began) + 1, f"[HELIOS] the rest of this log is lost: {why}")
