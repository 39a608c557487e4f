"""The end of an attempt, from its pod, its kept report and its task's record."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec
import redis
import structlog
from redis.exceptions import ResponseError

from helios.dag import Task
from helios.keys import Keys, keys_of_run
from helios.localjobs import PodStatus
from helios.logged import about
from helios.messages import Launched
from helios.podwire import MessageOutput, Report
from helios.settings import Settings
from helios.tokens import Attempt
from helios.transitions import commit_one
from helios.wire import TRANSIENT, error_code, hash_values
from services.collector.classify import Classification, classify
from services.collector.counted import TIMES, count_end
from services.collector.kept import KeptReports
from services.collector.manifests import ManifestLost, NotYet
from services.collector.outcome import (
    Ended,
    end_call,
    from_pod,
    output_prefix,
    publish_message,
    refused,
    report_of,
    vanished,
)
from services.collector.pods import Pods

log = structlog.get_logger()

TASK_VALUES = ("status", "attempt", "spec", "report", "reportAttempt", "job", "heard", *TIMES)

_task_decoder = msgspec.json.Decoder(Task)
_report_decoder = msgspec.json.Decoder(Report)


Manifest = Callable[[str, str], Sequence[MessageOutput]]
"""The outputs that the object of a key and a digest lists. Raises NotYet or ManifestLost."""


def no_manifest(key: str, _digest: str) -> Sequence[MessageOutput]:
    """For those that have no store."""
    raise ManifestLost(f"there is no store to read {key} from")


def ended_of(
    pods: Pods,
    launched: Launched,
    pod: PodStatus | None,
    values: list[str | None],
    *,
    cache_enabled: bool,
    manifest: Manifest = no_manifest,
    fetch_lines: Callable[[], Sequence[str]] = tuple,
) -> Ended:
    """The end of an attempt whose pod is over, or gone (None). `values` are those of TASK_VALUES. May raise NotYet.

    `fetch_lines` reads what fetch logged, of a pod that has no log of it.
    """
    status, attempt, spec, kept, kept_attempt = values[:5]
    if spec is None or status != "RUNNING" or attempt != str(launched.attempt):
        # It ended before, or the run was deleted: the fence will refuse whatever is committed.
        return vanished(Classification(cache="Unknown"))
    if launched.refused:
        return refused(launched.refused)
    task = _task_decoder.decode(spec)
    report = _report_decoder.decode(kept) if kept and kept_attempt == str(launched.attempt) else None
    messages = {step: pods.message(launched.job, step) for step in ("fetch", "publish")} if pod else {}
    if pod is not None and not pod.logs_known and task.inputs and report is None and messages["fetch"] is None:
        raise NotYet  # fetch's own log decides then
    lines: Sequence[str] | None = None
    if pod is not None and task.inputs:
        lines = pods.fetch_log(launched.job)
        if not any(lines) and (report is None or report.fetch is None):
            lines = fetch_lines()
    classification = classify(
        inputs_declared=len(task.inputs),
        cache_enabled=cache_enabled,
        manifest=report.fetch if report else None,
        message=messages.get("fetch"),
        log=lines,
    )
    if pod is None:
        return vanished(classification)
    if report is None and pod.phase == "Succeeded":
        report = _report_from_message(launched, pod, task.outputs, messages.get("publish"), manifest)
    return from_pod(
        pod,
        report=report,
        messages=messages,
        classification=classification,
        declared_outputs=task.outputs,
        prefix=output_prefix(launched.run, launched.task, launched.attempt),
    )


def _report_from_message(
    launched: Launched, pod: PodStatus, declared_outputs: Sequence[str], text: str | None, manifest: Manifest
) -> Report | None:
    """What publish left in its termination message serves for the report that was lost."""
    message = publish_message(text)
    if message is None:
        return None
    try:
        return report_of(
            message,
            pod,
            run=launched.run,
            task=launched.task,
            attempt=launched.attempt,
            declared_outputs=declared_outputs,
            manifest=manifest,
        )
    except ManifestLost as error:
        log.warning("the list of a pod's outputs is lost", job=launched.job, error=str(error))
        return None


def fetch_lines_of(client: redis.Redis, keys: Keys, launched: Launched) -> list[str]:
    """What an attempt's fetch logged, as far as it is kept. A log that cannot be read has no lines."""
    try:
        found: Any = client.xrange(keys.log(launched.run, launched.task, launched.attempt, "fetch"))
    except ResponseError as error:
        log.warning("a log cannot be read", error=str(error))
        return []
    return [fields.get("line", "") for _, fields in found]


def end_overdue(client: redis.Redis, pods: Pods, settings: Settings, kept: KeptReports) -> None:
    """End attempts that reported a failure and whose pod's status does not come; their Jobs stay to be wrapped up.

    What is known of the pod by now counts, such as a disruption that is under way. What Redis does not take is kept.
    """
    for attempt in kept.overdue():
        with about(run=attempt.run, task=attempt.task, attempt=attempt.attempt):
            _end_overdue(client, pods, settings, kept, attempt)


def _end_overdue(client: redis.Redis, pods: Pods, settings: Settings, kept: KeptReports, attempt: Attempt) -> None:
    keys = keys_of_run(attempt.run, settings.partitions)
    found: list[Any] = hash_values(client, [keys.task(attempt.run, attempt.task)], TASK_VALUES)
    switch: list[Any] = hash_values(client, [keys.run(attempt.run)], ("cacheEnabled", "startTime"))
    values = found[0]
    if isinstance(values, ResponseError) and error_code(values) in TRANSIENT:
        kept.put_off(attempt)
        return
    if isinstance(values, ResponseError) or values[4] != str(attempt.attempt):
        kept.done(attempt)
        return
    enabled, started = (None, None) if isinstance(switch[0], ResponseError) else switch[0]
    launched = Launched(attempt.run, attempt.task, attempt.attempt, values[5] or "")
    known = pods.statuses([launched.job]).get(launched.job)
    pod = known or PodStatus(job=launched.job, uid="", node="")
    pod = msgspec.structs.replace(pod, phase="Failed") if not pod.final else pod
    try:
        ended = ended_of(
            pods,
            launched,
            pod,
            values,
            cache_enabled=enabled == "true",
            fetch_lines=partial(fetch_lines_of, client, keys, launched),
        )
        if commit_one(client, end_call(keys, "", attempt.run, attempt.task, attempt.attempt, ended)):
            count_end(ended, (started, *values[-len(TIMES) :]), local=settings.launcher == "local")
            log.info("an attempt ended without its pod's status")
        kept.done(attempt)
    except (OSError, ValueError, ResponseError) as error:
        if error_code(error) in TRANSIENT:
            kept.put_off(attempt)
            return
        kept.done(attempt)
        # The pod's status, once it comes, meets the same and is dealt with there.
        log.warning("a reported failure cannot be committed", error=str(error))
