"""`helios record`: runs into a file, to be shown elsewhere with `helios tui --recording`."""

from pathlib import Path

from cli.connection import connected
from cli.failure import RUN_FAILED, SUCCEEDED, CommandFailed
from cli.figures import count, size
from cli.lookup import find_run, newest_runs
from cli.output import narrate


def record(file: Path, /, *runs: str, limit: int = 20) -> int:
    """Write the records of runs into one file: their DAGs, tasks, logs and events.

    `helios tui --recording FILE` shows it, anywhere and without the servers. What the runs published is not in it.

    Parameters
    ----------
    file
        Where to; an existing file is replaced, once the new one is whole.
    runs
        Which runs, by id or @latest; the newest ones when none is named.
    limit
        How many of the newest when none is named.
    """
    if limit < 1:
        raise CommandFailed(f"--limit is {limit}", hint="give 1 or more")
    from cli.recording import record as write

    with connected() as link:
        wanted = list(dict.fromkeys(find_run(link, run) for run in runs)) or newest_runs(link, limit)
        if not wanted:
            raise CommandFailed("there is no run yet", hint="helios run FILE")
        try:
            written = write(link, wanted, file)
        except OSError as error:
            raise CommandFailed(
                f"{file} cannot be written: {error.strerror or error}",
                hint="name a file in a folder that exists and is writable",
                code=RUN_FAILED,
            ) from None
    narrate(f"{count(written.runs, 'run')} in {file}, {size(written.bytes)}")
    narrate(f"  next: helios tui --recording {file}")
    return SUCCEEDED
