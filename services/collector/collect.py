"""The collector's loop: take Jobs in hand, watch their pods, wrap up those that ended, finalise settled runs."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import msgspec
import redis
import structlog
from redis.exceptions import ResponseError

from helios.events import RunEnded, TaskPhase
from helios.keys import Keys, keys_of_run
from helios.localjobs import PodStatus
from helios.logged import about, about_entry
from helios.measures import JOBS_HELD
from helios.messages import Launched, Settled, decode
from helios.records import read_tasks
from helios.settings import Settings
from helios.streams import Entry, Inbox
from helios.transitions import Call, commit, commit_one, finalise, note_phase, pipelined
from helios.wire import hash_values
from helios.worker import Failure
from services.collector.counted import TIMES, count_end, count_run
from services.collector.ends import TASK_VALUES, Manifest, end_overdue, ended_of, fetch_lines_of, no_manifest
from services.collector.kept import KeptReports
from services.collector.manifests import NotYet
from services.collector.memo import memoized, remember
from services.collector.metrics import disagreements, fold, sums
from services.collector.notice import due_numbers
from services.collector.outcome import Ended, contradicts, end_call
from services.collector.pods import Pods
from services.collector.tail import LogTail

log = structlog.get_logger()

WATCH_MS = 50
"""Pods in hand are looked at this often; a pod's own report does not wait for that."""
CLUSTER_WATCH_MS = 200
"""The same on a cluster, where each look costs more than what changes between two: a pod's status is half a second old
when it is first seen. While the report of a failure waits for it, WATCH_MS holds there, too.
"""
TAIL_SECONDS = 0.2
AGENT_SILENT_SECONDS = 120.0
"""An agent at work says so every 10 s. One that was not heard of for so long says no more; less is what a node needs to
put another version in its place, whose image it may have to pull, or to boot.
"""

REPORT_LOOK_SECONDS = 0.5
"""What a pod that is over waits for is looked up this often: an upload may take hours, and most reports come first."""

PHASES_HELD = ("Unseen", "Pending", "Fetching", "Running", "Publishing", "Ended")
"""What a Job in hand may be at: its pod was not seen yet, is in a phase, or is over and waits to be wrapped up."""


class Held(msgspec.Struct):
    """A Job in this replica's hands: its entry stays pending, so that another takes over if this one dies."""

    entry: Entry
    launched: Launched
    keys: Keys
    tail: LogTail
    phase: str = ""
    ended: bool = False
    """The attempt's end is committed; what is left is to read the pod's logs and to let it go."""
    heard: str | None = None
    silent_since: float | None = None
    """The last word of the node's agent, and since when there was none, once the pod was seen to be over."""
    look_at: float = 0.0
    """When to look again for the report of a pod that is over."""


class Collector:
    """Handles launched Jobs and settled runs."""

    def __init__(
        self,
        client: redis.Redis,
        inbox: Inbox,
        pods: Pods,
        settings: Settings,
        kept: KeptReports | None = None,
        manifest: Manifest = no_manifest,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.client = client
        self.inbox = inbox
        self.pods = pods
        self.settings = settings
        self.kept = kept or KeptReports()
        self.manifest = manifest
        self.clock = clock
        self.is_local = settings.launcher == "local"
        self.held: dict[tuple[str, str], Held] = {}
        """By stream and entry id: entries of two partitions may well have the same id."""
        inbox.held = self.held.keys()
        JOBS_HELD.source = self._phases_held
        self.next_renewal = 0.0
        self.unproven: set[tuple[str, str]] = set()
        """Of `held`, what others were handed before: whoever held it then may have been killed by it."""
        self.watched_at = float("-inf")
        self.next_tail = 0.0

    def _phases_held(self) -> dict[tuple[str, ...], float]:
        """Asked from another thread: `list` of a dict's values is one step."""
        phases = Counter("Ended" if held.ended else held.phase or "Unseen" for held in list(self.held.values()))
        return {(phase,): phases[phase] for phase in PHASES_HELD}

    def handle(self, entries: list[Entry]) -> Sequence[Failure]:
        failures: list[Failure] = []
        new: list[Held] = []
        for entry in entries:
            try:
                if entry.stream.endswith("runs:settled"):
                    self._finalise(entry, decode(entry.fields, Settled).run)
                    continue
                launched = decode(entry.fields, Launched)
            except (msgspec.ValidationError, ResponseError) as error:
                failures.append(Failure(entry, error))
                continue
            if (entry.stream, entry.id) not in self.held:
                keys = keys_of_run(launched.run, self.settings.partitions)
                held = self.held[entry.stream, entry.id] = Held(entry, launched, keys, LogTail(keys, launched))
                new.append(held)
                if entry.deliveries > 1:
                    self.unproven.add((entry.stream, entry.id))
        return failures + self.watch(new)

    def turn(self) -> int | None:
        """Between reads: renew what is in hand and look at its pods. Returns how long the next read may wait."""
        now = time.monotonic()
        # After a lost connection Redis may know nothing of a launch any more: its pod must not be let go then.
        if self.held and (now >= self.next_renewal or self.inbox.history_unread):
            self._renew(self.held.keys())
            self.next_renewal = now + self.settings.lease_seconds / 3
        elif self.unproven:
            # This process has lived on with it in hand. If it is killed soon, its entries are not to blame.
            self._renew(self.unproven & self.held.keys())
        self.unproven.clear()
        for failure in self._watch_all():
            entry = failure.entry
            with about_entry(entry.stream, entry.id, entry.fields):
                log.error("a Job cannot be wrapped up yet", job=entry.fields.get("job"), error=str(failure.error))
            self.inbox.put_off(failure.entry)
        end_overdue(self.client, self.pods, self.settings, self.kept)
        if self.is_local:
            return WATCH_MS if self.held or self.kept.waiting else None
        return max(1, math.ceil(self._until_look() * 1000)) if self.held or self.kept.waiting else None

    def _until_look(self) -> float:
        """In how many seconds all pods are to be looked at again."""
        every_ms = WATCH_MS if self.is_local or self.kept.waiting else CLUSTER_WATCH_MS
        return self.watched_at + every_ms / 1000 - self.clock()

    def _watch_all(self) -> list[Failure]:
        """Look at every pod in hand. While what was handed out before comes back, which it does one at a time, that is
        not done for each of them: it would take the square of their number. On a cluster it is not done for each new
        one either.
        """
        if (self.inbox.again or not self.is_local) and self._until_look() > 0:
            return []
        self.watched_at = self.clock()
        return self.watch(list(self.held.values()))

    def watch(self, some: Sequence[Held]) -> list[Failure]:
        """Look at these pods once; wrap up those that are over."""
        if not some:
            return []
        statuses = self.pods.statuses(held.launched.job for held in some if not held.launched.refused)
        over: list[tuple[Held, PodStatus | None]] = []
        ending: list[tuple[Held, PodStatus | None]] = []
        moved: list[tuple[Held, PodStatus]] = []
        for held in some:
            job = held.launched.job
            if held.launched.refused or job not in statuses:
                over.append((held, None))
                continue
            status = statuses[job]
            if status is None:
                continue
            if not status.final:
                held.silent_since = None
            elif self.clock() < held.look_at:
                continue
            if status.final and status.logs_known:
                over.append((held, status))
            elif status.final:
                # Reading logs takes its time where many pods end at once; nobody's next task waits for that.
                if not held.ended:
                    ending.append((held, status))
            elif status.phase != held.phase:
                moved.append((held, status))
        self._note_phases(moved)
        self._tail(over)
        failures = self._end(ending, wrap_up=False) if ending else []
        return failures + (self._end(over, wrap_up=True) if over else [])

    def _note_phases(self, moved: Sequence[tuple[Held, PodStatus]]) -> None:
        calls = [_phase_call(held, status) for held, status in moved]
        for (held, status), result in zip(moved, commit(self.client, calls), strict=True):
            if isinstance(result, ResponseError):
                with _about(held):
                    log.warning("a phase is not noted", job=status.job, error=str(result))
            else:
                held.phase = status.phase

    def _renew(self, entries: Iterable[tuple[str, str]]) -> None:
        """Keep these in hand, by stream and id, and let go of those that are this consumer's no more."""
        by_stream: dict[str, list[str]] = {}
        for stream, entry in entries:
            by_stream.setdefault(stream, []).append(entry)
        for stream, mine in by_stream.items():
            kept = self.inbox.renew(stream, mine)
            for entry in mine:
                if entry not in kept:
                    # Acknowledged by a commit whose reply was lost, or taken over while this process was paused.
                    del self.held[stream, entry]

    def _tail(self, over: list[tuple[Held, PodStatus | None]]) -> None:
        for held, status in over:
            if status is not None:
                self._copy(held, watched=True, final=True)
        now = time.monotonic()
        if now < self.next_tail:
            return
        self.next_tail = now + TAIL_SECONDS
        watched = self._watched({(held.keys.partition, held.launched.run) for held in self.held.values()})
        for held in self.held.values():
            if held.phase:  # there is a pod
                self._copy(held, watched=held.launched.run in watched, final=False)

    def _copy(self, held: Held, *, watched: bool, final: bool) -> None:
        """A log that Redis will not take is lost in the end; the attempt goes on all the same."""
        try:
            held.tail.copy(self.client, self.pods, watched=watched, final=final)
        except ResponseError as error:
            with _about(held):
                log.warning("a log is not copied", job=held.launched.job, error=str(error))

    def _watched(self, runs: Iterable[tuple[int, str]]) -> set[str]:
        wanted = list(runs)
        pipeline = pipelined(self.client)
        for partition, run in wanted:
            pipeline.exists(Keys(partition).watched(run))
        return {run for (_, run), found in zip(wanted, pipeline.execute(), strict=True) if found}

    def _end(self, over: list[tuple[Held, PodStatus | None]], *, wrap_up: bool) -> list[Failure]:
        """Commit the ends of attempts. To wrap up is to acknowledge their entries too; then the pods may go."""
        failures: list[Failure] = []
        runs = {held.launched.run: held.keys.run(held.launched.run) for held, _ in over}
        switches = hash_values(self.client, list(runs.values()), ("cacheEnabled", "startTime"))
        enabled = dict(zip(runs, switches, strict=True))
        tasks = [held.keys.task(held.launched.run, held.launched.task) for held, _ in over]
        calls: list[Call] = []
        committing: list[tuple[Held, Ended, bool, Sequence[str | None]]] = []
        storing: list[tuple[Held, PodStatus]] = []
        for (held, pod), values in zip(over, hash_values(self.client, tasks, TASK_VALUES), strict=True):
            switch = enabled[held.launched.run]
            broken = next((each for each in (values, switch) if isinstance(each, ResponseError)), None)
            if broken is not None:
                failures.append(Failure(held.entry, broken))
                continue
            if not wrap_up and values[:2] != ["RUNNING", str(held.launched.attempt)]:
                held.ended = True
                continue
            if pod is not None and self._may_be_reported(held, pod, values):
                task = pod.steps.get("task")
                if task is not None and task.exitCode is not None and held.phase != "Publishing":
                    storing.append((held, msgspec.structs.replace(pod, phase="Publishing")))
                continue
            try:
                with _about(held):
                    ended = ended_of(
                        self.pods,
                        held.launched,
                        pod,
                        values,
                        cache_enabled=switch[0] == "true",
                        manifest=self.manifest,
                        fetch_lines=partial(fetch_lines_of, self.client, held.keys, held.launched),
                    )
                memo = memoized(values[2]) if wrap_up else None
            except NotYet:
                continue  # it stays in hand, and the next turn finds its pod over again
            except (OSError, ValueError) as error:
                failures.append(Failure(held.entry, error))
                continue
            is_current = values[:2] == ["RUNNING", str(held.launched.attempt)]
            if memo is not None and not is_current:
                image = pod.image if pod is not None else ""
                with _about(held):
                    remember(self.client, self.settings, held.keys, held.launched, memo, image)
            # A memoized task's end is committed first: its entry stays until what it came to is remembered.
            done = wrap_up and (memo is None or not is_current)
            disagrees = contradicts(pod, values[0], values[1], held.launched.attempt)
            if disagrees:
                with _about(held):
                    reason = pod.reason if pod else None
                    log.warning("a pod failed whose attempt had succeeded; the success stays", reason=reason)
            calls.append(self._end_call(held, ended, disagrees=disagrees, wrap_up=done))
            committing.append((held, ended, done, (switch[1], *values[-len(TIMES) :])))
        self._note_phases(storing)
        for (held, ended, done, times), result in zip(committing, commit(self.client, calls), strict=True):
            if isinstance(result, ResponseError):
                failures.append(Failure(held.entry, result))
                continue
            if result == 1:
                count_end(ended, times, local=self.is_local)
                with _about(held):
                    record = ended.record
                    log.info("an attempt ended", status=ended.status, reason=record.reason, node=record.node)
            if not done:
                held.ended = True
                continue
            if not held.launched.refused:
                with _about(held):
                    self._release(held.launched.job)
            del self.held[held.entry.stream, held.entry.id]
        for failure in failures:
            self.held.pop((failure.entry.stream, failure.entry.id), None)
        return failures

    def _may_be_reported(self, held: Held, pod: PodStatus, values: Sequence[str | None]) -> bool:
        """Whether the report that says how the attempt ended may still come from its node's agent."""
        status, attempt, _, _, reported, _, heard = values[: -len(TIMES)]
        current = str(held.launched.attempt)
        if not pod.agent_reports or (status, attempt) != ("RUNNING", current) or reported == current:
            return False
        now = self.clock()
        if held.silent_since is None or heard != held.heard:
            held.silent_since, held.heard = now, heard
        held.look_at = now + REPORT_LOOK_SECONDS
        return now - held.silent_since < AGENT_SILENT_SECONDS

    def _release(self, job: str) -> None:
        try:
            self.pods.release(job)
        except OSError as error:
            log.warning("a pod is not released yet", job=job, error=str(error))

    def _end_call(self, held: Held, ended: Ended, *, disagrees: bool, wrap_up: bool) -> Call:
        launched, entry = held.launched, held.entry.id if wrap_up else ""
        return end_call(held.keys, entry, launched.run, launched.task, launched.attempt, ended, disagrees=disagrees)

    def _finalise(self, entry: Entry, run: str) -> None:
        keys = keys_of_run(run, self.settings.partitions)
        fields: dict[str, str] = self.client.hgetall(keys.run(run))  # pyright: ignore[reportAssignmentType] -- stubs
        names: list[str] = self.client.lrange(keys.task_names(run), 0, -1)  # pyright: ignore[reportAssignmentType]
        tasks = read_tasks(self.client, keys, run, names)
        final = fold(tasks, fields)
        result = commit_one(
            self.client,
            finalise(
                keys,
                entry=entry.id,
                run=run,
                dag_name=fields.get("dagName", ""),
                fields=final,
                sums=sums(tasks, fields),
                runs_kept_per_dag=self.settings.runs_kept_per_dag,
                runs_kept_in_all=self.settings.runs_kept_in_all,
                event=RunEnded(run, final["status"]),
                traced=bool(self.settings.otlp_endpoint),
                notices=due_numbers(fields.get("notify"), final["status"]) if self.settings.notify_hosts else (),
            ),
        )
        if result == 1:
            count_run(final, fields)
            with about(run=run, entry=entry.id):
                log.info("run ended", status=final["status"], cache=final["cacheHit"])
                if wrong := disagreements(fields, final):
                    log.error("live counters differ from the tasks' records", counters=wrong)


def _about(held: Held) -> about:
    launched = held.launched
    return about(run=launched.run, task=launched.task, attempt=launched.attempt, entry=held.entry.id)


def _phase_call(held: Held, status: PodStatus) -> Call:
    launched, scheduled = held.launched, status.scheduledAt
    return note_phase(
        held.keys,
        run=launched.run,
        task=launched.task,
        attempt=launched.attempt,
        phase=status.phase,
        node=status.node,
        scheduled_ms_ago=None if scheduled is None else max(0, time.time_ns() // 1_000_000 - scheduled),
        event=TaskPhase(launched.run, launched.task, launched.attempt, status.phase, status.node),
    )
