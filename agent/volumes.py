# pathlib costs ten milliseconds at every start:
# ruff: noqa: PTH101, PTH103, PTH106, PTH208
"""All volumes of a node: which there are, also those of an earlier process.

<cache>/volumes/<id>/    see agent.volume
       /volumes/.agent   locked by the one process that serves them
       /volumes/.gone-…  what is being removed
       /wrapper/         the wrapper as `exec`, and the folders `inputs` and `control`, for others to be mounted on
"""

import contextlib
import errno
import fcntl
import os
import threading
import time
from collections.abc import Mapping

from agent.appearances import Appearances
from agent.handover import place_wrapper
from agent.logs import Log, one_line
from agent.mounts import check_kernel, unmount_below
from agent.names import escape
from agent.pace import Backoff
from agent.quota import Quota
from agent.settings import NodeSettings, WrapperPlace
from agent.stamp import boot_id
from agent.trees import all_aside, remove_all, remove_aside, set_aside
from agent.volume import Node, Volume, VolumePending, has_started
from agent.volume_record import (
    AttributesRefused,
    Phase,
    VolumeRecord,
    is_ephemeral,
    is_volume_id,
    new_record,
    pod_namespace,
    read_record,
)
from agent.volume_work import Shared
from agent.web import Web

REBOOTED = "the node was restarted while the task ran"


class NotOurs(Exception):
    """The volume is not one that may be served."""


class Volumes:
    """Safe from many threads. Only one process at a time has those of a cache."""

    def __init__(self, settings: NodeSettings, log: Log) -> None:
        self._settings = settings
        self._log = log
        self._node = Node(settings, f"{settings.cache_dir}/wrapper", Web(), log, Shared(), Appearances())
        self._boot = boot_id()
        self._lock = threading.Lock()
        self._volumes: dict[str, Volume] = {}
        self._held: int | None = None

    def open(self) -> None:
        """Waits for an earlier process's end, and goes on where it was. Raises OSError, and may be tried again then."""
        root = self._node.volumes_dir
        os.makedirs(root, 0o700, exist_ok=True)
        os.chmod(root, 0o700)
        if self._held is None:
            self._held = os.open(f"{root}/.agent", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._held, fcntl.LOCK_EX)
        self._place_wrapper()
        check_kernel(self._node.wrapper_dir)
        for name in os.listdir(root):
            if is_volume_id(name) and name not in self._volumes:
                self._restore(name)
        # kubelet does not wait for that: a task may have left millions of files.
        threading.Thread(target=self._remove_aside, args=(all_aside(root),), name="removing", daemon=True).start()
        if self._settings.volume_bytes:
            quota = Quota(self._settings.volume_bytes, self._running, self._log)
            threading.Thread(target=quota.watch, name="quota", daemon=True).start()

    def publish(self, name: str, target: str, context: Mapping[str, str], seconds: float) -> None:
        """Mounts a volume at `target` once its inputs are there. Raises AttributesRefused, NotOurs, VolumeFailed,
        VolumePending when that takes longer than the `seconds`, or OSError.
        """
        deadline = time.monotonic() + seconds
        self._check_place(name, target)
        if not is_ephemeral(context):
            raise NotOurs("only ephemeral volumes are served: csi in a pod's own volumes")
        if pod_namespace(context) != self._settings.namespace:
            raise NotOurs(f"only pods of the namespace {self._settings.namespace} are served")
        record = new_record(context, target, self._boot)
        if record.user == os.geteuid():
            raise AttributesRefused("user is the agent's own: what belongs to it would not be closed to the task")
        while (volume := self._joined(name, record)).given_up:
            if not volume.gone.wait(deadline - time.monotonic()):
                raise VolumePending("what its task wrote before it was given up is still being stored")
        if volume.record.target != target:
            raise AttributesRefused(f"it is published at {volume.record.target} already")
        volume.publish(deadline - time.monotonic())

    def give_up(self, name: str, target: str) -> None:
        """Unmounts a volume, also an unknown one, and removes the folder `target`. Raises AttributesRefused or
        OSError.
        """
        self._check_place(name, target)
        with self._lock:
            volume = self._volumes.get(name)
        if volume is not None:
            volume.give_up()
        if volume is None or volume.record.target != target:
            unmount_below(target)
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(target)

    def _check_place(self, name: str, target: str) -> None:
        pods = f"{self._settings.kubelet_dir}/pods/"
        if not is_volume_id(name):
            raise AttributesRefused(f"not a volume's id: {name[:200]!r}")
        if not target.startswith(pods) or any(part in ("", ".", "..") for part in target.removeprefix(pods).split("/")):
            raise AttributesRefused(f"not a folder of a pod below {pods}: {target[:500]!r}")

    def _joined(self, name: str, record: VolumeRecord) -> Volume:
        """The volume of this name, which begins now if there is none."""
        with self._lock:
            volume = self._volumes.get(name)
            if volume is None:
                folder = f"{self._node.volumes_dir}/{name}"
                os.makedirs(folder, 0o700, exist_ok=True)
                try:
                    record.write(folder)
                    volume = self._begin(name, record)
                except OSError:
                    # kubelet takes that for final: it would never give up what has not begun.
                    remove_all(name, self._node.volumes_dir)
                    raise
            return volume

    def _begin(self, name: str, record: VolumeRecord) -> Volume:
        volume = Volume(name, record, self._node)
        thread = threading.Thread(target=self._live, args=(volume,), name=f"volume {name[:12]}", daemon=True)
        self._volumes[name] = volume
        try:
            thread.start()
        except RuntimeError as error:  # the node lets it have no more threads
            del self._volumes[name]
            raise OSError(errno.EAGAIN, f"no thread for the volume: {error}") from None
        return volume

    def _live(self, volume: Volume) -> None:
        pause = Backoff(1.0, 60.0)
        while True:
            try:
                volume.live()
                break
            except Exception as error:  # noqa: BLE001  # a mistake of ours must not lose a task's outputs either
                self._log.line(f"Error: volume {escape(volume.name)}, to be tried again: {one_line(repr(error))}")
                pause.pause()
        try:
            volume.drop_view()
            remove_all(volume.name, self._node.volumes_dir)
        except OSError as error:  # the next process finds it again
            self._log.line(f"The volume {escape(volume.name)} cannot be removed: {one_line(str(error))}")
        with self._lock:
            del self._volumes[volume.name]
        volume.gone.set()

    def _remove_aside(self, names: list[str]) -> None:
        try:
            remove_aside(names, self._node.volumes_dir)
        except OSError as error:  # the next process finds it again
            self._log.line(f"What is left of volumes cannot be removed: {one_line(str(error))}")

    def _restore(self, name: str) -> None:
        folder = f"{self._node.volumes_dir}/{name}"
        record = read_record(folder)
        if record is None:
            self._log.line(f"Error: of the volume {escape(name)} nothing can be read; it is removed")
        elif record.boot != self._boot:
            record = _after_reboot(record, self._boot, started=has_started(folder))
            if record is not None:
                with contextlib.suppress(OSError):  # the next process finds the same once more
                    record.write(folder)
        if record is None:
            set_aside(name, self._node.volumes_dir)
            return
        self._begin(name, record)

    def _place_wrapper(self) -> None:
        folder = self._node.wrapper_dir
        for each in (folder, f"{folder}/inputs", f"{folder}/control"):
            os.makedirs(each, 0o755, exist_ok=True)
            os.chmod(each, 0o755)  # noqa: S103  # any task's user
        place_wrapper(WrapperPlace(self._settings.wrapper, folder))

    def _running(self) -> list[Volume]:
        with self._lock:
            return [volume for volume in self._volumes.values() if volume.running]


def _after_reboot(record: VolumeRecord, boot: str | None, *, started: bool) -> VolumeRecord | None:
    """What is left to do for a volume of another boot, whose mounts are gone; None: nothing, and kubelet asks anew for
    what it still wants.
    """
    if record.phase is Phase.READY and started:
        return record.but(phase=Phase.FAILED, published=False, reason=REBOOTED, disrupted=True, boot=boot)
    return record.but(published=False, boot=boot) if record.phase is Phase.FAILED else None
