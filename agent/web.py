"""HTTP/1.1 with a few kept connections, over http.client. Knows nothing of S3 or of the pod endpoint, and retries
nothing.

A problem of the network or of the other side's HTTP is a WebError. An OSError that leaves this module came from the
caller's own reading.
"""

import functools
import http.client
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import urlsplit

from agent.frozen import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl
    from typing import Any, BinaryIO

CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 60.0
"""A connection on which nothing moves for this long is given up."""
LIFE_OPTIONS = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 25_000),
)
"""A machine that is gone without a word is noticed by the kernel after 25 s, however long its answer may take."""

WHOLE_BYTES = 64 * 1024
"""A body of at most so many bytes goes in one piece, on a kept connection: to make one costs more than to send it."""

_IDLE_PER_HOST = 8


class WebError(Exception):
    """The connection failed, broke or timed out. The message holds no URL."""


class _Heading:
    """What an answer's head is read from, and the last line of it."""

    def __init__(self, file: "BinaryIO") -> None:
        self.file = file
        self.last = b""

    def readline(self, limit: int = -1) -> bytes:
        self.last = self.file.readline(limit)
        return self.last

    def close(self) -> None:
        self.file.close()


class _WholeHeading(http.client.HTTPResponse):
    """http.client takes the connection's end for the end of the headers, and so what was cut off there for a success
    with nothing in it.
    """

    fp: "Any"

    def begin(self) -> None:
        heading = _Heading(self.fp)
        self.fp = heading
        try:
            super().begin()
        finally:
            if self.fp is heading:
                self.fp = heading.file
        if heading.last not in (b"\r\n", b"\n"):
            raise http.client.IncompleteRead(b"")


class _PlainConnection(http.client.HTTPConnection):
    """Connects without the idna codec, whose import costs three milliseconds and which an ASCII host does not need."""

    response_class = _WholeHeading

    def connect(self) -> None:
        if not self.host.isascii():
            super().connect()
            return
        address = (self.host.encode("ascii"), self.port)
        # getaddrinfo takes a host's bytes as they are; that create_connection does too is missing from its types.
        self.sock = socket.create_connection(address, self.timeout)  # pyright: ignore[reportArgumentType]
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for level, name, value in LIFE_OPTIONS:
            self.sock.setsockopt(level, name, value)


class _TlsConnection(_PlainConnection):
    """http.client's own HTTPS connection would import ssl at every start, five milliseconds; most need plain HTTP only
    (see __main__).
    """

    default_port = 443

    def connect(self) -> None:
        super().connect()
        self.sock = _tls().wrap_socket(self.sock, server_hostname=self.host)


@functools.cache
def _tls() -> "ssl.SSLContext":
    """Checks certificates and host names against the system's authorities, which are read once."""
    import ssl

    return ssl.create_default_context()


class Response:
    """One answer. Read it to the end or close it; the connection is kept only in the first case."""

    def __init__(self, web: "Web", origin: tuple[str, str], connection: http.client.HTTPConnection) -> None:
        self._web = web
        self._origin = origin
        self._connection = connection
        try:
            self._reply = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise WebError(_words(error)) from None
        self.status = self._reply.status
        length = self._reply.length
        self.length: int | None = length
        """Bytes of the body, when the server says."""

    def header(self, name: str) -> str | None:
        return self._reply.getheader(name)

    def readinto(self, buffer: memoryview) -> int:
        """Fills the buffer as far as the body goes; 0 at its end, which may be a broken one (compare with `length`)."""
        try:
            return self._reply.readinto(buffer)
        except (OSError, http.client.HTTPException) as error:
            raise WebError(_words(error)) from None

    def read(self, limit: int) -> bytes:
        """At most `limit` bytes of the body."""
        try:
            return self._reply.read(limit)
        except (OSError, http.client.HTTPException) as error:
            raise WebError(_words(error)) from None

    def close(self) -> None:
        """Gives the connection back if the body was read to its end and both sides keep it, else closes it."""
        if not self._reply.isclosed() and self._reply.length == 0:
            self._reply.close()
        if self._reply.isclosed() and self._connection.sock is not None:  # pyright: ignore[reportUnnecessaryComparison]
            self._web.keep(self._origin, self._connection)
        else:
            self._reply.close()
            self._connection.close()

    def __enter__(self) -> "Response":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Sending:
    """A request whose body is under way: send its pieces, then take the answer, or close it."""

    def __init__(self, web: "Web", origin: tuple[str, str], connection: http.client.HTTPConnection) -> None:
        self._web = web
        self._origin = origin
        self._connection = connection

    def send(self, piece: memoryview | bytes) -> None:
        _guarded(self._connection.send, piece)

    def answer(self) -> Response:
        return Response(self._web, self._origin, self._connection)

    def close(self) -> None:
        self._connection.close()


class Web:
    """Sends requests; safe to use from many threads. `silence` in seconds: how long the other side may do nothing."""

    def __init__(self, silence: float | None = None) -> None:
        self._silence = SILENCE_SECONDS if silence is None else silence
        self._idle: dict[tuple[str, str], list[http.client.HTTPConnection]] = {}
        self._lock = threading.Lock()

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None = None,
        silence: float | None = None,
    ) -> Response:
        """Sends one request with a small body or none; `silence` in place of the usual one. A kept connection that the
        server had closed is replaced once, unseen, and no other kept one of that server is trusted then.
        """
        origin, target = _split(url)
        patience = self._silence if silence is None else silence
        kept = self._kept(origin)
        if kept is not None:
            kept.sock.settimeout(patience)
            try:
                return self._send(kept, origin, method, target, headers, body)
            except WebError:
                self._forget(origin)
        connection = self._connect(origin, min(patience, CONNECT_SECONDS))
        connection.sock.settimeout(patience)
        return self._send(connection, origin, method, target, headers, body)

    def upload(
        self, method: str, url: str, headers: Mapping[str, str], length: int, chunks: Iterable[memoryview | bytes]
    ) -> Response:
        """Sends a body of exactly `length` bytes: a small one as `request` does, others piece by piece on a new
        connection. Errors of `chunks` itself pass through.
        """
        if length <= WHOLE_BYTES:
            body = bytearray()
            for chunk in chunks:
                body += chunk
            return self.request(method, url, headers, bytes(body))
        sending = self.sending(method, url, headers, length)
        try:
            for chunk in chunks:
                sending.send(chunk)
            return sending.answer()
        except BaseException:
            sending.close()
            raise

    def sending(
        self, method: str, url: str, headers: Mapping[str, str], length: int, silence: float = SILENCE_SECONDS
    ) -> "Sending":
        """Begins a request whose body of `length` bytes follows piece by piece, on a new connection; `silence` in
        seconds is how long the other side may do nothing.
        """
        origin, target = _split(url)
        connection = self._connect(origin, min(silence, CONNECT_SECONDS))
        try:
            connection.sock.settimeout(silence)
            _guarded(connection.putrequest, method, target, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.putheader("Content-Length", str(length))
            _guarded(connection.endheaders)
        except BaseException:
            connection.close()
            raise
        return Sending(self, origin, connection)

    def keep(self, origin: tuple[str, str], connection: http.client.HTTPConnection) -> None:
        with self._lock:
            idle = self._idle.setdefault(origin, [])
            if len(idle) < _IDLE_PER_HOST:
                idle.append(connection)
                return
        connection.close()

    def close(self) -> None:
        with self._lock:
            connections = [connection for idle in self._idle.values() for connection in idle]
            self._idle.clear()
        for connection in connections:
            connection.close()

    def _kept(self, origin: tuple[str, str]) -> http.client.HTTPConnection | None:
        with self._lock:
            idle = self._idle.get(origin)
            return idle.pop() if idle else None

    def _forget(self, origin: tuple[str, str]) -> None:
        with self._lock:
            idle = self._idle.pop(origin, [])
        for connection in idle:
            connection.close()

    def _connect(self, origin: tuple[str, str], patience: float = CONNECT_SECONDS) -> http.client.HTTPConnection:
        scheme, host = origin
        kind = _TlsConnection if scheme == "https" else _PlainConnection
        connection = kind(host, timeout=patience)
        _guarded(connection.connect)
        connection.sock.settimeout(self._silence)
        return connection

    def _send(
        self,
        connection: http.client.HTTPConnection,
        origin: tuple[str, str],
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | None,
    ) -> Response:
        try:
            _guarded(connection.putrequest, method, target, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            _guarded(connection.endheaders, body)
            return Response(self, origin, connection)
        except WebError:
            connection.close()
            raise


def _guarded(call: Callable[..., object], *arguments: object, **options: object) -> None:
    try:
        call(*arguments, **options)
    except (OSError, http.client.HTTPException) as error:
        raise WebError(_words(error)) from None


def _split(url: str) -> tuple[tuple[str, str], str]:
    try:
        pieces = urlsplit(url)
    except ValueError:
        raise WebError("the URL cannot be parsed") from None
    if pieces.scheme not in ("http", "https") or not pieces.netloc:
        raise WebError("the URL is not http or https")
    target = pieces.path or "/"
    return (pieces.scheme, pieces.netloc), f"{target}?{pieces.query}" if pieces.query else target


def _words(error: Exception) -> str:
    # Some messages of http.client repeat what was sent; only the system's own words are safe to print.
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, TimeoutError):
        return "timed out"
    return type(error).__name__
