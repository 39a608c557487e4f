"""How every process of ours reaches Redis: one client, whose connections follow the primary.

Rule: a connection never outlives what it was made to. Each belongs to a *generation* of its client's route; when the
server at its end says that it is not the primary (any more), the route's generation ends, and every connection asks
anew where to go before it is used again: the host name, the managed endpoint's one address, or the Sentinels.
"""

from typing import Any

import msgspec
import redis
from redis.connection import Connection, ConnectionPool, SSLConnection, UnixDomainSocketConnection

from helios.redis_address import HostPort, RedisAddress, address_of, shown
from helios.settings import Settings
from helios.streams import CLIENT_OPTIONS
from helios.wire import error_code, send

ELSEWHERE = ("READONLY", "UNBLOCKED", "MASTERDOWN", "MOVED")
"""Error codes of a server that is not, or no longer, the one to write to. UNBLOCKED is what a blocking read gets from
one that becomes a replica."""

AS_IF_AWAY = ("UNBLOCKED", "MASTERDOWN", "CLUSTERDOWN")
"""Error codes of a server that answers and can serve nobody: taken as if it were away, as redis-py takes LOADING."""

SENTINEL_SECONDS = 1.0
"""How long one Sentinel is waited for, before the next is asked."""


class NotServing(redis.ConnectionError):
    """What listens there answers, but cannot serve at the moment."""


class SentinelView(msgspec.Struct, frozen=True):
    """What one Sentinel says: which primary, or why it says nothing."""

    sentinel: HostPort
    primary: HostPort | None
    trouble: str = ""


class Watch:
    """The Sentinels that are asked for the primary."""

    def __init__(self, address: RedisAddress, settings: Settings) -> None:
        self.master = address.master
        self.sentinels = address.hosts
        self.options: dict[str, Any] = {
            **CLIENT_OPTIONS,
            "socket_timeout": SENTINEL_SECONDS,
            "socket_connect_timeout": SENTINEL_SECONDS,
            "username": settings.redis_sentinel_user or None,
            "password": settings.redis_sentinel_password or None,
        }
        if address.tls:
            self.options |= {"ssl": True, **address.tls_options}

    def primary(self) -> HostPort:
        """What the first Sentinel that knows a primary says. Raises NotServing with each one's words."""
        troubles: list[str] = []
        for sentinel in self.sentinels:
            view = self.ask(sentinel)
            if view.primary is not None:
                # The others may be away: the next question begins with the one that answered.
                self.sentinels = (sentinel, *(each for each in self.sentinels if each != sentinel))
                return view.primary
            troubles.append(f"{shown(sentinel)} {view.trouble}")
        raise NotServing(f"no Sentinel names the primary {self.master!r}: {'; '.join(troubles)}")

    def ask(self, sentinel: HostPort) -> SentinelView:
        host, port = sentinel
        try:
            with redis.Redis(host=host, port=port, **self.options) as client:
                (found,) = send(client, [("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.master)])
        except redis.RedisError as error:
            return SentinelView(sentinel, None, str(error))
        if isinstance(found, Exception):
            return SentinelView(sentinel, None, str(found))
        if not found:
            return SentinelView(sentinel, None, f"it does not know {self.master!r}")
        return SentinelView(sentinel, (str(found[0]), int(found[1])))


class Route:
    """Where the connections of one client go. Used by many threads; a generation that is ended twice is ended."""

    def __init__(self, watch: Watch | None = None) -> None:
        self.watch = watch
        self.generation = 0

    def leave(self) -> None:
        """Have every connection made anew before its next use."""
        self.generation += 1


class _Following:
    """What our connections have beside redis-py's."""

    def __init__(self, *, route: Route, **options: Any) -> None:
        super().__init__(**options)
        self.route = route
        self.generation = -1

    def connect(self) -> None:
        """Called before each use, whether there is a connection or not."""
        own: Any = super()
        if self.generation != self.route.generation:
            self.disconnect()
        own.connect()

    def disconnect(self, *args: Any, **more: Any) -> None:
        own: Any = super()
        own.disconnect(*args, **more)

    def _connect(self) -> Any:
        own: Any = super()
        self.generation = self.route.generation
        if self.route.watch is not None:
            self.host, self.port = self.route.watch.primary()
        return own._connect()

    def read_response(self, *args: Any, **more: Any) -> Any:
        own: Any = super()
        try:
            return own.read_response(*args, **more)
        except redis.ResponseError as error:
            code = error_code(error)
            if code in ELSEWHERE and self.generation == self.route.generation:
                self.route.leave()
            if code in AS_IF_AWAY:
                raise NotServing(f"{code} {error}") from None
            raise


class FollowingConnection(_Following, Connection):
    """A connection that follows the primary."""


class FollowingSSLConnection(_Following, SSLConnection):
    """The same, encrypted."""


class FollowingUnixConnection(_Following, UnixDomainSocketConnection):
    """The same, through a socket of this machine."""


def client_of(settings: Settings) -> redis.Redis:
    """A client of the Redis that the settings name; nothing is connected yet. Raises AddressInvalid."""
    address = address_of(settings.redis_url)
    return redis.Redis.from_pool(ConnectionPool(**_connection_options(address, settings)))


def without_login(settings: Settings) -> redis.Redis:
    """A client that gives no user and no password."""
    stranger = msgspec.structs.replace(address_of(settings.redis_url), username="", password="")
    return redis.Redis.from_pool(ConnectionPool(**_connection_options(stranger, settings)))


def _connection_options(address: RedisAddress, settings: Settings) -> dict[str, Any]:
    options: dict[str, Any] = {**CLIENT_OPTIONS, "db": address.db}
    if address.username:
        options["username"] = address.username
    if address.password:
        options["password"] = address.password
    if address.path:
        return {**options, "path": address.path, "connection_class": FollowingUnixConnection, "route": Route()}
    kind = FollowingSSLConnection if address.tls else FollowingConnection
    route = Route(Watch(address, settings) if address.master else None)
    host, port = address.hosts[0]
    return {**options, "host": host, "port": port, **address.tls_options, "connection_class": kind, "route": route}


def sentinel_views(settings: Settings) -> list[SentinelView]:
    """Each Sentinel's own answer; empty where none are named."""
    address = address_of(settings.redis_url)
    watch = Watch(address, settings)
    return [watch.ask(each) for each in address.hosts] if address.master else []
