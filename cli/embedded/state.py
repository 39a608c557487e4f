"""run/state.json: what the supervisor says of itself, replaced whole at each change."""

import os
from typing import Literal

import msgspec

from cli.embedded.home import Home
from cli.embedded.processes import Known

Phase = Literal["starting", "running", "stopping", "failed"]


class ComponentState(msgspec.Struct, kw_only=True):
    """`phase`: waiting, starting, ready, restarting, failing (it ended again and again), stopped."""

    phase: str = "waiting"
    processes: list[Known] = []
    restarts: int = 0
    error: str | None = None
    """Why it last ended or did not start."""
    log: str = ""
    ready_after_seconds: float | None = None


class State(msgspec.Struct, kw_only=True):
    """Everything a command needs to know of a running stack; no password is in it."""

    supervisor: Known
    phase: Phase = "starting"
    error: str | None = None
    ports: dict[str, int] = {}
    components: dict[str, ComponentState] = {}
    versions: dict[str, str] = {}
    replicas: int = 1


def read_state(home: Home) -> State | None:
    """The last state that was written; None if there is none that can be read."""
    try:
        return msgspec.json.decode(home.state_file.read_bytes(), type=State)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def write_state(home: Home, state: State) -> None:
    partial = home.state_file.with_name(f".state.{os.getpid()}")
    partial.write_bytes(msgspec.json.encode(state))
    partial.replace(home.state_file)
