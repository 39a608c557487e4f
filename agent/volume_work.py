# ruff: noqa: PTH208
"""The two steps of a task whose volume the node's agent serves, done in the agent's own process: `bring` before the
task starts and `store` after its end; `look_ahead` while it runs; `report_failure` where there is no end to wait for.

They are fetch and publish, with the same manifest, causes and log lines; what differs is stated in
agent.settings.CsiForm. They block, and none raises for what can go wrong in a task's work; each may be called from any
thread, for hundreds of volumes at once, with one Web and one Shared for all. Each may be called again after the agent
was restarted: what was finished is in the volume's state folder, which is the agent's alone, and is not done twice. One
volume's steps are never called side by side.

The task's folder is the task's: nothing below it is opened through a link, and its outputs are closed to whoever lives
on after the task's end before they are read (agent.warm).
"""

import contextlib
import os
import threading
from collections.abc import Generator, Mapping

from agent.control import ExitRecord
from agent.documents import Json
from agent.endpoint import AttemptOver, Endpoint, EndpointError, Refused
from agent.fetch import fetch
from agent.folders import opened, remove_tree
from agent.frozen import Frozen
from agent.kept import Kept, stored_output
from agent.lines import Lines
from agent.locks import try_lock
from agent.logs import PREFIX, Log, error, one_line
from agent.names import HELIOS_FOLDER, NameRefused, check_view
from agent.packing import SLOTS
from agent.progress import Progress
from agent.publish import Ahead, Publication, read_fetch_manifest, started_at
from agent.report import Outcome, deliver, nobody_told, report_document
from agent.saved import read_saved, save
from agent.settings import Attempt, CsiForm, FetchSettings, PublishSettings
from agent.web import Web

VIEW_LINK = f"{HELIOS_FOLDER}/inputs"
"""Where the task sees its view, below its folder."""
AT_WORK_SECONDS = 10.0
"""From one word to the collector that the attempt is worked for to the next."""
LAST_LINES_SECONDS = 2.0
"""How long `store` waits for the last lines of its log to be sent, once the report is; they go on by themselves."""
DOWNLOADS_AT_ONCE = 16
"""Each has buffers of a few megabytes. What is in the cache waits for none of them."""
UPLOADS_AT_ONCE = 16


class VolumeTask(Frozen):
    """A task and its volume on this node; paths are absolute."""

    attempt: Attempt
    job: str
    """Names its view."""
    cache_dir: str
    cache_enabled: bool
    artifacts: str
    """The task's folder, which is its user's, on the cache's file system and in the same mount."""
    control_dir: str
    state_dir: str
    """The agent's alone; made by the caller, gone with the volume."""
    user: int
    """The task's uid and gid."""
    inputs: int
    """How many it declared."""
    outputs: int
    parallel: int
    """How many inputs are brought, or outputs stored, at the same time."""
    compress: bool
    lib_dir: str | None
    """Where agent.zstd looks for its library."""
    limit_bytes: int
    """No output may have more (HELIOS_VOLUME_BYTES); 0: no limit."""


class Shared:
    """What bounds the threads and the memory of all volumes' work in one process together."""

    def __init__(self) -> None:
        self.downloads = threading.Semaphore(DOWNLOADS_AT_ONCE)
        self.uploads = threading.Semaphore(UPLOADS_AT_ONCE)
        self.packing = threading.Semaphore(SLOTS)


def bring(
    task: VolumeTask, log: Log, web: Web, progress: Progress | None = None, shared: Shared | None = None
) -> dict[str, object]:
    """fetch: brings the inputs into the task's folder and returns the manifest, `ok` false with an `error` when it
    failed. It is not reported yet: see report_failure. Afterwards the view to be mounted at VIEW_LINK is
    <cache>/views/<job>, if that is there; a cache that is broken or off has none, and links to none.

    `progress` says meanwhile how far it is.
    """
    if (before := _brought(task)) is not None:
        return before
    told = _at_work(Endpoint(web, task.attempt, log)) if task.inputs else contextlib.nullcontext()
    with told, _step_log(task, "fetch", log, web) as step_log:
        try:
            _empty(task.artifacts)
        except OSError as failure:
            # Whatever is in its way is so for fetch as well, which says what it was bringing.
            log.line(error(f"{_whose(task)}: its folder cannot be emptied: {failure.strerror}"))
        manifest = fetch(_fetch_settings(task), step_log, web, progress, (shared or Shared()).downloads)
        if manifest["inputs"]:  # else it may be anybody's who is called the same
            _note_view(task)
        return manifest


def look_ahead(task: VolumeTask, log: Log, web: Web) -> Ahead:
    """To be called when the task has started, for `store`: what is asked for meanwhile is not waited for after the end.
    Returns at once.
    """
    ahead = Ahead(_publish_settings(task), log, web)
    ahead.begin()
    return ahead


def store(task: VolumeTask, log: Log, web: Web, ahead: Ahead | None = None, shared: Shared | None = None) -> Outcome:
    """publish, from the task's end on: stores the outputs and reports. The outcome's `told` is the collector's word, or
    "undelivered" when it was away for all of the attempt's patience: then this is to be called again.

    A report that was settled before, even by report_failure, is the one that is delivered.
    """
    endpoint = Endpoint(web, task.attempt, log)
    kept = Kept(task.state_dir)
    with _at_work(endpoint), _step_log(task, "publish", log, web, LAST_LINES_SECONDS) as step_log:
        settled = kept.report()
        if settled is None:
            bounds = shared or Shared()
            settings = _publish_settings(task)
            publication = Publication(settings, step_log, web, ahead, bounds.packing, bounds.uploads)
            outcome = publication.settle(kept)
            report = _report(task, outcome, final=False)
            _keep(kept, report, step_log)
            outcome.told = deliver(Endpoint(web, task.attempt, step_log), report, step_log)
        else:
            outcome = _outcome_of(settled)
            outcome.told = deliver(Endpoint(web, task.attempt, step_log), settled, step_log)
        drop_view(task)
        return outcome


def report_failure(
    task: VolumeTask, log: Log, web: Web, reason: str, *, disrupted: bool = False, final: bool = True
) -> str:
    """Reports an attempt that failed before or without its task's end: with bring's `error`, for its quota, for a
    restart of the node. bring's manifest goes with it. `final`: no status of the pod would say more.

    Returns the collector's word as in Outcome.told; "undelivered": to be called again. The first report that was
    settled, here or by store, is the one that is delivered.
    """
    kept = Kept(task.state_dir)
    report: Mapping[str, object] | None = kept.report()
    if report is None:
        began = started_at(task.control_dir)
        outcome = Outcome(nobody_told(began or 0), reason)
        outcome.disrupted = disrupted
        report = _report(task, outcome, final=final)
        if began is None:
            report |= dict.fromkeys(("startedAt", "endedAt", "cpuMs", "peakMemoryBytes"))
        _keep(kept, report, log)
    told = deliver(Endpoint(web, task.attempt, log), report, log)
    drop_view(task)
    return told


def drop_view(task: VolumeTask) -> None:
    """The attempt holds no blobs any more; for when its task reads none any more. A view that a task still holds, or
    that another pod of the same Job has taken over, stays.
    """
    with contextlib.suppress(OSError, NameRefused), opened(f"{task.cache_dir}/views") as views:
        name = check_view(task.job)
        view = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=views)
        try:
            if not try_lock(view):
                return
            if _state(view) == read_saved(f"{task.state_dir}/view").get("state"):
                remove_tree(name, views)
            else:
                os.rmdir(name, dir_fd=views)  # made for the outputs, if it is empty
        finally:
            os.close(view)


def _note_view(task: VolumeTask) -> None:
    """By its age, which is the end of the last `bring` into it, a view is known again."""
    with contextlib.suppress(OSError, NameRefused), opened(f"{task.cache_dir}/views/{check_view(task.job)}") as view:
        save(f"{task.state_dir}/view", {"v": 1, "state": _state(view)})


def _state(view: int) -> list[int]:
    status = os.fstat(view)
    return [status.st_ino, status.st_mtime_ns]


def _fetch_settings(task: VolumeTask) -> FetchSettings:
    return FetchSettings(
        attempt=task.attempt,
        cache_enabled=task.cache_enabled,
        cache_dir=task.cache_dir,
        job=task.job,
        artifacts=task.artifacts,
        state_dir=task.state_dir,
        termination_log=None,
        parallel=task.parallel,
        wrapper=None,
        gate_dir=None,
        lib_dir=task.lib_dir,
        volume=_csi_form(task),
    )


def _publish_settings(task: VolumeTask) -> PublishSettings:
    return PublishSettings(
        attempt=task.attempt,
        cache_dir=task.cache_dir if task.cache_enabled else None,
        job=task.job,
        artifacts=task.artifacts,
        control_dir=task.control_dir,
        state_dir=task.state_dir,
        termination_log=None,
        parallel=task.parallel,
        gate_dir=None,
        start_patience_seconds=None,
        compress=task.compress,
        lib_dir=task.lib_dir,
        volume=_csi_form(task),
    )


def _csi_form(task: VolumeTask) -> CsiForm:
    return CsiForm(task.user, VIEW_LINK, task.inputs, task.outputs, task.limit_bytes)


def _brought(task: VolumeTask) -> dict[str, object] | None:
    """The manifest of an earlier `bring`, if that had succeeded and what it brought is still there."""
    manifest = read_fetch_manifest(task.state_dir)
    if manifest is None or manifest.get("ok") is not True:
        return None
    linked = manifest.get("cacheEnabled") is True and manifest.get("inputs")
    if linked and not os.access(f"{task.cache_dir}/views/{task.job}", os.F_OK):
        return None
    return dict(manifest)


def _empty(artifacts: str) -> None:
    """Takes away what an earlier `bring` had begun; the task has not started. May raise OSError."""
    with opened(artifacts) as root:
        for name in os.listdir(root):
            if name != HELIOS_FOLDER:  # what is mounted there must not be walked into
                remove_tree(name, root)


def _report(task: VolumeTask, outcome: Outcome, *, final: bool) -> dict[str, object]:
    manifest = read_fetch_manifest(task.state_dir)
    return {**report_document(task.attempt, outcome, manifest), "form": "csi", "final": final}


def _keep(kept: Kept, report: Mapping[str, object], log: Log) -> None:
    try:
        kept.note_report(report)
    except OSError as failure:  # an agent that dies now does all this again
        log.line(error(f"the report cannot be noted: {failure.strerror}"))


def _outcome_of(report: Mapping[str, Json]) -> Outcome:
    exit_code, signal, reason = report.get("exitCode"), report.get("signal"), report.get("reason")
    outputs = report.get("outputs")
    record = ExitRecord(
        exit_code=exit_code if isinstance(exit_code, int) else None,
        signal=signal if isinstance(signal, str) else None,
        timed_out=report.get("timedOut") is True,
        cpu_ms=_whole(report, "cpuMs"),
        peak_memory_bytes=_whole(report, "peakMemoryBytes"),
        started_at=_whole(report, "startedAt"),
        ended_at=_whole(report, "endedAt"),
        error=None,
    )
    outcome = Outcome(record, reason if isinstance(reason, str) else None)
    outcome.disrupted = report.get("disrupted") is True
    listed = [stored_output(each) for each in outputs if isinstance(each, dict)] if isinstance(outputs, list) else []
    outcome.outputs = [each for each in listed if each is not None]
    return outcome


def _whole(report: Mapping[str, Json], name: str) -> int:
    value = report.get(name)
    return value if isinstance(value, int) else 0


def _whose(task: VolumeTask) -> str:
    return one_line(f"{task.attempt.run_id} {task.attempt.task} attempt {task.attempt.attempt}")


@contextlib.contextmanager
def _step_log(task: VolumeTask, step: str, log: Log, web: Web, wait_seconds: float = 0.0) -> Generator[Log]:
    """A log whose lines go to the collector as they are, and to the agent's own with whose they are."""
    lines = Lines(web, task.attempt, step, task.state_dir)
    whose = f"{_whose(task)} {step}"

    def write(data: bytes) -> None:
        log.line(f"{whose}: {data.decode('utf-8', 'replace').removeprefix(PREFIX).rstrip()}")
        lines.add(data)

    try:
        yield Log(write)
    finally:
        lines.close()
        if wait_seconds:
            lines.wait(wait_seconds)


@contextlib.contextmanager
def _at_work(endpoint: Endpoint) -> Generator[None]:
    """Tells again and again that inputs are being brought or outputs stored, which may have nothing to log for long, so
    that nobody takes the pod for stuck or judges it without them.
    """
    over = threading.Event()

    def tell() -> None:
        while not over.wait(AT_WORK_SECONDS):
            try:
                endpoint.at_work()
            except (AttemptOver, Refused):
                return
            except EndpointError:
                continue

    teller = threading.Thread(target=tell, name="at work", daemon=True)
    with contextlib.suppress(RuntimeError):  # without a thread nobody is told
        teller.start()
    try:
        yield
    finally:
        over.set()
