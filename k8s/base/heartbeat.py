"""`python -I -S heartbeat.py ready|alive SERVICE`: a service's probe, from the heartbeat that its loop leaves in Redis.

`ready` is true while the heartbeat is there and says that the service waits for nothing: it reads its streams, under
its own password, and has whatever else it works with. `alive` is false only when Redis answers and has no heartbeat, so
that an outage of Redis restarts nobody. Standard library only, and as few modules as that allows: it starts several
times a minute.

It takes the same HELIOS_REDIS_URL as the service, but for unix://, and looks nothing up twice: what is wrong with the
URL, the service has said by then.
"""

import os
import socket
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

SECONDS = 3.0
SENTINEL_SECONDS = 1.0
REDIS_PORT = "6379"
SENTINEL_PORT = "26379"

Place = tuple[str, int]


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


def heartbeat(url: str, service: str, replica: str) -> "tuple[bool, str]":
    """Whether there is one, and what it says that the service waits for."""
    scheme, user, password, places, master, options = parts_of(url)
    secured = scheme.startswith("rediss")
    place = primary_of(places, master, secured, options) if master else places[0]
    wanted = command("HMGET", f"helios:service:{service}:{replica}", "service", "waitsFor")
    name, waits_for = ask(place, SECONDS, secured, options, user, password, wanted)
    return name is not None, waits_for or ""


def primary_of(sentinels: list[Place], master: str, secured: bool, options: dict[str, str]) -> Place:
    """Where the primary is, by the first Sentinel that knows."""
    user = os.environ.get("HELIOS_REDIS_SENTINEL_USER", "")
    password = os.environ.get("HELIOS_REDIS_SENTINEL_PASSWORD", "")
    trouble = "nobody was asked"
    wanted = command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", master)
    for place in sentinels:
        try:
            host, port = ask(place, SENTINEL_SECONDS, secured, options, user, password, wanted)
            return host or "", int(port or "")
        except (OSError, ValueError) as error:
            trouble = f"a Sentinel answers {error}"
    raise ValueError(f"no Sentinel names the primary {master}: {trouble}")


def ask(
    place: Place, seconds: float, secured: bool, options: dict[str, str], user: str, password: str, wanted: bytes
) -> "list[str | None]":
    """The two strings that a command is answered with. Raises OSError, or ValueError with the answer that is none."""
    login = command("AUTH", user or "default", password) if password else b""
    with (
        socket.create_connection(place, timeout=seconds) as plain,
        encrypted(plain, place[0], options) if secured else plain as connection,
    ):
        connection.sendall(login + wanted)
        with connection.makefile("rb") as answers:
            if login and not (answer := answers.readline()).startswith(b"+OK"):
                raise ValueError(answer.decode("utf-8", "replace").strip() or "it hung up")
            if (answer := answers.readline()).strip() != b"*2":
                raise ValueError(answer.decode("utf-8", "replace").strip() or "it hung up")
            return [text(answers.readline(), answers) for _ in range(2)]


def text(length: bytes, answers: "BinaryIO") -> "str | None":
    """What a bulk string holds; None for the one that is none."""
    if length[:1] != b"$" or (size := int(length[1:])) < 0:
        return None
    return answers.read(size + 2)[:-2].decode("utf-8", "replace")


def encrypted(connection: socket.socket, host: str, options: dict[str, str]) -> socket.socket:
    import ssl  # only here: it takes longer to load than all the rest

    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"), capath=options.get("ssl_ca_path"))
    if options.get("ssl_check_hostname", "").lower() == "false" or options.get("ssl_cert_reqs", "").lower() == "none":
        context.check_hostname = False
    if options.get("ssl_cert_reqs", "").lower() == "none":
        context.verify_mode = ssl.CERT_NONE
    if "ssl_certfile" in options:
        context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"), options.get("ssl_password"))
    return context.wrap_socket(connection, server_hostname=host)


def parts_of(url: str) -> tuple[str, str, str, list[Place], str, dict[str, str]]:
    """Scheme, user, password, hosts with ports, the primary's name by Sentinel (or none), and options."""
    scheme, _, rest = url.partition("://")
    if scheme not in ("redis", "rediss", "redis+sentinel", "rediss+sentinel"):
        # Not with what is there instead: where a URL has no scheme, this is its password.
        raise ValueError("HELIOS_REDIS_URL is neither redis:// nor rediss://, by Sentinel or not")
    rest, _, query = rest.partition("?")
    netloc, _, path = rest.partition("/")
    login, _, places = netloc.rpartition("@")
    user, _, password = login.partition(":")
    by_sentinel = scheme.endswith("+sentinel")
    default = SENTINEL_PORT if by_sentinel else REDIS_PORT
    options = {name: unescaped(text) for name, _, text in (each.partition("=") for each in query.split("&") if each)}
    master = unescaped(path.partition("/")[0]) if by_sentinel else ""
    return (
        scheme,
        unescaped(user),
        unescaped(password),
        [place_of(each, default) for each in places.split(",")],
        master,
        options,
    )


def place_of(text: str, default_port: str) -> Place:
    host, _, port = text.rpartition(":") if ":" in text.rpartition("]")[2] else (text, "", default_port)
    if not port.isascii() or not port.isdigit():
        # Not with the port in it: where a password is not escaped, this is a part of it.
        raise ValueError("HELIOS_REDIS_URL has no port where one is expected")
    return host.strip("[]") or "127.0.0.1", int(port)


def unescaped(text: str) -> str:
    if "%" not in text:
        return text
    from urllib.parse import unquote  # only here, as above

    return unquote(text)


def command(*words: str) -> bytes:
    encoded = [word.encode() for word in words]
    parts = [b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded]
    return b"*%d\r\n%s" % (len(parts), b"".join(parts))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
