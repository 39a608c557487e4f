"""To whom a command speaks: the servers that HELIOS_REDIS_URL names, or else the embedded stack of HELIOS_HOME.

Rule: whatever goes wrong with a connection ends as a CommandFailed that says what to do, with exit code 3.
"""

import contextlib
import os
import time
from collections.abc import Generator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path

import msgspec
import redis

from cli.embedded.home import Home, HomeUnusable, home_from
from cli.embedded.lease import StackFailed, embedded_stack, rejoin, running_stack
from cli.embedded.stack import EVERYTHING, Stack
from cli.failure import UNREACHABLE, CommandFailed
from cli.output import narrate
from cli.table import shortened
from helios.keys import PROBE, Keys, all_partitions, keys_of_run
from helios.redis_address import AddressInvalid, address_of
from helios.redis_client import client_of
from helios.settings import SettingInvalid, Settings, settings_from

REDIS = frozenset({"redis"})
REDIS_AND_S3 = frozenset({"redis", "s3"})
S3 = frozenset({"s3"})
ALL = EVERYTHING


PATIENCE_SECONDS = 30.0
"""How long a Redis that was reached before may be away."""


class Link(msgspec.Struct):
    """An open way to Redis, and the settings for everything else. `stack` is None with servers of one's own.

    All three may change when the way is regained, so they are asked for at each use.
    """

    client: redis.Redis
    settings: Settings
    stack: Stack | None = None
    need: AbstractSet[str] = EVERYTHING

    def keys(self, run: str) -> Keys:
        return keys_of_run(run, self.settings.partitions)

    @property
    def partitions(self) -> list[Keys]:
        return all_partitions(self.settings.partitions)


def uses_own_servers() -> bool:
    return bool(os.environ.get("HELIOS_REDIS_URL"))


@contextlib.contextmanager
def connected(need: AbstractSet[str] = REDIS) -> Generator[Link]:
    """Open the way, and close it after use. `need` says what of the embedded stack must be ready."""
    if uses_own_servers():
        with _linked(read_settings()) as link:
            yield link
        return
    if os.environ.get("HELIOS_S3_ENDPOINT"):
        narrate("HELIOS_S3_ENDPOINT has no effect without HELIOS_REDIS_URL: the embedded object store is used")
    with stack_ready(need) as stack, _linked(_settings_of(stack), stack, need) as link:
        yield link


@contextlib.contextmanager
def connected_to(settings: Settings) -> Generator[Link]:
    """The same for servers that are named by the caller."""
    with _linked(settings) as link:
        yield link


def _settings_of(stack: Stack) -> Settings:
    return read_settings({**os.environ, **stack.environ})


@contextlib.contextmanager
def stack_ready(need: AbstractSet[str] = ALL, *, replicas: int = 1, http_port: int = 0) -> Generator[Stack]:
    """The embedded stack, started if it does not run; `replicas` of each service where it is started here."""
    home = home_from()
    with contextlib.ExitStack() as held:
        with usable(home):
            if running_stack(home) is None:
                check_node_settings(os.environ, home.path)
                if need == ALL:
                    narrate(f"starting Helios in {home.path} …")
            ready = held.enter_context(
                embedded_stack(home, need=need, replicas=replicas, http_port=http_port, narrate=narrate)
            )
        yield ready


def check_node_settings(environ: Mapping[str, str], home: Path) -> None:
    """Raises CommandFailed for a setting with which the embedded node would end as soon as it is started: its runs
    would wait for ever.
    """
    from agent.settings import SettingsError, keep_settings
    from cli.embedded.disk import reserve_from

    try:
        keep_settings({**environ, "HELIOS_CACHE_DIR": "/", "HELIOS_NODE": "local", "HELIOS_VIEW_HOURS": "never"})
        if environ.get("HELIOS_DISK_RESERVE_MB"):
            reserve_from(environ, home)
    except (SettingsError, SettingInvalid) as error:
        raise CommandFailed(str(error), hint="correct or unset that variable") from None


@contextlib.contextmanager
def usable(home: Home) -> Generator[None]:
    """Turns why a stack cannot be used into words."""
    try:
        yield
    except (HomeUnusable, StackFailed) as error:
        message, _, rest = str(error).partition("\n")
        hint = rest or "helios doctor, or HELIOS_REDIS_URL=redis://… to use servers of your own"
        raise CommandFailed(message, hint=hint, code=UNREACHABLE) from None
    except OSError as error:
        raise CommandFailed(
            f"HELIOS_HOME cannot be used: {error.strerror}: {shortened(str(error.filename or home.path), 120)}",
            hint="make it writable, or set HELIOS_HOME to another folder",
            code=UNREACHABLE,
        ) from None


def read_settings(environ: "dict[str, str] | None" = None) -> Settings:
    try:
        return settings_from(os.environ if environ is None else environ)
    except SettingInvalid as error:
        raise CommandFailed(str(error), hint="correct or unset that variable") from None


@contextlib.contextmanager
def _linked(settings: Settings, stack: Stack | None = None, need: AbstractSet[str] = EVERYTHING) -> Generator[Link]:
    link = Link(client_of(settings), settings, stack, need)
    try:
        with reaching(settings, embedded=stack is not None):
            yield link
    finally:
        link.client.close()


def trouble_of(link: Link, error: redis.RedisError) -> str:
    """What an error of Redis means, and what to do, on one line."""
    try:
        with reaching(link.settings, embedded=link.stack is not None):
            raise error
    except CommandFailed as failure:
        return f"{failure.message}; {failure.hint}"
    except redis.RedisError:
        return str(error)


def regain(link: Link, error: Exception) -> None:
    """Wait until a Redis that was reached before answers again; the embedded one is started again if need be.

    Raises CommandFailed, or what the last try ended with.
    """
    narrate(f"the connection to Redis is lost ({error}); trying again for {PATIENCE_SECONDS:.0f} s")
    deadline = time.monotonic() + PATIENCE_SECONDS
    wait = 0.1
    while True:
        try:
            if link.stack is not None:
                rejoin_stack(link, link.stack, PATIENCE_SECONDS)
            link.client.ping()  # pyright: ignore[reportUnknownMemberType] -- as above
            return
        except (redis.ConnectionError, redis.TimeoutError):
            if time.monotonic() > deadline:
                raise
        time.sleep(wait)
        wait = min(2.0, wait * 2)


def rejoin_stack(link: Link, stack: Stack, timeout_seconds: float) -> None:
    """Find the embedded stack again, started anew if need be, and point the link at it. Raises CommandFailed."""
    with usable(stack.home):
        found = rejoin(stack.home, need=link.need, timeout_seconds=timeout_seconds)
    link.stack = found
    if found.environ != stack.environ:
        link.client.close()
        link.settings = _settings_of(found)
        link.client = client_of(link.settings)


@contextlib.contextmanager
def reaching(settings: Settings, *, embedded: bool) -> Generator[None]:
    """Turns what Redis answers when it cannot be used into words."""
    place = place_of(settings.redis_url)
    hint = "helios doctor" if embedded else "start Redis, or correct HELIOS_REDIS_URL; `helios doctor` checks it"
    try:
        yield
    except redis.AuthenticationError as error:
        fix = "put user and password into HELIOS_REDIS_URL: redis://user:password@host:port/0"
        raise CommandFailed(f"Redis at {place} refuses the login: {error}", hint=fix, code=UNREACHABLE) from None
    except (redis.ConnectionError, redis.TimeoutError) as error:
        if distrust := tls_trouble(str(error)):
            raise CommandFailed(
                f"Redis at {place} {distrust[0]}: {error}", hint=distrust[1], code=UNREACHABLE
            ) from None
        if isinstance(error, redis.TimeoutError) and settings.redis_url.startswith("rediss"):
            hint = "see that it speaks TLS on that port: a plain Redis answers nothing to it; `helios doctor` checks it"
        message = f"Redis at {place} cannot be reached: {str(error).rstrip('.')}"
        raise CommandFailed(message, hint=hint, code=UNREACHABLE) from None
    except redis.InvalidResponse:
        raise CommandFailed(f"what listens at {place} does not speak Redis", hint=hint, code=UNREACHABLE) from None
    except redis.ResponseError as error:
        why, fix = refusal(error)
        raise CommandFailed(f"Redis at {place} {why}", hint=fix, code=UNREACHABLE) from None


def tls_trouble(text: str) -> tuple[str, str] | None:
    """What an error of an encrypted connection means, and what to do; None if it is no such error."""
    match text:
        case _ if "Hostname mismatch" in text or "IP address mismatch" in text:
            return (
                "shows a certificate for another host name",
                "use a name that is in the certificate's subjectAltName, or have one made with this name in it",
            )
        case _ if "CERTIFICATE_VERIFY_FAILED" in text:
            return (
                "shows a certificate that is not trusted",
                "name the file of the CA that signed it: rediss://…?ssl_ca_certs=/path/to/ca.crt",
            )
        case _ if "ALERT_CERTIFICATE_REQUIRED" in text or "alert certificate required" in text:
            return (
                "demands a certificate of the client",
                "name its files: rediss://…?ssl_certfile=/path/to/tls.crt&ssl_keyfile=/path/to/tls.key",
            )
        case _ if "UNKNOWN_CA" in text:
            return (
                "does not trust the client's certificate",
                "have ssl_certfile signed by a CA that the server trusts",
            )
        case _ if "WRONG_VERSION_NUMBER" in text or "RECORD_LAYER_FAILURE" in text:
            return "does not speak TLS on that port", "write redis:// instead of rediss://, or name its TLS port"
        case _ if "EOF occurred in violation of protocol" in text:
            # A server that refuses a client's certificate often hangs up before its reason is read.
            return (
                "ends the encrypted connection at once",
                "see that it trusts the client's certificate: rediss://…?ssl_certfile=/path/tls.crt&ssl_keyfile=/path/tls.key",
            )
        case _:
            return None


def refusal(error: redis.ResponseError) -> tuple[str, str]:
    """What an error that Redis answered means, and what to do."""
    text = str(error)
    match type(error).__name__, text.partition(" ")[0]:
        case _, "MISCONF":
            why = f"takes no writes, because its disk is full or not writable: {text}"
            return why, "free space on that disk, or make it writable; then try again"
        case ("OutOfMemoryError", _) | (_, "OOM"):
            return f"takes no writes, because its memory is full: {text}", "raise its maxmemory, then try again"
        case ("ReadOnlyError", _) | (_, "READONLY"):
            return f"takes no writes, because it is a replica: {text}", "point HELIOS_REDIS_URL at the primary"
        case _:
            return f"refuses a command: {text}", "helios doctor"


def write_trouble(link: Link) -> str:
    """Why Redis takes no writes now, with the fix; empty if it takes them."""
    try:
        link.client.set(PROBE, "1", ex=10)
    except redis.ResponseError as error:
        why, fix = refusal(error)
        return f"Redis at {place_of(link.settings.redis_url)} {why}\n  next: {fix}"
    return ""


def place_of(url: str) -> str:
    """An address fit for the screen: without user and password."""
    try:
        return address_of(url).place
    except AddressInvalid:
        return "the address of HELIOS_REDIS_URL"
