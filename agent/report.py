"""How an attempt ended, and how that is told: in the report, and in the termination message of publish."""

from collections.abc import Mapping

from agent import logs
from agent.control import ExitRecord
from agent.documents import Json
from agent.endpoint import AttemptOver, Endpoint, EndpointError, Refused
from agent.frozen import TYPE_CHECKING
from agent.logs import Log
from agent.manifest import fits, fitted
from agent.pace import now_ms
from agent.settings import Attempt

# Loaded only for a task that has outputs to store.
if TYPE_CHECKING:
    from agent.upload import StoredOutput

UNDELIVERED = "undelivered"


class Outcome:
    """How the attempt ended, as far as it is known by now."""

    def __init__(self, record: ExitRecord, reason: str | None = None) -> None:
        self.record = record
        self.reason = reason
        self.disrupted = False
        """The attempt fails by no fault of its own that could be shown: it is repeated without using up a retry."""
        self.outputs: list[StoredOutput] = []
        self.manifest: str | None = None
        """Digest of the stored list of the outputs, where the termination message has no room for it."""
        self.told = UNDELIVERED
        """The endpoint's word on the report: committed, recorded or stale; refused, or UNDELIVERED."""

    @property
    def good(self) -> bool:
        return self.record.exit_code == 0 and self.reason is None


def report_document(attempt: Attempt, outcome: Outcome, manifest: Mapping[str, Json] | None) -> dict[str, object]:
    """The report on an attempt's outcome; `manifest` is fetch's."""
    record = outcome.record
    return {
        "v": 1,
        "run": attempt.run_id,
        "task": attempt.task,
        "attempt": attempt.attempt,
        "podUid": attempt.pod_uid,
        "node": attempt.node,
        "exitCode": record.exit_code,
        "signal": record.signal,
        "timedOut": record.timed_out,
        "cpuMs": record.cpu_ms,
        "peakMemoryBytes": record.peak_memory_bytes,
        "fetch": manifest,
        "outputs": [stored.document() for stored in outcome.outputs],
        "reason": outcome.reason,
        "disrupted": outcome.disrupted,
        "startedAt": record.started_at,
        "endedAt": record.ended_at,
        "publishedAt": now_ms(),
    }


def deliver(endpoint: Endpoint, report: Mapping[str, object], log: Log) -> str:
    """The endpoint's word on the report, "refused", or UNDELIVERED."""
    try:
        return endpoint.result(report)
    except (AttemptOver, Refused) as refusal:
        log.line(logs.error(str(refusal)))
        return "refused"
    except EndpointError as failure:
        log.line(logs.error(f"the report was not delivered: {failure}"))
        return UNDELIVERED


def message(outcome: Outcome, delivered: str) -> bytes:
    """The termination message, short enough for one; `delivered` is what is known of the report."""
    document = message_document(outcome, delivered)
    if not fits(document):
        del document["stored"]
        document["manifest"] = outcome.manifest
    return fitted(document, "reason")


def listed(outcome: Outcome) -> list[object]:
    """The outputs in few bytes: podwire.MessageOutput."""
    return [
        [stored.name, stored.size, stored.sha256, stored.archive, *([stored.stored.size] if stored.stored else [])]
        for stored in outcome.outputs
    ]


def message_document(outcome: Outcome, delivered: str) -> dict[str, object]:
    """The whole message, which may be too long."""
    record = outcome.record
    return {
        "v": 1,
        "step": "publish",
        "ok": outcome.good,
        "exitCode": record.exit_code,
        "signal": record.signal,
        "timedOut": record.timed_out,
        "outputs": len(outcome.outputs),
        "outputBytes": sum(stored.size for stored in outcome.outputs),
        "stored": listed(outcome),
        "cpuMs": record.cpu_ms,
        "peakMemoryBytes": record.peak_memory_bytes,
        "startedAt": record.started_at,
        "endedAt": record.ended_at,
        "report": delivered,
        "disrupted": outcome.disrupted,
        "reason": outcome.reason,
    }


def nobody_told(started_at: int) -> ExitRecord:
    """The record of a task of whose end nobody lived to tell."""
    return ExitRecord(None, None, False, 0, 0, started_at, now_ms(), None)
