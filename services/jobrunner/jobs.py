"""What a Job is, whoever runs it: its name and the variables of its agent. Pure functions."""

import hashlib
from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol

from helios.dag import Task
from helios.settings import Settings
from helios.tokens import TOKEN_SECONDS, Attempt, mint
from helios.trace import attempt_traceparent

TRACEPARENT = "TRACEPARENT"
"""The variable by which a command learns of the trace that it belongs to."""

NAME_CHARACTERS = 63
"""A Job's name ends up in a label of its pods, and a label's value has at most this many characters."""


Form = Literal["init", "csi"]
"""How inputs come to a Kubernetes pod's task and outputs leave it: by containers beside it, or by the node's agent."""


class Preference(NamedTuple):
    """A node where the Job's pod would rather run; `weight` from 1 to 100, against its other preferences."""

    node: str
    weight: int


class WantedJob(NamedTuple):
    """One attempt that is to get its Job."""

    name: str
    run: str
    attempt: int
    task: Task
    agent_env: dict[str, str]
    prefers: tuple[Preference, ...] = ()

    @property
    def cache_enabled(self) -> bool:
        return self.agent_env["HELIOS_CACHE_ENABLED"] == "true"


class ExistingJob(NamedTuple):
    """A Job that exists, and the attempt it is of."""

    job: str
    run: str
    task: str
    attempt: int


class JobRefused(Exception):
    """The Job will never be created, in the words of whoever refused it."""


class LauncherAway(OSError):
    """No Job can be created just now, this one or another."""


class Launcher(Protocol):
    """Where Jobs live."""

    def create(self, job: WantedJob) -> None:
        """Create the Job; one that exists already is taken as this one if it is of the same attempt.

        Raises JobRefused when it can never be done, OSError when it cannot be done just now.
        """
        ...

    def delete(self, name: str) -> None:
        """End the Job's pod and remove the Job; one that does not exist is fine. Raises OSError as `create` does."""
        ...

    def room(self) -> int:
        """How many more Jobs may be created now; the other entries stay in the stream."""
        ...

    def look(self) -> None:
        """Look again at what its Jobs go by, so that none of them has to wait for that. Called from time to time."""
        ...

    def trouble(self) -> str:
        """What it waits for, without which no Job can be made; empty when there is nothing. Asks nobody."""
        ...

    def jobs(self) -> list[ExistingJob]:
        """Every Job that exists and says which attempt it is of. Raises OSError."""
        ...


def job_name(run: str, task: str, attempt: int) -> str:
    """Readable as far as a DNS label allows, unique by a hash of run, task and attempt."""
    digest = hashlib.sha256(f"{run}\0{task}\0{attempt}".encode()).hexdigest()[:16]
    readable = "".join(letter if letter.isalnum() else "-" for letter in task.lower()).strip("-")
    return f"{readable[: NAME_CHARACTERS - len(digest) - 1].rstrip('-')}-{digest}".lstrip("-")


def wanted_job(
    name: str,
    task: Task,
    *,
    run: str,
    attempt: int,
    cache_enabled: bool,
    settings: Settings,
    now_seconds: float,
    traceparent: str | None = None,
    exit_env: Mapping[str, str] | None = None,
) -> WantedJob:
    """The Job of one attempt, with a token that opens that attempt's plan and result only. `traceparent`: its run's.
    `exit_env`: what an onExit task is told.
    """
    expires = int(now_seconds) + TOKEN_SECONDS
    token = mint(settings.token_key, Attempt(run=run, task=task.name, attempt=attempt, expires=expires))
    handed = attempt_traceparent(run, task.name, attempt, traceparent, traced=bool(settings.otlp_endpoint))
    return WantedJob(
        name=name,
        run=run,
        attempt=attempt,
        task=task,
        agent_env={
            "HELIOS_ENDPOINT": settings.pod_endpoint_url,
            "HELIOS_TOKEN": token,
            "HELIOS_RUN_ID": run,
            "HELIOS_TASK_NAME": task.name,
            "HELIOS_ATTEMPT": str(attempt),
            "HELIOS_CACHE_ENABLED": "true" if cache_enabled else "false",
            "HELIOS_COMPRESS": settings.compress,
            **(exit_env or {}),
            **({TRACEPARENT: handed} if handed is not None else {}),
        },
    )
