"""`python -I -S heartbeat.py ready|alive SERVICE`: a service's probe, from the heartbeat that its loop leaves in Redis.

`ready` is true while the heartbeat is there and says that the service waits for nothing: it reads its streams, under
its own password, and has whatever else it works with. `alive` is false only when Redis answers and has no heartbeat, so
that an outage of Redis restarts nobody. Standard library only, and as few modules as that allows: it starts several
times a minute.
"""

import os
import socket
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

SECONDS = 3.0


def main(arguments: list[str]) -> int:
    question, service = arguments
    try:
        beats, waits_for = heartbeat(os.environ["HELIOS_REDIS_URL"], service, os.environ["HELIOS_REPLICA"])
    except (OSError, ValueError) as error:
        print(f"Redis does not answer: {error}", file=sys.stderr)  # noqa: T201 -- kubelet puts it into the pod's events
        return 1 if question == "ready" else 0
    if not beats:
        print("no heartbeat in Redis", file=sys.stderr)  # noqa: T201 -- as above
    elif waits_for and question == "ready":
        print(f"it waits for {waits_for}", file=sys.stderr)  # noqa: T201 -- as above
        return 1
    return 0 if beats else 1


def heartbeat(url: str, service: str, replica: str) -> tuple[bool, str]:
    """Whether there is one, and what it says that the service waits for."""
    user, password, host, port = place_of(url)
    login = command("AUTH", user, password) if password else b""
    with socket.create_connection((host, port), timeout=SECONDS) as connection:
        connection.sendall(login + command("HMGET", f"helios:service:{service}:{replica}", "service", "waitsFor"))
        with connection.makefile("rb") as answers:
            if login and not (answer := answers.readline()).startswith(b"+OK"):
                raise ValueError(answer.decode("utf-8", "replace").strip() or "it hung up")
            if (answer := answers.readline()).strip() != b"*2":
                raise ValueError(answer.decode("utf-8", "replace").strip() or "it hung up")
            found = [text(answers.readline(), answers) for _ in range(2)]
    return found[0] is not None, found[1] or ""


def text(length: bytes, answers: "BinaryIO") -> "str | None":
    """What a bulk string holds; None for the one that is none."""
    if length[:1] != b"$" or (size := int(length[1:])) < 0:
        return None
    return answers.read(size + 2)[:-2].decode("utf-8", "replace")


def place_of(url: str) -> tuple[str, str, str, int]:
    """User, password, host and port of redis://user:password@host:port/0, as k8s/make-secrets writes it."""
    scheme, there, rest = url.partition("://")
    if scheme != "redis":
        raise ValueError(f"the probe speaks redis://, not {scheme}://" if there else "HELIOS_REDIS_URL has no scheme")
    login, _, place = rest.partition("/")[0].rpartition("@")
    user, _, password = login.partition(":")
    host, _, port = place.rpartition(":") if ":" in place.rpartition("]")[2] else (place, "", "6379")
    if not port.isascii() or not port.isdigit():
        # Not with the port in it: where a password is not escaped, this is a part of it.
        raise ValueError("HELIOS_REDIS_URL has no port where one is expected")
    return user or "default", password, host.strip("[]"), int(port)


def command(*words: str) -> bytes:
    encoded = [word.encode() for word in words]
    parts = [b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded]
    return b"*%d\r\n%s" % (len(parts), b"".join(parts))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
