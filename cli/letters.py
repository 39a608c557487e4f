"""Dead letters as plain data, and what a retry of each can be. No I/O happens here."""

from collections.abc import Mapping
from typing import Literal

import msgspec

from helios.deadletter import LETTER_CHARACTERS, LETTER_FIELDS
from helios.keys import CONTROLS, SUBMISSIONS

Way = Literal["again", "send", "rerun", "none"]
"""again: its entry goes back to its stream; send: it is sent once more as a new entry of an ingress stream;
rerun: the run's DAG is submitted as a new run; none: nothing but discarding helps."""


class Letter(msgspec.Struct, frozen=True):
    """One dead letter: an entry that could not be handled, with what is known of its run."""

    id: str
    partition: int
    dead: str
    """The stream of dead letters it lies in."""
    stream: str
    entry: str
    reason: str
    deliveries: str
    fields: Mapping[str, str]
    """The entry's own."""
    run_status: str = ""
    """Empty where there is no such run (any more)."""
    has_dag: bool = False
    """Whether the run's DAG is kept."""

    @property
    def run(self) -> str:
        return self.fields.get("run", "")

    @property
    def since(self) -> int:
        """When it was buried, in epoch milliseconds of the Redis server's clock."""
        head = self.id.partition("-")[0]
        return int(head) if head.isdecimal() else 0


def remedy(letter: Letter) -> tuple[Way, str]:
    """What a retry of the letter can be, and that in words; or why there is none."""
    if letter.stream == SUBMISSIONS and "dag" not in letter.fields:
        return "none", "The letter holds no DAG."
    if letter.stream in (SUBMISSIONS, CONTROLS):
        if is_cut(letter):
            return "none", "The letter holds only the beginning of its entry. Send the original again."
        return "send", f"Send it once more as a new entry of {letter.stream}."
    if not letter.stream.startswith("helios:"):
        return "none", "An event that a trigger could not take. Send one that it takes to where this came from."
    if letter.run_status == "RUNNING":
        if is_cut(letter):
            return "none", "The letter holds only the beginning of its entry, so it cannot be put back."
        return "again", f"Run {letter.run} still goes on: put the entry back into {letter.stream}."
    if not letter.run_status:
        return "none", "Its run is not kept any more, so no retry can help."
    if not letter.has_dag:
        return "none", f"Its run has ended ({letter.run_status}), and its DAG is not kept."
    ended = f"Run {letter.run} has ended ({letter.run_status}), so its entry would change nothing."
    return "rerun", f"{ended} Submit its DAG again as a new run?"


def is_cut(letter: Letter) -> bool:
    """Whether the letter may hold less than its entry did."""
    return len(letter.fields) >= LETTER_FIELDS or any(
        len(text) >= LETTER_CHARACTERS for pair in letter.fields.items() for text in pair
    )
