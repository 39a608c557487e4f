"""Dead letters: reading, retrying and discarding them.

Rule: a letter goes only after what a retry adds is in Redis, so a retry that breaks off can be repeated. Where both lie
in one partition a script does both at once. A submission or control lies elsewhere: one that is sent twice is one run,
because its request id comes from the letter, or one cancel, which twice is as good as once.
"""

from typing import Any

import msgspec
import redis
from redis.exceptions import NoPermissionError

from cli.connection import Link, reaching
from cli.failure import CommandFailed
from cli.letters import Letter, remedy
from cli.reruns import rerun
from helios.keys import CONTROLS, SUBMISSIONS, Keys
from helios.run_object import readable
from helios.transitions import commit_one, pipelined, retry_letter

LETTERS_SHOWN = 200
ABOUT = ("stream", "entry", "reason", "deliveries")


def read_letters(link: Link, limit: int = LETTERS_SHOWN) -> tuple[list[Letter], int]:
    """The newest dead letters of all partitions, newest first, and how many there are."""
    found: list[Letter] = []
    in_all = 0
    for keys in link.partitions:
        try:
            in_all += int(link.client.xlen(keys.dead))  # pyright: ignore[reportArgumentType] -- the stubs mix in async
            page: Any = link.client.xrevrange(keys.dead, count=limit)
        except redis.ResponseError:
            continue  # the doctor's finding tells of the damaged key
        found += [_letter(keys, entry, fields) for entry, fields in page]
    newest = sorted(found, key=lambda letter: letter.since, reverse=True)[:limit]
    return _with_runs(link, newest), in_all


def _letter(keys: Keys, entry: str, fields: dict[str, str]) -> Letter:
    return Letter(
        id=entry,
        partition=keys.partition,
        dead=keys.dead,
        stream=fields.get("stream", ""),
        entry=fields.get("entry", ""),
        reason=readable(fields.get("reason", "")),
        deliveries=fields.get("deliveries", ""),
        fields={name: readable(text) for name, text in fields.items() if name not in ABOUT},
    )


def _with_runs(link: Link, letters: list[Letter]) -> list[Letter]:
    pipeline = pipelined(link.client)
    for letter in letters:
        keys = link.keys(letter.run)
        pipeline.hget(keys.run(letter.run), "status")
        pipeline.exists(keys.dag(letter.run))
    states: list[Any] = pipeline.execute(raise_on_error=False) if letters else []
    return [
        msgspec.structs.replace(letter, run_status=status if isinstance(status, str) else "", has_dag=dag == 1)
        for letter, status, dag in zip(letters, states[::2], states[1::2], strict=True)
    ]


def retry(link: Link, letter: Letter) -> str:
    """Do what `remedy` says; returns what was done. Raises CommandFailed."""
    with reaching(link.settings, embedded=link.stack is not None):
        fresh = _still_there(link, letter)
        way, words = remedy(fresh)
        match way:
            case "none":
                raise CommandFailed(words, hint="discard the letter once you have read it")
            case "again":
                return _put_back(link, fresh)
            case "send":
                done = _send(link, fresh)
            case "rerun":
                done = _submit_again(link, fresh)
        link.client.xdel(fresh.dead, fresh.id)
        return done


def discard(link: Link, letter: Letter) -> str:
    """Delete the letter; deleting twice changes nothing. Raises CommandFailed."""
    with reaching(link.settings, embedded=link.stack is not None):
        gone: Any = link.client.xdel(letter.dead, letter.id)
    return "discarded" if gone else "it was gone already"


def _still_there(link: Link, letter: Letter) -> Letter:
    found: Any = link.client.xrange(letter.dead, letter.id, letter.id)
    if not found:
        raise _gone()
    return _with_runs(link, [_letter(Keys(letter.partition), *found[0])])[0]


def _gone() -> CommandFailed:
    return CommandFailed("the letter is gone: somebody else retried or discarded it", hint="nothing is left to do")


def _put_back(link: Link, letter: Letter) -> str:
    keys = Keys(letter.partition)
    if not letter.stream.startswith(keys.prefix) or link.keys(letter.run).prefix != keys.prefix:
        raise CommandFailed(f"{letter.stream!r} is no stream of the letter's partition", hint="discard it")
    try:
        call = retry_letter(letter.dead, letter.stream, run=keys.run(letter.run), letter=letter.id)
        done = commit_one(link.client, call)
    except NoPermissionError:
        raise CommandFailed(
            "this Redis user may not write work streams",
            hint=f"helios cancel {letter.run}, then retry the letter: its DAG is submitted again",
        ) from None
    if done == 0:
        raise _gone()
    if done == -1:
        raise CommandFailed(f"run {letter.run} ended meanwhile", hint="retry once more to submit its DAG again")
    return f"put back into {letter.stream}"


def _request_id(letter: Letter) -> str:
    return f"letter-p{letter.partition}-{letter.id}"


def _send(link: Link, letter: Letter) -> str:
    if letter.stream == CONTROLS:
        fields: dict[Any, Any] = dict(letter.fields)
        link.client.xadd(CONTROLS, fields)
        return f"sent again to {CONTROLS}"
    entry = link.client.xadd(SUBMISSIONS, {"requestId": _request_id(letter), **letter.fields})
    return f"submitted again as {entry}"


def _submit_again(link: Link, letter: Letter) -> str:
    cached: Any = link.client.hget(link.keys(letter.run).run(letter.run), "cacheEnabled")
    use_cache = None if cached is None else cached == "true"
    return f"submitted again as {rerun(link, letter.run, use_cache=use_cache, request_id=_request_id(letter))}"
