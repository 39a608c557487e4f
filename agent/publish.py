# pathlib costs ten milliseconds at every start:
# ruff: noqa: PTH116, PTH123
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
from agent.control import NotStarted, Stopped, read_exit, wait_for_end, wait_for_start
from agent.documents import Json
from agent.endpoint import Endpoint, EndpointError, NotCurrent
from agent.frozen import TYPE_CHECKING
from agent.gate import wait_for_fetch
from agent.handover import nothing_to_store, write_message
from agent.logs import Log
from agent.manifest import compact, fits, manifest_digests, read_manifest
from agent.names import NameRefused, check_view, escape
from agent.pace import now_ms
from agent.parallel import for_each
from agent.plan import Plan, PlannedOutput, PlanRefused
from agent.report import UNDELIVERED, Outcome, deliver, listed, message, message_document, nobody_told, report_document
from agent.settings import PublishSettings, SettingsError, publish_settings
from agent.web import Web

# Loaded only for a task that has inputs in the cache, or outputs to store.
if TYPE_CHECKING:
    from agent.kept import Kept
    from agent.outputs import Content
    from agent.store import Store
    from agent.upload import StoredOutput
    from agent.warm import Warming

PLAN_FRESH_SECONDS = 300.0
"""A plan asked for while the task ran is used for this long; its URLs may have expired after that."""
PLAN_AHEAD_SECONDS = 1.0
"""How long the answer to that is waited for, once the task has ended, before it is asked for again."""


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
    return Publication(settings, log, web or Web()).run(on_start)


class Ahead:
    """What can be done while the task runs: asking for the plan, and waiting for the disk on behalf of the blobs that
    fetch brought.
    """

    def __init__(self, settings: PublishSettings, log: Log, web: Web) -> None:
        self._endpoint = Endpoint(web, settings.attempt, log)
        self._manifest = read_fetch_manifest(settings.state_dir)
        self._store = _open_store(settings)
        self._nothing_to_store = _stores_nothing(settings)
        self._plan: tuple[float, Plan] | None = None
        self._asked = threading.Event()

    def begin(self) -> None:
        if self._store is not None or not self._nothing_to_store:
            threading.Thread(target=self._work, daemon=True).start()

    def plan(self) -> Plan | None:
        """The plan, if there is a fresh one by now or very soon."""
        self._asked.wait(PLAN_AHEAD_SECONDS)
        found = self._plan
        return found[1] if found is not None and time.monotonic() - found[0] < PLAN_FRESH_SECONDS else None

    def _work(self) -> None:
        try:
            if not self._nothing_to_store:
                self._plan = (time.monotonic(), self._endpoint.plan())
        except (EndpointError, PlanRefused):
            pass  # It is asked for again when the task has ended, and whatever is wrong then is the reason.
        finally:
            self._asked.set()
        if self._store is None or self._manifest is None:
            return
        from agent.store import CacheFault

        for _, digest in manifest_digests(self._manifest):
            with contextlib.suppress(CacheFault, NameRefused):
                self._store.settle(digest)


class Publication:
    """One run of publish. Of a volume's task, `packing` is what all outputs that the agent compresses share, and
    `uploads` what all share that it stores.
    """

    def __init__(
        self,
        settings: PublishSettings,
        log: Log,
        web: Web,
        ahead: Ahead | None = None,
        packing: threading.Semaphore | None = None,
        uploads: threading.Semaphore | None = None,
    ) -> None:
        self._settings = settings
        self._log = log
        self._web = web
        self._endpoint = Endpoint(web, settings.attempt, log)
        self._manifest = read_fetch_manifest(settings.state_dir)
        self._store = _open_store(settings)
        self._nothing_to_store = _stores_nothing(settings)
        self._ahead = ahead
        self._packing = packing
        self._uploads = uploads or contextlib.nullcontext()
        self._kept: Kept | None = None

    def settle(self, kept: "Kept") -> Outcome:
        """The middle of `run`, for a task that has ended and whose volume this agent serves: stores what was not stored
        before. The report, and then `finish`, are left to the caller.
        """
        self._kept = kept
        outcome = self._settle_outcome(started_at(self._settings.control_dir) or now_ms())
        self._say(outcome)
        return outcome

    def finish(self) -> None:
        """The attempt holds no blobs any more."""
        if self._store is not None:
            self._drop_view(self._store)

    def run(self, on_start: Callable[[], object]) -> Outcome:
        started_at = now_ms()
        try:
            started_at = wait_for_start(self._settings.control_dir, self._settings.start_patience_seconds)
            on_start()
            self._ahead = Ahead(self._settings, self._log, self._web)
            self._ahead.begin()
            wait_for_end(self._settings.control_dir)
            outcome = self._settle_outcome(started_at)
        except Stopped as stopped:
            # Not reported: the pod's status says who ended it, and an endpoint that is away would be waited for.
            outcome = Outcome(nobody_told(started_at), str(stopped))
            self._say(outcome)
            write_message(self._settings.termination_log, message(outcome, UNDELIVERED), self._log)
            raise
        except NotStarted as failure:
            outcome = Outcome(nobody_told(started_at), str(failure))
        except OSError as failure:
            outcome = Outcome(nobody_told(started_at), f"the control folder cannot be read: {failure.strerror}")
        self._say(outcome)
        # Before the report, which may be waited with for minutes: whatever ends this process then, the result is told.
        untold = message(outcome, UNDELIVERED)
        write_message(self._settings.termination_log, untold, self._log)
        outcome.told = deliver(
            self._endpoint, report_document(self._settings.attempt, outcome, self._manifest), self._log
        )
        told = message(outcome, outcome.told)
        if told != untold:
            write_message(self._settings.termination_log, told, self._log)
        self.finish()
        return outcome

    def _settle_outcome(self, started_at: int) -> Outcome:
        record = read_exit(self._settings.control_dir)
        if record is None:
            return Outcome(nobody_told(started_at), "the task was killed before it could write its exit code")
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
            outcome.disrupted = isinstance(failure, NotCurrent)
        return outcome

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
            packing=self._packing,
        )
        into = self._cache_for_outputs(plan)
        volume, kept = self._settings.volume, self._kept
        limit = volume.limit_bytes if volume is not None else 0

        def store(output: PlannedOutput) -> "StoredOutput":
            if kept is not None and (before := kept.stored(output)) is not None:
                return before
            with self._uploads, open_output(self._settings.artifacts, output.name, limit) as content:
                warming = into(content)
                stored = uploader.store(output, content, warming)
                if kept is not None:
                    self._note_stored(kept, stored, warming)
            packed = "" if stored.stored is None else f", {stored.stored.size} compressed"
            self._log.line(f"Stored output {escape(stored.name)}, {stored.size} bytes{packed}")
            return stored

        try:
            outcome.outputs = for_each(plan.outputs, self._settings.parallel, store)
        except (OutputRefused, UploadFailed, NameRefused) as failure:
            outcome.reason = str(failure)
            return
        if plan.manifest is None or fits(message_document(outcome, UNDELIVERED)):
            return
        outputs = compact({"v": 1, "outputs": listed(outcome)})
        try:
            outcome.manifest = uploader.store_list(plan.manifest, MadeContent(plan.manifest.name, outputs))
        except (UploadFailed, EndpointError, PlanRefused) as failure:
            # Only an attempt whose report is lost as well would need it.
            self._log.line(logs.error(str(failure)))

    def _note_stored(self, kept: "Kept", stored: "StoredOutput", warming: "Warming | None") -> None:
        try:
            kept.note_stored(stored)
        except OSError as failure:
            # Whoever had to go on from here would store it again: it must not be taken out of the task's folder.
            self._log.line(logs.error(f"what is stored cannot be noted: {failure.strerror}"))
            return
        if stored.warm and warming is not None:
            warming.leave(self._settings.artifacts)

    def _cache_for_outputs(self, plan: Plan) -> "Callable[[Content], Warming | None]":
        """How an output gets into this node's cache: by this step's own hand where it may, else through the keeper."""
        from agent.warm import IntoFolder, IntoKeeper, from_volume

        cache, url = self._settings.cache_dir, plan.keeper_url
        if not plan.cache_enabled:
            return lambda _content: None
        if cache is not None:
            from agent.store import CacheFault, Store

            store = Store(cache, self._settings.job)
            with contextlib.suppress(CacheFault):
                store.prepare()
                self._store = store  # its view, empty or not, goes at the end
                if self._settings.volume is not None:
                    return lambda content: from_volume(store, content, self._log)
                return lambda content: IntoFolder(store, content, self._log)
        if url is not None:
            return lambda content: IntoKeeper(self._web, url, content, self._log)
        return lambda _content: None

    def _plan(self) -> Plan:
        ahead = self._ahead.plan() if self._ahead is not None else None
        return ahead or self._endpoint.plan()

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


def _stores_nothing(settings: PublishSettings) -> bool:
    if settings.volume is not None:
        return settings.volume.outputs == 0
    return nothing_to_store(settings.state_dir)


def started_at(control_dir: str) -> int | None:
    """When the wrapper wrote that its task starts, in epoch ms; None if it did not."""
    try:
        return os.stat(f"{control_dir}/started", follow_symlinks=False).st_mtime_ns // 1_000_000
    except OSError:
        return None


def read_fetch_manifest(state_dir: str) -> dict[str, Json] | None:
    """What fetch wrote; None where it wrote nothing."""
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
