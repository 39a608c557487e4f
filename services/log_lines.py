"""How a service's process writes its log: one line for each message, as JSON or as text for people.

Rule: whatever the process says goes this way, whoever says it: our own messages from any thread, those of libraries,
warnings, and the error that ends it. A line never holds a secret, nor an end of line of its own.
"""

import contextlib
import json
import logging
import sys
import threading
from collections.abc import MutableMapping
from types import TracebackType
from typing import Any, TextIO, cast

import structlog
from structlog.typing import Processor

from helios.logged import SUBJECT, subject
from helios.redaction import Redaction
from helios.settings import Settings

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
FIRST = ("time", "level", "service", "replica", "message", *SUBJECT, "error")
"""The fields that every reader may go by, in the order in which a line has them."""
Event = MutableMapping[str, Any]

log = structlog.get_logger()


class _Stderr:
    """Standard error for the log: a full disk under it loses lines, never the service."""

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.flush()


def configure_logging(service: str, settings: Settings) -> None:
    """From now on every message of this process is one line on stderr."""
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and settings.launcher == "kubernetes")
    structlog.configure(
        processors=_processors(service, settings, as_json=as_json),
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS.get(settings.log_level, 20)),
        logger_factory=structlog.WriteLoggerFactory(file=cast(TextIO, _Stderr())),
        cache_logger_on_first_use=True,
    )
    _take_over_the_rest()


def _subject(_logger: Any, _method: str, event: Event) -> Event:
    """What a message says itself counts."""
    return {**subject(), **event}


def _processors(service: str, settings: Settings, *, as_json: bool) -> list[Processor]:
    def named(_logger: Any, _method: str, event: Event) -> Event:
        # Not bound: what is bound is one thread's, and every thread says it.
        return {**event, "service": service, "replica": settings.replica}

    return [
        _subject,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.EventRenamer("message"),
        named,
        _with_error,
        structlog.processors.format_exc_info,
        _Redacted(settings),
        _json if as_json else _text,
    ]


def _with_error(_logger: Any, _method: str, event: Event) -> Event:
    """`error` of a message that comes with an exception, in one line; the traceback is in `exception`."""
    given = event.get("exc_info")
    found = given if isinstance(given, BaseException) else sys.exc_info()[1] if given is True else None
    if isinstance(given, tuple):
        found = cast(tuple[Any, ...], given)[1]
    if found is not None:
        event.setdefault("error", _words(found))
    return event


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


class _Redacted:
    """Takes secrets out of whatever a line says."""

    def __init__(self, settings: Settings) -> None:
        self.redaction = Redaction(settings)

    def __call__(self, _logger: Any, _method: str, event: Event) -> Event:
        return {name: self._clean(value) for name, value in event.items()}

    def _clean(self, value: Any) -> Any:
        if value is None or isinstance(value, bool | int | float):
            return value
        return self.redaction.clean(value if isinstance(value, str) else str(value))


def _json(_logger: Any, _method: str, event: Event) -> str:
    return json.dumps(_in_order(event), default=str)


def _text(_logger: Any, _method: str, event: Event) -> str:
    """`time level message  name=value …`, and the lines of a traceback below."""
    ordered = _in_order(event)
    head = " ".join(str(ordered.pop(name, "")) for name in ("time", "level", "message"))
    trace = ordered.pop("exception", None)
    del ordered["service"], ordered["replica"]
    line = " ".join([head, *(f"{name}={_quoted(value)}" for name, value in ordered.items())])
    return line if trace is None else f"{line}\n{trace}"


def _quoted(value: Any) -> str:
    text = str(value)
    return text if text and text.isprintable() and " " not in text else json.dumps(text)


def _in_order(event: Event) -> dict[str, Any]:
    first = {name: event[name] for name in FIRST if name in event}
    return first | {name: value for name, value in event.items() if name not in first}


class _Others(logging.Handler):
    """Messages of libraries, as ours."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR:
            log.error(record.getMessage(), logger=record.name, exc_info=record.exc_info or None)
            return
        # A library that warns goes on by itself, as urllib3 does after a head that was cut off: no traceback of it.
        found = record.exc_info[1] if record.exc_info else None
        said = {} if found is None else {"error": _words(found)}
        log.warning(record.getMessage(), logger=record.name, **said)


def _take_over_the_rest() -> None:
    root = logging.getLogger()
    root.handlers[:] = [_Others()]
    root.setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)
    sys.excepthook = _say_the_end
    threading.excepthook = _say_of_a_thread


def _say_the_end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    log.error("the process ends by an error", exc_info=(kind, error, trace))


def _say_of_a_thread(ended: threading.ExceptHookArgs) -> None:
    if ended.exc_value is not None:
        trace = (ended.exc_type, ended.exc_value, ended.exc_traceback)
        log.error("a thread ends by an error", thread=getattr(ended.thread, "name", ""), exc_info=trace)
