"""Local mode's keeper: agent/keep.py on a thread of the node, with the same settings from the environment.

Views are not its business here: publish removes them, and the node those of pods that never got so far. Its floor of
free disk is above the reserve at which the node ends pods, so that old blobs go before living work does.
"""

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from agent.evict import Needed
from agent.follow import Follower
from agent.keep import Keeper, keep
from agent.logs import Log
from agent.settings import KeepSettings, SettingsError, keep_settings, sync_settings
from agent.store import CacheFault
from cli.embedded.logfile import say
from cli.embedded.pod import Place
from helios.settings import SettingInvalid

FREE_PART = 0.05
FREE_MOST_BYTES = 1 << 30
RETRY_SECONDS = 60.0
KEEP_SECONDS = "3"
"""Whoever plans right after a run should see what it left in the cache; a round with nothing new costs next to none."""


def keeper_settings(place: Place, environ: Mapping[str, str]) -> KeepSettings:
    """Raises SettingInvalid, which names the variable. Without HELIOS_CACHE_FREE_BYTES a twentieth of the disk stays
    free, 1 GiB at most and twice the node's own reserve at least; without HELIOS_KEEP_SECONDS it goes round every 3 s.
    """
    env = {**environ, "HELIOS_CACHE_DIR": str(place.cache), "HELIOS_NODE": place.node, "HELIOS_VIEW_HOURS": "never"}
    env["HELIOS_KEEP_SECONDS"] = environ.get("HELIOS_KEEP_SECONDS") or KEEP_SECONDS
    if not env.get("HELIOS_CACHE_FREE_BYTES"):
        found = os.statvfs(place.directory)
        part = int(found.f_blocks * found.f_frsize * FREE_PART)
        env["HELIOS_CACHE_FREE_BYTES"] = str(max(2 * place.reserve_bytes, min(part, FREE_MOST_BYTES)))
    try:
        return keep_settings(env)
    except SettingsError as error:
        raise SettingInvalid(str(error)) from None


def follower_of(place: Place, environ: Mapping[str, str]) -> Follower | None:
    """What tells the collector of the cache and asks it what tasks need. There is no other node to give blobs to, nor
    to get some from. None without HELIOS_KEEPER_KEY. Raises SettingInvalid, which names the variable.
    """
    own = {
        "HELIOS_CACHE_DIR": str(place.cache),
        "HELIOS_NODE": place.node,
        "HELIOS_ENDPOINT": environ.get("HELIOS_POD_ENDPOINT_URL", ""),
        "HELIOS_KEEPER_KEY": environ.get("HELIOS_KEEPER_KEY", ""),
        "HELIOS_SEED_BYTES": "0",
    }
    try:
        settings = sync_settings(own)
    except SettingsError as error:
        raise SettingInvalid(str(error)) from None
    return None if settings is None else Follower(settings, Log(lambda line: say(line.decode().rstrip())))


def start_keeper(
    settings: KeepSettings, sync: Callable[[Keeper], None] | None = None, needed: Needed | None = None
) -> Callable[[], None]:
    """Keeps the cache on a thread of its own until the answer is called; every step bears being cut off."""
    stopped = threading.Event()

    def run() -> None:
        while not stopped.is_set():
            try:
                Path(settings.cache_dir).mkdir(mode=0o755, parents=True, exist_ok=True)
                keep(settings, lambda _line: None, lambda seconds: not stopped.wait(seconds), sync, needed)
            except (CacheFault, OSError) as fault:
                say(f"the cache is not kept: {fault}")
                stopped.wait(RETRY_SECONDS)

    threading.Thread(target=run, name="keeper", daemon=True).start()
    return stopped.set
