"""What tests of the nodes' caches share: objects of their own in the store, tasks that check every byte of them, and
what the nodes tell. Only on a cluster of the tests' own.
"""

import hashlib
import random
import threading
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from helios.keys import node_blobs, node_cache
from tests.cluster.dags import Task, script
from tests.cluster.installed import Installed, Run
from tests.cluster.kubectl import Kubectl
from tests.waiting import wait_until

MIB = 1024**2
NODES = ("node1", "node2")
KEEPER_PORT = 8415
TASKS_NETWORK = "10.250.0.1"
"""Where pods reach what a test serves."""


class Object:
    """An object of random bytes in the store."""

    def __init__(self, helios: Installed, folder: Path, size: int) -> None:
        self.size = size
        self.name = uuid.uuid4().hex
        content = random.Random(self.name).randbytes(size)
        self.sha256 = hashlib.sha256(content).hexdigest()
        file = folder / self.name
        file.write_bytes(content)
        self.uri = f"s3://cachetest/{self.name}"
        done = helios.helios("put", "--make-bucket", str(file), self.uri)
        assert done.returncode == 0, done.stderr
        file.unlink()

    @property
    def needed(self) -> dict[str, str]:
        """As an input."""
        return {"uri": self.uri, "as": self.name}


def reader(helios: Installed, name: str, *objects: Object, **more: Any) -> Task:
    """A task that succeeds if every byte of the objects is right."""
    checks = "\n".join(f"echo '{each.sha256}  {each.name}' | sha256sum -c" for each in objects)
    return script(helios, name, checks, inputs=[each.needed for each in objects], **more)


def inputs(run: Run, task: str) -> dict[str, dict[str, Any]]:
    """A task's inputs by their names."""
    return {each["name"]: each for each in task_of(run, task)["inputs"]}


def task_of(run: Run, task: str) -> dict[str, Any]:
    return next(each for each in run["tasks"] if each["name"] == task)


def told(helios: Installed, node: str) -> Mapping[str, int]:
    """What a node's keeper said last, its numbers only."""
    with helios.redis() as client:
        fields: dict[str, str] = client.hgetall(node_cache(node))  # pyright: ignore[reportAssignmentType] -- stubs
    return Counter({name: int(value) for name, value in fields.items() if value.isdecimal()})


def holds(helios: Installed, node: str, digest: str) -> bool:
    """Whether the inventory says so."""
    with helios.redis() as client:
        return client.hget(node_blobs(node), digest) is not None


def keepers_speak(helios: Installed) -> None:
    """Until the inventories are those of keepers that run now, and say where they listen."""

    urls = {node: f"http://{helios.keeper(node)['status']['podIP']}:{KEEPER_PORT}" for node in NODES}

    def look() -> bool:
        with helios.redis() as client:
            return all(client.hget(node_cache(node), "url") == url for node, url in urls.items())

    wait_until("both keepers are heard of", look, 120)


@contextmanager
def keepers_with(helios: Installed, **settings: str) -> Iterator[None]:
    """Keepers that are told these settings; afterwards as they were."""

    def tell(*assignments: str) -> None:
        agents = helios.agents
        what = (f"daemonset/{agents.daemonset}", f"--containers={agents.container}")
        Kubectl(agents.namespace).run("set", "env", *what, *assignments)
        helios.wait_agents()

    tell(*(f"{name}={value}" for name, value in settings.items()))
    try:
        keepers_speak(helios)
        yield
    finally:
        tell(*(f"{name}-" for name in settings))


class Opening(threading.Event):
    """Set to let those go on that wait at a gate. `waiting`: their pods' names."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: set[str] = set()

    def until_waiting(self, count: int) -> None:
        """Until so many tasks run, and have come as far as the gate."""
        wait_until(f"{count} tasks wait at the gate", lambda: len(self.waiting) >= count, 120)


@contextmanager
def gate() -> Iterator[tuple[str, Opening]]:
    """A shell command that waits until the event is set, for tasks to wait on the test."""
    opened = Opening()

    class Gate(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            opened.waiting.add(self.path)
            self.send_response(200 if opened.is_set() else 503)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer((TASKS_NETWORK, 0), Gate)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://{TASKS_NETWORK}:{server.server_port}/$(cat /etc/hostname)"
    try:
        yield f"until wget -q -O /dev/null {url}; do sleep 0.2; done", opened
    finally:
        opened.set()
        server.shutdown()
        server.server_close()


def new_keeper(helios: Installed, node: str, *, with_empty_cache: bool = False) -> None:
    """The node's keeper starts anew; with an empty folder it is what a new node has."""
    pod = helios.keeper(node)
    if with_empty_cache:
        for path in helios.cache_folder(node).iterdir():
            path.rename(path.with_name(f"before-{path.name}"))
    Kubectl(helios.agents.namespace).delete("pod", pod["metadata"]["name"])
    helios.wait_agents()
    keepers_speak(helios)
