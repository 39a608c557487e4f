"""Runs as the collector keeps them, and a dashboard with nothing but their table."""

from typing import Any

from textual import on
from textual.app import App
from textual.message import Message
from textual.reactive import reactive

from tests.tui.stage import NOW_MS
from tui.intents import OpenCompare, OpenRun, OpenSubmit
from tui.model.runs import RunRow
from tui.screens.runs import RunsScreen
from tui.session import Session


def run_id(number: int) -> str:
    """Ids rise with the number; a run starts a minute after the one before."""
    return f"{NOW_MS - 6_000_000 + number * 60_000}-0"


def run_fields(number: int, **fields: str) -> dict[str, str]:
    """The run hash of a run that took ten seconds and the number in milliseconds, unless the fields say otherwise."""
    start = int(run_id(number).partition("-")[0])
    known = {
        "dagId": run_id(number),
        "dagName": "word-count",
        "status": "SUCCEEDED",
        "startTime": str(start),
        "endTime": str(start + 10_000 + number),
        "durationMs": str(10_000 + number),
        "cacheEnabled": "true",
        "cacheHit": "Hit",
        "taskCount": "5",
        "taskSucceeded": "5",
        "nodes": "n1",
        **fields,
    }
    return {name: text for name, text in known.items() if text}


def running_fields(number: int, **fields: str) -> dict[str, str]:
    ends = {"endTime": "", "durationMs": "", "status": "RUNNING", "taskSucceeded": "2"}
    return run_fields(number, **(ends | fields))


def row(number: int = 0, **fields: Any) -> RunRow:
    start = int(run_id(number).partition("-")[0])
    known: dict[str, Any] = {
        "dag": "word-count",
        "status": "SUCCEEDED",
        "started_at": start,
        "ended_at": start + 10_000,
        "tasks": 5,
        "succeeded": 5,
        "nodes": ("n1",),
    }
    return RunRow(run_id(number), **(known | fields))


def put(session: Session, number: int, fields: dict[str, str] | None) -> str:
    """Let the feed learn of a run, or with None of its deletion; returns its id."""
    with session.feed.lock:
        session.feed.runs.load(run_id(number), fields, f"{NOW_MS}-{number}")
    return run_id(number)


class RunsApp(App[None]):
    """Shows the table of runs, and keeps what it asks of the dashboard as a whole."""

    paused: reactive[bool] = reactive(False)

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.home = RunsScreen()
        self.intents: list[Message] = []

    def on_mount(self) -> None:
        self.push_screen(self.home)

    @on(OpenRun)
    @on(OpenSubmit)
    @on(OpenCompare)
    def keep(self, intent: Message) -> None:
        self.intents.append(intent)
