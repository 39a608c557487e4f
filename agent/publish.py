# pathlib costs ten milliseconds at every start:
# ruff: noqa: PTH123
"""publish: see the task's end, store what it wrote, and report before Kubernetes knows.

The attempt is good only if the command exited 0, its inputs are untouched and every declared output is stored. Whatever
happens, a report is sent and a termination message is written; a reason is never lost because one of the two failed.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping

from agent import logs
from agent.control import ExitRecord, NotStarted, Stopped, read_exit, wait_for_end, wait_for_start
from agent.documents import Json
from agent.endpoint import AttemptOver, Endpoint, EndpointError
from agent.frozen import TYPE_CHECKING
from agent.gate import wait_for_fetch
from agent.handover import nothing_to_store, write_message
from agent.logs import Log
from agent.manifest import compact, fits, fitted, manifest_digests, read_manifest
from agent.names import NameRefused, check_view, escape
from agent.pace import now_ms
from agent.parallel import for_each
from agent.plan import Plan, PlannedOutput, PlanRefused
from agent.settings import PublishSettings, SettingsError, publish_settings
from agent.web import Web

# Loaded only for a task that has inputs in the cache, or outputs to store.
if TYPE_CHECKING:
    from agent.outputs import Content
    from agent.store import Store
    from agent.upload import StoredOutput
    from agent.warm import Warming

UNDELIVERED = "undelivered"
PLAN_FRESH_SECONDS = 300.0
"""A plan asked for while the task ran is used for this long; its URLs may have expired after that."""
PLAN_AHEAD_SECONDS = 1.0
"""How long the answer to that is waited for, once the task has ended, before it is asked for again."""


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

    @property
    def good(self) -> bool:
        return self.record.exit_code == 0 and self.reason is None


class NotFetched(Exception):
    """The task will not start, since fetch failed; its pod says why."""


def publish(
    settings: PublishSettings, log: Log, web: Web | None = None, on_start: Callable[[], object] = lambda: None
) -> Outcome:
    """Waits for the task's end, stores its outputs, reports. The outcome is `good` or has an exit code or a reason that
    says why not. Calls `on_start` when the task has started; Stopped may be raised into it until then.

    Raises NotFetched.
    """
    if settings.gate_dir is not None and not wait_for_fetch(settings.gate_dir):
        raise NotFetched("the task does not start, since its inputs are not there")
    return _Publish(settings, log, web or Web()).run(on_start)


class _Publish:
    """One run of publish."""

    def __init__(self, settings: PublishSettings, log: Log, web: Web) -> None:
        self._settings = settings
        self._log = log
        self._web = web
        self._endpoint = Endpoint(web, settings.attempt, log)
        self._manifest = _read_fetch_manifest(settings.state_dir)
        self._store = _open_store(settings)
        self._nothing_to_store = nothing_to_store(settings.state_dir)
        self._ahead: tuple[float, Plan] | None = None
        self._asked_ahead = threading.Event()

    def run(self, on_start: Callable[[], object]) -> Outcome:
        started_at = now_ms()
        try:
            started_at = wait_for_start(self._settings.control_dir, self._settings.start_patience_seconds)
            on_start()
            if self._store is not None or not self._nothing_to_store:
                threading.Thread(target=self._work_ahead, daemon=True).start()
            wait_for_end(self._settings.control_dir)
            outcome = self._settle_outcome(started_at)
        except Stopped as stopped:
            # Not reported: the pod's status says who ended it, and an endpoint that is away would be waited for.
            outcome = Outcome(_nobody_told(started_at), str(stopped))
            self._say(outcome)
            write_message(self._settings.termination_log, _message(outcome, UNDELIVERED), self._log)
            raise
        except NotStarted as failure:
            outcome = Outcome(_nobody_told(started_at), str(failure))
        except OSError as failure:
            outcome = Outcome(_nobody_told(started_at), f"the control folder cannot be read: {failure.strerror}")
        self._say(outcome)
        # Before the report, which may be waited with for minutes: whatever ends this process then, the result is told.
        message = _message(outcome, UNDELIVERED)
        write_message(self._settings.termination_log, message, self._log)
        told = _message(outcome, self._report(outcome))
        if told != message:
            write_message(self._settings.termination_log, told, self._log)
        if self._store is not None:
            self._drop_view(self._store)
        return outcome

    def _settle_outcome(self, started_at: int) -> Outcome:
        record = read_exit(self._settings.control_dir)
        if record is None:
            return Outcome(_nobody_told(started_at), "the task was killed before it could write its exit code")
        outcome = Outcome(record, record.error)
        changed = self._changed_inputs()
        if outcome.reason is not None:
            return outcome
        if changed:
            # All tasks that read a blob read one file, so this one wrote to it or read what another wrote, and whatever
            # it did after that says nothing. Neither times nor link counts tell who it was: another task may have come
            # and gone meanwhile.
            outcome.disrupted = True
            outcome.reason = (
                f"input {', '.join(escape(name) for name in changed)} was changed while the task ran; "
                "its cached copy is quarantined and the attempt repeated"
            )
            return outcome
        if record.exit_code != 0:
            return outcome
        try:
            plan = None if self._nothing_to_store else self._plan()
            if plan is not None and plan.outputs:
                self._store_outputs(plan, outcome)
        except (EndpointError, PlanRefused) as failure:
            outcome.reason = f"the outputs were not stored: {failure}"
        return outcome

    def _work_ahead(self) -> None:
        """While the task runs: ask for the plan, and wait for the disk on behalf of the blobs that fetch brought."""
        try:
            if not self._nothing_to_store:
                self._ahead = (time.monotonic(), self._endpoint.plan())
        except (EndpointError, PlanRefused):
            pass  # It is asked for again when the task has ended, and whatever is wrong then is the reason.
        finally:
            self._asked_ahead.set()
        if self._store is None or self._manifest is None:
            return
        from agent.store import CacheFault

        for _, digest in manifest_digests(self._manifest):
            with contextlib.suppress(CacheFault, NameRefused):
                self._store.settle(digest)

    def _changed_inputs(self) -> list[str]:
        """Inputs whose blob was written to; each such blob is quarantined, whatever becomes of the task."""
        changed: list[str] = []
        if self._store is None or self._manifest is None:
            return changed
        from agent.store import CacheFault

        for name, digest in manifest_digests(self._manifest):
            try:
                if not self._store.check_view_link(digest, name):
                    changed.append(name)
                    self._store.quarantine_linked(digest, name)
            except (CacheFault, NameRefused) as fault:
                self._log.line(f"Input {escape(name)} could not be checked: {logs.one_line(str(fault))}")
        return changed

    def _store_outputs(self, plan: Plan, outcome: Outcome) -> None:
        from agent.outputs import MadeContent, OutputRefused, open_output
        from agent.upload import Uploader, UploadFailed

        uploader = Uploader(
            self._web,
            self._endpoint,
            self._log,
            plan.single_put_limit,
            self._fresh,
            compress=self._settings.compress,
            lib_dir=self._settings.lib_dir,
        )
        into = self._cache_for_outputs(plan)

        def store(output: PlannedOutput) -> "StoredOutput":
            with open_output(self._settings.artifacts, output.name) as content:
                stored = uploader.store(output, content, into(content))
            packed = "" if stored.stored is None else f", {stored.stored.size} compressed"
            self._log.line(f"Stored output {escape(stored.name)}, {stored.size} bytes{packed}")
            return stored

        try:
            outcome.outputs = for_each(plan.outputs, self._settings.parallel, store)
        except (OutputRefused, UploadFailed, NameRefused) as failure:
            outcome.reason = str(failure)
            return
        if plan.manifest is None or fits(_document_of(outcome, UNDELIVERED)):
            return
        listed = compact({"v": 1, "outputs": _listed(outcome)})
        try:
            outcome.manifest = uploader.store_list(plan.manifest, MadeContent(plan.manifest.name, listed))
        except (UploadFailed, EndpointError, PlanRefused) as failure:
            # Only an attempt whose report is lost as well would need it.
            self._log.line(logs.error(str(failure)))

    def _cache_for_outputs(self, plan: Plan) -> "Callable[[Content], Warming | None]":
        """How an output gets into this node's cache: by this step's own hand where it may, else through the keeper."""
        from agent.warm import IntoFolder, IntoKeeper

        cache, url = self._settings.cache_dir, plan.keeper_url
        if not plan.cache_enabled:
            return lambda _content: None
        if cache is not None:
            from agent.store import CacheFault, Store

            store = Store(cache, self._settings.job)
            with contextlib.suppress(CacheFault):
                store.prepare()
                self._store = store  # its view, empty or not, goes at the end
                return lambda content: IntoFolder(store, content, self._log)
        if url is not None:
            return lambda content: IntoKeeper(self._web, url, content, self._log)
        return lambda _content: None

    def _plan(self) -> Plan:
        self._asked_ahead.wait(PLAN_AHEAD_SECONDS)
        ahead = self._ahead
        if ahead is not None and time.monotonic() - ahead[0] < PLAN_FRESH_SECONDS:
            return ahead[1]
        return self._endpoint.plan()

    def _fresh(self, output: PlannedOutput) -> PlannedOutput:
        plan = self._endpoint.plan()
        for fresh in plan.outputs if plan.manifest is None else (*plan.outputs, plan.manifest):
            if fresh.name == output.name and fresh.key == output.key:
                return fresh
        raise PlanRefused(f"output {escape(output.name)} is no longer in the plan")

    def _drop_view(self, store: "Store") -> None:
        from agent.store import CacheFault

        with contextlib.suppress(CacheFault):
            store.drop_view()

    def _say(self, outcome: Outcome) -> None:
        record = outcome.record
        how = "Task ended with exit code " + ("unknown" if record.exit_code is None else str(record.exit_code))
        if record.timed_out:
            how += ", timed out"
        self._log.line(how)
        if outcome.reason is not None:
            self._log.line(logs.error(outcome.reason))

    def _report(self, outcome: Outcome) -> str:
        """The endpoint's word on the report, or UNDELIVERED: then the termination message serves alone."""
        try:
            return self._endpoint.result(self._document(outcome))
        except AttemptOver as over:
            self._log.line(logs.error(str(over)))
            return "refused"
        except EndpointError as failure:
            self._log.line(logs.error(f"the report was not delivered: {failure}"))
            return UNDELIVERED

    def _document(self, outcome: Outcome) -> dict[str, object]:
        record, attempt = outcome.record, self._settings.attempt
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
            "fetch": self._manifest,
            "outputs": [stored.document() for stored in outcome.outputs],
            "reason": outcome.reason,
            "disrupted": outcome.disrupted,
            "startedAt": record.started_at,
            "endedAt": record.ended_at,
            "publishedAt": now_ms(),
        }


def _message(outcome: Outcome, delivered: str) -> bytes:
    document = _document_of(outcome, delivered)
    if not fits(document):
        del document["stored"]
        document["manifest"] = outcome.manifest
    return fitted(document, "reason")


def _listed(outcome: Outcome) -> list[object]:
    return [
        [stored.name, stored.size, stored.sha256, stored.archive, *([stored.stored.size] if stored.stored else [])]
        for stored in outcome.outputs
    ]


def _document_of(outcome: Outcome, delivered: str) -> dict[str, object]:
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
        "stored": _listed(outcome),
        "cpuMs": record.cpu_ms,
        "peakMemoryBytes": record.peak_memory_bytes,
        "startedAt": record.started_at,
        "endedAt": record.ended_at,
        "report": delivered,
        "disrupted": outcome.disrupted,
        "reason": outcome.reason,
    }


def _nobody_told(started_at: int) -> ExitRecord:
    return ExitRecord(None, None, False, 0, 0, started_at, now_ms(), None)


def _read_fetch_manifest(state_dir: str) -> dict[str, Json] | None:
    try:
        fd = os.open(f"{state_dir}/fetch.json", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            return read_manifest(file.read())
    except OSError:
        return None


def _open_store(settings: PublishSettings) -> "Store | None":
    """None when this step does not see the cache, or fetch made no view in it because nothing came from there."""
    if settings.cache_dir is None or not os.access(f"{settings.cache_dir}/views/{check_view(settings.job)}", os.W_OK):
        return None
    from agent.store import Store

    return Store(settings.cache_dir, settings.job)


def _stop(_number: int, _frame: object) -> None:
    raise Stopped("its pod was ended before its task started")


def publish_verb(env: Mapping[str, str]) -> int:
    """The verb: 0 when the attempt is good, 1 when not, 2 for a wrong environment, 143 when ended before the start."""
    log = Log()
    try:
        settings = publish_settings(env)
        # As a container's first process Python would ignore SIGTERM, and a deleted pod would wait out its whole grace
        # period. Once the task runs that is right: it is told to end as well, and its end is to be reported.
        signal.signal(signal.SIGTERM, _stop)
        outcome = publish(settings, log, on_start=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    except Stopped:
        return 128 + signal.SIGTERM
    except NotFetched as failure:
        # No message of its own: fetch's says why, and the report would only repeat it.
        log.line(logs.error(str(failure)))
        return 1
    except (SettingsError, NameRefused) as error:
        log.line(logs.error(str(error)))
        return 2
    return 0 if outcome.good else 1
