"""What the process of every service sets up: its log, its client, and loops that live and end together."""

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

import redis
import structlog

from helios.measures import LOOKS_FAILED
from helios.redis_client import client_of
from helios.settings import CHOICES, SettingInvalid, Settings, settings_from
from helios.streams import Inbox
from helios.worker import Stop
from services.log_lines import configure_logging

log = structlog.get_logger()


DRAIN_SECONDS = 8.0
"""From the stop signal: what is not done by then is handed back unfinished, for others to do again. Below the 10 s in
which every process ends, and far below Kubernetes' terminationGracePeriodSeconds."""
LAST_WORD_SECONDS = 1.5
"""For handing back, when it could not be done in good order."""


def begin(service: str, stop: Stop) -> Settings:
    """What a process does first: it listens for the signal to stop, and logs. Ends the process where a setting is of no
    use, with the words for it.
    """
    stop.listen()
    try:
        settings = settings_from()
    except SettingInvalid as error:
        # In the form that was asked for, if that much can be read.
        form = os.environ.get("HELIOS_LOG_FORMAT", "").lower()
        launcher = os.environ.get("HELIOS_LAUNCHER", "").lower()
        form = form if form in CHOICES["log_format"] else "auto"
        configure_logging(service, Settings(log_format=form, launcher=launcher))
        refuse(error)
    configure_logging(service, settings)
    if settings.metrics_bind:
        # Only then, because it takes 50 ms to import.
        from services.scrape import serve_metrics

        try:
            serve_metrics(service, settings.metrics_bind)
        except (OSError, ValueError) as error:
            refuse(SettingInvalid(f"HELIOS_METRICS_BIND is {settings.metrics_bind!r}, which cannot be served: {error}"))
    return settings


def refuse(error: SettingInvalid) -> NoReturn:
    """End the process because of a setting."""
    log.error("a setting is of no use", error=str(error))
    sys.exit(1)


def end_in_time(stop: Stop, settings: Settings, inboxes: Sequence[Inbox]) -> None:
    """Whatever the loops wait for when they are told to stop, this process is gone soon after DRAIN_SECONDS, and what
    it had in hand is not left to its lease. Loops that run in somebody else's process, which gets no signals for them,
    end as they end.
    """
    if not stop.listens:
        return

    def watch() -> None:
        stop.event.wait()
        time.sleep(DRAIN_SECONDS)
        log.warning("the loops have not ended in time; what is in hand is handed back unfinished")
        last = threading.Thread(target=_hand_back, args=(settings, inboxes), daemon=True)
        last.start()
        last.join(LAST_WORD_SECONDS)
        os._exit(0)

    threading.Thread(target=watch, name="end in time", daemon=True).start()


def _hand_back(settings: Settings, inboxes: Sequence[Inbox]) -> None:
    client = connect(settings)
    for inbox in inboxes:
        inbox.leave(client, unfinished=True)


def run_loops(stop: Stop, first: Callable[[], None], *others: Callable[[], None]) -> None:
    """Run the loops side by side until stopped. One that dies ends them all: half a service must not look alive."""
    crashed: list[BaseException] = []

    def guarded(loop: Callable[[], None]) -> None:
        try:
            loop()
        except BaseException as error:  # noqa: BLE001 -- it is raised again below
            crashed.append(error)
        finally:
            stop.event.set()

    threads = [threading.Thread(target=guarded, args=(loop,)) for loop in others]
    for thread in threads:
        thread.start()
    guarded(first)
    for thread in threads:
        thread.join()
    if crashed:
        raise crashed[0]


def repeat(stop: Stop, seconds: float, look: Callable[[], object]) -> None:
    """Call `look` at once and then every so many seconds until stopped. One that fails is logged and comes again: what
    a look repairs is worth less than the service that it would take down.
    """
    while True:
        name = getattr(getattr(look, "func", look), "__qualname__", "")
        try:
            look()
        except (redis.RedisError, OSError) as error:
            LOOKS_FAILED.add((name,))
            log.warning("a periodic look is put off", look=name, error=str(error))
        except Exception:
            LOOKS_FAILED.add((name,))
            log.exception("a periodic look failed", look=name)
        if stop.wait(seconds):
            return


def connect(settings: Settings) -> redis.Redis:
    return client_of(settings)
