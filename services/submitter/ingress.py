"""The two streams that users write to: submissions and controls. Their entries may hold anything."""

from collections.abc import Sequence
from typing import Any

import redis
import structlog

from helios.deadletter import acknowledge
from helios.keys import CONTROLS, SUBMISSIONS, keys_of_run
from helios.logged import about_entry
from helios.messages import Control, decode
from helios.streams import Entry, Inbox
from helios.transitions import cancel_all
from helios.worker import Failure, Later, Refused
from services.submitter.accept import Refusal, accept, recover, reject, stated_name, withdraw
from services.submitter.admission import Admission
from services.submitter.schedule import control_schedule, is_about_schedules
from services.submitter.trigger import control_trigger, is_about_triggers

log = structlog.get_logger()


class Ingress:
    """Handles entries of both streams, one after the other, in the order of their arrival."""

    def __init__(
        self,
        client: redis.Redis,
        inbox: Inbox,
        partitions: int,
        window: int | None = None,
        admission: Admission | None = None,
        notify_hosts: str | None = None,
        trigger_streams: str = "",
    ) -> None:
        """`window`, `notify_hosts`: as in `accept`. `admission`: what it says of submissions that wait, if anything.
        `trigger_streams`: the setting, for triggers that are added.
        """
        self.client = client
        self.inbox = inbox
        self.partitions = partitions
        self.window = window
        self.admission = admission
        self.notify_hosts = notify_hosts
        self.trigger_streams = trigger_streams

    def handle(self, entries: list[Entry]) -> Sequence[Failure]:
        for entry in entries:
            with about_entry(entry.stream, entry.id, entry.fields):
                if entry.stream == SUBMISSIONS:
                    outcome = accept(self.client, entry, self.partitions, self.window, self.notify_hosts)
                    log.info("submission", outcome=outcome)
                elif is_about_schedules(entry):
                    control_schedule(self.client, entry)
                elif is_about_triggers(entry):
                    control_trigger(self.client, entry, self.trigger_streams, self.partitions)
                else:
                    is_closed = self.admission is not None and bool(self.admission.reason)
                    control(self.client, entry, self.partitions, self.window, submissions_wait=is_closed)
                acknowledge(self.inbox, entry)
        return ()

    def bury(self, entry: Entry, reason: str) -> None:
        """Whoever sent a submission that cannot be handled finds the reason in its run."""
        if entry.stream == SUBMISSIONS:
            reject(self.client, entry.id, [f"the submission could not be handled: {reason}"], self.partitions)


def control(
    client: redis.Redis, entry: Entry, partitions: int, window: int | None = None, *, submissions_wait: bool = False
) -> None:
    """Carry out a control entry. Raises Refused for one that makes no sense, Later while its run is not open yet.

    While `submissions_wait`, for who knows how long, the run of one that waits is cancelled without ever being opened.
    """
    message = decode(entry.fields, Control)
    run = resolve(client, message.run, partitions)
    if message.action == "recover":
        _recover(client, message, partitions, window)
        return
    if message.action != "cancel":
        raise Refused(f"action {message.action[:40]!r} is not known; there are 'cancel' and 'recover'")
    keys = keys_of_run(run, partitions)
    status: Any = client.hget(keys.run(run), "status")
    if status is None:
        waiting: Any = client.xrange(SUBMISSIONS, run, run)
        if not waiting:
            raise Refused(f"there is no run {run[:80]!r} to cancel")
        if not submissions_wait or not withdraw(client, run, stated_name(waiting[0][1].get("dag", "")), partitions):
            raise Later(f"run {run} is not open yet")
        log.info("cancel", run=run, found="a submission that waits")
        return
    on_exit = message.onExit.strip().lower() in ("true", "1")
    cancel_all(client, keys, run=run, on_exit=on_exit)
    log.info("cancel", run=run, found=status, on_exit=on_exit)


def _recover(client: redis.Redis, message: Control, partitions: int, window: int | None) -> None:
    try:
        outcome = recover(client, message, partitions, window)
    except Refusal as refusal:
        raise Refused(f"run {message.run} cannot be rebuilt: {refusal}") from None
    log.info("recovery", outcome=outcome)


def resolve(client: redis.Redis, run: str, partitions: int) -> str:
    """The run that an id stands for: itself, or the first run of its request id. Raises Refused for what is no id."""
    milliseconds, _, sequence = run.partition("-")
    if not (milliseconds.isdecimal() and sequence.isdecimal() and run.isascii() and len(run) <= 41) or any(
        int(number) >= 2**64 for number in (milliseconds, sequence)
    ):
        raise Refused(f"{run[:80]!r} is no run id; one looks like 1764027260123-0")
    first: Any = client.hget(keys_of_run(run, partitions).run(run), "aliasOf")
    return first or run


STREAMS = (SUBMISSIONS, CONTROLS)
