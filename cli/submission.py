"""Reading and sending a DAG, and the wait for what the submitter makes of it."""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import redis
from cyclopts import Parameter

from cli.connection import Link, regain, write_trouble
from cli.failure import CommandFailed
from cli.output import narrate, styled
from helios.dag_problem import LIMITS, Problem
from helios.heartbeat import live_services
from helios.keys import SUBMISSIONS
from helios.submitting import ReplyLost, add_submission, ask_cancel, submission_fields

STDIN = "-"
File = Annotated[str, Parameter(allow_leading_hyphen=True)]
"""What commands take as FILE: a path, or - for standard input."""
Params = Annotated[tuple[str, ...], Parameter(name=["--param", "-p"], negative=(), allow_leading_hyphen=False)]
"""What commands take as -p NAME=VALUE, as often as there are parameters to give."""


class Verdict(NamedTuple):
    """What became of a submission: `status` is that of its run, None while nobody has taken it up."""

    run: str
    status: str | None
    is_alias: bool = False
    problems: tuple[str, ...] = ()


def read_dag(file: str) -> bytes:
    """The text of a DAG. Larger ones than any service accepts are not even read."""
    limit = LIMITS.max_payload_bytes
    if file.startswith("-") and file != STDIN:
        raise CommandFailed(f"there is no option {file}", hint=f"--help lists them; a file of that name is ./{file}")
    try:
        if file == STDIN:
            if sys.stdin is None or sys.stdin.closed:
                raise CommandFailed("standard input is closed", hint="name a file with a DAG")
            text = sys.stdin.buffer.read(limit + 1)
        else:
            with Path(file).open("rb") as opened:
                text = opened.read(limit + 1)
    except OSError as error:
        raise CommandFailed(
            f"cannot read {file}: {error.strerror}", hint="name a file with a DAG, or - for standard input"
        ) from None
    if len(text) > limit:
        raise CommandFailed(
            f"{name_of(file)} has more than {limit:,} bytes, the limit of a DAG",
            hint="split the work into several DAGs, or keep data in files and inputs",
        )
    return text


def read_param_options(options: Sequence[str]) -> dict[str, str]:
    """The parameters of `-p NAME=VALUE …`; raises CommandFailed."""
    params: dict[str, str] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals or not name:
            raise CommandFailed(f"-p {option} is no parameter", hint="write -p NAME=VALUE")
        if name in params:
            raise CommandFailed(f"-p {name}=… is there twice", hint="give each parameter one value")
        params[name] = value
    return params


def name_of(file: str) -> str:
    return "standard input" if file == STDIN else file


def problem_line(file: str, problem: Problem) -> str:
    """`dag.yaml:12:5: tasks[2].image: …`, which editors can jump to."""
    place = f"{file}:{problem.line}" if problem.line is not None else file
    if problem.line is not None and problem.column is not None:
        place += f":{problem.column}"
    path = f"{problem.path}: " if problem.path else ""
    return f"{place}: {path}{problem.message}"


def submit(
    link: Link,
    text: bytes,
    *,
    use_cache: bool | None,
    request_id: str | None,
    memoize: bool | None = None,
    priority: str | None = None,
    traceparent: str | None = None,
    params: Mapping[str, str] | None = None,
) -> str:
    """Add a submission; returns its entry's id. A lost reply is asked for again only if there is a request id."""
    fields = submission_fields(
        text,
        use_cache=use_cache,
        memoize=memoize,
        priority=priority,
        params=json.dumps(params, sort_keys=True) if params else None,
        traceparent=traceparent,
        request_id=request_id,
    )
    try:
        return add_submission(link.client, fields)
    except ReplyLost as error:
        raise CommandFailed(
            f"the connection was lost while the DAG was sent ({error}), so it may have been submitted or not",
            hint="look with `helios runs`; with --request-id, submitting again is always safe",
            code=3,
        ) from None


def await_verdict(link: Link, entry: str, patience_seconds: float) -> Verdict:
    """Wait for the submitter to accept or reject; after the patience the status is None."""
    deadline = time.monotonic() + patience_seconds
    wait = 0.002
    keys = link.keys(entry)
    while True:
        try:
            status, alias, problems = link.client.hmget(keys.run(entry), "status", "aliasOf", "problems")
        except (redis.ConnectionError, redis.TimeoutError) as error:
            regain(link, error)
            continue
        if alias:
            first: Any = link.client.hget(link.keys(str(alias)).run(str(alias)), "status")
            return Verdict(str(alias), first, is_alias=True)
        if status:
            return Verdict(entry, str(status), problems=tuple(str(problems or "").splitlines()))
        if time.monotonic() > deadline:
            return Verdict(entry, None)
        time.sleep(wait)
        wait = min(0.1, wait * 1.5)


def tell_rejected(verdict: Verdict, name: str) -> None:
    """Why a submission became no run."""
    narrate(f"{styled('REJECTED', 'red', sys.stderr)} {name}:")
    for problem in verdict.problems:
        narrate(f"  {problem}")
    narrate(f"  next: correct it and check it with `helios validate {name if name != 'standard input' else '-'}`")


def is_alive(link: Link, service: str) -> bool:
    """Whether a replica of the service has given a sign of life in the last seconds."""
    return any(beat["service"] == service for beat in live_services(link.client))


def why_idle(link: Link, *services: str) -> str:
    """Why nothing moves, with the next step: Redis takes no writes, or services are missing. Empty if neither is so."""
    trouble = write_trouble(link)  # asked first: services that cannot write give no sign of life either
    if trouble:
        return trouble
    missing = [service for service in services if not is_alive(link, service)]
    return f"no {' and no '.join(missing)} is alive\n  next: start it; see helios doctor" if missing else ""


def why_waiting(link: Link) -> str:
    """Why submissions wait in their stream although a submitter is alive, as it says. Empty while they do not."""
    waits = next((beat["waits"] for beat in live_services(link.client) if beat.get("waits")), "")
    if not waits:
        return ""
    length: Any = link.client.xlen(SUBMISSIONS)
    return f"{length:,} submissions wait for room: {waits}"


def cancel(link: Link, run: str, *, on_exit: bool = False) -> None:
    """Ask for a run to be cancelled; asking twice changes nothing. `on_exit`: its onExit task too."""
    ask_cancel(link.client, run, on_exit=on_exit)
