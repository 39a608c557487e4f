"""How an attempt ended, from its pod's status and its report. Pure functions.

A report alone can end an attempt well: the outputs are stored and the command exited 0. When it is lost, a pod that
succeeded has the same in its termination message. A failure waits for the pod's status, because only that knows what
the pod itself cannot: that it was killed for its memory, evicted, or lost.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from helios.events import TaskEnded
from helios.keys import Keys
from helios.localjobs import PodStatus
from helios.podwire import FetchManifest, MessageOutput, PublishMessage, Report, Stored, StoredOutput
from helios.records import AttemptRecord, OutputRecord
from helios.transitions import Call, end_attempt
from services.collector.classify import Classification

REASON_CHARACTERS = 1_000


class Ended(NamedTuple):
    """`status` is SUCCEEDED or FAILED; a disrupted attempt does not use up the user's retries."""

    status: str
    record: AttemptRecord
    disrupted: bool


def ended_well(report: Report, declared_outputs: Sequence[str], prefix: str) -> bool:
    """Whether the report alone shows that the attempt succeeded: every declared output stored, below `prefix`."""
    return (
        report.exitCode == 0
        and report.reason is None
        and {output.name for output in report.outputs} == set(declared_outputs)
        and all(output.key.startswith(prefix) and ".." not in output.key.split("/") for output in report.outputs)
    )


def from_report(report: Report, classification: Classification) -> Ended:
    """The end of an attempt whose report shows success."""
    return Ended("SUCCEEDED", _record(report, None, classification, None), disrupted=False)


def from_final(report: Report, classification: Classification) -> Ended:
    """The end of an attempt whose report is of a failure that no status of its pod explains better."""
    reason = report.reason or (report.fetch.error if report.fetch else None)
    reason = _short(reason or "its node's agent gave it up, and does not say why")
    return Ended("FAILED", _record(report, None, classification, reason), report.disrupted)


def from_pod(
    pod: PodStatus,
    *,
    report: Report | None,
    messages: dict[str, str | None],
    classification: Classification,
    declared_outputs: Sequence[str],
    prefix: str,
) -> Ended:
    """The end of an attempt whose pod is over. `messages` are the steps' termination messages."""
    if report is not None and ended_well(report, declared_outputs, prefix) and not pod.disrupted:
        return Ended("SUCCEEDED", _record(report, pod, classification, None), disrupted=False)
    if pod.phase == "Succeeded" and report is None and not declared_outputs:
        return Ended("SUCCEEDED", _record(None, pod, classification, None), disrupted=False)
    if pod.phase == "Succeeded" and report is None and pod.agent_reports:
        reason = "the node's agent did not report on its outputs"
        return Ended("FAILED", _record(None, pod, classification, reason), disrupted=True)
    if pod.phase == "Succeeded" and report is None:
        # The outputs are stored, but with which digests nobody is left to say.
        reason = "the report on its stored outputs was lost, and its termination message does not list them"
        return Ended("FAILED", _record(None, pod, classification, reason), disrupted=True)
    # What publish left as its message serves when its report is lost.
    account = report or publish_message(messages.get("publish"))
    fetch = _fetch_message(messages.get("fetch")) if not _done(pod, "fetch") else None
    disrupted = pod.disrupted or (account is not None and account.disrupted) or (fetch is not None and fetch.disrupted)
    return Ended("FAILED", _record(report, pod, classification, _reason(pod, report, messages)), disrupted)


def report_of(
    message: PublishMessage,
    pod: PodStatus,
    *,
    run: str,
    task: str,
    attempt: int,
    declared_outputs: Sequence[str],
    manifest: Callable[[str, str], Sequence[MessageOutput]],
) -> Report | None:
    """The report that a pod which succeeded made, from its termination message; None if that shows no success.

    `manifest` gives the outputs that the object of that key and digest lists.
    """
    if not message.ok:
        return None
    prefix = output_prefix(run, task, attempt)
    stored = message.stored
    if stored is None and message.manifest is not None:
        stored = manifest(manifest_key(prefix, pod.uid), message.manifest)
    if stored is None:
        return None
    report = Report(
        run=run,
        task=task,
        attempt=attempt,
        podUid=pod.uid,
        node=pod.node,
        exitCode=message.exitCode,
        cpuMs=message.cpuMs,
        peakMemoryBytes=message.peakMemoryBytes,
        outputs=[
            StoredOutput(
                name=each.name,
                key=f"{prefix}{pod.uid}/{each.name}",
                bytes=each.bytes,
                sha256=each.sha256,
                archive=each.archive,
                stored=Stored(codec="zstd", bytes=each.compressed) if each.compressed else None,
            )
            for each in stored
        ],
        reason=message.reason,
        startedAt=message.startedAt,
        endedAt=message.endedAt,
    )
    return report if ended_well(report, declared_outputs, prefix) else None


def contradicts(pod: PodStatus | None, status: str | None, current: str | None, attempt: int) -> bool:
    """Whether the pod failed although its attempt's report was committed as a success."""
    return pod is not None and pod.phase == "Failed" and status == "SUCCEEDED" and current == str(attempt)


def refused(reason: str) -> Ended:
    """The end of an attempt whose Job was refused for good: no pod, and no input that was looked for in a cache."""
    return Ended("FAILED", AttemptRecord(reason=_short(reason), cache="N/A"), disrupted=False)


def vanished(classification: Classification) -> Ended:
    """The end of an attempt whose pod is gone without a trace."""
    return Ended("FAILED", AttemptRecord(reason="its pod vanished", cache=classification.cache), disrupted=True)


def output_prefix(run: str, task: str, attempt: int) -> str:
    """Where in the artifact bucket an attempt may store its outputs."""
    return f"runs/{run}/{task}/{attempt}/"


def manifest_key(prefix: str, pod: str) -> str:
    """Where the list of a pod's outputs goes: beside its folder of outputs, where none of them can be."""
    return f"{prefix}{pod}.manifest.json"


def end_call(
    keys: Keys,
    entry: str,
    run: str,
    task: str,
    attempt: int,
    ended: Ended,
    *,
    disagrees: bool = False,
    deletes_job: bool = False,
) -> Call:
    """The transition that ends an attempt; an empty entry leaves its Job to be wrapped up."""
    record = ended.record
    return end_attempt(
        keys,
        entry=entry,
        run=run,
        task=task,
        attempt=attempt,
        status=ended.status,
        record=msgspec.json.encode(record),
        cache=record.cache,
        hit_bytes=record.cacheHitBytes,
        miss_bytes=record.cacheMissBytes,
        node=record.node,
        disrupted=ended.disrupted,
        disagrees=disagrees,
        deletes_job=deletes_job,
        event=TaskEnded(
            run,
            task,
            attempt,
            ended.status,
            record.cache,
            record.cacheHitBytes,
            record.cacheMissBytes,
            record.node,
            record.reason,
        ),
    )


def _reason(pod: PodStatus, report: Report | None, messages: dict[str, str | None]) -> str:
    """The most telling account of a failure, for a person."""
    if pod.disrupted:
        return _short(pod.reason or "the node was lost")
    if pod.overrules and pod.reason:
        return _short(pod.reason)
    if report is not None:
        if report.reason:
            return _short(report.reason)
        if report.timedOut:
            return "it ran longer than its timeoutSeconds"
        if report.signal:
            return _short(f"it was ended by {report.signal}")
        if report.exitCode:
            return f"it exited with code {report.exitCode}"
    message = publish_message(messages.get("publish")) if report is None else None
    if message is not None and message.disrupted and message.reason:
        return _short(message.reason)
    fetch, publish = pod.steps.get("fetch"), pod.steps.get("publish")
    if fetch is not None and fetch.exitCode:
        told = _fetch_message(messages.get("fetch"))
        return _short((told and told.error) or pod.reason or f"fetch exited with code {fetch.exitCode}")
    task = pod.steps.get("task")
    if task is not None and task.exitCode:
        return _short(pod.reason or f"it exited with code {task.exitCode}")
    if publish is not None and publish.exitCode:
        return _short((message and message.reason) or pod.reason or "its outputs could not be stored")
    return _short(pod.reason or "it failed, and nothing that is left says why")


def _done(pod: PodStatus, step: str) -> bool:
    found = pod.steps.get(step)
    return found is not None and found.exitCode == 0


def _fetch_message(message: str | None) -> FetchManifest | None:
    try:
        return msgspec.json.decode(message or "", type=FetchManifest)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def publish_message(text: str | None) -> PublishMessage | None:
    try:
        found = msgspec.json.decode(text or "", type=PublishMessage)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    return found if found.step == "publish" else None


def _short(text: str) -> str:
    return text if len(text) <= REASON_CHARACTERS else text[: REASON_CHARACTERS - 1] + "…"


def _record(
    report: Report | None, pod: PodStatus | None, classification: Classification, reason: str | None
) -> AttemptRecord:
    task = pod.steps.get("task") if pod else None
    fetch = pod.steps.get("fetch") if pod else None
    exit_code = report.exitCode if report else None
    fetched_at = report.fetch.endedAt if report and report.fetch else None
    return AttemptRecord(
        exitCode=exit_code if exit_code is not None else (task.exitCode if task else None),
        reason=reason,
        node=(pod.node if pod else "") or (report.node if report else ""),
        cache=classification.cache,
        cacheHitBytes=classification.hit_bytes,
        cacheMissBytes=classification.miss_bytes,
        fetchMs=classification.fetch_ms,
        savedMs=classification.saved_ms,
        peerBytes=classification.peer_bytes,
        storeBytes=classification.store_bytes,
        fetchElapsedMs=classification.elapsed_ms,
        inputs=classification.inputs,
        outputs=[
            OutputRecord(output.name, output.bytes, output.sha256, output.key, output.archive, output.stored)
            for output in (report.outputs if report and reason is None else ())
        ],
        cpuMs=report.cpuMs if report else None,
        peakMemoryBytes=report.peakMemoryBytes if report else None,
        fetchedAt=fetched_at or (fetch.endedAt if fetch else None),
        startedAt=(report.startedAt if report else None) or (task.startedAt if task else None),
        finishedAt=(report.endedAt if report else None) or (task.endedAt if task else None),
        publishedAt=report.publishedAt if report else None,
    )
