"""Clients of the HTTP API that take nothing of their answer, before the server's own protocol class."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn

from services.api import server
from services.api.server import PatientH11

ANSWER = b"x" * (32 * 1024**2)
"""More than both ends' buffers hold."""


async def large(scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
    """Written in one go, as a run's JSON is."""
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(ANSWER))]})
    await send({"type": "http.response.body", "body": ANSWER})


async def served(client: Callable[[int, uvicorn.Server], Awaitable[None]]) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(large, http=PatientH11, log_config=None, lifespan="off")
    running = uvicorn.Server(config)
    serving = asyncio.create_task(running.serve([listening]))
    try:
        async with asyncio.timeout(30):
            await client(listening.getsockname()[1], running)
    finally:
        running.should_exit = True
        await serving


async def ask(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    writer.write(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
    await writer.drain()
    return reader, writer


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def test_a_client_that_takes_nothing_of_a_whole_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "TAKE_SECONDS", 0.3)

    async def client(port: int, running: uvicorn.Server) -> None:
        _, writer = await ask(port)
        await until(lambda: bool(running.server_state.connections))
        await until(lambda: not running.server_state.connections)
        writer.close()

    asyncio.run(served(client))


def test_a_slow_client_that_takes_a_little_each_time_gets_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "TAKE_SECONDS", 2.0)
    monkeypatch.setattr(server, "HEAD_SECONDS", 60.0)

    async def client(port: int, running: uvicorn.Server) -> None:
        del running
        reader, writer = await ask(port)
        await reader.readuntil(b"\r\n\r\n")
        left, began = len(ANSWER), time.monotonic()
        while left:
            left -= len(await reader.read(min(left, 1024**2)))
            await asyncio.sleep(0.02)
        assert time.monotonic() - began > server.TAKE_SECONDS, "or it was not slow"
        writer.close()

    asyncio.run(served(client))
