"""`helios schedule`: DAGs that are submitted at their times, without anybody who does it."""

import json
import sys
import time
from typing import Annotated, Any, Literal

import msgspec
from cyclopts import Parameter

from cli.commands.run import check
from cli.commands.runs import paint
from cli.connection import Link, connected
from cli.control import ask, last_run
from cli.failure import SUCCEEDED, CommandFailed
from cli.figures import moment, seconds_of
from cli.output import Format, narrate, put, put_json, styled
from cli.submission import Params, name_of, read_dag, read_param_options
from cli.table import Column, lay_out
from helios.dag_params import recorded_params
from helios.keys import SCHEDULES, schedule_answer
from helios.keys import schedule as schedule_key
from helios.schedules import (
    DAG_BYTES_AT_MOST,
    Schedule,
    ScheduleInvalid,
    check_schedule,
    first_after,
    params_at,
    schedule_of,
    times_to_come,
)

Action = Literal["add", "list", "show", "remove", "pause", "resume"]
Policy = Literal["allow", "forbid", "replace"]

TIMES_SHOWN = 5

COLUMNS = (
    *(Column("NAME"), Column("CRON"), Column("TIME ZONE"), Column("DAG"), Column("NEXT")),
    *(Column("LAST"), Column("RUN"), Column("STATUS")),
)


class Seen(msgspec.Struct):
    """A schedule as people are shown it; `run` and `status` are its last run's, `status` empty if that is forgotten."""

    name: str
    schedule: Schedule
    run: str
    status: str


def schedule(
    what: Action = "list",
    /,
    *words: str,
    timezone: str = "UTC",
    concurrency: Policy = "allow",
    starting_deadline: str | None = None,
    param: Params = (),
    output: Annotated[Format, Parameter(name=["--output", "-o"])] = "table",
) -> int:
    """Submit DAGs at their times: `helios schedule add nightly "0 3 * * *" dag.yaml --timezone Europe/Berlin`.

    Each time makes one run. Of the times that pass while no submitter is alive only the latest is made up for. The DAG
    is kept as it is when it is added.

    Parameters
    ----------
    what
        add NAME CRON FILE, list, show NAME, remove NAME, pause NAME, resume NAME.
    words
        The schedule's name; to add one, also its five cron fields as one word, or @daily and the like, and its DAG.
    timezone
        Where the clock hangs that the cron fields are read from, as Europe/Berlin.
    concurrency
        When a time comes while the last run goes on: allow both, forbid the second until the first ends, or replace the
        first.
    starting_deadline
        A time that is later than that is left out: 90s, 10m, 2h. Without it none is ever too late.
    param
        -p NAME=VALUE: the value of a parameter of the DAG. In it ${schedule.date}, ${schedule.time} and
        ${schedule.datetime} are those of the scheduled time, in the schedule's time zone; mind the shell's quotes.
    output
        table for people, json for list and show.
    """
    wanted = {"add": 3, "list": 0}.get(what, 1)
    if len(words) != wanted:
        takes = {0: "nothing more", 1: "a schedule's name", 3: "a name, a cron expression in quotes and a file"}[wanted]
        raise CommandFailed(f"helios schedule {what} takes {takes}", hint="helios schedule --help")
    match what:
        case "add":
            return _add(words, timezone, concurrency, starting_deadline, read_param_options(param))
        case "list":
            return _list(output)
        case "show":
            return _show(words[0], output)
        case "remove" | "pause" | "resume":
            with connected() as link:
                ask(link, {"action": f"schedule-{what}", "name": words[0]}, schedule_answer, "schedule")
            done = {"remove": "removed", "pause": "paused", "resume": "resumed"}[what]
            narrate(f"schedule {words[0]}: {done}")
            return SUCCEEDED


def _add(
    words: tuple[str, ...], timezone: str, concurrency: str, starting_deadline: str | None, params: dict[str, str]
) -> int:
    name, cron, file = words
    try:
        deadline = None if starting_deadline is None else round(seconds_of(starting_deadline))
        check_schedule(name, cron, timezone, concurrency, deadline)
        written = json.dumps(params, sort_keys=True) if params else ""
        wanted = Schedule(id="", cron=cron, timezone=timezone, params=written)
        sample = params_at(wanted, first_after(wanted, round(time.time() * 1000)) or 0)
    except ValueError as error:  # of either; a ScheduleInvalid is one
        raise CommandFailed(str(error), hint="helios schedule --help") from None
    text = read_dag(file)
    check(text, name_of(file), sample)
    if len(text) > DAG_BYTES_AT_MOST:
        raise CommandFailed(
            f"{name_of(file)} has {len(text):,} bytes; the DAG of a schedule has {DAG_BYTES_AT_MOST:,} at most",
            hint="keep data in files and inputs",
        )
    fields: dict[str, str | bytes] = {
        "action": "schedule-add",
        "name": name,
        "cron": cron,
        "timezone": timezone,
        "concurrency": concurrency,
        "dag": text,
    }
    if written:
        fields["params"] = written
    if deadline is not None:
        fields["deadlineSeconds"] = str(deadline)
    with connected() as link:
        ask(link, fields, schedule_answer, "schedule")
        narrate(f"schedule {name} is added")
        if link.stack is not None:
            narrate("local mode: it runs while `helios up` does")
        seen = _seen(link, name)
        if seen is not None:
            put("\n".join(f"next {each}" for each in _coming(link, seen.schedule)))
    return SUCCEEDED


def _list(output: Format) -> int:
    with connected() as link:
        names: Any = link.client.zrange(SCHEDULES, 0, -1)  # pyright: ignore[reportUnknownMemberType] -- no stub
        found = [seen for name in sorted(names) if (seen := _seen(link, name))]
        if output == "json":
            put_json([_object(link, each) for each in found])
        elif found:
            put("\n".join(lay_out(COLUMNS, [_row(link, each) for each in found], paint)))
        else:
            narrate("there is no schedule")
            narrate('  next: helios schedule add NAME "0 3 * * *" dag.yaml')
    return SUCCEEDED


def _show(name: str, output: Format) -> int:
    with connected() as link:
        seen = _seen(link, name)
        if seen is None:
            raise CommandFailed(f"there is no schedule {name!r}", hint="`helios schedule` lists those that there are")
        if output == "json":
            put_json(_object(link, seen))
            return SUCCEEDED
        found = seen.schedule
        facts = {
            "schedule": name,
            "cron": found.cron,
            "time zone": found.timezone,
            "dag": found.dagName,
            "params": " ".join(f"{each}={value}" for each, value in recorded_params(found.params).items()),
            "concurrency": found.concurrency,
            "deadline": "" if found.deadlineSeconds is None else f"{found.deadlineSeconds:,} s",
            "state": "paused" if found.paused else "",
            "runs": f"{found.runs:,}",
            "last": f"{moment(found.lastTime)} {seen.run} {seen.status}".strip(),
            "missed": f"{moment(found.missedTime)}: {found.missedWhy}" if found.missedTime else "",
        }
        lines = [f"{styled(f'{fact:<11}', 'dim', sys.stdout)} {text}" for fact, text in facts.items() if text]
        lines += [f"{styled('next       ', 'dim', sys.stdout)} {each}" for each in _coming(link, found)]
        put("\n".join(lines))
    return SUCCEEDED


def _seen(link: Link, name: str) -> Seen | None:
    values: Any = link.client.hgetall(schedule_key(name))
    try:
        found = schedule_of(values)
    except msgspec.ValidationError as error:
        raise CommandFailed(f"the record of schedule {name!r} is damaged: {error}", hint="remove and add it") from None
    if found is None:
        return None
    return Seen(name, found, *last_run(link, found.lastRun))


def _now(link: Link) -> int:
    seconds, _ = link.client.time()  # pyright: ignore -- the stub leaves its parameters open
    return int(seconds) * 1000


def _coming(link: Link, found: Schedule, count: int = TIMES_SHOWN) -> list[str]:
    """The next times, in the reader's time zone."""
    try:
        return [moment(each) for each in times_to_come(found, count, _now(link))]
    except ScheduleInvalid as error:
        return [str(error)]


def _row(link: Link, seen: Seen) -> tuple[str, ...]:
    found = seen.schedule
    coming = "paused" if found.paused else next(iter(_coming(link, found, 1)), "never")
    last = moment(found.lastTime)
    return seen.name, found.cron, found.timezone, found.dagName, coming, last, seen.run, seen.status


def _object(link: Link, seen: Seen) -> dict[str, Any]:
    found = seen.schedule
    try:
        coming = times_to_come(found, TIMES_SHOWN, _now(link))
    except ScheduleInvalid:
        coming = []
    return {
        "name": seen.name,
        "cron": found.cron,
        "timezone": found.timezone,
        "dagName": found.dagName,
        "params": recorded_params(found.params),
        "concurrency": found.concurrency,
        "startingDeadlineSeconds": found.deadlineSeconds,
        "paused": found.paused,
        "nextTimes": coming,
        "runs": found.runs,
        "lastTime": found.lastTime,
        "lastRun": seen.run or None,
        "lastStatus": seen.status or None,
        "missedTime": found.missedTime,
        "missedWhy": found.missedWhy or None,
    }
