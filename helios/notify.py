"""Notices of ended runs, by webhook: what a URL may look like, and where the operator lets notices go. No I/O happens
here.

Rule: a URL is taken apart here alone, by a grammar that is narrower than RFC 3986, so whoever checks it and whoever
connects see the same host. Nothing but `Destination.name` may be shown of one: paths and queries often hold tokens.
"""

import re
from functools import cache
from hashlib import sha256
from typing import Literal, NamedTuple

Event = Literal["succeeded", "failed", "cancelled", "ended"]

URL_CHARACTERS = 2_048
SECRET_CHARACTERS = 16
"""Below this a secret can be guessed from one signed notice."""

_PORTS = {"https": 443, "http": 80}
_HOST = r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*)(?::([0-9]{1,5}))?"
_URL = re.compile(rf"(https?)://{_HOST}([/?][A-Za-z0-9._~!$&'()*+,;=:@/?%-]*)?")
_LISTED = re.compile(rf"(?:(https?)://)?{_HOST}/?")
_SECRET = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)=(.+)", re.DOTALL)


class Destination(NamedTuple):
    scheme: str
    host: str
    """In lower case; of IPv6 without brackets."""
    port: int
    target: str = "/"
    """Path and query."""

    @property
    def authority(self) -> str:
        """As the header Host has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def name(self) -> str:
        """What logs and warnings may say."""
        return self.authority if self.scheme == "https" else f"http://{self.authority}"


class Unusable(ValueError):
    """A list of hosts or secrets cannot be read; says why, and shows no secret."""


def destination(url: str) -> Destination:
    """Raises ValueError, in the words of `url_fault`."""
    found = _URL.fullmatch(url)
    fault = url_fault(url)
    if found is None or fault is not None:
        raise ValueError(fault)
    scheme, host, port, target = found.groups()
    return _destination(scheme, host, port, target or "/")


def _destination(scheme: str, host: str, port: str | None, target: str = "/") -> Destination:
    target = target if target.startswith("/") else f"/{target}"
    return Destination(scheme, host.strip("[]").lower(), int(port) if port else _PORTS[scheme], target)


def url_fault(url: str) -> str | None:
    """What is wrong with a URL of `notify`, in words that do not show it."""
    if len(url) > URL_CHARACTERS:
        return f"has {len(url):,} characters; the limit is {URL_CHARACTERS:,}"
    if not url.startswith(("https://", "http://")):
        return "is not a URL that begins with https:// or http://"
    authority = re.split(r"[/?#]", url.partition("://")[2], maxsplit=1)[0]
    if "@" in authority:
        return "has a user or password in it; sign notices with a secret instead"
    if "#" in url:
        return "has a part after #, which no server would see"
    found = _URL.fullmatch(url)
    if found is None:
        return "is not a URL such as https://host.example/path; other characters than ASCII's are written as %XX"
    if found[3] and not 1 <= int(found[3]) <= 65_535:
        return f"has the port {found[3]}, which is not within 1 to 65,535"
    return None


@cache
def read_hosts(text: str) -> frozenset[Destination]:
    """HELIOS_NOTIFY_HOSTS: `host`, `host:port` or `http://host:port`, separated by spaces or commas. Without a scheme
    https is meant, without a port that of the scheme. Raises Unusable.
    """
    allowed: set[Destination] = set()
    for word in re.split(r"[\s,]+", text.strip()):
        found = _LISTED.fullmatch(word)
        if word and (found is None or not 1 <= int(found[3] or 1) <= 65_535):
            raise Unusable(f"has {word[:100]!r}, but it takes host, host:port or http://host:port")
        if found is not None:
            allowed.add(_destination(found[1] or "https", found[2], found[3]))
    return frozenset(allowed)


def is_allowed(to: Destination, hosts: str) -> bool:
    return to._replace(target="/") in read_hosts(hosts)


def not_allowed(to: Destination) -> str:
    """What a run says of a notice that is not sent."""
    return f"no notice goes to {to.name}: HELIOS_NOTIFY_HOSTS does not name it"


@cache
def read_secrets(text: str) -> dict[str, str]:
    """HELIOS_NOTIFY_SECRETS: NAME=SECRET, separated by spaces or commas. Raises Unusable."""
    found: dict[str, str] = {}
    for number, word in enumerate(re.split(r"[\s,]+", text.strip()), 1):
        pair = _SECRET.fullmatch(word)
        if word and pair is None:
            raise Unusable(f"has an entry, number {number}, that is not NAME=SECRET")
        if pair is not None:
            if len(pair[2]) < SECRET_CHARACTERS:
                # What is before the `=` may be a secret's beginning, where somebody forgot its name.
                raise Unusable(
                    f"has an entry, number {number}, whose secret has less than {SECRET_CHARACTERS} characters"
                )
            found[pair[1]] = pair[2]
    return found


def idempotency_key(run: str, url: str) -> str:
    """The same for every sending of one notice."""
    return f"{run}-{sha256(url.encode()).hexdigest()[:16]}"
