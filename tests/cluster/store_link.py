"""The object store's network link: what each node's pods got through it, and how fast it is. Only on a cluster of the
tests' own, whose network namespaces the tool has made.

Counters and limits are the kernel's: what Helios says of itself has no part in them. The limit is on the store's own
end of its link, in both directions, so that all nodes share it as they share a store's network card.
"""

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tests.cluster.installed import Installed

PODS_OF = {"node1": "10.244.0.0/24", "node2": "10.244.1.0/24"}
"""Addresses of each node's pods, as the tool gives them out."""

GIGABIT = "1gbit"
_SHAPE = ("burst", "512kb", "latency", "50ms")


class StoreLink:
    """The store's pod seen from the network."""

    def __init__(self, helios: Installed) -> None:
        (pod,) = helios.services.labelled("pods", {"app.kubernetes.io/name": "helios-minio"})
        self.address: str = pod["status"]["podIP"]
        self.pid = helios.pid(pod)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """`sent` may be asked inside."""
        rules = [("FORWARD", "-s", self.address, "-d", pods) for pods in PODS_OF.values()]
        for rule in rules:
            _run("iptables", "-w", "-I", *rule)
        try:
            yield
        finally:
            for rule in rules:
                _run("iptables", "-w", "-D", *rule)

    def sent(self) -> Mapping[str, int]:
        """Bytes from the store to each node's pods since the counting began, headers of packets among them."""
        lines = _run("iptables", "-w", "-L", "FORWARD", "-v", "-x", "-n").splitlines()
        found: dict[str, int] = {}
        for node, pods in PODS_OF.items():
            (line,) = [line.split() for line in lines if line.split()[-2:] == [self.address, pods]]
            found[node] = int(line[1])
        return found

    @contextmanager
    def limited(self, rate: str = GIGABIT) -> Iterator[None]:
        """Both ends of the store's pair of interfaces are limited: one for what it sends, one for what it gets."""
        outside = _run("ip", "-o", "route", "get", self.address).split(" dev ")[1].split()[0]
        inside = ("nsenter", f"--target={self.pid}", "--net")
        _run("tc", "qdisc", "replace", "dev", outside, "root", "tbf", "rate", rate, *_SHAPE)
        _run(*inside, "tc", "qdisc", "replace", "dev", "eth0", "root", "tbf", "rate", rate, *_SHAPE)
        try:
            yield
        finally:
            _run(*inside, "tc", "qdisc", "del", "dev", "eth0", "root")
            _run("tc", "qdisc", "del", "dev", outside, "root")


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout
