"""A recording as something to look at: loaded into a Valkey of its own, which ends with this process.

That Valkey gets its configuration through a pipe and writes no file, so nothing is left behind however this ends.
"""

import contextlib
import os
import secrets
import subprocess
import time
from collections.abc import Generator
from pathlib import Path

import msgspec
import redis

from cli.connection import REDIS, Link
from cli.embedded.component import StartFailed
from cli.embedded.ports import pick_ports
from cli.embedded.processes import dies_with_parent
from cli.embedded.valkey import binary
from cli.failure import UNREACHABLE, CommandFailed, with_extra
from cli.recording import RecordingBroken, load
from helios.settings import Settings
from helios.streams import CLIENT_OPTIONS

TRIES = 5
START_SECONDS = 20.0
STOP_SECONDS = 3.0


@contextlib.contextmanager
def opened(file: Path) -> Generator[Link]:
    """A way to the runs in the file. The thread that opens it must outlive it."""
    with private_valkey() as url:
        client = redis.Redis.from_url(url, **CLIENT_OPTIONS)  # pyright: ignore[reportUnknownMemberType] -- the stubs
        try:
            head = load(file, client)
            settings = msgspec.structs.replace(Settings(), redis_url=url, partitions=head.partitions)
            yield Link(client, settings, None, REDIS)
        except RecordingBroken as error:
            raise CommandFailed(
                f"{file} cannot be shown: {error}", hint="write it again with `helios record FILE`"
            ) from None
        except OSError as error:
            raise CommandFailed(f"{file} cannot be read: {error.strerror or error}", hint="name a recording") from None
        finally:
            client.close()


@contextlib.contextmanager
def private_valkey() -> Generator[str]:
    """The address of an empty Valkey, on loopback and with a password, which keeps nothing on disk."""
    process, url = _start()
    try:
        yield url
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _start() -> tuple["subprocess.Popen[bytes]", str]:
    try:
        server = binary()
    except StartFailed as error:
        message, _, hint = str(error).partition("\n")
        raise CommandFailed(message, hint=hint or with_extra("local"), code=UNREACHABLE) from None
    for _ in range(TRIES):  # another process may take the port that was free a moment ago
        port, password = pick_ports(("redis",), {}, set())["redis"], secrets.token_urlsafe(24)
        process = subprocess.Popen(
            [str(server), "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"PATH": os.environ.get("PATH", "")},
            start_new_session=True,  # Ctrl-C is for the dashboard
            preexec_fn=dies_with_parent(),
        )
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError), process.stdin as config:
            config.write(
                f'bind 127.0.0.1\nport {port}\nrequirepass {password}\nsave ""\nappendonly no\ndaemonize no\n'.encode()
            )
        url = f"redis://default:{password}@127.0.0.1:{port}/0"
        if _answers(process, url):
            return process, url
        process.kill()
        process.wait()
    raise CommandFailed("no Valkey could be started for the recording", hint="helios doctor", code=UNREACHABLE)


def _answers(process: "subprocess.Popen[bytes]", url: str) -> bool:
    deadline = time.monotonic() + START_SECONDS
    with redis.Redis.from_url(url, **CLIENT_OPTIONS) as client:  # pyright: ignore[reportUnknownMemberType] -- the stubs
        while process.poll() is None and time.monotonic() < deadline:
            try:
                return bool(client.ping())  # pyright: ignore[reportUnknownMemberType] -- as above
            except redis.AuthenticationError:
                return False
            except redis.RedisError:
                time.sleep(0.01)
    return False
