"""Loopback ports that stay the same from start to start where nobody else took them.

Below the range that systems hand out to outgoing connections, so that no passing connection occupies one.
"""

import random
import socket

LOWEST, HIGHEST = 20_000, 30_000


def is_free(port: int) -> bool:
    """Whether a server could listen on the port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def pick_ports(names: tuple[str, ...], former: dict[str, int], taken: set[int]) -> dict[str, int]:
    """One free port for each name, the former one where possible; `taken` are spoken for and grows by those picked."""
    picked: dict[str, int] = {}
    for name in names:
        port = former.get(name, 0)
        while not LOWEST <= port < HIGHEST or port in taken or not is_free(port):
            port = random.randrange(LOWEST, HIGHEST)  # noqa: S311 -- a port is no secret
        picked[name] = port
        taken.add(port)
    return picked


def accepts(port: int) -> bool:
    """Whether something listens on the port."""
    try:
        socket.create_connection(("127.0.0.1", port), 0.2).close()
    except OSError:
        return False
    return True
