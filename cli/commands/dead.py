"""`helios dead`: entries that could not be handled, to be read, retried or discarded."""

import sys
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from cli.commands.runs import paint
from cli.connection import Link, connected
from cli.dead_letters import discard, read_letters, retry
from cli.failure import RUN_FAILED, SUCCEEDED, CommandFailed
from cli.figures import count, moment
from cli.letters import Letter, remedy
from cli.output import Format, narrate, put, put_json, styled
from cli.table import Column, lay_out, shortened

LETTERS_AT_MOST = 10_000
REASON_CHARACTERS = 80

COLUMNS = (Column("LETTER"), Column("BURIED"), Column("STREAM"), Column("RUN"), Column("TASK"), Column("REASON"))


def dead(
    what: Literal["list", "show", "retry", "discard"] = "list",
    /,
    *letters: str,
    every: Annotated[bool, Parameter(name="--all", negative=())] = False,
    output: Annotated[Format, Parameter(name=["--output", "-o"])] = "table",
) -> int:
    """Look at dead letters, entries that could not be handled, and retry or discard them.

    A letter goes only after what a retry adds is in Redis, so a retry that breaks off may be repeated. What a retry is
    depends on the letter's run, and `show` says it: mostly the run has ended, and its DAG is submitted again.

    Parameters
    ----------
    what
        list: all of them, newest first; show: one with its fields; retry; discard.
    letters
        Names as `list` prints them.
    every
        With retry and discard: all there are.
    output
        table for people, json for list and show.
    """
    if what in ("show", "retry", "discard") and not letters and not every:
        raise CommandFailed(f"helios dead {what} which letter?", hint="`helios dead` lists them; --all means every one")
    if letters and (every or what == "list"):
        raise CommandFailed("letters are named beside what means all of them", hint=f"helios dead {what}")
    with connected() as link:
        found, in_all = read_letters(link, LETTERS_AT_MOST)
        chosen = _named(found, letters) if letters else found
        match what:
            case "list" | "show":
                _tell(chosen, in_all, whole=what == "show", as_json=output == "json")
                return SUCCEEDED
            case "retry" | "discard":
                return _each(link, chosen, what)


def name_of(letter: Letter) -> str:
    return f"p{letter.partition}-{letter.id}"


def _named(found: list[Letter], names: tuple[str, ...]) -> list[Letter]:
    known = {name_of(letter): letter for letter in found}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise CommandFailed(f"there is no dead letter {unknown[0]!r}", hint="`helios dead` lists those that there are")
    return [known[name] for name in names]


def _tell(letters: list[Letter], in_all: int, *, whole: bool, as_json: bool) -> None:
    if as_json:
        put_json([_object(letter) for letter in letters])
    elif whole:
        put("\n\n".join(_text(letter) for letter in letters))
    elif letters:
        put("\n".join(lay_out(COLUMNS, [_row(letter) for letter in letters], paint)))
        narrate("next: helios dead show LETTER")
    else:
        narrate("there is no dead letter")
    if not whole and in_all > len(letters):
        narrate(f"and {in_all - len(letters):,} older ones")


def _row(letter: Letter) -> tuple[str, ...]:
    task = letter.fields.get("task", "")
    reason = shortened(letter.reason, REASON_CHARACTERS)
    return name_of(letter), moment(letter.since), _short_stream(letter.stream), letter.run, task, reason


def _short_stream(stream: str) -> str:
    return stream.rpartition("}:")[2].removeprefix("helios:")


def _text(letter: Letter) -> str:
    facts = {
        "letter": name_of(letter),
        "buried": moment(letter.since),
        "stream": letter.stream,
        "entry": letter.entry,
        "deliveries": letter.deliveries,
        "reason": letter.reason,
        "run": f"{letter.run} {letter.run_status}".strip(),
        "retry": remedy(letter)[1],
    }
    lines = [f"{styled(f'{name:<11}', 'dim', sys.stdout)} {text}" for name, text in facts.items() if text]
    return "\n".join([*lines, "fields", *(f"  {name}: {text}" for name, text in letter.fields.items())])


def _object(letter: Letter) -> dict[str, Any]:
    way, words = remedy(letter)
    return {
        "letter": name_of(letter),
        "buriedTime": letter.since,
        "stream": letter.stream,
        "entry": letter.entry,
        "deliveries": int(letter.deliveries) if letter.deliveries.isdecimal() else 0,
        "reason": letter.reason,
        "runStatus": letter.run_status or None,
        "retry": way,
        "retryWords": words,
        "fields": dict(letter.fields),
    }


def _each(link: Link, letters: list[Letter], what: Literal["retry", "discard"]) -> int:
    """Each by itself: one that cannot be retried keeps nobody else's from it."""
    failed = 0
    for letter in letters:
        try:
            done = retry(link, letter) if what == "retry" else discard(link, letter)
        except CommandFailed as failure:
            failed += 1
            narrate(f"{name_of(letter)}: {failure.message}\n  next: {failure.hint}")
        else:
            put(f"{name_of(letter)}: {done}")
    if failed:
        raise CommandFailed(f"{count(failed, 'letter')} stayed", hint="see above", code=RUN_FAILED)
    if not letters:
        narrate("there is no dead letter")
    return SUCCEEDED
