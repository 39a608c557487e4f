# pathlib costs ten milliseconds at every start:
# ruff: noqa: PTH102, PTH103, PTH112
"""One task's volume: its life on the disk, what kubelet asks of it, and the thread that goes with it.

    <cache>/volumes/<id>/volume.json   see agent.volume_record
                        /artifacts/    the task's folder; its uid's
                        /control/      agent/control.py; its uid's
                        /lock          the same file as control/lock, which the task may unlink there
                        /state/        the agent's own notes of fetch and publish

kubelet's calls come from any thread, as often as kubelet likes. The volume's own thread brings the inputs, waits for
the task's start and end and stores the outputs; it ends when the attempt's result is told and kubelet has given the
volume up, and the folder goes then. Whatever is needed to go on is in volume.json before anybody relies on it, so a
process may end anywhere and the next one goes on.
"""

import contextlib
import os
import threading
import time

from agent.appearances import Appearances
from agent.control import is_held, wait_for_end
from agent.frozen import Frozen
from agent.logs import Log
from agent.mounts import bind, mounted_below, unmount_below
from agent.names import escape
from agent.pace import Backoff
from agent.progress import Progress
from agent.report import UNDELIVERED
from agent.settings import Attempt, NodeSettings
from agent.trees import bytes_below, bytes_of
from agent.volume_record import Phase, VolumeRecord
from agent.volume_work import Shared, VolumeTask, bring, drop_view, look_ahead, report_failure, store
from agent.web import Web

ABANDONED_SECONDS = 600.0
"""A volume that is not mounted, and for which kubelet has not asked for so long, is not wanted; kubelet's longest pause
is two minutes.
"""
TELL_SECONDS = 10.0
"""At most between two tries to tell a result: far below what a collector takes for silence."""


class VolumeFailed(Exception):
    """The volume's attempt has failed; the message is its reason. Asking again changes nothing."""


class VolumePending(Exception):
    """It is not ready within the time that the caller has; the message says how far it is. To be asked for again."""


class Node(Frozen):
    """What all volumes of a node share."""

    settings: NodeSettings
    wrapper_dir: str
    """Holds the wrapper as `exec`, and empty folders `inputs` and `control`."""
    web: Web
    log: Log
    shared: Shared
    appearances: Appearances

    @property
    def volumes_dir(self) -> str:
        return f"{self.settings.cache_dir}/volumes"


class Volume:
    """One volume, from its first publication until its folder is gone."""

    def __init__(self, name: str, record: VolumeRecord, node: Node) -> None:
        self.name = name
        self.folder = f"{node.volumes_dir}/{name}"
        self.record = record
        self._node = node
        self._changed = threading.Condition(threading.RLock())
        """Guards `record`, `_brought` and `running`."""
        self._brought = False
        self.running = False
        """Between the task's start and its end."""
        self._progress = Progress()
        self._asked_at = time.monotonic()
        """When kubelet was last known to want it."""
        self._stirred = threading.Event()
        """There may be news for the thread that waits for the task's start."""
        self._given_up = threading.Event()
        if not record.published:
            self._given_up.set()
        self._telling = threading.Lock()
        self.gone = threading.Event()
        """Set by whoever removes it."""

    @property
    def given_up(self) -> bool:
        return self._given_up.is_set()

    def publish(self, seconds: float) -> None:
        """Returns once it is mounted where kubelet wants it. Raises VolumeFailed, VolumePending or OSError."""
        with self._changed:
            self._asked_at = time.monotonic()
            self._changed.wait_for(
                lambda: self._brought or self.given_up or self.record.phase is not Phase.BRINGING, seconds
            )
            if self.record.reason is not None:
                raise VolumeFailed(self.record.reason)
            if self.given_up:
                raise VolumePending("it was given up just now")
            if self.record.phase is Phase.BRINGING and not self._brought:
                raise VolumePending(f"fetching: {self._progress.words()}")
            self._mount()
            if self.record.phase is Phase.BRINGING:
                self._turn(phase=Phase.READY)

    def give_up(self) -> None:
        """Unmounts it and leaves the rest to its thread. Raises OSError."""
        with self._changed:
            unmount_below(self.record.target)
            if self.record.published:
                # What fills a disk may well go by this.
                self._turn_anyway(published=False)
            self._given_up.set()
            self._progress.give_up()
            self._stirred.set()
            self._changed.notify_all()

    def fail(self, reason: str) -> None:
        """Ends the attempt of a running task, and tells so without waiting for the task's end."""
        with self._changed:
            if self.record.phase is not Phase.READY or not self.running:
                return
            self._turn_anyway(phase=Phase.FAILED, reason=reason)
        threading.Thread(target=self._tell_failure, name=f"tell {self.name[:12]}", daemon=True).start()

    def bytes_taken(self, enough: int) -> int:
        """What its task has written, as far as it can be seen: not what has no name any more. See trees.bytes_below."""
        # The lock by its second name, since the task can write to it and unlink its own.
        taken = bytes_of(f"{self.folder}/lock")
        return taken + sum(bytes_below(f"{self.folder}/{name}", enough) for name in ("control", "artifacts"))

    def live(self) -> None:
        """What its thread does; when it returns, the folder may be removed."""
        if self.record.phase is Phase.BRINGING and not self.given_up:
            self._bring()
        if self.record.phase in (Phase.BRINGING, Phase.READY):
            self._follow()
        if self.record.phase is Phase.FAILED:
            self._tell_failure()
        while not self._given_up.wait(ABANDONED_SECONDS):
            self._note_abandoned()

    def drop_view(self) -> None:
        """For a volume whose task never started, so that nobody has dropped it."""
        drop_view(self._task())

    def _note_abandoned(self) -> None:
        """After an answer that it takes for final kubelet gives up nothing, since it thinks that nothing is there."""
        with self._changed:
            now = time.monotonic()
            if now - self._asked_at <= ABANDONED_SECONDS:
                return
            if mounted_below(self.record.target):
                self._asked_at = now
            else:
                self._given_up.set()

    def _bring(self) -> None:
        try:
            self._make_folders()
        except OSError as error:  # as on a full disk: another node may have room
            reason = f"the task's folder cannot be made: {error.strerror or error}"
            self._turn_anyway(phase=Phase.FAILED, reason=reason, disrupted=True)
            return
        manifest = bring(self._task(), self._node.log, self._node.web, self._progress, self._node.shared)
        if self.given_up:
            return  # with or without inputs, its attempt will not begin here
        if not manifest["ok"]:
            disrupted = manifest.get("disrupted") is True
            self._turn_anyway(phase=Phase.FAILED, reason=str(manifest["error"]), disrupted=disrupted)
            return
        with self._changed:
            self._brought = True
            self._changed.notify_all()

    def _make_folders(self) -> None:
        """Those that an earlier process has not made."""
        user = self.record.user
        for name in ("artifacts", "control", "state"):
            with contextlib.suppress(FileExistsError):
                os.mkdir(f"{self.folder}/{name}", 0o700)
        with contextlib.suppress(FileExistsError):
            os.mkdir(f"{self.folder}/artifacts/.helios", 0o755)
        lock = os.open(f"{self.folder}/lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            os.fchmod(lock, 0o666)  # whatever the umask; only the task and the agent reach it
        finally:
            os.close(lock)
        with contextlib.suppress(FileExistsError):
            os.link(f"{self.folder}/lock", f"{self.folder}/control/lock")
        for name in ("artifacts", "control"):
            os.chown(f"{self.folder}/{name}", user, user)

    def _mount(self) -> None:
        """All of it or nothing new: what a process that died had mounted in part is unmounted first."""
        record, target = self.record, self.record.target
        view = f"{self._node.settings.cache_dir}/views/{record.job}"
        mounts = [(f"{self.folder}/artifacts", target, False), (self._node.wrapper_dir, f"{target}/.helios", True)]
        if record.cache_enabled and record.inputs and os.path.isdir(view):
            mounts.append((view, f"{target}/.helios/inputs", True))
        mounts.append((f"{self.folder}/control", f"{target}/.helios/control", False))
        if record.phase is not Phase.BRINGING and target in mounted_below(target):
            return
        unmount_below(target)
        os.makedirs(target, 0o750, exist_ok=True)
        try:
            for source, point, readonly in mounts:
                bind(source, point, readonly=readonly)
        except OSError:
            unmount_below(target)
            raise

    def _follow(self) -> None:
        """From the inputs being there to the result being told, or to the volume being given up before the start."""
        if not self._wait_for_start():
            return
        node, task = self._node, self._task()
        self.running = True
        ahead = look_ahead(task, node.log, node.web)
        wait_for_end(self.folder)
        with self._changed:
            self.running = False
            if self.record.phase is not Phase.READY:
                return  # failed while it ran
        pause = Backoff(1.0, TELL_SECONDS)
        while store(task, node.log, node.web, ahead, node.shared).told == UNDELIVERED:
            pause.pause()
        self._turn_anyway(phase=Phase.OVER)

    def _wait_for_start(self) -> bool:
        """False when the volume is given up before."""
        with self._changed:
            while not self.given_up and self.record.phase is not Phase.READY:
                if not self._changed.wait(ABANDONED_SECONDS):
                    self._note_abandoned()
        with self._node.appearances.watched(f"{self.folder}/control", self._stirred.set) as seconds:
            while not (started := has_started(self.folder)) and not self.given_up:
                if not self._stirred.wait(seconds):
                    self._note_abandoned()
                self._stirred.clear()
        return started or has_started(self.folder)

    def _tell_failure(self) -> None:
        with self._telling:
            pause = Backoff(1.0, TELL_SECONDS)
            while self.record.phase is Phase.FAILED:
                node, record = self._node, self.record
                reason = record.reason or ""
                if report_failure(self._task(), node.log, node.web, reason, disrupted=record.disrupted) == UNDELIVERED:
                    pause.pause()
                else:
                    self._turn_anyway(phase=Phase.OVER)

    def _turn(self, **changed: object) -> None:
        """Nothing changes when it cannot be written. The caller holds `_changed`."""
        record = self.record.but(**changed)
        record.write(self.folder)
        self.record = record
        self._changed.notify_all()

    def _turn_anyway(self, **changed: object) -> None:
        """What is so, also if a full disk keeps it from the next process, which then does it once more."""
        with self._changed:
            try:
                self._turn(**changed)
            except OSError as error:
                self._node.log.line(f"The volume {escape(self.name)} cannot be written down: {error.strerror}")
                self.record = self.record.but(**changed)
                self._changed.notify_all()

    def _task(self) -> VolumeTask:
        record, settings = self.record, self._node.settings
        return VolumeTask(
            attempt=Attempt(
                endpoint=settings.endpoint,
                token=record.token,
                run_id=record.run,
                task=record.task,
                attempt=record.attempt,
                pod_uid=record.pod_uid,
                node=settings.node,
                plan_patience_seconds=settings.plan_patience_seconds,
            ),
            job=record.job,
            cache_dir=settings.cache_dir,
            cache_enabled=record.cache_enabled,
            artifacts=f"{self.folder}/artifacts",
            control_dir=f"{self.folder}/control",
            state_dir=f"{self.folder}/state",
            user=record.user,
            inputs=record.inputs,
            outputs=record.outputs,
            lib_dir=settings.lib_dir,
            parallel=settings.parallel,
            compress=settings.compress,
            limit_bytes=settings.volume_bytes,
        )


def has_started(folder: str) -> bool:
    """Whether a volume's task did, as its wrapper says. The task may take back what the wrapper has written, but not
    the lock, as long as it runs.
    """
    said = (f"{folder}/control/{name}" for name in ("started", "exit"))
    return any(os.path.lexists(path) for path in said) or is_held(folder)
