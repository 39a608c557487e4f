"""The dashboard in browsers: textual-serve, with the checks that a server without a login needs.

Rule: a page of another site can neither open the dashboard (its Host or Origin is not ours) nor frame it, and the page
asks no other server for anything.
"""

import asyncio
import errno
import ipaddress
import logging
import socket
import sys
from typing import cast

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from textual_serve.server import Server

from cli.failure import CommandFailed
from cli.output import narrate, put

SHUTDOWN_SECONDS = 3.0
CLOSING_SECONDS = 2.0


class DashboardServer(Server):
    """One process of the dashboard for each browser that has it open."""

    def __init__(self, command: str, host: str, port: int) -> None:
        super().__init__(command, host=host, port=port, title="Helios")  # pyright: ignore[reportUnknownMemberType] -- a type left open
        self.sessions: set[asyncio.Task[object]] = set()

    async def _make_app(self) -> web.Application:
        app = await super()._make_app()
        app.middlewares.append(self._guard())
        return app

    def _guard(self) -> Middleware:
        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            if not is_our_name(request.host, self.host):
                raise web.HTTPForbidden(text="this address is not one of the dashboard's\n")
            origin = request.headers.get("Origin")
            if (origin is not None or request.path == "/ws") and origin != f"http://{request.host}":
                raise web.HTTPForbidden(text="only the dashboard's own page may do this\n")
            response = await handler(request)
            if not response.prepared:
                response.headers.update(_page_headers(request.host))
            return response

        return guard

    async def handle_index(self, request: web.Request) -> web.Response:  # pyright: ignore[reportIncompatibleMethodOverride] -- the library's decorator turns its dict into this
        # The page links to where the browser reached us; nothing else runs between this and its rendering.
        self.public_url = f"http://{request.host}"
        response = cast(web.Response, await super().handle_index(request))
        response.text = (response.text or "").replace("<head>", "<head><title>Helios</title>", 1)
        return response

    async def handle_websocket(self, request: web.Request) -> web.WebSocketResponse:
        task = asyncio.current_task()
        assert task is not None
        self.sessions.add(task)
        try:
            return await super().handle_websocket(request)
        finally:
            self.sessions.discard(task)

    async def on_startup(self, app: web.Application) -> None:
        del app
        put(f"http://{_shown(self.host)}:{self.port}")
        narrate("the dashboard is served there; Ctrl-C ends it")

    async def on_shutdown(self, app: web.Application) -> None:
        del app
        open_now = list(self.sessions)
        for session in open_now:
            session.cancel()
        if open_now:
            await asyncio.wait(open_now, timeout=CLOSING_SECONDS)


def serve(address: str, command: str, *, anywhere: bool) -> None:
    """Serve until SIGINT or SIGTERM. Raises CommandFailed when it may or can not listen at the address."""
    host, port = parse_address(address)
    if not anywhere and not is_loopback(host):
        raise CommandFailed(
            f"{host} can be reached from other machines, and the dashboard has no login",
            hint="serve at 127.0.0.1 and use ssh -L, or add --serve-anywhere if all who reach it may do everything",
        )
    if anywhere and not is_loopback(host):
        narrate("whoever reaches this address can see and do everything: there is no login")
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(name)s: %(message)s")
    server = DashboardServer(command, host, port)
    try:
        web.run_app(
            server._make_app(),  # pyright: ignore[reportPrivateUsage] -- the one way to the library's app
            host=host,
            port=port,
            print=None,
            access_log=None,
            shutdown_timeout=SHUTDOWN_SECONDS,
            loop=asyncio.new_event_loop(),
        )
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            hint = f"helios tui --serve {address.rpartition(':')[0] or host}:{port + 1 if port < 65_535 else port - 1}"
            raise CommandFailed(f"port {port} is in use", hint=hint) from None
        raise CommandFailed(
            f"{address} cannot be listened at: {error.strerror}", hint="give an address of this machine"
        ) from None


def parse_address(address: str) -> tuple[str, int]:
    """`HOST:PORT`, or `:PORT` on loopback, or `HOST` alone; an IPv6 address stands in brackets."""
    host, colon, port = address.rpartition(":") if not address.endswith("]") else (address, "", "")
    if not colon:
        host, port = address, "8415"
    if not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65_535:
        raise CommandFailed(f"{address!r} is no address to listen at", hint="give HOST:PORT, like 127.0.0.1:8415")
    return host.strip("[]") or "127.0.0.1", int(port)


def is_loopback(host: str) -> bool:
    literal = _literal(host)
    return literal.is_loopback if literal is not None else host.lower() == "localhost"


def is_our_name(named: str, bound: str) -> bool:
    """Whether a Host header can be meant for us. A name that another site points here by DNS is none of ours."""
    try:
        host = parse_address(named if named.rpartition(":")[1] else f"{named}:80")[0].lower()
    except CommandFailed:
        return False
    if is_loopback(host) or host == bound.lower():
        return True
    return not is_loopback(bound) and (_literal(host) is not None or host in (socket.gethostname(), socket.getfqdn()))


def _literal(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _page_headers(host: str) -> dict[str, str]:
    # The library's page asks Google for a font; without an answer, which this forbids at once, it takes another.
    policy = (
        "default-src 'self'; style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline' 'wasm-unsafe-eval'; "
        f"img-src 'self' data:; font-src 'self' data:; connect-src 'self' ws://{host}; frame-ancestors 'none'; "
        "base-uri 'none'; form-action 'none'"
    )
    return {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }
