"""A run that ended, as an OpenTelemetry trace: the run a span, each attempt a span below it, its stages below that.

Rules: spans are made from the times in the records, when the run is over, so no restart loses one that was open. Which
runs are to be sent is a stream, written by the script that ends a run; an entry is acknowledged once the receiver took
all of it. If a collector dies in between, another sends the same spans again, under the same ids.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import redis
import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
from redis.exceptions import ResponseError

from helios.deadletter import acknowledge
from helios.keys import Keys, keys_of_run
from helios.measures import STAGES, TRACES
from helios.messages import Settled, decode
from helios.phases import MOMENTS, Moments, Timed, attempt_phases
from helios.records import TASK_FIELDS, AttemptRecord, TaskView, task_view
from helios.settings import Settings
from helios.streams import Entry, Inbox
from helios.trace import TraceContext, context_of, span_id
from helios.version import VERSION
from helios.wire import hash_values
from helios.worker import Failure, Waits

log = structlog.get_logger()

TASKS_AT_A_TIME = 200
"""Some 1,600 spans in a request."""
EXPORT_SECONDS = 10.0
AWAY_SECONDS = 1.0
REFUSALS = 20
"""So often a trace is offered, a minute or two long, to a receiver that refuses it at once."""
GIVEN_UP_AFTER_SECONDS = 86_400.0
"""So long after a run's end nobody tries to send its trace any more."""

Attributes = Mapping[str, str | int | bool]


class Span(NamedTuple):
    """Times are epoch milliseconds of the Redis server's clock."""

    name: str
    id: str
    parent: str | None
    start: int
    end: int
    attributes: Attributes
    error: str | None = None


class EarlierAttempt(msgspec.Struct):
    """What the record of a task keeps of an attempt that another one followed: strings, as the record's own."""

    queuedAt: str | None = None
    launchedAt: str | None = None
    endedAt: str | None = None
    node: str = ""
    pendingAt: str | None = None
    scheduledAt: str | None = None
    fetchingAt: str | None = None
    runningAt: str | None = None
    publishingAt: str | None = None
    record: AttemptRecord = AttemptRecord()


_earlier_decoder = msgspec.json.Decoder(EarlierAttempt)


def run_span(run: str, fields: Mapping[str, str], context: TraceContext) -> Span:
    """Of a run that has ended."""
    status = fields.get("status", "")
    start = _number(fields.get("startTime")) or 0
    attributes: dict[str, str | int | bool] = {
        "helios.run.id": run,
        "helios.dag.name": fields.get("dagName", ""),
        "helios.run.status": status,
        "helios.run.cache": fields.get("cacheHit", ""),
    }
    for field, name in (
        ("taskCount", "tasks"),
        ("taskSkipped", "tasks_skipped"),
        ("cacheHitBytes", "cache_hit_bytes"),
        ("cacheMissBytes", "cache_miss_bytes"),
    ):
        attributes[f"helios.run.{name}"] = _number(fields.get(field)) or 0
    error = (fields.get("reason") or f"the run is {status}") if status == "FAILED" else None
    end = max(start, _number(fields.get("endTime")) or start)
    return Span(fields.get("dagName", run), span_id(run), context.parent, start, end, attributes, error)


def attempt_spans(run: str, attempt: int, each: Timed, began: int, ended: int) -> Iterator[Span]:
    """One attempt and its stages. `began`: of one that was queued when the run was opened; `ended`: of one that has no
    end of its own.
    """
    view = each.view
    queued = began if view.queuedTime is None else view.queuedTime
    end = max(queued, ended if view.endTime is None else view.endTime)
    own = span_id(run, view.name, str(attempt))
    attributes: dict[str, str | int | bool] = {
        "helios.run.id": run,
        "helios.task.name": view.name,
        "helios.task.attempt": attempt,
        "helios.task.status": view.status,
        "helios.task.cache": view.cache,
        "helios.task.cache_hit_bytes": sum(one.bytes for one in view.inputs if one.source == "cache"),
        "helios.task.input_bytes": sum(one.bytes for one in view.inputs),
    }
    if view.node:
        attributes["k8s.node.name"] = view.node
    if view.exitCode is not None:
        attributes["process.exit.code"] = view.exitCode
    if view.skipped is not None:
        attributes |= {"helios.skipped.run": view.skipped.run, "helios.skipped.task": view.skipped.task}
    error = (view.reason or "it failed") if view.status == "FAILED" else None
    yield Span(view.name, own, span_id(run), queued, end, attributes, error)
    stages, _ = attempt_phases(each, queued, end)
    at = queued
    for stage in STAGES:
        took = stages.get(stage)
        if took is not None:
            yield Span(stage, span_id(run, view.name, str(attempt), stage), own, at, at + took, {"helios.stage": stage})
            at += took


def earlier_timed(name: str, text: str, *, local: bool) -> Timed | None:
    """An attempt before the last, from what is kept of it; None where that cannot be read."""
    try:
        was = _earlier_decoder.decode(text)
    except msgspec.DecodeError:
        return None
    record = was.record
    view = TaskView(
        name=name,
        status="FAILED",
        node=was.node or record.node,
        cache=record.cache,
        queuedTime=_number(was.queuedAt),
        startTime=_number(was.launchedAt),
        endTime=_number(was.endedAt),
        exitCode=record.exitCode,
        reason=record.reason,
        fetchElapsedMs=record.fetchElapsedMs,
        fetchedAt=record.fetchedAt,
        startedAt=record.startedAt,
        finishedAt=record.finishedAt,
        publishedAt=record.publishedAt,
    )
    return Timed(view, moments=Moments(*(_number(getattr(was, field)) for field in MOMENTS)), local=local)


def _age_seconds(entry: Entry) -> float:
    return time.time() - int(entry.id.partition("-")[0]) / 1000


class Tracer:
    """Handles the runs whose traces are to be sent."""

    def __init__(self, client: redis.Redis, inbox: Inbox, settings: Settings) -> None:
        self.client = client
        self.inbox = inbox
        self.partitions = settings.partitions
        self.is_local = settings.launcher == "local"
        self.endpoint = settings.otlp_endpoint
        self.exporter = OTLPSpanExporter(f"{settings.otlp_endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_SECONDS)
        self.resource = Resource.create({"service.name": "helios", "service.version": VERSION})
        self.scope = InstrumentationScope("helios", VERSION)
        self.silent = False
        """Whether it was told that the receiver takes nothing."""

    def handle(self, entries: list[Entry]) -> Sequence[Failure]:
        failures: list[Failure] = []
        away = False
        for entry in entries:
            try:
                run = decode(entry.fields, Settled).run
                began = time.monotonic()
                sent = not away and self._send(entry, run)
                # The exporter repeats what may yet be taken, and says at once what never will be. A receiver that is
                # away would take the others' leases, too, and every replica count a delivery.
                refused = not away and not sent and time.monotonic() - began < AWAY_SECONDS
                away = away or not (sent or refused)
            except (msgspec.ValidationError, ResponseError) as error:
                failures.append(Failure(entry, error))
                continue
            if sent:
                self.silent = False
                TRACES.add(("sent",))
            elif _age_seconds(entry) > GIVEN_UP_AFTER_SECONDS or (refused and entry.tries >= REFUSALS):
                log.warning("the trace of a run is given up", run=run)
                TRACES.add(("dropped",))
            else:
                TRACES.add(("retried",))
                if not self.silent:
                    log.warning("the receiver of traces takes nothing; it is tried again", url=self.endpoint)
                    self.silent = True
                failures.append(Failure(entry, Waits("the receiver of traces takes nothing")))
                continue
            acknowledge(self.inbox, entry)
        return failures

    def _send(self, entry: Entry, run: str) -> bool:
        """Send the trace, in parts where it is large. True also where there is nothing to send."""
        keys = keys_of_run(run, self.partitions)
        fields: dict[str, str] = self.client.hgetall(keys.run(run))  # pyright: ignore[reportAssignmentType] -- stubs
        context = context_of(run, fields.get("traceparent"))
        if "endTime" not in fields or not context.is_sampled:
            return True  # the run is forgotten by now, or whoever submitted it wants no trace
        self.inbox.renew(entry.stream, [entry.id])
        names: list[str] = self.client.lrange(keys.task_names(run), 0, -1)  # pyright: ignore[reportAssignmentType]
        whole = run_span(run, fields, context)
        for start in range(0, len(names), TASKS_AT_A_TIME):
            spans = list(self._spans(keys, run, names[start : start + TASKS_AT_A_TIME], whole))
            if not self._export(spans, context):
                return False
            self.inbox.renew(entry.stream, [entry.id])
        return self._export([whole], context)

    def _spans(self, keys: Keys, run: str, names: Sequence[str], whole: Span) -> Iterator[Span]:
        found: list[Any] = hash_values(self.client, [keys.task(run, name) for name in names], (*TASK_FIELDS, *MOMENTS))
        for name, values in zip(names, found, strict=True):
            if isinstance(values, ResponseError):
                continue  # a record of the wrong type, which its run's end tells of
            view = task_view(name, values[: len(TASK_FIELDS)])
            for attempt, text in enumerate(self._earlier(keys.task(run, name), view.attempt), 1):
                timed = earlier_timed(name, text, local=self.is_local) if text else None
                if timed is not None:
                    yield from attempt_spans(run, attempt, timed, whole.start, whole.end)
            if view.attempt and view.status != "UPSTREAM_FAILED":
                moments = Moments(*(_number(each) for each in values[len(TASK_FIELDS) :]))
                timed = Timed(view, moments=moments, local=self.is_local)
                yield from attempt_spans(run, view.attempt, timed, whole.start, whole.end)

    def _earlier(self, task: str, attempt: int) -> list[str | None]:
        if attempt <= 1:
            return []
        found: Any = self.client.hmget(task, [f"was:{number}" for number in range(1, attempt)])
        return found

    def _export(self, spans: Sequence[Span], context: TraceContext) -> bool:
        return not spans or self.exporter.export([self._readable(span, context) for span in spans]) is (
            SpanExportResult.SUCCESS
        )

    def _readable(self, span: Span, context: TraceContext) -> ReadableSpan:
        def named(number: str, *, remote: bool) -> SpanContext:
            return SpanContext(int(context.trace, 16), int(number, 16), remote, TraceFlags(TraceFlags.SAMPLED))

        return ReadableSpan(
            name=span.name,
            context=named(span.id, remote=False),
            parent=None if span.parent is None else named(span.parent, remote=span.parent == context.parent),
            resource=self.resource,
            attributes=span.attributes,
            kind=SpanKind.INTERNAL,
            status=Status(StatusCode.ERROR, span.error) if span.error is not None else Status(StatusCode.OK),
            start_time=span.start * 1_000_000,
            end_time=span.end * 1_000_000,
            instrumentation_scope=self.scope,
        )

    def close(self) -> None:
        self.exporter.shutdown()


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None
