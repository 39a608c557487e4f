"""Submitting the DAG of a run again."""

from typing import Any

import msgspec

from cli.connection import Link, reaching
from cli.failure import CommandFailed
from cli.submission import cancel, submit
from helios.dag_written import written


def rerun(link: Link, run: str, *, use_cache: bool | None, request_id: str) -> str:
    """The id that the new run will have; `use_cache` None leaves that to the DAG. A run whose tasks were not to be
    skipped (`helios run --no-memoize`) is run again like that. Raises CommandFailed.
    """
    with reaching(link.settings, embedded=link.stack is not None):
        dag: Any = link.client.get(link.keys(run).dag(run))
        if dag is None:
            raise CommandFailed(f"the DAG of run {run} is not kept", hint="submit its file again, with n")
        try:
            text = written(str(dag).encode("utf-8", "surrogateescape"))
        except msgspec.DecodeError as error:
            raise CommandFailed(f"the DAG of run {run} cannot be read: {error}", hint="submit its file again") from None
        found: Any = link.client.hmget(link.keys(run).run(run), "memoize", "priority")
        skips, priority = found
        return submit(
            link,
            text,
            use_cache=use_cache,
            request_id=request_id,
            memoize=False if skips == "false" else None,
            priority=priority,
        )


def ask_to_cancel(link: Link, run: str) -> None:
    """Raises CommandFailed."""
    with reaching(link.settings, embedded=link.stack is not None):
        cancel(link, run)
