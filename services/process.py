"""What the process of every service sets up: its log, its client, and loops that live and end together."""

import contextlib
import sys
import threading
from collections.abc import Callable
from typing import TextIO, cast

import redis
import structlog

from helios.redis_client import client_of
from helios.settings import Settings
from helios.worker import Stop

log = structlog.get_logger()


class _Stderr:
    """Standard error for the log: a full disk under it loses lines, never the service."""

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.flush()


def configure_logging(service: str, level: str) -> None:
    """One JSON object a line on stderr."""
    levels = {"debug": 10, "info": 20, "warning": 30, "error": 40}
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(levels.get(level.lower(), 20)),
        logger_factory=structlog.WriteLoggerFactory(file=cast(TextIO, _Stderr())),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)


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
        name = getattr(look, "__qualname__", "")
        try:
            look()
        except (redis.RedisError, OSError) as error:
            log.warning("a periodic look is put off", look=name, error=str(error))
        except Exception:
            log.exception("a periodic look failed", look=name)
        if stop.wait(seconds):
            return


def connect(settings: Settings) -> redis.Redis:
    return client_of(settings)
