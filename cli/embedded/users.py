"""Who uses the stack, for people to read: run/users/<pid>. The lock on leases decides, these notes only tell."""

import contextlib
import os
import sys

import msgspec

from cli.embedded.home import Home, write_private
from cli.embedded.processes import Known, is_alive, this_process


class User(msgspec.Struct, frozen=True):
    """A command that uses the stack."""

    process: Known
    command: str


def write_user(home: Home) -> None:
    folder = home.run / "users"
    folder.mkdir(mode=0o700, exist_ok=True)
    words = [os.path.basename(sys.argv[0]), *sys.argv[1:]]  # noqa: PTH119 -- argv[0] may be anything
    user = User(this_process(), " ".join(words)[:200])
    write_private(folder / str(user.process.pid), msgspec.json.encode(user))


def remove_user(home: Home) -> None:
    (home.run / "users" / str(os.getpid())).unlink(missing_ok=True)


def users(home: Home) -> list[User]:
    """The commands that use the stack now, this one included; drops notes of those that are gone."""
    found: list[User] = []
    try:
        notes = list((home.run / "users").iterdir())
    except FileNotFoundError:
        return []
    for note in notes:
        with contextlib.suppress(OSError, msgspec.DecodeError):
            user = msgspec.json.decode(note.read_bytes(), type=User)
            if is_alive(user.process):
                found.append(user)
            else:
                note.unlink(missing_ok=True)
    return found
