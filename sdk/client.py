"""The synchronous client: submit, wait, follow, fetch."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from helios.dag_format import Priority
from sdk.building import Dag, Scalar
from sdk.failure import RunFailed
from sdk.records import Artifact, RunInfo, TaskUpdate

if TYPE_CHECKING:
    from sdk.session import Session

ACCEPT_SECONDS = 60.0
"""How long a submitter is waited for, unless said."""
LATEST = "@latest"
Step = Literal["fetch", "task", "publish"]


class Client:
    """A way to Helios, the one that `helios` itself would take: the servers that HELIOS_REDIS_URL and HELIOS_S3_… name,
    or else the embedded stack of HELIOS_HOME, which is started if it does not run.

    Keywords are settings by their names without HELIOS_, and win over the environment: `Client("redis://…",
    s3_endpoint="https://…", partitions="4")`. Threads may share a client. Close it, or use it as a context manager.
    Everything here raises Unreachable when a server cannot be reached, and HeliosError for what else is wrong.
    """

    def __init__(self, redis_url: str | None = None, **settings: str) -> None:
        from sdk.session import Session

        self.session: Session = Session(redis_url, settings)

    def submit(
        self,
        dag: Dag | str | bytes | Path,
        *,
        use_cache: bool | None = None,
        memoize: bool | None = None,
        priority: Priority | None = None,
        params: Mapping[str, Scalar] | None = None,
        request_id: str | None = None,
        accept_seconds: float = ACCEPT_SECONDS,
    ) -> "Run":
        """Submit a DAG, the text of one, or a file (a Path), and wait until it is accepted.

        None leaves the DAG's own say. `params` are values of its parameters, which go before their defaults. With a
        `request_id`, submitting again gives the first run and starts no second.
        Raises DagInvalid with every problem when it is rejected, and NotAccepted when no submitter takes it up in time.
        """
        fields: dict[str, Any] = {
            "use_cache": use_cache,
            "memoize": memoize,
            "priority": priority,
            "params": params,
            "request_id": request_id,
        }
        return Run(self.session, self.session.submit(dag, fields, accept_seconds))

    def run(self, run: str = LATEST) -> "Run":
        """A run that is there already, by its id; the newest unless given."""
        return Run(self.session, self.session.find(run))

    def runs(self, dag_name: str | None = None, *, limit: int = 20) -> list[RunInfo]:
        """The runs that are kept, newest first, without their tasks."""
        return self.session.runs(dag_name, limit)

    def put(self, file: Path | str, uri: str) -> str:
        """Store a file where DAGs can name it: `s3://bucket/key`, which is returned. The bucket must be there."""
        return self.session.put(Path(file), uri)

    def close(self) -> None:
        self.session.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class Run:
    """One run. A notebook shows it as a table of its tasks, as they are when the cell is run."""

    def __init__(self, session: "Session", run: str) -> None:
        self.session = session
        self.id = run

    def info(self) -> RunInfo:
        """All that is known of it now, its tasks included."""
        return self.session.info(self.id)

    def follow(self, *, timeout: float | None = None) -> Iterator[TaskUpdate]:
        """Each change of each task until the run ends; at first those there were. A lost connection is made anew for
        30 s, and no last state of a task is missed over it. Raises TimeoutError after `timeout` seconds.
        """
        from cli.follow import Follower
        from sdk.session import task_update

        deadline = None if timeout is None else time.monotonic() + timeout
        with self.session.speaking() as link:
            follower = Follower(link, self.id)
        while True:
            with self.session.speaking():
                changed = follower.read()
            yield from [task_update(each) for each in changed]
            if follower.ended:
                return
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"run {self.id} goes on after {timeout:g} s")

    def wait(self, *, timeout: float | None = None, check: bool = False) -> RunInfo:
        """Wait until the run has ended. Raises TimeoutError after `timeout` seconds, while the run goes on;
        with `check` RunFailed unless it has succeeded.
        """
        for _ in self.follow(timeout=timeout):
            pass
        return checked(self.info(), check=check)

    def watch(self, *, timeout: float | None = None) -> RunInfo:
        """Wait, and show how it goes: in a notebook a table that is drawn anew in its place, elsewhere the
        progress that `helios run` shows on stderr.
        """
        from sdk.table import shown_live

        return shown_live(self, timeout)

    def cancel(self, *, on_exit: bool = False) -> None:
        """Ask for the run to be cancelled; `wait` tells when that is done. Asking twice changes nothing. Its onExit
        task runs all the same, unless `on_exit` says that it is to be ended too.
        """
        self.session.cancel(self.id, on_exit)

    def logs(self, task: str, *, attempt: int | None = None, step: Step = "task") -> list[str]:
        """The lines that are kept of what a task printed; of its last attempt unless said."""
        return self.session.logs(self.id, task, attempt, step)

    def artifacts(self, task: str | None = None, name: str | None = None) -> list[Artifact]:
        """What is stored of the run's outputs, or of one task's, or one output."""
        return self.session.artifacts(self.id, task, name)

    def fetch(
        self, to: Path | str, task: str | None = None, name: str | None = None, *, force: bool = False
    ) -> list[Path]:
        """Bring outputs into a folder, and return where each is: `to/<task>/<name>` for a whole run, `to/<name>` for
        one task. Each is checked against its SHA-256. What is there already and the same stays; what is there and
        differs raises HeliosError, unless `force` replaces it.
        """
        return self.session.fetch(self.id, Path(to), task, name, force=force)

    def __repr__(self) -> str:
        return f"<Run {self.id}>"

    def _repr_html_(self) -> str:
        return self.info()._repr_html_()  # pyright: ignore[reportPrivateUsage] -- the notebook's name for it


def checked(info: RunInfo, *, check: bool) -> RunInfo:
    if check and not info.succeeded:
        raise RunFailed(info)
    return info
