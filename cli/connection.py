"""To whom a command speaks: the servers that HELIOS_REDIS_URL names, or else the embedded stack of HELIOS_HOME.

Rule: whatever goes wrong with a connection ends as a CommandFailed that says what to do, with exit code 3.
"""

import contextlib
import os
from collections.abc import Generator
from collections.abc import Set as AbstractSet
from urllib.parse import urlsplit

import msgspec
import redis

from cli.embedded.home import HomeUnusable, home_from
from cli.embedded.lease import StackFailed, embedded_stack, running_stack
from cli.embedded.stack import EVERYTHING, Stack
from cli.failure import UNREACHABLE, CommandFailed
from cli.output import narrate
from cli.table import shortened
from helios.keys import Keys, all_partitions, keys_of_run
from helios.settings import SettingInvalid, Settings, settings_from
from helios.streams import CLIENT_OPTIONS

REDIS = frozenset({"redis"})
REDIS_AND_S3 = frozenset({"redis", "s3"})
S3 = frozenset({"s3"})
ALL = EVERYTHING


class Link(msgspec.Struct, frozen=True):
    """An open way to Redis, and the settings for everything else. `stack` is None with servers of one's own."""

    client: redis.Redis
    settings: Settings
    stack: Stack | None = None

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
    with stack_ready(need) as stack, _linked(read_settings({**os.environ, **stack.environ}), stack) as link:
        yield link


@contextlib.contextmanager
def stack_ready(need: AbstractSet[str] = ALL) -> Generator[Stack]:
    """The embedded stack, started if it does not run."""
    stack = contextlib.ExitStack()
    with stack:
        home = home_from()
        try:
            if need == ALL and running_stack(home) is None:
                narrate(f"starting Helios in {home.path} …")
            ready = stack.enter_context(embedded_stack(home, need=need, narrate=narrate))
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
        yield ready


def read_settings(environ: "dict[str, str] | None" = None) -> Settings:
    try:
        return settings_from(os.environ if environ is None else environ)
    except SettingInvalid as error:
        raise CommandFailed(str(error), hint="correct or unset that variable") from None


@contextlib.contextmanager
def _linked(settings: Settings, stack: Stack | None = None) -> Generator[Link]:
    try:
        client = redis.Redis.from_url(  # pyright: ignore[reportUnknownMemberType] -- the stubs leave a parameter open
            settings.redis_url, **CLIENT_OPTIONS
        )
    except ValueError as error:
        hint = "set HELIOS_REDIS_URL to redis://host:port/0, rediss://… or unix://…"
        raise CommandFailed(f"HELIOS_REDIS_URL cannot be used: {error}", hint=hint) from None
    with client, reaching(settings, embedded=stack is not None):
        yield Link(client, settings, stack)


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
        message = f"Redis at {place} cannot be reached: {str(error).rstrip('.')}"
        raise CommandFailed(message, hint=hint, code=UNREACHABLE) from None
    except redis.ResponseError as error:
        message = f"Redis at {place} refuses a command: {error}"
        raise CommandFailed(message, hint="helios doctor", code=UNREACHABLE) from None


def place_of(url: str) -> str:
    """An address fit for the screen: without user and password."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return parts.path
    try:
        return f"{parts.hostname or '127.0.0.1'}:{parts.port or 6379}"
    except ValueError:
        return url.rpartition("@")[2]
