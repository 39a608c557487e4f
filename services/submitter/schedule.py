"""Schedules: what people want of them, and the submissions that they make.

Each time makes one run, whatever is killed and whoever else looks. A replica first claims the time, which decides what
is sent, then sends it, then says so. The request id is the schedule's and the time's own, so a replica that finishes
what another claimed, or sent and did not say so, makes the same run (helios/transitions/schedule_claim.lua).
"""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import redis
import structlog
from redis.exceptions import ResponseError

from helios.dag import DagInvalid, parse_dag
from helios.dag_problem import LIMITS
from helios.keys import CONTROLS, SCHEDULES, SUBMISSIONS, keys_of_run, schedule, schedule_answer, schedule_dag
from helios.messages import ScheduleControl, decode
from helios.records import ENDED
from helios.schedules import (
    ACTIONS,
    DAG_BYTES_AT_MOST,
    FIELDS,
    SCHEDULES_AT_MOST,
    Schedule,
    ScheduleInvalid,
    check_name,
    check_schedule,
    first_after,
    latest_due,
    params_at,
    request_of,
    schedule_of,
)
from helios.streams import Entry
from helios.submitting import submission_fields
from helios.transitions import (
    ANSWER_KEPT_SECONDS,
    commit_one,
    schedule_add,
    schedule_change,
    schedule_claim,
    schedule_sent,
)
from helios.wire import TRANSIENT, error_code
from helios.worker import Refused
from services.submitter.told import Told

log = structlog.get_logger()

EVERY_SECONDS = 1.0
PROBLEMS_TOLD = 20

DEADLINE_PASSED = "its starting deadline had passed"
OVERTAKEN = "a later time had come before it could run"


def server_clock(client: redis.Redis) -> int:
    """Epoch milliseconds of the Redis server, which all replicas agree on."""
    seconds, microseconds = client.time()  # pyright: ignore -- the stub leaves its parameters open
    return int(seconds) * 1000 + int(microseconds) // 1000


def is_about_schedules(entry: Entry) -> bool:
    return entry.fields.get("action", "").startswith("schedule-")


def control_schedule(client: redis.Redis, entry: Entry, clock: Callable[[], int] | None = None) -> None:
    """Carry out a control entry about a schedule, and leave the answer for its sender. Raises Refused for one that is
    none of ours, redis.RedisError.
    """
    message = decode(entry.fields, ScheduleControl)
    if message.action not in ACTIONS:
        raise Refused(f"action {message.action[:40]!r} is not known; there are {', '.join(ACTIONS)}")
    now = clock() if clock else server_clock(client)
    try:
        answer = _carry_out(client, entry.id, message, now)
    except ScheduleInvalid as invalid:
        answer = str(invalid)
        client.set(schedule_answer(entry.id), answer, ex=ANSWER_KEPT_SECONDS, nx=True)
    log.info("schedule", name=message.name[:100], action=message.action, answer=answer)


def _carry_out(client: redis.Redis, entry: str, message: ScheduleControl, now: int) -> str:
    if message.action == "schedule-add":
        return _add(client, entry, message, now)
    check_name(message.name)
    first: int | str = ""
    if message.action == "schedule-resume" and (found := _read(client, message.name)):
        coming = first_after(found, now)
        if coming is None:
            raise ScheduleInvalid(f"{found.cron!r} never comes again")
        first = coming
    action = message.action.removeprefix("schedule-")
    return commit_one(client, schedule_change(message.name, entry=entry, action=action, first=first))


def _add(client: redis.Redis, entry: str, message: ScheduleControl, now: int) -> str:
    check_schedule(message.name, message.cron, message.timezone, message.concurrency, message.deadlineSeconds)
    added = Schedule(id=entry, cron=message.cron, timezone=message.timezone, params=message.params)
    first = first_after(added, now)
    if first is None:
        raise ScheduleInvalid(f"{message.cron!r} never comes again")
    if len(message.params) > LIMITS.max_params_bytes:
        raise ScheduleInvalid(f"the parameters have more than {LIMITS.max_params_bytes:,} characters")
    text = message.dag.encode("utf-8", "surrogateescape")
    if len(text) > DAG_BYTES_AT_MOST:
        raise ScheduleInvalid(f"the DAG has {len(text):,} bytes; that of a schedule has {DAG_BYTES_AT_MOST:,} at most")
    try:
        dag_name = parse_dag(text, params=params_at(added, first)).dag.dag_name
    except DagInvalid as invalid:
        problems = [str(problem) for problem in invalid.problems[:PROBLEMS_TOLD]]
        raise ScheduleInvalid("\n".join(["the DAG is not valid:", *problems])) from None
    fields = {
        "cron": message.cron,
        "timezone": message.timezone,
        "concurrency": message.concurrency,
        "dagName": dag_name,
        "params": message.params,
        "deadlineSeconds": "" if message.deadlineSeconds is None else str(message.deadlineSeconds),
    }
    call = schedule_add(message.name, entry=entry, first=first, at_most=SCHEDULES_AT_MOST, dag=text, fields=fields)
    return commit_one(client, call)


def _read(client: redis.Redis, name: str) -> Schedule | None:
    values: Any = client.hmget(schedule(name), *FIELDS)
    return schedule_of(dict(zip(FIELDS, values, strict=True)))


class Scheduler:
    """Sends what is due. Any number of replicas look side by side."""

    def __init__(
        self, client: redis.Redis, partitions: int, lease_seconds: float, clock: Callable[[], int] | None = None
    ) -> None:
        self.client = client
        self.partitions = partitions
        self.lease_ms = int(lease_seconds * 1000)
        self.clock = clock or (lambda: server_clock(client))
        self.told = Told()

    def look(self) -> int:
        """One look at all schedules that are due; returns how many times were sent. Raises redis.RedisError when Redis
        is out of reach or takes no writes; a schedule that is damaged keeps no other from its time.
        """
        names: Any = self.client.zrange(SCHEDULES, "-inf", self.clock(), byscore=True)  # pyright: ignore[reportUnknownMemberType, reportArgumentType] -- no stub
        sent = 0
        self.told.keep(names)
        for name in names:
            try:
                sent += self._look_at(name)
            except ResponseError as error:
                if error_code(error) in TRANSIENT:
                    raise
                self._tell("a schedule cannot be read", name, error)
            except (ScheduleInvalid, msgspec.ValidationError) as error:
                self._tell("a schedule is of no use", name, error)
        return sent

    def _tell(self, what: str, name: str, error: Exception) -> None:
        if self.told.is_news(name, str(error), self.clock()):
            log.error(what, schedule=name, error=str(error))

    def _look_at(self, name: str) -> int:
        found = _read(self.client, name)
        if found is None:
            return 0
        now = self.clock()
        claimed = self._take_over(name, found, now) if found.firing is not None else self._claim(name, found, now)
        return self._send(name, claimed) if claimed else 0

    def _take_over(self, name: str, found: Schedule, now: int) -> Schedule | None:
        """What its claimant has not finished in time."""
        if found.claimedUntil > now or found.firing is None:
            return None
        call = schedule_claim(
            name,
            schedule=found.id,
            expected=found.next,
            time=found.firing,
            following="",
            now=now,
            until=now + self.lease_ms,
        )
        return found if commit_one(self.client, call) else None

    def _claim(self, name: str, found: Schedule, now: int) -> Schedule | None:
        """Decides what becomes of the times up to now. None where there is nothing to send, or another was first."""
        time = latest_due(found, now)
        if found.paused or time is None:
            return None
        is_late = found.deadlineSeconds is not None and now - time > found.deadlineSeconds * 1000
        goes_on = "" if is_late or found.concurrency == "allow" else self._goes_on(found.lastRun)
        if goes_on and found.concurrency == "forbid":
            return None  # it stays due until that run ends, a later time comes or its deadline passes
        missed, why = (time, DEADLINE_PASSED) if is_late else (found.next if time != found.next else "", OVERTAKEN)
        call = schedule_claim(
            name,
            schedule=found.id,
            expected=found.next,
            time="" if is_late else time,
            following=first_after(found, now) or "",
            now=now,
            until=now + self.lease_ms,
            replaces=goes_on,
            missed=missed,
            missed_why=why,
        )
        if not commit_one(self.client, call):
            return None
        if missed:
            log.warning("a schedule's time is missed", schedule=name, time=missed, reason=why)
        return None if is_late else msgspec.structs.replace(found, firing=time, replaces=goes_on)

    def _send(self, name: str, claimed: Schedule) -> int:
        if claimed.firing is None:
            return 0
        text: Any = self.client.get(schedule_dag(name))
        if text is None:
            return 0  # removed since
        if claimed.replaces and self._goes_on(claimed.replaces):
            self.client.xadd(CONTROLS, {"run": claimed.replaces, "action": "cancel"})
        values = params_at(claimed, claimed.firing)
        params = json.dumps(values, sort_keys=True) if values else None
        fields = submission_fields(text, params=params, request_id=request_of(name, claimed, claimed.firing))
        run: Any = self.client.xadd(SUBMISSIONS, fields)
        commit_one(self.client, schedule_sent(name, schedule=claimed.id, time=claimed.firing, run=run))
        log.info("a schedule's time is submitted", schedule=name, time=claimed.firing, run=run)
        return 1

    def _goes_on(self, run: str) -> str:
        """The run itself, or the one it is an alias of, while it waits or goes on; else empty."""
        if not run:
            return ""
        # In this order: between the two it may be opened, and its record is there before its entry is gone.
        waits: Any = self.client.xrange(SUBMISSIONS, run, run)
        if waits:
            return run
        status, first = self._state(run)
        if first:
            run, status = first, self._state(first)[0]
        return run if status and status not in ENDED else ""

    def _state(self, run: str) -> tuple[str | None, str | None]:
        found: Any = self.client.hmget(keys_of_run(run, self.partitions).run(run), "status", "aliasOf")
        return found[0], found[1]
