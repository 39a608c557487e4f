"""Where Redis is, as `HELIOS_REDIS_URL` says it. No I/O happens here, but for looking whether named files are there.

    redis://user:password@host:6379/0                              one address, looked up for each connection
    rediss://user:password@host:6379/0?ssl_ca_certs=/path/ca.crt   the same, encrypted
    unix:///path/redis.sock?db=0&password=…
    redis+sentinel://user:password@one:26379,two:26379/mymaster/0  the primary that these Sentinels name
    rediss+sentinel://…                                            Sentinels and primary encrypted

User and password are Redis's; those of the Sentinels have settings of their own. The options are named as in redis-py.
"""

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

REDIS_PORT = 6379
SENTINEL_PORT = 26379
SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")
FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
FOLDERS = ("ssl_ca_path",)
TLS_OPTIONS = (*FILES, *FOLDERS, "ssl_password", "ssl_cert_reqs", "ssl_check_hostname")
UNIX_OPTIONS = ("username", "password")
WORDS = {"ssl_cert_reqs": ("required", "none"), "ssl_check_hostname": ("true", "false")}

HostPort = tuple[str, int]


class AddressInvalid(ValueError):
    """The URL names no place; the message goes on after the variable's name, and holds no password."""


class FileInvalid(AddressInvalid):
    """A file that the URL names cannot be used."""


class RedisAddress(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed URL. Either `path`, or `hosts`: one, or several that are Sentinels where `master` is set."""

    hosts: tuple[HostPort, ...] = ()
    path: str = ""
    master: str = ""
    """What the Sentinels know the primary by; empty without Sentinels."""
    db: int = 0
    username: str = ""
    password: str = ""
    tls: bool = False
    tls_options: dict[str, Any] = {}
    """As redis-py's connection takes them."""

    @property
    def place(self) -> str:
        """An address fit for the screen: without user and password."""
        if self.path:
            return self.path
        named = ", ".join(shown(each) for each in self.hosts)
        return f"{self.master} (by Sentinel: {named})" if self.master else named


def shown(place: HostPort) -> str:
    host, port = place
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def address_of(url: str) -> RedisAddress:
    """Raises AddressInvalid. Where the URL has a password that was not escaped, what a message would quote is a part of
    it, so of a URL with a login nothing is quoted but the files that it names.
    """
    try:
        return _address_of(url)
    except FileInvalid:
        raise
    except AddressInvalid as error:
        if "@" not in url:
            raise
        hint = "; in user and password every character but letters, digits and -._~ is written as %XX"
        raise AddressInvalid(re.sub(r"(['\"]).*\1", "…", str(error)) + hint) from None


def _address_of(url: str) -> RedisAddress:
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in SCHEMES:
        schemes = ", ".join(f"{each}://" for each in SCHEMES)
        raise AddressInvalid(f"begins with {scheme.partition('@')[0][:20]!r}, but it takes one of {schemes}")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise AddressInvalid(f"is no URL: {error}") from None
    if parts.fragment or "#" in url:
        raise AddressInvalid("has a # in it; in a password it is written %23")
    login, _, places = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    options = _options(parts.query, scheme)
    if scheme == "unix":
        if not parts.path:
            raise AddressInvalid("names no socket: unix:///path/to/redis.sock")
        return RedisAddress(
            path=unquote(parts.path),
            db=_db(options.get("db", "")),
            username=options.get("username", unquote(user)),
            password=options.get("password", unquote(password)),
        )
    segments = [unquote(each) for each in parts.path.split("/")[1:]]
    by_sentinel = scheme.endswith("+sentinel")
    master = segments.pop(0) if by_sentinel and segments else ""
    if by_sentinel and not master:
        raise AddressInvalid(f"names no primary: {scheme}://host1:26379,host2:26379/mymaster/0")
    if len(segments) > 1:
        raise AddressInvalid(f"has more after its host than it takes: {parts.path!r}")
    if "," in places and not by_sentinel:
        raise AddressInvalid(f"names several hosts; for Sentinels it begins with {scheme}+sentinel://")
    port = SENTINEL_PORT if by_sentinel else REDIS_PORT
    return RedisAddress(
        hosts=tuple(_host(each, port) for each in places.split(",")),
        master=master,
        db=_db("".join(segments) or options.get("db", "")),
        username=unquote(user),
        password=unquote(password),
        tls=scheme.startswith("rediss"),
        tls_options=_tls(options),
    )


def _options(query: str, scheme: str) -> dict[str, str]:
    taken = ("db", *(TLS_OPTIONS if scheme.startswith("rediss") else UNIX_OPTIONS if scheme == "unix" else ()))
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name in options:
        if name.startswith("ssl_") and not scheme.startswith("rediss"):
            raise AddressInvalid(f"has the option {name}, but {scheme}:// is not encrypted; rediss:// is")
        if name not in taken:
            raise AddressInvalid(f"has the option {name[:40]!r}, but {scheme}:// takes only {', '.join(taken)}")
    return options


def _tls(options: dict[str, str]) -> dict[str, Any]:
    """Files that are missing are said here: the library says «no such file» and not which."""
    found: dict[str, Any] = {name: text for name, text in options.items() if name != "db"}
    for name, words in WORDS.items():
        if name in found and found[name].lower() not in words:
            raise AddressInvalid(f"has {name}={found[name][:40]!r}, but it takes {' or '.join(words)}")
    if "ssl_cert_reqs" in found:
        found["ssl_cert_reqs"] = found["ssl_cert_reqs"].lower()
    if "ssl_check_hostname" in found:
        found["ssl_check_hostname"] = found["ssl_check_hostname"].lower() == "true"
    if "ssl_keyfile" in found and "ssl_certfile" not in found:
        raise AddressInvalid("has ssl_keyfile without ssl_certfile, the certificate that the key is for")
    for name in FILES:
        if name in found and not os.access(found[name], os.R_OK):
            raise FileInvalid(f"has {name}={found[name]!r}, but there is no such file that can be read")
    for name in FOLDERS:
        if name in found and not Path(found[name]).is_dir():
            raise FileInvalid(f"has {name}={found[name]!r}, but there is no such folder")
    return found


def _host(text: str, default_port: int) -> HostPort:
    host, _, port = text.rpartition(":") if ":" in text.rpartition("]")[2] else (text, "", "")
    host = unquote(host.removeprefix("[").removesuffix("]"))
    if not host and text:
        raise AddressInvalid(f"has a port without a host: {text[:40]!r}")
    if port and not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise AddressInvalid(f"has the port {port[:40]!r}, but ports are numbers from 1 to 65535")
    return host or "127.0.0.1", int(port or default_port)


def _db(text: str) -> int:
    if text and not (text.isascii() and text.isdecimal() and len(text) < 6):
        raise AddressInvalid(f"has the database {text[:40]!r}, but databases are numbers; usually it is 0")
    return int(text or 0)
