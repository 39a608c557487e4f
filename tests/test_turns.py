"""Tests that measure time run beside no other, however many processes run tests."""

import fcntl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import turns
from tests.waiting import wait_until


class Guest(threading.Thread):
    """Takes a turn, and keeps it until it is told to leave."""

    def __init__(self, *, alone: bool) -> None:
        super().__init__(daemon=True)
        self.alone = alone
        self.entered, self.leave = threading.Event(), threading.Event()
        self.start()

    def run(self) -> None:
        with turns.turn(alone=self.alone):
            self.entered.set()
            self.leave.wait(60)


@pytest.fixture
def come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Guest]]:
    """Guests of a room that is not the one in which this test has its own turn."""
    for name in ("DOOR", "ROOM"):
        (tmp_path / name).touch()
        monkeypatch.setattr(turns, name, tmp_path / name)
    guests: list[Guest] = []

    def make(*, alone: bool = False) -> Guest:
        guests.append(Guest(alone=alone))
        return guests[-1]

    yield make
    for guest in guests:
        guest.leave.set()
        guest.join(60)


def door_is_held() -> bool:
    with turns.DOOR.open("rb") as door:
        try:
            fcntl.flock(door, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def test_many_are_in_at_once_and_who_is_alone_is_not_passed_by_who_comes_later(come: Callable[..., Guest]) -> None:
    first, second = come(), come()
    assert first.entered.wait(20) and second.entered.wait(20)
    alone = come(alone=True)
    wait_until("it waits in the door", door_is_held)
    late = come()
    first.leave.set()
    first.join(20)
    assert not alone.entered.is_set(), "the second is still in"
    second.leave.set()
    assert alone.entered.wait(20)
    assert not late.entered.is_set()
    alone.leave.set()
    assert late.entered.wait(20)
