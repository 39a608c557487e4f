"""A task's outputs, and their way to a folder of the user's: the same as that of `helios artifacts`."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from cli.connection import Link, reaching
from cli.download import fetch_output, place_below
from cli.failure import RUN_FAILED, CommandFailed
from cli.object_store import store_client, storing
from helios.records import OutputRecord, read_tasks

Tell = Callable[[str, int, int], None]
"""Called with an output's name, and how many of its bytes are there."""


class DownloadCancelled(Exception):
    """The user does not want it any more. What has come so far stays, and the next download goes on from there."""


class Downloaded(NamedTuple):
    """`is_fresh`: it was not there already."""

    place: Path
    is_fresh: bool


class _Watched:
    """Tells of a transfer, and ends it when that is wanted."""

    def __init__(self, name: str, total: int, done: int, tell: Tell, cancelled: threading.Event) -> None:
        self.name, self.total, self.done = name, total, done
        self.tell, self.cancelled = tell, cancelled

    def add(self, count: int) -> None:
        self.done += count
        self.tell(self.name, self.done, self.total)
        if self.cancelled.is_set():
            raise DownloadCancelled

    def close(self) -> None:
        pass


def outputs_of(link: Link, run: str, task: str) -> list[OutputRecord]:
    """What the task has stored. Raises CommandFailed."""
    with reaching(link.settings, embedded=link.stack is not None):
        [view] = read_tasks(link.client, link.keys(run), run, [task])
        return list(view.outputs)


def download(
    link: Link, output: OutputRecord, folder: Path, *, force: bool, tell: Tell, cancelled: threading.Event
) -> Downloaded:
    """Bring an output into the folder. Raises PlaceTaken unless `force`, other CommandFailed, or DownloadCancelled."""
    target = place_below(folder.expanduser(), output.name)
    try:
        with storing(link.settings):
            fresh = fetch_output(
                store_client(link.settings),
                link.settings.s3_bucket,
                output,
                target,
                force=force,
                watch=lambda name, total, done: _Watched(name, total, done, tell, cancelled),
            )
    except OSError as error:
        raise CommandFailed(
            f"cannot write {error.filename or folder}: {error.strerror}",
            hint="give another folder, or free some space",
            code=RUN_FAILED,
        ) from None
    return Downloaded(target, fresh)
