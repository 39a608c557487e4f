"""The open way to the servers that a client has, and what goes wrong on it in the SDK's words."""

import contextlib
import os
import uuid
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from helios.dag_format import plain_text
from helios.dag_problem import DagInvalid, Problem
from sdk.building import Dag, Scalar
from sdk.failure import HeliosError, NotAccepted, Unreachable
from sdk.records import Artifact, RunInfo, TaskUpdate

if TYPE_CHECKING:
    from minio import Minio

    from cli.connection import Link
    from cli.run_progress import TaskProgress

SHORT_SECONDS = 60.0


class Session:
    """One client's servers. Threads may share it."""

    def __init__(self, redis_url: str | None, settings: Mapping[str, str]) -> None:
        """Raises Unreachable, or HeliosError for a setting that is wrong. See Client."""
        from cli.connection import ALL, connected, connected_to, read_settings

        variables = {f"HELIOS_{name.upper()}": str(value) for name, value in settings.items()}
        if redis_url is not None:
            variables["HELIOS_REDIS_URL"] = redis_url
        self._held = contextlib.ExitStack()
        self._store: Minio | None = None
        with translated():
            environ = {**os.environ, **variables}
            if environ.get("HELIOS_REDIS_URL"):
                way = connected_to(read_settings(environ))
            elif variables:
                raise HeliosError("settings are given without redis_url", "give redis_url, or set HELIOS_REDIS_URL")
            else:
                way = connected(ALL)
            self.link: Link = self._held.enter_context(way)

    @contextlib.contextmanager
    def speaking(self) -> "Generator[Link]":
        """Everything that speaks to Redis happens in here."""
        from cli.connection import reaching

        with translated(), reaching(self.link.settings, embedded=self.link.stack is not None):
            yield self.link

    @contextlib.contextmanager
    def storing(self) -> "Generator[Minio]":
        """Everything that speaks to the object store happens in here."""
        from cli.object_store import store_client, storing

        with translated(), storing(self.link.settings):
            if self._store is None:
                self._store = store_client(self.link.settings)
            yield self._store

    def close(self) -> None:
        with translated():
            self._held.close()

    def submit(self, dag: "Dag | str | bytes | Path", fields: Mapping[str, Any], accept_seconds: float) -> str:
        from cli.connection import write_trouble
        from cli.submission import await_verdict, submit, why_idle, why_waiting

        given: Mapping[str, Scalar] = fields.get("params") or {}
        text = dag_bytes(dag)
        options: dict[str, Any] = {
            **fields,
            "params": {name: plain_text(value) for name, value in given.items()},
            "request_id": fields.get("request_id") or f"sdk-{uuid.uuid4().hex}",
        }
        with self.speaking() as link:
            entry = submit(link, text, **options)
            verdict = await_verdict(link, entry, accept_seconds)
            if verdict.status == "REJECTED":
                raise DagInvalid([Problem(each) for each in verdict.problems])
            if verdict.status is None:
                why = write_trouble(link) or why_idle(link, "submitter") or why_waiting(link)
                message = f"run {entry} was not accepted within {accept_seconds:g} s"
                raise NotAccepted(entry, message, why.partition("\n")[0] or "it starts when a submitter takes it up")
            return verdict.run

    def find(self, run: str) -> str:
        from cli.lookup import find_run

        with self.speaking() as link:
            return find_run(link, run)

    def runs(self, dag_name: str | None, limit: int) -> list[RunInfo]:
        from cli.lookup import newest_runs
        from cli.run_object import read_runs

        with self.speaking() as link:
            return [run_info(each) for each in read_runs(link, newest_runs(link, limit, dag_name))]

    def info(self, run: str) -> RunInfo:
        from cli.run_object import read_run, read_views, whole_object

        with self.speaking() as link:
            return run_info(whole_object(read_run(link, run), read_views(link, run)))

    def cancel(self, run: str, on_exit: bool = False) -> None:
        from cli.submission import cancel

        with self.speaking() as link:
            cancel(link, run, on_exit=on_exit)

    def logs(self, run: str, task: str, attempt: int | None, step: str) -> list[str]:
        from cli.lookup import check_task, task_names
        from cli.task_logs import LogFollower

        with self.speaking() as link:
            check_task(task_names(link, run), run, task)
            if attempt is None:
                newest: Any = link.client.hget(link.keys(run).task(run, task), "attempt")
                attempt = int(newest or 1)
            lines: list[str] = []
            log = LogFollower(link, run, task, attempt, step, "0-0")
            log.wait_for_the_rest()
            log.read_rest(lines.append)
            return lines

    def artifacts(self, run: str, task: str | None, name: str | None) -> list[Artifact]:
        from cli.commands.artifacts import outputs_of

        with self.speaking() as link:
            bucket = link.settings.s3_bucket
            return [
                Artifact(
                    task=maker,
                    name=output.name,
                    bytes=output.bytes,
                    sha256=output.sha256,
                    archive=output.archive,
                    uri=f"s3://{bucket}/{output.key}",
                )
                for maker, output in outputs_of(link, run, task, name)
            ]

    def fetch(self, run: str, to: Path, task: str | None, name: str | None, *, force: bool) -> list[Path]:
        from cli.commands.artifacts import outputs_of
        from cli.download import fetch_output, place_below

        with self.speaking() as link:
            found = outputs_of(link, run, task, name)
        places: list[Path] = []
        for maker, output in found:
            with self.storing() as store:
                place = place_below(to / maker if task is None else to, output.name)
                fetch_output(store, self.link.settings.s3_bucket, output, place, force=force, watch=_Unwatched)
            places.append(place)
        return places

    def put(self, file: Path, uri: str) -> str:
        from cli.commands.put import store_file
        from helios.dag_names import uri_fault
        from helios.dag_problem import LIMITS

        fault = uri_fault(uri, LIMITS)
        if fault is not None:
            raise HeliosError(fault, "write s3://bucket/key")
        with self.storing() as store:
            store_file(store, file, uri, makes_bucket=self.link.stack is not None)
        return uri


class _Unwatched:
    """The progress of a transfer that nobody looks at."""

    def __init__(self, name: str, total: int, done: int) -> None:
        del name, total, done

    def add(self, count: int) -> None:
        del count

    def close(self) -> None:
        pass


@contextlib.contextmanager
def translated() -> Generator[None]:
    """Turns the command line's failures into the SDK's."""
    from cli.failure import UNREACHABLE, CommandFailed

    try:
        yield
    except CommandFailed as failure:
        kind = Unreachable if failure.code == UNREACHABLE else HeliosError
        raise kind(failure.message, failure.hint) from None


def dag_bytes(dag: "Dag | str | bytes | Path") -> bytes:
    """A DAG as it is submitted: a Dag is checked, a path read, a text taken as it is. Raises DagInvalid, OSError."""
    match dag:
        case Dag():
            return dag.to_json()
        case Path():
            return dag.read_bytes()
        case str():
            return dag.encode()
        case _:
            return dag


def run_info(shown: Mapping[str, Any]) -> RunInfo:
    return msgspec.convert(shown, RunInfo)


def task_update(task: "TaskProgress") -> TaskUpdate:
    return TaskUpdate(
        task=task.name,
        status=task.status,
        attempt=task.attempt,
        phase=task.phase,
        cache=task.cache,
        cache_hit_bytes=task.hit_bytes,
        cache_miss_bytes=task.miss_bytes,
        reason=task.reason,
        settled=task.is_settled,
    )
