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

import msgspec

from cli.embedded.home import home_from
from cli.embedded.pod import DELETED, NODE_STOPPED, Place, Pod
from cli.embedded.processes import adopt_orphans
from cli.embedded.service import SOURCE
from cli.embedded.strays import kill_everywhere, reap_orphans
from cli.embedded.tether import hold
from cli.embedded.watch import FolderWatch
from helios.localjobs import (
    PodStatus,
    job_file,
    jobs_folder,
    list_jobs,
    pod_folder,
    read_status,
    write_status,
)
from helios.settings import SettingInvalid, Settings, settings_from

LOOK_SECONDS = 0.5
"""How often the folder is looked at when nothing told of a change."""
STOP_SECONDS = 4.0


class Node:
    """Which pods wait, which run, and which are over but not yet released."""

    def __init__(self, place: Place, slots: int) -> None:
        self.place = place
        self.slots = slots
        self._waiting: dict[str, PodStatus] = {}
        self._running: dict[str, Pod] = {}
        self._over: set[str] = set()
        self._ended: queue.SimpleQueue[Pod] = queue.SimpleQueue()
        self._wake, self._wake_end = os.pipe()
        for fd in (self._wake, self._wake_end):
            os.set_blocking(fd, False)
        self._stopping = False
        self._reap_at = 0.0
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
                self._start_pods()
            except OSError as error:
                _say(f"the folder cannot be read or written: {error}")
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

    def _look(self) -> None:
        """Compare the folder with what is known."""
        if time.monotonic() > self._reap_at:
            self._reap_at = time.monotonic() + LOOK_SECONDS
            reap_orphans()
        jobs = set(list_jobs(self.place.directory))
        self._take_up(jobs - self._waiting.keys() - self._running.keys() - self._over)
        for name in self._waiting.keys() - jobs:
            self._refuse(self._waiting.pop(name), DELETED)
        for name in self._running.keys() - jobs:
            self._running[name].delete()
        for name in self._over - jobs:
            if (pod_folder(self.place.directory, name) / "released").exists():
                self._over.discard(name)
                self._trash.put(name)

    def _take_up(self, names: set[str]) -> None:
        def created(name: str) -> tuple[int, str]:
            try:
                return job_file(self.place.directory, name).stat().st_mtime_ns, name
            except FileNotFoundError:
                return 0, name

        for name in sorted(names, key=created):
            status = PodStatus(job=name, uid=str(uuid.uuid4()), node=self.place.node)
            write_status(self.place.directory, status)
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
        write_status(self.place.directory, status)
        self._over.add(status.job)

    def _recover(self) -> None:
        """Pods of a former node: what ran was lost with it, what waited still waits, what is over is left as it is."""
        found: list[PodStatus] = []
        for folder in (self.place.directory / "pods").iterdir():
            try:
                status = read_status(self.place.directory, folder.name)
            except msgspec.DecodeError:
                status = None
            found.append(status or PodStatus(job=folder.name, uid="", node=self.place.node, phase="Fetching"))
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
        """Take the pod's folder out of sight now, and remove it and its view soon."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        moved = self._folder / f"{name}.{uuid.uuid4().hex}"
        with contextlib.suppress(FileNotFoundError):
            pod_folder(self._place.directory, name).rename(moved)
        self._names.put(str(moved))
        self._names.put(str(self._place.cache / "views" / name))

    def sweep(self, pods: set[str]) -> None:
        """At the start, when no pod runs: the rest of what a former node was removing, views without a pod, and files
        that downloads left half-done.
        """
        self._names.put(str(self._folder))
        views = self._place.cache / "views"
        for folder in (views, self._place.cache / "tmp"):
            with contextlib.suppress(FileNotFoundError):
                for path in folder.iterdir():
                    if folder != views or path.name not in pods:
                        self._names.put(str(path))

    def _work(self) -> None:
        while True:
            _remove(Path(self._names.get()))


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
            _say(f"cannot remove {path}")


def _mtime(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _say(line: str) -> None:
    os.write(2, f"{line}\n".encode("utf-8", "replace"))


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
    node = Node(place_from(settings, os.environ, lifeline), slots)
    node.listen()
    node.run()


if __name__ == "__main__":
    main()
