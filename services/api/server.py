"""The process around the routes: its socket, the HTTP server, and its end."""

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Generator
from typing import Any

import h11
import msgspec
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from helios.settings import SettingInvalid
from helios.worker import Stop
from services.api.problems import MEDIA_TYPE, Refused

HEAD_SECONDS = 5.0
"""For the headers of a request, from the connection or the last answer on."""
HEAD_BYTES = 64 * 1024
TAKE_SECONDS = 30.0
"""For a client to take something of what waits for it."""
CONNECTIONS = 1_000
DRAIN_SECONDS = 6
"""For the requests in hand, from the stop signal on."""


class PatientH11(H11Protocol):
    """Whose patience has an end: uvicorn itself waits for ever for the rest of a request's head."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] -- as uvicorn has it
        self.late: asyncio.TimerHandle | None = None
        self.untaken: asyncio.TimerHandle | None = None
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._await_head()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 -- uvicorn's words are always the same
        """To what is no HTTP, or has too long a head: as every other refusal, and not as plain text."""
        words = f"this is no HTTP, or has more than {HEAD_BYTES // 1024} KiB of address and headers"
        body = msgspec.json.encode(Refused(400, words).answer)
        headers = [(b"content-type", MEDIA_TYPE.encode()), (b"connection", b"close")]
        for event in (h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self.late, self.untaken):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.untaken is not None:
            self.untaken.cancel()

    def _await_reader(self, before: int | None = None) -> None:
        """A transport that is closed waits for ever for a client that takes nothing; `before`: how much waited then."""
        waits = self.transport.get_write_buffer_size()
        if before is not None and waits >= before:
            self.transport.abort()
        elif waits:
            self.untaken = self.loop.call_later(TAKE_SECONDS, self._await_reader, waits)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._await_head()

    def _await_head(self) -> None:
        if not self._is_waiting():
            if self.late is not None:
                self.late.cancel()
            self.late = None
        elif self.late is None:
            self.late = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _is_waiting(self) -> bool:
        cycle: Any = self.cycle  # None at first, whatever its type says
        return cycle is None or cycle.response_complete

    def _give_up(self) -> None:
        self.late = None
        if self._is_waiting() and not self.transport.is_closing():
            self.transport.close()


class Server(uvicorn.Server):
    """Which leaves signals to us."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


def bound_socket(bind: str) -> socket.socket:
    """Raises SettingInvalid, naming the setting."""
    host, _, port = bind.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise SettingInvalid(f"HELIOS_HTTP_BIND is {bind!r}, but it takes host:port")
    try:
        listening = socket.create_server(
            (host.strip("[]"), int(port)),
            family=socket.AF_INET6 if ":" in host else socket.AF_INET,
            backlog=1024,
        )
        # asyncio sets it only on sockets that name their protocol, which these do not; without it an answer of two
        # writes waits 40 ms for the client's acknowledgement. Connections inherit it.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening
    except OSError as error:
        raise SettingInvalid(f"HELIOS_HTTP_BIND is {bind!r}, where this cannot listen: {error.strerror}") from None


async def serve(app: ASGIApp, listening: socket.socket, stop: Stop, draining: asyncio.Event) -> None:
    """Serve until the stop signal, then answer what is in hand and end."""
    # What it says of clients' mistakes would fill the log; what fails here, the gate tells.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    server = Server(
        uvicorn.Config(
            app,
            http=PatientH11,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=CONNECTIONS,
            h11_max_incomplete_event_size=HEAD_BYTES,
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )
    )
    loop = asyncio.get_running_loop()

    def drain() -> None:
        draining.set()
        server.should_exit = True

    def watch() -> None:
        stop.event.wait()
        with contextlib.suppress(RuntimeError):  # the loop has ended by itself
            loop.call_soon_threadsafe(drain)

    threading.Thread(target=watch, name="stop", daemon=True).start()
    await server.serve(sockets=[listening])
