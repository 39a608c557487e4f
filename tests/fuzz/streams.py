"""Targets that are entries of streams: whatever somebody adds, the service's own loop is done with it.

The handlers are the services'; Valkey is a real one; only Jobs and pods are said to exist. An entry must be gone when
the loop has had its turns: applied, refused, or a dead letter with its reason. It may neither end the loop nor keep it.
"""

import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
import structlog

from bench.instant import InstantLauncher
from helios.dag import parse_dag
from helios.keys import COLLECTOR_GROUP, CONTROLS, JOBRUNNER_GROUP, SUBMISSIONS, SUBMITTER_GROUP
from helios.settings import Settings
from helios.streams import Entry, Inbox
from helios.transitions import commit_one
from helios.worker import Failure, Stop, work
from services.collector.collect import Collector
from services.collector.skip import Skipper
from services.collector.store import Store
from services.jobrunner.launch import Deleter, JobRunner
from services.submitter.accept import open_calls
from services.submitter.ingress import Ingress
from services.submitter.settle import Settler
from tests.fuzz.cases import Json, to_bytes
from tests.fuzz.engine import Check, Target
from tests.fuzz.texts import DOCUMENT, YAML
from tests.redis_servers import Valkey
from tests.services.test_collect import FakePods
from tests.stage import RUN, Stage

SETTINGS = Settings(
    token_key="k",
    s3_endpoint="http://127.0.0.1:9",
    s3_access_key="a",
    s3_secret_key="s",
    s3_bucket="helios",
    lease_seconds=0.01,
)
TURNS = 200
"""Far more than five deliveries take."""
DAG = b"""
dagName: d
tasks:
  - {name: a, image: i, command: [x], outputs: [o]}
  - {name: b, image: i, command: [x], depends_on: [a]}
"""
Fields = Sequence[tuple[bytes, bytes]]
Handle = Callable[[list[Entry]], Sequence[Failure]]


class House:
    """One Valkey with an open run, and the handlers of all streams."""

    def __init__(self, server: Valkey) -> None:
        self.client = server.client()
        self.raw = server.client(decode_responses=False)
        self.client.config_set("hz", 500)  # how soon it sees that a blocking read has waited for long enough
        self.stage: Stage
        self.fresh()

    def fresh(self) -> None:
        """An empty server, but for one run whose first task is queued."""
        self.client.flushall()
        self.stage = Stage(self.client)
        for stream in (SUBMISSIONS, CONTROLS):
            self.client.xgroup_create(stream, SUBMITTER_GROUP, id="0", mkstream=True)
        for call in open_calls(self.stage.keys, RUN, parse_dag(DAG), None):
            commit_one(self.client, call)
        for stream in self.stage.groups:
            for entry, _ in self.client.xrange(stream):
                self.client.xdel(stream, entry)

    def inbox(self, group: str, stream: str) -> Inbox:
        return Inbox(self.client, group=group, consumer="fuzz", streams=[stream], batch_entries=16, lease_seconds=0.01)

    def handled(self, name: str) -> None:
        """Let the stream's service work until the stream is empty."""
        keys, client = self.stage.keys, self.client
        turn: Callable[[], object] | None = None
        bury: Callable[[Entry, str], None] | None = None
        stream, group = {
            "submissions": (SUBMISSIONS, SUBMITTER_GROUP),
            "controls": (CONTROLS, SUBMITTER_GROUP),
            "ready": (keys.ready, JOBRUNNER_GROUP),
            "cancelled": (keys.cancelled, JOBRUNNER_GROUP),
            "checks": (keys.checks, COLLECTOR_GROUP),
            "launched": (keys.launched, COLLECTOR_GROUP),
            "settled": (keys.settled, COLLECTOR_GROUP),
            "finished": (keys.finished, SUBMITTER_GROUP),
        }[name]
        inbox = self.inbox(group, stream)
        handle: Handle
        closing: Callable[[], None] | None = None
        if name in ("submissions", "controls"):
            ingress = Ingress(client, inbox, 1)
            handle, bury = ingress.handle, ingress.bury
        elif name == "ready":
            handle = JobRunner(client, InstantLauncher(), SETTINGS).launch
        elif name == "cancelled":
            handle = Deleter(InstantLauncher(), inbox).delete
        elif name == "checks":
            skipper = Skipper(client, Store(SETTINGS), SETTINGS)
            handle, closing = skipper.handle, skipper.close
        elif name == "finished":
            handle = Settler(client, 1).handle
        else:
            collector = Collector(client, inbox, FakePods(), SETTINGS)
            handle, turn = collector.handle, collector.turn
        stop = Stop()
        turns = 0

        def on_turn() -> int:
            nonlocal turns
            turns += 1
            if turn is not None:
                turn()
            if client.xlen(stream) == 0 or turns > TURNS:
                stop.event.set()
            return 2

        work(inbox, handle, settings=SETTINGS, stop=stop, on_turn=on_turn, on_bury=bury)
        if closing is not None:
            closing()
        left = client.xlen(stream), client.xpending(stream, group)["pending"]
        assert left == (0, 0), f"after {turns} turns entries and pending are {left}"


def pairs_of(case: Json) -> Fields:
    fields = case.get("fields") if isinstance(case, dict) else None
    pairs = fields if isinstance(fields, list) else []
    return [
        (to_bytes(pair[0]), to_bytes(pair[1]))
        for pair in pairs
        if isinstance(pair, list) and len(pair) >= 2 and isinstance(pair[0], str) and isinstance(pair[1], str)
    ]


@contextmanager
def opened() -> Generator[Check]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    with tempfile.TemporaryDirectory() as folder:
        server = Valkey(Path(folder))
        server.start()
        try:
            yield checking(House(server))
        finally:
            server.kill()


def checking(house: House) -> Check:
    count = 0

    def check(case: Json) -> str:
        nonlocal count
        count += 1
        name = case.get("stream") if isinstance(case, dict) else None
        keys = house.stage.keys
        streams = {"submissions": SUBMISSIONS, "controls": CONTROLS, "ready": keys.ready, "cancelled": keys.cancelled}
        streams |= {"checks": keys.checks, "launched": keys.launched, "settled": keys.settled}
        streams |= {"finished": keys.finished}
        pairs = pairs_of(case)
        if not isinstance(name, str) or name not in streams or not pairs:
            return "no case"
        letters = house.client.xlen(keys.dead)
        house.raw.execute_command("XADD", streams[name], "*", *(item for pair in pairs for item in pair))
        house.handled(name)
        dead: Any = house.raw.xrevrange(keys.dead, count=1)
        buried = house.client.xlen(keys.dead) > letters
        if buried:
            assert dead[0][1][b"reason"] and dead[0][1][b"stream"].decode() == streams[name]
            assert sum(len(value) for value in dead[0][1].values()) < 200_000
        word = f"{name} {'buried' if buried else 'done'} {_status(house)}"
        if buried or count % 50 == 0 or _status(house) != ("RUNNING", "QUEUED"):
            house.fresh()
        return word

    return check


def _status(house: House) -> tuple[str, str]:
    try:
        return house.stage.run().get("status", ""), house.stage.task("a").get("status", "")
    except redis.ResponseError as error:
        return "broken", str(error)


REF = [["run", RUN], ["task", "a"], ["attempt", "1"]]
SEEDS: list[Json] = [
    {
        "stream": "submissions",
        "fields": [
            ["dag", YAML],
            ["useCache", "false"],
            ["requestId", "r-1"],
            ["memoize", "1"],
            ["params", '{"date": 1.50}'],
        ],
    },
    {"stream": "submissions", "fields": [["dag", str(DOCUMENT).replace("'", '"').replace("False", "false")]]},
    {"stream": "controls", "fields": [["run", RUN], ["action", "cancel"]]},
    {"stream": "ready", "fields": REF},
    {"stream": "checks", "fields": REF},
    {"stream": "cancelled", "fields": [*REF, ["job", "j"]]},
    {"stream": "launched", "fields": [*REF, ["job", "j"]]},
    {"stream": "launched", "fields": [*REF, ["job", "j"], ["refused", "no quota"]]},
    {"stream": "settled", "fields": [["run", RUN]]},
    {"stream": "finished", "fields": REF},
]
PIECES = ["run", "task", "attempt", "job", "action", "requestId", RUN, "0-0", "1-1", "18446744073709551615-1", "a", "b"]

TARGETS = [
    Target("ingress-streams", SEEDS[:3], opened, pieces=PIECES),
    Target("work-streams", SEEDS[3:], opened, pieces=PIECES),
]
