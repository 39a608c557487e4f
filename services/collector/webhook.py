"""One POST to somebody else's server, which may be slow, hostile, or not whom its name says.

Rules: the name is resolved once, and what is connected to is the address that was looked at, so a name that changes in
between leads nowhere else. No redirect is followed, no proxy of the environment is asked, no cookie is kept. All of it
together takes at most SECONDS from the first byte to the server on, and little of the answer is read. What is said
about a failure shows neither the URL nor the answer.
"""

import contextlib
import ipaddress
import socket
import ssl
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException
from typing import Any, Literal, NamedTuple

from helios.notify import Destination

SECONDS = 10.0
CONNECT_SECONDS = 3.0
"""For each address of a name."""
ADDRESSES = 3
ANSWER_BYTES = 16 * 1024
"""So much of an answer is read, for the sake of servers that want it to be."""
RETRIED = (408, 425, 429)
"""Answers below 500 that ask to come again."""
WAIT_AT_MOST_SECONDS = 3_600.0

METADATA = frozenset({"100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"})
"""Where clouds serve machines' credentials, besides the link-local 169.254.169.254."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Verdict(NamedTuple):
    outcome: Literal["sent", "again", "never"]
    words: str = ""
    wait_seconds: float = 0.0
    """The server asked for so much."""


class AddressRefused(Exception):
    """Nothing is sent to any address of the name."""


class _Wire:
    """A connection that another thread may cut."""

    def __init__(self) -> None:
        self.socket: socket.socket | None = None
        self.is_cut = False
        self.lock = threading.Lock()

    def use(self, found: socket.socket) -> None:
        with self.lock:
            self.socket = found
            if self.is_cut:
                self._shut()

    def cut(self) -> None:
        with self.lock:
            self.is_cut = True
            self._shut()

    def _shut(self) -> None:
        if self.socket is not None:
            with contextlib.suppress(OSError):
                # The plain socket's own: ssl's would take the state away from whoever is reading.
                socket.socket.shutdown(self.socket, socket.SHUT_RDWR)

    def close(self) -> None:
        with self.lock:
            if self.socket is not None:
                self.socket.close()


def post(to: Destination, body: bytes, headers: Mapping[str, str], context: ssl.SSLContext) -> Verdict:
    """Never raises for what the other side does."""
    wire = _Wire()
    timer = threading.Timer(SECONDS, wire.cut)
    timer.daemon = True
    timer.start()
    try:
        return _exchange(wire, to, body, headers, context)
    except AddressRefused as error:
        return Verdict("never", str(error))
    except (OSError, HTTPException) as error:
        return Verdict("again", f"no answer within {SECONDS:.0f} s" if wire.is_cut else _words(error))
    finally:
        timer.cancel()
        wire.close()


def _exchange(
    wire: _Wire, to: Destination, body: bytes, headers: Mapping[str, str], context: ssl.SSLContext
) -> Verdict:
    plain = _connected(wire, addresses(to))
    wire.use(plain)
    if to.scheme == "https":
        secure = context.wrap_socket(plain, server_hostname=to.host, do_handshake_on_connect=False)
        wire.use(secure)
        secure.do_handshake()
        plain = secure
    connection = HTTPConnection(to.host, to.port, timeout=SECONDS)
    connection.sock = plain
    connection.request("POST", to.target, body, {"Host": to.authority, "Connection": "close", **headers})
    answer = connection.getresponse()
    verdict = judged(answer.status, answer.getheader("Retry-After"))
    with contextlib.suppress(OSError, HTTPException):
        answer.read(ANSWER_BYTES)
    answer.close()
    return verdict


def judged(status: int, retry_after: str | None = None) -> Verdict:
    """What an answer means."""
    if 200 <= status < 300:
        return Verdict("sent")
    if status >= 500 or status in RETRIED:
        return Verdict("again", f"it answered {status}", _asked_seconds(retry_after))
    if 300 <= status < 400:
        return Verdict("never", f"it answered {status}, and redirects are not followed")
    return Verdict("never", f"it answered {status}")


def _asked_seconds(text: str | None) -> float:
    """Of a Retry-After, in seconds or as a date; 0 for one that makes no sense."""
    text = (text or "").strip()
    if text.isascii() and text.isdecimal():
        return min(float(text[:9]), WAIT_AT_MOST_SECONDS)
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return 0.0
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return min(max(0.0, (at - datetime.now(UTC)).total_seconds()), WAIT_AT_MOST_SECONDS)


def addresses(to: Destination) -> list[tuple[Any, ...]]:
    """What getaddrinfo knows of the host, without what nothing is sent to. Raises AddressRefused, OSError."""
    found = socket.getaddrinfo(to.host, to.port, type=socket.SOCK_STREAM)
    allowed: list[tuple[Any, ...]] = []
    refused = ""
    for each in found:
        fault = refusal(str(each[4][0]), to.host)
        refused = fault or refused
        if not fault:
            allowed.append(each)
    if not allowed:
        raise AddressRefused(f"{to.host} is {refused}, which nothing is sent to")
    return allowed[:ADDRESSES]


def refusal(address: str, host: str) -> str:
    """Why nothing is sent to an address; empty when it may be. `host` is what the operator listed.

    Private addresses are fine: receivers inside the cluster have such. This machine itself is only where it was listed
    as such.
    """
    ip = _plain(ipaddress.ip_address(address.partition("%")[0]))
    if ip.is_link_local or str(ip) in METADATA:
        return "an address of this link or of the cloud's metadata"
    if ip.is_multicast or ip.is_unspecified or (ip.is_reserved and not ip.is_loopback) or str(ip).startswith("0."):
        return "no address of one machine"
    if ip.is_loopback and not _is_loopback_by_name(host):
        return "this machine itself"
    return ""


def _plain(ip: Address) -> Address:
    """The IPv4 address inside one of IPv6."""
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return ip.ipv4_mapped
        if ip in _NAT64:
            return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip


def _is_loopback_by_name(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _connected(wire: _Wire, known: list[tuple[Any, ...]]) -> socket.socket:
    """To the first address that answers. Raises OSError."""
    trouble: OSError = OSError("no address")
    for family, kind, protocol, _, address in known:
        if wire.is_cut:
            break
        made = socket.socket(family, kind, protocol)
        try:
            made.settimeout(CONNECT_SECONDS)
            made.connect(address)
            made.settimeout(SECONDS)
        except OSError as error:
            made.close()
            trouble = error
        else:
            return made
    raise trouble


def _words(error: Exception) -> str:
    """Without what the server sent: an HTTPException quotes it."""
    match error:
        case socket.gaierror():
            return "its name is not known"
        case ssl.SSLCertVerificationError():
            return f"its certificate is not accepted: {error.verify_message}"[:200]
        case TimeoutError():
            return "it does not answer"
        case OSError():
            return (error.strerror or type(error).__name__)[:200]
        case _:
            return f"its answer is no HTTP ({type(error).__name__})"
