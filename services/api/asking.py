"""What is read for one request. Plain synchronous code: a thread runs it."""

import threading
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import redis

from helios.dag_problem import nearest
from helios.heartbeat import live_services
from helios.keys import (
    COLLECTOR_GROUP,
    CONTROLS,
    JOBRUNNER_GROUP,
    SUBMISSIONS,
    SUBMITTER_GROUP,
    Keys,
    all_partitions,
    keys_of_run,
)
from helios.records import OutputRecord, TaskView, read_tasks
from helios.run_lookup import is_forgotten, is_run_id, is_submitted, newest_runs
from helios.run_object import run_object, task_object
from helios.settings import Settings
from helios.wire import Command, send
from services.api.problems import Refused
from services.api.shapes import (
    Artifact,
    ObjectStoreStatus,
    RedisStatus,
    Replica,
    Service,
    StreamStatus,
    SystemStatus,
)

BEATS_SECONDS = 2.0
"""What is known of the services is good for so long: finding them takes a walk over all keys."""
SUBMITTED = "SUBMITTED"
"""The status of a run that no submitter has come to yet."""


class Asking:
    """Reads from one Redis."""

    def __init__(self, client: redis.Redis, settings: Settings) -> None:
        self.client = client
        self.settings = settings
        self.partitions = all_partitions(settings.partitions)
        self._beats: tuple[float, list[dict[str, str]]] = (0.0, [])
        self._beats_lock = threading.Lock()

    def keys(self, run: str) -> Keys:
        return keys_of_run(run, self.settings.partitions)

    def find(self, named: str) -> str:
        """The run that an id stands for: itself, or the first one of its request id. Raises Refused."""
        if not is_run_id(named):
            raise Refused(404, "there is no such run; an id looks like 1764027260123-0")
        status, alias = self._fields(named, "status", "aliasOf")
        if alias:
            return str(alias)
        if status is None and not is_submitted(self.client, named):
            # It may have been accepted between the two looks.
            if self._fields(named, "status")[0] is not None:
                return named
            if is_forgotten(self.client, self.keys(named), named):
                raise Refused(410, f"run {named} is no longer kept: of each DAG the newest runs are")
            raise Refused(404, f"there is no run {named}")
        return named

    def _fields(self, run: str, *names: str) -> list[str | None]:
        found: Any = self.client.hmget(self.keys(run).run(run), *names)
        return found

    def run(self, named: str, *, with_tasks: bool) -> dict[str, Any]:
        run = self.find(named)
        fields: Any = self.client.hgetall(self.keys(run).run(run))
        if "status" not in fields:
            fields = {"dagId": run, "status": SUBMITTED}
        shown = _shown(fields)
        if with_tasks:
            shown["tasks"] = [task_object(view) for view in self.tasks(run)]
        return shown

    def task_names(self, run: str) -> list[str]:
        names: Any = self.client.lrange(self.keys(run).task_names(run), 0, -1)
        return names

    def tasks(self, run: str) -> list[TaskView]:
        return read_tasks(self.client, self.keys(run), run, self.task_names(run))

    def check_task(self, run: str, task: str) -> None:
        """Raises Refused for a task that the run does not have."""
        names = self.task_names(run)
        if task not in names:
            near = nearest(task, names)
            hint = f"; did you mean {near!r}?" if near else ""
            raise Refused(404, f"run {run} has no task of that name{hint}")

    def newest(self, limit: int, dag_name: str | None = None) -> list[dict[str, Any]]:
        """Runs, newest first, without their tasks; one that was deleted meanwhile is left out."""
        runs = newest_runs(self.client, self.partitions, limit, dag_name)
        found = send(self.client, [("HGETALL", self.keys(run).run(run)) for run in runs])
        hashes = [dict(zip(each[::2], each[1::2], strict=True)) for each in found if not isinstance(each, Exception)]
        return [_shown(fields) for fields in hashes if "status" in fields]

    def outputs(self, named: str) -> list[Artifact]:
        run = self.find(named)
        return [_artifact(run, view.name, output) for view in self.tasks(run) for output in view.outputs]

    def output(self, named: str, task: str, name: str) -> OutputRecord:
        """Raises Refused when the task has stored no such output."""
        run = self.find(named)
        self.check_task(run, task)
        (view,) = read_tasks(self.client, self.keys(run), run, [task])
        for output in view.outputs:
            if output.name == name:
                return output
        raise Refused(404, f"task {task!r} of run {run} has stored no output of that name; the task is {view.status}")

    def beats(self) -> list[dict[str, str]]:
        """The services' heartbeats, of the last seconds."""
        with self._beats_lock:
            until, found = self._beats
            if time.monotonic() >= until:
                found = live_services(self.client)
                self._beats = (time.monotonic() + BEATS_SECONDS, found)
            return found

    def why_waiting(self) -> str:
        """Why submissions wait in their stream although a submitter is alive; empty while they do not."""
        return next((beat["waits"] for beat in self.beats() if beat.get("waits")), "")

    def system(self, endpoint: str) -> SystemStatus:
        """`endpoint`: the object store's, as users reach it."""
        beats = self.beats()
        names = [SUBMITTER_GROUP, JOBRUNNER_GROUP, COLLECTOR_GROUP]
        names += sorted({beat["service"] for beat in beats} - set(names))
        info: Any = self.client.info()  # pyright: ignore[reportUnknownMemberType] -- the stubs leave a parameter open
        counts: list[Any] = send(
            self.client,
            [
                (command, key)
                for keys in self.partitions
                for command, key in (("ZCARD", keys.active), ("ZCARD", keys.runs), ("XLEN", keys.dead))
            ],
        )
        numbers = [count if isinstance(count, int) else 0 for count in counts]
        return SystemStatus(
            services=[
                Service(service=name, replicas=[_replica(beat) for beat in beats if beat["service"] == name])
                for name in names
            ],
            streams=[self._stream(stream, group) for stream, group in self._work_streams()],
            deadLetters=sum(numbers[2::3]),
            runsActive=sum(numbers[0::3]),
            runsStored=sum(numbers[1::3]),
            submissionsWait=self.why_waiting(),
            redis=RedisStatus(
                version=str(info.get("valkey_version") or info.get("redis_version", "")),
                role=str(info.get("role", "")),
                usedBytes=int(info.get("used_memory", 0)),
                maxBytes=int(info.get("maxmemory", 0)),
            ),
            objectStore=ObjectStoreStatus(endpoint=endpoint, bucket=self.settings.s3_bucket),
        )

    def _work_streams(self) -> list[tuple[str, str]]:
        streams = [(SUBMISSIONS, SUBMITTER_GROUP), (CONTROLS, SUBMITTER_GROUP)]
        for keys in self.partitions:
            streams += [(stream, JOBRUNNER_GROUP) for stream in keys.ready_streams]
            streams += [
                (keys.checks, COLLECTOR_GROUP),
                (keys.launched, COLLECTOR_GROUP),
                (keys.cancelled, JOBRUNNER_GROUP),
                (keys.finished, SUBMITTER_GROUP),
                (keys.settled, COLLECTOR_GROUP),
            ]
        return streams

    def _stream(self, stream: str, group: str) -> StreamStatus:
        commands: Sequence[Command] = (
            ("XLEN", stream),
            ("XINFO", "GROUPS", stream),
            ("XINFO", "STREAM", stream),
        )
        answers: list[Any] = send(self.client, commands)
        # Where there is no such stream, Redis has words for it.
        found: list[Any] = [None if isinstance(each, Exception) else each for each in answers]
        length, groups, whole = found
        pending: int = 0
        lag: Any = None
        for each in groups or ():
            named: dict[str, Any] = dict(zip(each[::2], each[1::2], strict=True))
            if named.get("name") == group:
                pending, lag = int(named["pending"]), named.get("lag")
        about: dict[str, Any] = dict(zip(whole[::2], whole[1::2], strict=True)) if whole else {}
        first = about.get("first-entry")
        return StreamStatus(
            stream=stream,
            group=group,
            length=length if isinstance(length, int) else 0,
            pending=pending,
            lag=lag if isinstance(lag, int) else None,
            oldestMs=int(str(first[0]).partition("-")[0]) if first else None,
        )


def _shown(fields: dict[str, str]) -> dict[str, Any]:
    try:
        return run_object(fields)
    except ValueError:
        raise Refused(500, f"the record of run {fields.get('dagId', '')} is damaged; see helios doctor") from None


def _replica(beat: dict[str, str]) -> Replica:
    since = beat.get("since", "")
    return Replica(
        replica=beat["replica"],
        version=beat.get("version", ""),
        since=int(since) if since.isdecimal() else 0,
        waitsFor=beat.get("waitsFor", ""),
    )


def _artifact(run: str, task: str, output: OutputRecord) -> Artifact:
    return Artifact(
        task=task,
        name=output.name,
        bytes=output.bytes,
        storedBytes=output.bytes if output.stored is None else output.stored.bytes,
        codec=output.stored.codec if output.stored is not None else None,
        sha256=output.sha256,
        archive=output.archive,
        url=f"/api/v1/dags/{run}/tasks/{quote(task, safe='')}/artifacts/{quote(output.name)}",
    )
