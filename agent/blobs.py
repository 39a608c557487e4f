"""The keeper's door: other nodes read blobs through it, and this node's publish streams outputs in.

    GET|HEAD /v1/blob/<digest>?expires=&grant=                    the blob, whole or a range
    PUT      /v1/output?run=&task=&attempt=&expires=&grant=       -> {"sha256", "bytes"} once it is in the cache
    GET      /ready                                               200, or 503 with what this node's agent waits for

Every other request carries a grant that the collector signed (agent.grants); without a good one the answer is 403 and
nothing is looked at. What is read is content by its digest, what is written gets the digest that this side computes, so
no caller can make a blob other than it is.
"""

import hashlib
import http.server
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from urllib.parse import parse_qsl, urlsplit

from agent.download import BUFFER, SinkFault
from agent.grants import granted
from agent.names import is_digest
from agent.store import CacheFault, Origin, Store

REQUESTS_AT_ONCE = 32
"""More are told to come back; whoever asks has the store."""
SILENCE_SECONDS = 30.0


class BlobServer:
    """Serves one cache folder until it is closed. Raises OSError when the address cannot be bound."""

    def __init__(self, store: Store, key: str, host: str, port: int, waits_for: Callable[[], str] = lambda: "") -> None:
        self._server = _Server((host, port), _Handler, store, key, waits_for)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="blobs", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def drain(self, seconds: float) -> None:
        """Takes nobody new, and gives those at work so long to end. Safe to repeat."""
        self.close()
        deadline = time.monotonic() + seconds
        for _ in range(REQUESTS_AT_ONCE):  # whoever is at work has one of as many places
            if not self._server.room.acquire(timeout=max(0.0, deadline - time.monotonic())):
                return


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        address: tuple[str, int],
        handler: "type[_Handler]",
        store: Store,
        key: str,
        waits_for: Callable[[], str],
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, handler)
        self.store = store
        self.key = key
        self.waits_for = waits_for
        self.room = threading.BoundedSemaphore(REQUESTS_AT_ONCE)

    def handle_error(self, request: object, client_address: object) -> None:
        """A caller that breaks off is no news."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"
    server_version = "helios-keeper"
    sys_version = ""
    timeout = SILENCE_SECONDS
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        if self.path == "/ready":
            self._tell_ready()
            return
        self._within_room(self._give)

    def do_HEAD(self) -> None:
        self._within_room(self._give)

    def do_PUT(self) -> None:
        self._within_room(self._take)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: paths carry grants."""

    def _tell_ready(self) -> None:
        words = self.server.waits_for().encode()
        self.send_response(503 if words else 200)
        self.send_header("Content-Length", str(len(words)))
        self.end_headers()
        self.wfile.write(words)

    def _within_room(self, serve: Callable[[], None]) -> None:
        if not self.server.room.acquire(blocking=False):
            self._refuse(503)
            return
        try:
            serve()
        finally:
            self.server.room.release()

    def _give(self) -> None:
        path, fields = self._asked()
        digest = path.removeprefix("/v1/blob/")
        if not path.startswith("/v1/blob/") or not is_digest(digest):
            self._refuse(404)
            return
        if not granted(self.server.key, self.command, {**fields, "digest": digest}, time.time()):
            self._refuse(403)
            return
        blob = self.server.store.open_blob(digest)
        if blob is None:
            self._refuse(404)
            return
        try:
            self._send(blob, digest)
        finally:
            os.close(blob)

    def _send(self, blob: int, digest: str) -> None:
        size = os.fstat(blob).st_size
        etag = f'"{digest}"'
        if self.headers.get("If-Match") not in (None, etag):
            self._refuse(412)
            return
        span = _span(self.headers.get("Range"), size)
        if span is None:
            self._refuse(416)
            return
        start, end = span
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("ETag", etag)
        self.send_header("Content-Length", str(end - start))
        if "Range" in self.headers:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        self.end_headers()
        if self.command == "HEAD" or start == end:  # sendfile refuses to send nothing
            return
        with os.fdopen(blob, "rb", closefd=False) as file:
            if self.connection.sendfile(file, start, end - start) != end - start:
                self.close_connection = True

    def _take(self) -> None:
        path, fields = self._asked()
        # What is not read of the body would be taken for the next request.
        self.close_connection = True
        if path != "/v1/output":
            self._refuse(404)
            return
        if not granted(self.server.key, "PUT", fields, time.time()):
            self._refuse(403)
            return
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit() or len(length) > 16:
            self._refuse(411)
            return
        try:
            digest = self._receive(int(length))
        except (CacheFault, SinkFault):
            self._refuse(507)
            return
        body = json.dumps({"sha256": digest, "bytes": int(length)}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _receive(self, size: int) -> str:
        """Takes a body of `size` bytes into the cache. Raises CacheFault, or OSError when the caller breaks off."""
        store, hasher = self.server.store, hashlib.sha256()
        with store.own_part(size) as (part, lock):
            buffer = memoryview(bytearray(min(BUFFER, max(size, 1))))
            offset = 0
            while offset < size:
                count = self.rfile.readinto(buffer[: size - offset])  # pyright: ignore[reportAttributeAccessIssue]
                if not count:
                    raise ConnectionResetError
                part.write_at(offset, buffer[:count])
                hasher.update(buffer[:count])
                offset += count
            digest = hasher.hexdigest()
            store.admit(part, lock, digest, size, Origin("output", None))
        return digest

    def _asked(self) -> tuple[str, dict[str, str]]:
        try:
            pieces = urlsplit(self.path)
            return pieces.path, dict(parse_qsl(pieces.query, max_num_fields=8))
        except ValueError:
            return "", {}

    def _refuse(self, status: int) -> None:
        self.close_connection = True
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.send_header("Connection", "close")
        self.end_headers()


def _span(asked: str | None, size: int) -> tuple[int, int] | None:
    """(start, end) of `bytes=first-last`, or of the whole; None for anything else."""
    if asked is None:
        return 0, size
    first, _, last = asked.removeprefix("bytes=").partition("-")
    if not asked.startswith("bytes=") or not (first + last).isascii() or not first.isdigit() or not last.isdigit():
        return None
    start, end = int(first), min(int(last) + 1, size)
    return (start, end) if start < end else None
