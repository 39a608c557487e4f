"""Progress on a terminal: a bar, the counts, and as many tasks as fit, those that run or failed first."""

import time

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cli.figures import duration
from cli.plain_progress import counts_text, outcome_parts
from cli.run_progress import ENDED, RunProgress, TaskProgress
from cli.run_text import CACHE_STYLES, STATUS_STYLES

FRAME_SECONDS = 0.1
LINES_AROUND = 5
NAME_CHARACTERS = 40

_ORDER = {"RUNNING": 0, "FAILED": 1, "QUEUED": 2, "SUCCEEDED": 3, "CANCELLED": 4, "UPSTREAM_FAILED": 5, "WAITING": 6}


class LiveProgress:
    """Draws on stderr, and leaves nothing behind when closed."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.console = Console(stderr=True)
        self.began = time.monotonic()
        self._next_frame = 0.0
        self._live = Live(console=self.console, auto_refresh=False, transient=True)
        self._live.start()

    def show(self, progress: RunProgress, changed: list[TaskProgress]) -> None:
        """Draw again, if something changed or a clock moves, and not too often."""
        now = time.monotonic()
        if now < self._next_frame:
            return
        del changed  # the clock in the title moves anyhow
        self._next_frame = now + FRAME_SECONDS
        self._live.update(self._picture(progress), refresh=True)

    def close(self) -> None:
        self._live.stop()

    def _picture(self, progress: RunProgress) -> Group:
        total = max(1, len(progress.tasks))
        done = total - sum(progress.counts[status] for status in ("WAITING", "QUEUED", "RUNNING"))
        title = Text.assemble((self.title, "bold"), f"  {duration(int((time.monotonic() - self.began) * 1000))}")
        bar = Table.grid()  # which ends its line; a bar alone does not
        bar.add_row(ProgressBar(total=total, completed=done, width=min(60, self.console.width - 2)))
        return Group(title, bar, Text(counts_text(progress), style="dim"), self._table(progress))

    def _table(self, progress: RunProgress) -> Table:
        room = max(3, self.console.height - LINES_AROUND)
        tasks = list(progress.tasks.values())
        if len(tasks) > room:
            tasks = most_telling(tasks, room)
        table = Table.grid(padding=(0, 2))
        for name in ("task", "state", "outcome"):
            table.add_column(name, no_wrap=True, overflow="ellipsis")
        now = time.time() * 1000
        for task in tasks:
            table.add_row(task.name[:NAME_CHARACTERS], _state(task), _outcome(task, now))
        return table


def most_telling(tasks: list[TaskProgress], room: int) -> list[TaskProgress]:
    """The tasks to show where not all fit: running, failed, next in line, and the ones that ended last."""
    return sorted(tasks, key=lambda task: (_ORDER.get(task.status, 9), -(task.ended_at or 0)))[:room]


def _state(task: TaskProgress) -> Text:
    attempt = f" (attempt {task.attempt})" if task.attempt > 1 else ""
    word = task.phase if task.status == "RUNNING" and task.phase else task.status.replace("_", " ")
    return Text(f"{word.lower()}{attempt}", style=STATUS_STYLES.get(task.status, "dim"))


def _outcome(task: TaskProgress, now: float) -> Text:
    if task.status == "RUNNING" and task.began_at is not None:
        return Text(duration(int(now - task.began_at)), style="dim")
    if task.stage < ENDED:
        return Text("")
    parts = outcome_parts(task)
    if task.reason:
        parts.append(task.reason)
    return Text("  ".join(parts), style=CACHE_STYLES.get(task.cache, ""))
