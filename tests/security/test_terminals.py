"""What a task, a DAG or a node has written cannot command the terminal of whoever looks at it."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from textual.pilot import Pilot

from helios.keys import Keys
from helios.records import AttemptRecord, InputRecord, OutputRecord
from tests.redis_servers import Valkey
from tests.security.commands import on_a_terminal, piped
from tests.tui.driving import drive
from tests.tui.pictures import WIDE, screen_text
from tests.tui.played_run import RUN, play
from tests.tui.stage import still, until
from tui.app import HeliosApp

ATTACKS = (
    "\x1b]0;another title\x07",
    "\x1b]52;c;cm0gLXJmIH4=\x07",  # puts a command into the clipboard
    "\x1b[2J\x1b[H",  # clears the screen
    "\x1b[1A\x1b[2K",  # takes back the line above
    "\x1bP$q\x1b\\",  # has the terminal answer, as if it were typed
    "\x9b2J",  # the same commands in one character
    "a\rb\bc\x7f",
    "\u202eexe.cod\u2066",  # turns the order of letters around
    "a\u2028b",
)
HOSTILE = " ".join(ATTACKS)
COMMANDING = re.compile(
    r"(?!\x1b\[[0-9;]*m)[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]", re.DOTALL
)
"""All but line ends, tabs and colours."""
LOOKS = (
    ("runs",),
    ("show", RUN),
    ("why", RUN, "count-ab"),
    ("why", RUN, "split"),
    ("critical", RUN),
    ("logs", RUN, "count-ab"),
    ("artifacts", RUN),
    ("cache", "stats"),
    ("show", HOSTILE),
    ("plan", HOSTILE),
    ("validate", "hostile.yaml"),
)
BAD_DAG = f"dagName: {HOSTILE!r}\ntasks: [{{name: {HOSTILE!r}, image: {HOSTILE!r}, command: [x]}}]\n"


@pytest.fixture
def forged(valkey: redis.Redis) -> redis.Redis:
    """A run whose every text attacks: what a task can write, and also what only a captured service could."""
    play(valkey, "failed")
    keys = Keys(0)
    record = AttemptRecord(
        exitCode=3,
        reason=HOSTILE,
        node=HOSTILE,
        inputs=[InputRecord(f"in {HOSTILE}", 7, "never-here", "store", 3)],
        outputs=[OutputRecord(f"out {HOSTILE}", 7, "0" * 64, f"key {HOSTILE}")],
    )
    for task in ("split", "count-ab"):
        values = {"reason": HOSTILE, "cause": HOSTILE, "node": HOSTILE, "record": msgspec.json.encode(record)}
        valkey.hset(keys.task(RUN, task), mapping=values)  # pyright: ignore[reportArgumentType]
    valkey.hset(keys.run(RUN), mapping={"dagName": HOSTILE, "reason": HOSTILE, "nodes": HOSTILE, "warnings": HOSTILE})
    for line in (*ATTACKS, HOSTILE):
        valkey.xadd(keys.log(RUN, "count-ab", 1, "task"), {"line": line})
    return valkey


def test_no_text_of_a_run_commands_the_terminal_of_a_command(
    forged: redis.Redis, shared_valkey: Valkey, tmp_path: Path
) -> None:
    environ = {"HELIOS_REDIS_URL": shared_valkey.url, "TERM": "xterm-256color"}
    (tmp_path / "hostile.yaml").write_text(BAD_DAG)
    for words in LOOKS:
        for form in ([], ["-o", "json"]) if words[0] != "logs" else ([],):
            text = on_a_terminal([*words, *form], tmp_path, environ)
            assert text, words
            found = COMMANDING.search(text)
            assert found is None, f"{words[0]} {form}: {text[max(0, found.start() - 60) : found.end() + 20]!r}"


def test_json_means_the_same_whatever_is_escaped_in_it(
    forged: redis.Redis, shared_valkey: Valkey, tmp_path: Path
) -> None:
    _, out, _ = piped(("show", RUN, "-o", "json"), tmp_path, {"HELIOS_REDIS_URL": shared_valkey.url})
    assert json.loads(out)["dagName"] == HOSTILE


def test_tables_in_a_pipe_command_nothing_and_keep_their_columns(
    forged: redis.Redis, shared_valkey: Valkey, tmp_path: Path
) -> None:
    """They end on a terminal all the same, by `less -R` or a CI's log. A log is given out as it is: it is data."""
    for words in LOOKS:
        if words[0] != "logs":
            _, out, err = piped(words, tmp_path, {"HELIOS_REDIS_URL": shared_valkey.url})
            assert out + err
            assert COMMANDING.search(out + err) is None, words


def test_no_text_of_a_run_commands_the_terminal_of_the_dashboard(forged: redis.Redis, tmp_path: Path) -> None:
    """On each of its screens."""
    screens: list[str] = []

    async def steps(app: HeliosApp, pilot: Pilot[Any]) -> None:
        async def look() -> None:
            await still(pilot)
            screens.append(screen_text(app))

        await until(pilot, "the run is listed", lambda: RUN in screen_text(app))
        await look()
        await pilot.press("enter")
        await until(pilot, "its tasks are shown", lambda: "count-ab" in screen_text(app))
        for _ in range(2):
            await look()
            await pilot.press("enter")
            await look()
            await pilot.press("escape")
            await pilot.press("l")
            await look()
            await pilot.press("escape")
            await pilot.press("down")
        await pilot.press("H")
        await look()

    drive(forged, tmp_path, steps, size=WIDE)
    assert len(set(screens)) > 4
    for text in screens:
        assert COMMANDING.search(text) is None, text
    assert any("another title" in text for text in screens), "the attack was on no screen at all"
