"""A Kubernetes whose nodes KWOK plays, for a benchmark: in a network of its own, and gone again afterwards.

The control plane is real, and so is whatever Helios does with it; only what kubelets would do is made up. Everything of
it has one name, so that another cluster of the same machine is never touched.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bench.servers import PROJECT

TOOL = PROJECT / "tests" / "cluster" / "tool" / "cluster"
PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "etcd", "kwok")


def why_none() -> str | None:
    """Why there can be no such cluster here; None when it can be started or built."""
    if os.geteuid() != 0:
        return "a cluster of fake nodes needs root, for a network of its own"
    missing = [program for program in PROGRAMS if not (_home() / "bin" / program).exists()]
    if missing and (shutil.which("go") is None or os.environ.get("CLUSTER_INSIDE")):
        return f"not built: {', '.join(missing)}; `{TOOL.relative_to(PROJECT)} build kubernetes runtime kwok` needs Go"
    return None


def enter(name: str) -> None:
    """Go on inside the network of that cluster: this process starts anew there, unless it is there already."""
    if os.environ.get("CLUSTER_INSIDE") and os.environ.get("CLUSTER_NAME") == name:
        return
    if (reason := why_none()) is not None:
        sys.exit(reason)
    subprocess.run([TOOL, "build", "kubernetes", "runtime", "kwok"], check=True)
    os.execve(TOOL, [str(TOOL), "exec", sys.executable, *sys.orig_argv[1:]], _environ(name))


@contextmanager
def fake_cluster(name: str, nodes: int) -> Iterator[None]:
    """Runs while inside; KUBECONFIG names it already. Raises SystemExit if another process has one of that name."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    _home().mkdir(parents=True, exist_ok=True)
    with (_home() / f"{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f"another benchmark has the cluster {name}")
        try:
            _run(name, "up", "0")
            _run(name, "fake", str(nodes))
            yield
        finally:
            # A second Ctrl-C would leave half of it running.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            _run(name, "down")
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _run(name: str, *arguments: str) -> None:
    done = subprocess.run([TOOL, *arguments], env=_environ(name), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"cluster {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")


def _environ(name: str) -> Mapping[str, str]:
    return {**os.environ, "CLUSTER_NAME": name}


def _home() -> Path:
    return Path(os.environ.get("CLUSTER_HOME") or Path.home() / ".cache" / "helios-cluster")
