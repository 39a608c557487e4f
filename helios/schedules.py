"""What a schedule is, when its times are, and what Redis keeps of it. No I/O happens here.

Times are epoch milliseconds of the Redis server's clock. A cron expression is read in the schedule's time zone: one
whose minute and hour are fixed comes once a day even where clocks change (in the hour that is skipped, at its end; in
the hour that comes twice, the first time); any other goes on through the change as time does (cronsim, after Debian's
cron).
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from cronsim import CronSim, CronSimError

from helios.dag_names import name_fault
from helios.dag_params import ParamsUnreadable, read_params
from helios.param_templates import fill

SCHEDULES_AT_MOST = 1_000
DAG_BYTES_AT_MOST = 1024 * 1024
"""Of the text of a schedule's DAG: all schedules together are to fit into Redis beside the runs."""
NAME_CHARACTERS = 100
CRON_CHARACTERS = 200
ZONE_CHARACTERS = 64
DEADLINE_SECONDS = (10, 366 * 86_400)
"""A starting deadline's bounds; below the first, a look that comes late would miss times."""
POLICIES = ("allow", "forbid", "replace")
"""What becomes of a time at which the schedule's last run goes on: both run; it waits, and only the latest counts; that
run is cancelled."""

ACTIONS = ("schedule-add", "schedule-remove", "schedule-pause", "schedule-resume")
"""The `action` of control entries about schedules."""

SHORTHANDS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}

FIELDS = (
    *("id", "cron", "timezone", "concurrency", "deadlineSeconds", "dagName", "next", "paused", "firing", "replaces"),
    *("claimedUntil", "lastRun", "lastTime", "missedTime", "missedWhy", "runs", "params"),
)

TIME_FORMS: dict[str, Callable[[datetime], str]] = {
    "date": lambda time: f"{time:%Y-%m-%d}",
    "time": lambda time: f"{time:%H:%M:%S}",
    "datetime": lambda time: time.isoformat(),
}
"""What `${schedule.NAME}` is in the value of a parameter: of the scheduled time, in the schedule's time zone."""

_WINDOWS = (3_600_000, 86_400_000, 32 * 86_400_000, 400 * 86_400_000, 100 * 366 * 86_400_000)
"""How far back the latest time is looked for, in turn: most come often, and few have been missed for long."""


class ScheduleInvalid(ValueError):
    """No such schedule can be; the message says what is wrong and what would do."""


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule's record. `next` is the first time that nobody has dealt with; `id` is the control entry that added
    it, so that a schedule of the same name which comes later is another one.
    """

    id: str
    cron: str
    timezone: str = "UTC"
    concurrency: str = "allow"
    deadlineSeconds: int | None = None
    dagName: str = ""
    next: int = 0
    paused: bool = False
    firing: int | None = None
    """The time that a replica has claimed and not yet finished; whoever finds it finishes it."""
    replaces: str = ""
    """The run that is cancelled for that time's."""
    claimedUntil: int = 0
    """Until then it is the claimant's to finish."""
    lastRun: str = ""
    lastTime: int | None = None
    missedTime: int | None = None
    """The latest time that had no run, and why."""
    missedWhy: str = ""
    runs: int = 0
    params: str = ""
    """JSON object, as in a submission; its values may have `${schedule.date}` and the like in them."""


def schedule_of(values: Mapping[str, str | None]) -> Schedule | None:
    """A record as Redis has it; None where there is none. Raises msgspec.ValidationError for a damaged one."""
    found = {name: text for name, text in values.items() if text and name in FIELDS}
    return msgspec.convert(found, Schedule, strict=False) if "id" in found else None


def check_schedule(name: str, cron: str, timezone: str, concurrency: str, deadline_seconds: int | None) -> None:
    """Raises ScheduleInvalid for what no schedule can have."""
    check_name(name)
    _zone(timezone)
    _fields(cron)
    if next(times_after(cron, timezone, 0), None) is None:
        raise ScheduleInvalid(f"{cron!r} never comes")
    if concurrency not in POLICIES:
        raise ScheduleInvalid(f"concurrency is {concurrency[:40]!r}, but it takes allow, forbid or replace")
    least, most = DEADLINE_SECONDS
    if deadline_seconds is not None and not least <= deadline_seconds <= most:
        raise ScheduleInvalid(f"a starting deadline has {least} s to {most:,} s, not {deadline_seconds:,}")


def check_name(name: str) -> None:
    """Raises ScheduleInvalid."""
    fault = name_fault(name, NAME_CHARACTERS)
    if fault is not None:
        raise ScheduleInvalid(f"{name[:120]!r} is no name of a schedule: it {fault}")


def times_after(cron: str, timezone: str, after: int) -> Iterator[int]:
    """The times later than `after`, in order; none if there is none in the 50 years to come."""
    zone = _zone(timezone)
    start = datetime.fromtimestamp(after // 1000, UTC).astimezone(zone)
    try:
        for found in CronSim(_fields(cron), start):
            # Of the hour that comes twice the first is meant, which may lie before a start in the second.
            if (time := int(found.timestamp()) * 1000) > after:
                yield time
    except (OverflowError, ValueError):
        return  # beyond the calendar


def first_after(schedule: Schedule, after: int) -> int | None:
    return next(times_after(schedule.cron, schedule.timezone, after), None)


def times_to_come(schedule: Schedule, count: int, now: int) -> list[int]:
    """What is shown to people; of a schedule that is paused nothing."""
    if schedule.paused:
        return []
    return list(islice(times_after(schedule.cron, schedule.timezone, max(now, schedule.next - 1)), count))


def latest_due(schedule: Schedule, now: int) -> int | None:
    """The latest time from `next` to `now`; None while there is none."""
    if schedule.next > now:
        return None
    for window in _WINDOWS:
        latest = None
        for time in times_after(schedule.cron, schedule.timezone, max(schedule.next - 1, now - window)):
            if time > now:
                break
            latest = time
        if latest is not None:
            return latest
    return None  # the time zone has other rules by now


def request_of(name: str, schedule: Schedule, time: int) -> str:
    """The submission's request id: one for each time, so that sending it again is the same run."""
    return f"schedule:{name}:{schedule.id}:{time}"


def params_at(schedule: Schedule, time: int) -> dict[str, str]:
    """The values of the DAG's parameters for that time. Raises ScheduleInvalid."""
    local = datetime.fromtimestamp(time / 1000, _zone(schedule.timezone))

    def look_up(name: str) -> str:
        if name not in TIME_FORMS:
            known = ", ".join(f"${{schedule.{each}}}" for each in TIME_FORMS)
            raise ScheduleInvalid(f"there is no ${{schedule.{name[:40]}}}; there are {known}")
        return TIME_FORMS[name](local)

    try:
        values = read_params(schedule.params)
    except ParamsUnreadable as error:
        raise ScheduleInvalid(str(error)) from None
    return {name: fill(value, {"schedule": look_up}) for name, value in values.items()}


def _fields(cron: str) -> str:
    written = cron.strip()
    expression = SHORTHANDS.get(written.lower(), written)
    if len(cron) > CRON_CHARACTERS or len(expression.split()) != 5:
        raise ScheduleInvalid(
            f"{cron[:CRON_CHARACTERS]!r} is no cron expression: five fields (minute, hour, day of the month, month, "
            f"day of the week), as in '0 3 * * *', or {', '.join(SHORTHANDS)}"
        )
    try:
        CronSim(expression, datetime(2026, 1, 1, tzinfo=UTC))
    except (CronSimError, AssertionError, ValueError) as error:
        raise ScheduleInvalid(f"{cron!r} is no cron expression: {str(error).lower() or 'a bad step'}") from None
    return expression


@lru_cache(256)
def _zone(name: str) -> ZoneInfo:
    try:
        if len(name) <= ZONE_CHARACTERS:
            return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        pass
    raise ScheduleInvalid(f"there is no time zone {name[:ZONE_CHARACTERS]!r}; one looks like Europe/Berlin or UTC")
