"""How a command ends other than well: an exit code, what went wrong, and what to do next."""

SUCCEEDED = 0
RUN_FAILED = 1
"""Also: a check of `helios doctor` failed, or an output could not be fetched."""
USAGE = 2
"""A wrong command line, an unknown run or task, an invalid or rejected DAG."""
UNREACHABLE = 3
CANCELLED = 4
BROKEN = 70
"""A fault of Helios itself."""
INTERRUPTED = 130

STATUS_CODES = {"SUCCEEDED": SUCCEEDED, "FAILED": RUN_FAILED, "CANCELLED": CANCELLED, "REJECTED": USAGE}
"""The exit code that a run's final status stands for."""


class CommandFailed(Exception):
    """`hint` is the next thing to do, as a sentence or a command."""

    def __init__(self, message: str, *, hint: str, code: int = USAGE) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code


def with_extra(extra: str) -> str:
    """What to do where an extra is missing. Never by the bare name: an index may have another project of it."""
    return f"install Helios' wheel with its extra: pip install 'dist/helios-….whl[{extra}]', see docs/install.md"
