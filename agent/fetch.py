# pathlib costs ten milliseconds at every start:
# ruff: noqa: PTH101, PTH102
"""fetch: bring every input of a task into its artifacts folder, and say what was a hit and what was not.

agent.bring does the bringing; it is imported only for a plan that has inputs.
"""

import contextlib
import os
import signal
import time
from collections.abc import Mapping

from agent import logs
from agent.endpoint import Endpoint, EndpointError, NotCurrent
from agent.folders import write_whole
from agent.frozen import TYPE_CHECKING
from agent.gate import Gate, wait_for_hook
from agent.handover import note_nothing_to_store, place_wrapper, write_message
from agent.logs import Log
from agent.manifest import InputOutcome, compact, fetch_manifest, fetch_message
from agent.names import NameRefused, check_view
from agent.pace import now_ms
from agent.parallel import for_each
from agent.plan import PlannedInput, PlanRefused
from agent.progress import Progress
from agent.settings import FetchSettings, SettingsError, fetch_settings
from agent.web import Web

if TYPE_CHECKING:
    from threading import Semaphore


class FetchFailed(Exception):
    """An input could not be brought; the message names it."""


def fetch(
    settings: FetchSettings,
    log: Log,
    web: Web | None = None,
    progress: Progress | None = None,
    downloads: "Semaphore | None" = None,
) -> dict[str, object]:
    """Brings all inputs and returns the manifest (agent.manifest), `ok` false with an `error` when it failed. Each
    download takes one of `downloads`, which other fetches of this process share.

    The manifest is also in <state dir>/fetch.json and, shortened to fit, in the termination log.
    """
    began = time.monotonic()
    log.line(logs.starting(settings.attempt.task))
    run = _Fetch(settings, log, web or Web(), progress or Progress(), downloads)
    error: str | None = None
    disrupted = False
    try:
        run.prepare()
        run.bring_all()
    except (EndpointError, PlanRefused, FetchFailed, NameRefused) as failure:
        error = str(failure)
        # Nobody asks how this ended, unless Redis forgot that the attempt is over: then it is to be repeated.
        disrupted = isinstance(failure, NotCurrent)
    manifest = fetch_manifest(
        run.outcomes(),
        cache_enabled=run.cache_enabled,
        error=error,
        disrupted=disrupted,
        elapsed_ms=int((time.monotonic() - began) * 1000),
        ended_at=now_ms(),
    )
    try:
        write_whole(f"{settings.state_dir}/fetch.json", compact(manifest))
    except OSError as failure:
        log.line(logs.error(f"the manifest cannot be written: {failure.strerror}"))
    write_message(settings.termination_log, fetch_message(manifest), log)
    log.line(logs.COMPLETED if error is None else logs.error(error))
    if error is None:
        run.let_the_task_start()
    return manifest


class _Fetch:
    """One run of fetch: the plan, and what has come in so far."""

    def __init__(
        self, settings: FetchSettings, log: Log, web: Web, progress: Progress, downloads: "Semaphore | None"
    ) -> None:
        self.cache_enabled = settings.cache_enabled
        self._settings = settings
        self._log = log
        self._web = web
        self._progress = progress
        self._downloads = downloads
        self._endpoint = Endpoint(web, settings.attempt, log)
        self._inputs: tuple[PlannedInput, ...] = ()
        self._brought: dict[str, InputOutcome] = {}
        self._gate: Gate | None = None

    def outcomes(self) -> list[InputOutcome]:
        """What was brought, in the plan's order."""
        return [self._brought[item.name] for item in self._inputs if item.name in self._brought]

    def prepare(self) -> None:
        """What the task's container is made of has to be in place before all else."""
        try:
            if self._settings.gate_dir is not None:
                self._gate = Gate(self._settings.gate_dir)
            if self._settings.wrapper is not None:
                place_wrapper(self._settings.wrapper)
            if self._gate is not None:
                self._place_view()
                self._gate.place()
        except OSError as failure:
            raise FetchFailed(f"the task's wrapper cannot be put in place: {failure.strerror}") from None

    def let_the_task_start(self) -> None:
        if self._gate is not None:
            self._gate.open()

    def bring_all(self) -> None:
        volume = self._settings.volume
        if volume is not None and not volume.inputs:
            self._log.line(logs.planned(0, self.cache_enabled))
            return
        plan = self._endpoint.plan()
        self._progress.planned(plan.inputs)
        self._inputs = plan.inputs
        self.cache_enabled = self._settings.cache_enabled and plan.cache_enabled
        self._log.line(logs.planned(len(plan.inputs), self.cache_enabled))
        if volume is None and not plan.outputs:
            with contextlib.suppress(OSError):
                note_nothing_to_store(self._settings.state_dir)
        if plan.inputs:
            self._bring_inputs(locate=plan.locate)

    def _place_view(self) -> None:
        """A view that is not there when the task's container is made would be made for it, as root's. A cache that is
        broken is no reason to fail: then the inputs go elsewhere, and nobody looks into the view.
        """
        cache = self._settings.cache_dir
        if not self.cache_enabled or not os.access(cache, os.F_OK):
            return
        view = f"{cache}/views/{check_view(self._settings.job)}"
        try:
            os.mkdir(view)
            os.chmod(view, 0o755)  # noqa: S103  # any user, whatever the umask
        except FileExistsError:
            pass
        except OSError:
            from agent.store import CacheFault, Store

            with contextlib.suppress(CacheFault):
                Store(cache, self._settings.job).prepare()

    def _bring_inputs(self, *, locate: bool) -> None:
        from agent.bring import Bringer, InputFailed  # with the store and all that it needs, half of the agent

        bringer = Bringer(
            self._settings,
            self._log,
            self._web,
            self._endpoint,
            self._progress,
            self._downloads,
            cache_enabled=self.cache_enabled,
            locate=locate,
        )

        def bring(item: PlannedInput) -> None:
            self._brought[item.name] = bringer.bring(item)

        try:
            with bringer.open_cache():
                for_each(self._inputs, self._settings.parallel, bring)
        except InputFailed as failure:
            raise FetchFailed(str(failure)) from None


def fetch_verb(env: Mapping[str, str]) -> int:
    """The verb: 0 when every input is in place, 1 when not, 2 for a wrong environment."""
    log = Log()
    try:
        settings = fetch_settings(env)
    except SettingsError as error:
        log.line(logs.error(str(error)))
        return 2
    # As a container's first process Python would ignore SIGTERM, and a deleted pod would wait out its whole grace
    # period.
    signal.signal(signal.SIGTERM, lambda _number, _frame: os._exit(128 + signal.SIGTERM))
    ok = fetch(settings, log)["ok"]
    code = 0 if ok else 1
    if settings.gate_dir is not None:
        # kubelet ends this container when the hook fails. What fetch had to do is done by now, and the task may run.
        signal.signal(signal.SIGTERM, lambda _number, _frame: os._exit(code))
        wait_for_hook(settings.gate_dir)
    return code
