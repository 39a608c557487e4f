"""What the SDK raises, beside DagInvalid, TimeoutError and OSError."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdk.records import RunInfo


class HeliosError(Exception):
    """Helios cannot do what was asked. `hint` is the next thing to do, as a sentence or a command; it may be empty."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message}; {hint}" if hint else message)
        self.message = message
        self.hint = hint


class Unreachable(HeliosError):
    """Redis or the object store cannot be reached, or refuses the credentials."""


class NotAccepted(HeliosError):
    """A submission that no submitter has taken up in time. It stays submitted: `run` is the id it will have."""

    def __init__(self, run: str, message: str, hint: str) -> None:
        super().__init__(message, hint)
        self.run = run


class RunFailed(HeliosError):
    """A run that was to succeed has ended otherwise; `info` is all that is known of it."""

    def __init__(self, info: "RunInfo") -> None:
        failed = [f"{task.name}: {task.reason or task.status}" for task in info.tasks if task.status == "FAILED"]
        shown = "; ".join(failed[:5]) + (f"; and {len(failed) - 5:,} more" if len(failed) > 5 else "")
        why = info.reason or shown
        super().__init__(f"run {info.dag_id} of {info.dag_name} is {info.status}{f': {why}' if why else ''}")
        self.info = info
