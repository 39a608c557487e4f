# pathlib costs ten milliseconds at every start:
# ruff: noqa: PTH103, PTH116
"""node: all that Helios does on a node, in one process: the cache's keeper, with what it does for other nodes, and the
CSI driver that serves the volumes of tasks. The keeper's end is the process's: the one that follows serves the volumes.

It starts as root in a privileged container, since bind mounts that the node sees need that, and becomes the cache's
owner at once, with just the rights that remain needed (docs/security.md): to mount, to give a task's folder to its
user, and to read and remove what that user has put there. Nothing here ever waits for its own end: every step may be
cut off.
"""

import errno
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Mapping

from agent.evict import Needed
from agent.follow import Follower
from agent.keep import end_at_sigterm, keep
from agent.logs import Log
from agent.mounts import CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_SYS_ADMIN, become
from agent.settings import KeepSettings, SettingsError, keep_settings, node_settings, sync_settings
from agent.store import CacheFault
from agent.volumes import Volumes

USER = 65532
"""The owner of the cache, also where its other users are the containers of the init form."""
CAPABILITIES = (CAP_SYS_ADMIN, CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER)


def node_verb(env: Mapping[str, str]) -> int:
    """The verb: runs until SIGTERM; 1 when the cache or kubelet's folder cannot be used, 2 for a wrong environment."""
    try:
        kept, synced, settings = keep_settings(env), sync_settings(env), node_settings(env)
    except SettingsError as error:
        os.write(2, f"[HELIOS] Error: {error}\n".encode())
        return 2
    signal.signal(signal.SIGTERM, lambda _number, _frame: os._exit(0))
    log = Log()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # hundreds of volumes, each with files and connections
    try:
        _own(settings.cache_dir)
        become(USER, USER, CAPABILITIES)
        # Only now, since it must be nobody's before: what is imported may start threads, and rights are each thread's.
        if settings.lib_dir is not None and settings.lib_dir not in sys.path:
            sys.path.append(settings.lib_dir)
        from agent.csi import Driver

        volumes = Volumes(settings, log)
        follower = Follower(synced, log) if synced is not None else None
        followed, needed = (follower.round, follower.needed) if follower is not None else (None, None)
        _open(volumes, kept, needed)
        driver = Driver(settings, volumes, log)
        if follower is not None:
            follower.waits_for = driver.waits_for
        end_at_sigterm(follower, driver.withdraw)
        server = driver.serve()
        keep(kept, lambda line: os.write(1, line), _sleep, followed, needed)
        server.stop(None)
    except ImportError as missing:
        os.write(2, f"[HELIOS] Error: not in HELIOS_AGENT_LIB: {missing}\n".encode())
        return 1
    except (CacheFault, OSError) as fault:
        os.write(2, f"[HELIOS] Error: {fault}\n".encode())
        return 1
    except Exception:  # noqa: BLE001  # a mistake of ours: whatever it is, all ends with it
        os.write(2, traceback.format_exc().encode("utf-8", "backslashreplace"))
        return 1
    return 0


def _own(cache_dir: str) -> None:
    """A folder that was made for the pod is root's."""
    os.makedirs(cache_dir, 0o755, exist_ok=True)
    if os.stat(cache_dir).st_uid != USER:
        os.chown(cache_dir, USER, USER)


def _open(volumes: Volumes, kept: KeepSettings, needed: Needed | None) -> None:
    """On a full disk after one round of the keeper, which makes room: it goes on only where volumes are served."""
    try:
        volumes.open()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        keep(kept, lambda line: os.write(1, line), lambda _seconds: False, None, needed)
        volumes.open()


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return True
