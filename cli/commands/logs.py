"""`helios logs`: what one step of a task printed."""

import sys
from typing import Annotated, Any

import redis
from cyclopts import Parameter

from cli.connection import ALL, REDIS, Link, connected, regain
from cli.failure import INTERRUPTED, SUCCEEDED, CommandFailed
from cli.interrupts import Interrupts
from cli.lookup import check_task, find_run, task_names
from cli.output import is_terminal, narrate, put, put_as_it_is
from cli.task_logs import LogFollower, all_lines, last_lines
from helios.task_logs import Step
from helios.task_logs import task_state as state_of


def logs(
    run: str,
    task: str,
    /,
    *,
    follow: Annotated[bool, Parameter(name=["--follow", "-f"], negative=())] = False,
    step: Step = "task",
    attempt: int | None = None,
    tail: int | None = None,
) -> int:
    """Print what a task printed, its stdout and stderr together.

    The log is kept when the attempt ended; before that, --follow shows it as it grows.

    Parameters
    ----------
    run
        The run's id, or @latest.
    task
        The task's name.
    follow
        Stay until the task has ended, through its retries unless --attempt is given.
    step
        fetch: bringing the inputs; task: the command; publish: storing the outputs.
    attempt
        Which attempt; the current one unless given.
    tail
        Only so many lines from the end.
    """
    if tail is not None and tail < 0:
        raise CommandFailed(f"--tail is {tail}", hint="give 0 or more")
    with connected(ALL if follow else REDIS) as link:
        found = find_run(link, run)
        check_task(task_names(link, found), found, task)
        status, current, settled = task_state(link, found, task)
        wanted = current if attempt is None else attempt
        if wanted < 1 or (wanted > current and not follow):
            if attempt is None and not follow:
                narrate(f"task {task!r} is {status} and has no log yet\n  next: helios show {found}")
                return SUCCEEDED
            if attempt is not None and (wanted < 1 or settled):
                raise CommandFailed(
                    f"task {task!r} had no attempt {wanted}", hint=f"it had {current}; leave --attempt out"
                )
            wanted = max(1, wanted)
        if follow:
            return follow_log(link, found, task, wanted, step, tail, stay_through_retries=attempt is None)
        is_whole = LogFollower(link, found, task, wanted, step, "0-0").wait_for_the_rest()
        print_log(link, found, task, wanted, step, tail)
        if not is_whole and settled and wanted == current:
            narrate("the end of this log is not read yet: the collector has not wrapped up its pod")
        return SUCCEEDED


def task_state(link: Link, run: str, task: str) -> tuple[str, int, bool]:
    """Status, current attempt, and whether no attempt follows."""
    return state_of(link.client, link.keys(run), run, task)


def write(line: str) -> None:
    if is_terminal(sys.stdout):
        put(line)
    else:
        put_as_it_is(line)


def print_log(link: Link, run: str, task: str, attempt: int, step: Step, tail: int | None) -> str:
    """The log as it is kept; returns the last line's id."""
    stream = link.keys(run).log(run, task, attempt, step)
    if tail is None:
        last = all_lines(stream, link.client, write)
    else:
        newest: Any = link.client.xrevrange(stream, count=1)
        last = newest[0][0] if newest else "0-0"
        for line in last_lines(link, run, task, attempt, step, tail) if tail else ():
            write(line)
    if last == "0-0":
        status, _, settled = task_state(link, run, task)
        if link.client.hget(link.keys(run).run(run), "logsDropped"):
            narrate(f"the logs of run {run} are not kept any more: they made room for those of newer runs")
        elif settled:
            narrate(f"nothing was printed in the step {step!r} of attempt {attempt} of task {task!r} ({status})")
        else:
            narrate(f"task {task!r} is {status}; --follow shows its log as it grows")
    return last


def follow_log(
    link: Link, run: str, task: str, attempt: int, step: Step, tail: int | None, *, stay_through_retries: bool
) -> int:
    """Write lines until the task's log is complete."""
    last = print_log(link, run, task, attempt, step, tail) if tail is not None else "0-0"
    follower = LogFollower(link, run, task, attempt, step, last)
    with Interrupts() as interrupts:
        while not interrupts.wanted:
            try:
                following = follow_on(follower, step, stay_through_retries=stay_through_retries)
            except (redis.ConnectionError, redis.TimeoutError) as error:
                regain(link, error)
                continue
            if following is None:
                return SUCCEEDED
            follower = following
    return INTERRUPTED


def follow_on(follower: LogFollower, step: Step, *, stay_through_retries: bool) -> LogFollower | None:
    """Write what there is for now; returns whom to follow next, None when the task's log is complete."""
    if not follower.is_complete():
        follower.read(write)
        return follower
    follower.read_rest(write)
    link, run, task = follower.link, follower.run, follower.task
    _, current, settled = task_state(link, run, task)
    if not stay_through_retries:
        return None
    if current > follower.attempt:
        narrate(f"attempt {current} of task {task!r}:")
        return LogFollower(link, run, task, current, step, "0-0")
    if settled:
        return None
    follower.read(write)  # it failed, and whether another attempt follows is not decided yet
    return follower
