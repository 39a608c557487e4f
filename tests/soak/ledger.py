"""What was sent and what ran, written down by those who saw it, in files that no service and no Redis ever touches.

Each process has a file of its own. A line is on the disk before what it tells of goes on: a submission is written down
before it is sent, the start of a command before the command runs, its end before anybody can hear of it. A line that
was cut off, because its writer was killed, was never acted upon, and is passed over.

Times are epoch microseconds. All writers are on one machine, so they are by one clock, which is Redis's too.
"""

import os
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec


class Wanted(msgspec.Struct, frozen=True, tag=True):
    """A submission is about to be sent; `send` is unique. With a request, what was sent before may be sent again."""

    send: str
    number: int
    request: str | None
    at: int


class Acknowledged(msgspec.Struct, frozen=True, tag=True):
    """Redis answered with this id."""

    send: str
    run: str
    at: int


class Durable(msgspec.Struct, frozen=True, tag=True):
    """WAITAOF said that the submission is on the disk. Its entry lies within the first `offset` bytes of the file."""

    send: str
    run: str
    file: str
    offset: int
    at: int


class Seen(msgspec.Struct, frozen=True, tag=True):
    """The client of a request saw its run, later after the acknowledgement than Redis ever waits for the disk."""

    number: int
    run: str
    at: int


class CancelWanted(msgspec.Struct, frozen=True, tag=True):
    """A cancel is about to be sent."""

    number: int
    run: str
    at: int


class Account(msgspec.Struct, frozen=True):
    """What an attempt's inputs cost, as its pod will claim it. `causes`: inputs and bytes by cause."""

    cache: str = "N/A"
    hitBytes: int = 0
    missBytes: int = 0
    fetchMs: int = 0
    savedMs: int = 0
    peerBytes: int = 0
    storeBytes: int = 0
    causes: dict[str, tuple[int, int]] = {}


class Brought(msgspec.Struct, frozen=True, tag=True):
    """A pod is about to claim this account, and to start its command after that."""

    run: str
    task: str
    attempt: int
    pod: str
    account: Account
    at: int


class Started(msgspec.Struct, frozen=True, tag=True):
    """A pod's command is about to start."""

    run: str
    task: str
    attempt: int
    pod: str
    at: int


class Ended(msgspec.Struct, frozen=True, tag=True):
    """A pod's command has ended by itself or by its timeout; `killed`: because its Job was deleted."""

    run: str
    task: str
    attempt: int
    pod: str
    ok: bool
    at: int
    killed: bool = False


class NodeBegan(msgspec.Struct, frozen=True, tag=True):
    """A node took over from one that was killed: whatever ran there is lost with it."""

    at: int
    lost: list[str]
    """Pods."""


Line = Wanted | Acknowledged | Durable | Seen | CancelWanted | Brought | Started | Ended | NodeBegan

_encoder = msgspec.json.Encoder()
_decoder: "msgspec.json.Decoder[Line]" = msgspec.json.Decoder(Line)


def now_us() -> int:
    return time.time_ns() // 1000


class Ledger:
    """An append-only file of one writer at a time."""

    def __init__(self, file: Path) -> None:
        self.fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        size = os.fstat(self.fd).st_size
        if size and os.pread(self.fd, 1, size - 1) != b"\n":
            os.write(self.fd, b"\n")

    def write(self, lines: Iterable[Line]) -> None:
        """They are on the disk when this returns."""
        text = b"".join(_encoder.encode(line) + b"\n" for line in lines)
        if text:
            os.write(self.fd, text)
            os.fdatasync(self.fd)


def read(file: Path) -> list[Line]:
    """All whole lines; none if there is no such file."""
    if not file.exists():
        return []
    found: list[Line] = []
    for text in file.read_bytes().split(b"\n"):
        try:
            found.append(_decoder.decode(text))
        except msgspec.DecodeError:
            continue
    return found
