"""`python -m cli.embedded.node`: the local kubelet. Runs each Job in the folder as a pod of processes.

Rule: this loop only looks and decides; a pod's life is its own thread's (pod.py).
"""

import contextlib
import os
import queue
import shutil
import signal
import stat
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

from cli.embedded.disk import free_bytes, reserve_from, shorten_log, size_text
from cli.embedded.home import home_from
from cli.embedded.keeper import follower_of, keeper_settings, start_keeper
from cli.embedded.logfile import say
from cli.embedded.pod import DELETED, NODE_STOPPED, Place, Pod
from cli.embedded.processes import adopt_orphans
from cli.embedded.service import SOURCE
from cli.embedded.strays import kill_everywhere, reap_orphans
from cli.embedded.tether import hold
from cli.embedded.watch import FolderWatch
from helios.localjobs import (
    STEPS,
    PodStatus,
    Unreadable,
    artifacts_folder,
    is_released,
    job_file,
    jobs_folder,
    list_jobs,
    log_file,
    pod_folder,
    read_status,
    work_folder,
    write_status,
)
from helios.settings import SettingInvalid, Settings, settings_from

LOOK_SECONDS = 0.5
"""How often the folder is looked at when nothing told of a change."""
STOP_SECONDS = 4.0
QUARANTINE_SWEEP_SECONDS = 3600.0
QUARANTINED_SECONDS = 24 * 3600.0
"""How long a damaged blob is kept for whoever wants to know what happened to it."""


class Node:
    """Which pods wait, which run, and which are over but not yet released."""

    def __init__(self, place: Place, slots: int) -> None:
        self.place = place
        self.slots = slots
        self._waiting: dict[str, PodStatus] = {}
        self._running: dict[str, Pod] = {}
        self._over: set[str] = set()
        self._unsaid: dict[str, PodStatus] = {}
        """Statuses that the disk refused."""
        self._emptied: set[str] = set()
        """Pods that are over and had to leave their artifacts because the disk was full."""
        self._is_full = False
        self._troubled: set[str] = set()
        self._ended: queue.SimpleQueue[Pod] = queue.SimpleQueue()
        self._wake, self._wake_end = os.pipe()
        for fd in (self._wake, self._wake_end):
            os.set_blocking(fd, False)
        self._stopping = False
        self._reap_at = 0.0
        self._sweep_at = time.monotonic() + QUARANTINE_SWEEP_SECONDS
        self._trash = Trash(place)

    def listen(self) -> None:
        """Stop at SIGTERM and SIGINT."""
        signal.set_wakeup_fd(self._wake_end, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def run(self) -> None:
        """Recover what a former node left, then run pods until stopped."""
        jobs_folder(self.place.directory).mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.place.directory / "pods").mkdir(mode=0o700, exist_ok=True)
        watch = FolderWatch(jobs_folder(self.place.directory), self._wake)
        self._recover()
        while not self._stopping:
            try:
                self._look()
                self._watch_disk()
                if not self._is_full:
                    self._start_pods()
            except OSError as error:
                say(f"the folder cannot be read or written: {error}")
                time.sleep(0.2)
            watch.wait(LOOK_SECONDS)
            self._note_ends()
        self._shut_down()

    def _stop(self, number: int, frame: object) -> None:
        del number, frame
        self._stopping = True

    def _note_ends(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                pod = self._ended.get_nowait()
                del self._running[pod.status.job]
                self._over.add(pod.status.job)
                if pod.unsaid:
                    self._unsaid[pod.status.job] = pod.status

    def _look(self) -> None:
        """Compare the folder with what is known. What is wrong with one pod holds up no other."""
        if time.monotonic() > self._reap_at:
            self._reap_at = time.monotonic() + LOOK_SECONDS
            reap_orphans()
        if time.monotonic() > self._sweep_at:
            self._sweep_at = time.monotonic() + QUARANTINE_SWEEP_SECONDS
            self._trash.sweep_quarantine(QUARANTINED_SECONDS)
        for status in list(self._unsaid.values()):
            self._say_status(status)
        jobs = set(list_jobs(self.place.directory))
        self._take_up(jobs - self._waiting.keys() - self._running.keys() - self._over)
        for name in self._waiting.keys() - jobs:
            self._refuse(self._waiting.pop(name), DELETED)
        for name in self._running.keys() - jobs:
            self._running[name].delete()
        for name in self._over - jobs - self._unsaid.keys():
            if is_released(self.place.directory, name):
                self._over.discard(name)
                self._emptied.discard(name)
                self._troubled.discard(name)
                self._trash.put(name)

    def _watch_disk(self) -> None:
        """Keep enough of the disk free for Valkey, which must write to let anything go on, and for the statuses."""
        free = free_bytes(self.place.directory)
        was_full, self._is_full = self._is_full, free < self.place.reserve_bytes
        if not self._is_full:
            if was_full:
                say(f"{size_text(free)} are free again: pods are started")
            return
        reason = f"the disk of HELIOS_HOME is full ({size_text(free)} free)"
        if not was_full:
            say(f"{reason}: pods are ended, and none is started below {size_text(self.place.reserve_bytes)}")
            self._trash.sweep_quarantine(0.0)
            for pod in self._running.values():
                pod.make_room(reason)
        for name in self._over - self._emptied:
            self._emptied.add(name)
            self._trash.put_away(artifacts_folder(self.place.directory, name))
            for step in STEPS:
                shorten_log(log_file(self.place.directory, name, step))

    def _take_up(self, names: set[str]) -> None:
        for name in sorted(names, key=lambda each: (_mtime(job_file(self.place.directory, each)), each)):
            status = PodStatus(job=name, uid=str(uuid.uuid4()), node=self.place.node)
            try:
                write_status(self.place.directory, status)
            except OSError as error:
                self._complain(name, error)
                continue
            self._waiting[name] = status

    def _start_pods(self) -> None:
        while self._waiting and len(self._running) < self.slots:
            name = next(iter(self._waiting))
            pod = Pod(self.place, self._waiting.pop(name), self._pod_ended)
            self._running[name] = pod
            pod.start()

    def _pod_ended(self, pod: Pod) -> None:
        self._ended.put(pod)
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_end, b"\0")

    def _refuse(self, status: PodStatus, reason: str, *, disrupted: bool = False) -> None:
        status.phase, status.reason, status.disrupted = "Failed", reason, disrupted
        self._over.add(status.job)
        self._say_status(status)

    def _say_status(self, status: PodStatus) -> None:
        """Write a final status, and go on trying while the disk refuses it: an attempt hangs on it."""
        try:
            write_status(self.place.directory, status)
            self._unsaid.pop(status.job, None)
        except OSError as error:
            self._unsaid[status.job] = status
            self._complain(status.job, error)

    def _complain(self, name: str, error: OSError) -> None:
        """Once for each pod, not at every look."""
        if name not in self._troubled:
            self._troubled.add(name)
            say(f"the status of {name} cannot be written: {error}")

    def _recover(self) -> None:
        """Pods of a former node: what ran was lost with it, what waited still waits, what is over is left as it is."""
        found: list[PodStatus] = []
        for name in os.listdir(self.place.directory / "pods"):  # noqa: PTH208 -- names are wanted
            try:
                status = read_status(self.place.directory, name)
            except Unreadable as error:
                say(f"{name}: {error}")
                status = None
            found.append(status or PodStatus(job=name, uid="", node=self.place.node, phase="Fetching"))
        kill_everywhere([status.uid for status in found if status.uid and not status.final])
        for status in sorted(found, key=lambda each: (_mtime(job_file(self.place.directory, each.job)), each.job)):
            if status.final:
                self._over.add(status.job)
            elif status.phase == "Pending":
                self._waiting[status.job] = status
            else:
                self._refuse(status, NODE_STOPPED, disrupted=True)
        self._trash.sweep({status.job for status in found})

    def _shut_down(self) -> None:
        for pod in self._running.values():
            pod.shut_down()
        deadline = time.monotonic() + STOP_SECONDS
        for pod in list(self._running.values()):
            pod.join(max(0.0, deadline - time.monotonic()))


class Trash:
    """Removes released pods, on a thread of its own: a task may leave a million files."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._folder = place.directory / "trash"
        self._names: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="trash", daemon=True).start()

    def put(self, name: str) -> None:
        """Take the pod's folders out of sight now, and remove them and its view soon."""
        for folder in (pod_folder(self._place.directory, name), work_folder(self._place.directory, name)):
            moved = self._folder / f"{name}.{uuid.uuid4().hex}"
            try:
                self._folder.mkdir(mode=0o700, exist_ok=True)
                folder.rename(moved)
            except FileNotFoundError:
                continue
            except OSError:
                moved = folder  # as on a full disk, where it is most wanted that something is removed
            self._names.put(str(moved))
        self._names.put(str(self._place.cache / "views" / name))

    def put_away(self, folder: Path) -> None:
        """Remove the folder soon, where it is."""
        self._names.put(str(folder))

    def sweep(self, pods: set[str]) -> None:
        """At the start, when no pod runs: the rest of what a former node was removing, folders and views without a pod,
        files that downloads left half-done, and what has been in quarantine for long.
        """
        self._names.put(str(self._folder))
        of_pods = (self._place.directory / "work", self._place.cache / "views")
        for folder in (*of_pods, self._place.cache / "tmp"):
            for path in _inside(folder):
                if folder not in of_pods or path.name not in pods:
                    self._names.put(str(path))
        self.sweep_quarantine(QUARANTINED_SECONDS)

    def sweep_quarantine(self, seconds: float) -> None:
        """Remove what came into quarantine longer ago than that."""
        for path in _inside(self._place.cache / "quarantine"):
            with contextlib.suppress(OSError):
                # A blob's mtime is its seal; its ctime is at the latest when it was moved there.
                if time.time() - path.lstat().st_ctime >= seconds:
                    self._names.put(str(path))

    def _work(self) -> None:
        while True:
            path = Path(self._names.get())
            try:
                _remove(path)
            except OSError as error:
                say(f"cannot remove {path}: {error}")


def _inside(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _remove(path: Path) -> None:
    """Remove a file or folder, whatever its permissions; what cannot be removed is said and left."""

    def allow_and_retry(function: object, failed: str, error: object) -> None:
        del function, error
        broken = Path(failed)
        with contextlib.suppress(OSError):
            broken.parent.chmod(stat.S_IRWXU)
            if broken.is_dir() and not broken.is_symlink():
                broken.chmod(stat.S_IRWXU)
                shutil.rmtree(broken, ignore_errors=True)
            else:
                broken.unlink()

    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    elif path.exists():
        shutil.rmtree(path, onerror=allow_and_retry)
        if path.exists():
            shutil.rmtree(path, ignore_errors=True)
        if path.exists():
            say(f"cannot remove {path}")


def _mtime(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


def place_from(settings: Settings, environ: Mapping[str, str], lifeline_fd: int) -> Place:
    """Where this node works. HELIOS_AGENT_DIR names another agent than the one beside this package."""
    return Place(
        directory=Path(settings.local_dir),
        cache=Path(settings.cache_dir),
        secrets=home_from(environ).secrets,
        agent=Path(environ.get("HELIOS_AGENT_DIR") or SOURCE / "agent"),
        node=settings.node_name,
        environ=environ,
        lifeline_fd=lifeline_fd,
        reserve_bytes=reserve_from(environ, Path(settings.local_dir)),
    )


def main() -> None:
    try:
        settings = settings_from()
    except SettingInvalid as error:
        sys.exit(str(error))
    if not settings.local_dir:
        sys.exit("HELIOS_LOCAL_DIR must be set; `helios up` sets it")
    os.umask(0o077)
    if os.environ.get("HELIOS_LIFELINE_FD"):
        hold(int(os.environ["HELIOS_LIFELINE_FD"]))
    adopt_orphans()
    # Its write end stays open as long as this process lives; the wrapper of each task watches the other one.
    lifeline, _lifeline_end = os.pipe()
    slots = settings.local_slots or 2 * (os.cpu_count() or 1)
    try:
        place = place_from(settings, os.environ, lifeline)
        keeping, follower = keeper_settings(place, os.environ), follower_of(place, os.environ)
    except SettingInvalid as error:
        sys.exit(str(error))
    node = Node(place, slots)
    start_keeper(keeping, follower.round if follower else None, follower.needed if follower else None)
    node.listen()
    node.run()


if __name__ == "__main__":
    main()
