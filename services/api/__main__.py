"""`python -m services.api`: the HTTP server, and a thread each for the heartbeat and the events feed."""

import asyncio
import sys
import threading
from functools import partial

import anyio
import redis

from helios.heartbeat import Heartbeat
from helios.settings import SettingInvalid, Settings
from helios.worker import Stop
from services.api.asking import Asking
from services.api.feed import Bell
from services.api.routes import READERS, Routes, application
from services.api.server import bound_socket, serve
from services.api.store import Signer
from services.api.streaming import Following
from services.process import begin, connect, refuse, repeat

REDIS_SECONDS = 3
"""A Redis that says nothing for so long is away: whoever asks is told so, and may ask again."""
SWITCH_SECONDS = 0.001
"""How long a thread that checks a large DAG may hold up the others at a time."""


def main() -> None:
    stop = Stop()
    settings = begin("api", stop)
    sys.setswitchinterval(SWITCH_SECONDS)
    client = connect(settings)
    client.connection_pool.connection_kwargs.update(socket_timeout=REDIS_SECONDS, socket_connect_timeout=REDIS_SECONDS)
    heartbeat = Heartbeat(client, "api", settings.replica)
    threading.Thread(target=partial(repeat, stop, 1.0, heartbeat.beat), name="heartbeat", daemon=True).start()
    try:
        asyncio.run(_serve(client, settings, heartbeat, stop))
    except SettingInvalid as error:
        refuse(error)
    heartbeat.end()


async def _serve(client: redis.Redis, settings: Settings, heartbeat: Heartbeat, stop: Stop) -> None:
    draining = asyncio.Event()
    asking = Asking(client, settings)
    bell = Bell(client, asking.partitions, asyncio.get_running_loop(), stop)
    following = Following(asking, bell, draining, anyio.CapacityLimiter(READERS))
    app = application(Routes(asking, Signer(settings), following, heartbeat, draining), settings)
    listening = bound_socket(settings.http_bind)
    bell.start()
    await serve(app, listening, stop, draining)


if __name__ == "__main__":
    main()
