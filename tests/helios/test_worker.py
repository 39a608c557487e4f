"""The loop of every service: an entry is applied, put off, delivered again or buried, and nothing stops the others."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
import redis
from redis.exceptions import OutOfMemoryError, ResponseError

from helios.deadletter import acknowledge
from helios.heartbeat import Heartbeat, live_services
from helios.keys import CONTROLS, SUBMISSIONS, Keys
from helios.messages import Ready, decode
from helios.settings import Settings
from helios.streams import Entry, Inbox
from helios.worker import Failure, Handler, Later, Refused, Stop, work
from services.process import repeat, run_loops
from tests.redis_servers import Valkey
from tests.stage import RUN, Stage
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
SETTINGS = Settings(lease_seconds=600, deliveries_before_dead_letter=3)
READY = Keys(0).ready


def inbox(client: redis.Redis, *streams: str, consumer: str = "one", settings: Settings = SETTINGS) -> Inbox:
    return Inbox(
        client,
        group="jobrunner",
        consumer=consumer,
        streams=streams or [READY],
        batch_entries=settings.batch_entries,
        lease_seconds=settings.lease_seconds,
    )


class Handling:
    """A handler that fails as it is told, by the entry's task, and acknowledges what went well."""

    def __init__(self, box: Inbox, faults: dict[str, Exception]) -> None:
        self.box = box
        self.faults = faults
        self.faulty_times = 1_000
        self.done: list[str] = []
        self.seen: list[str] = []

    def __call__(self, entries: list[Entry]) -> Sequence[Failure]:
        failures: list[Failure] = []
        for entry in entries:
            task = entry.fields.get("task", "")
            self.seen.append(task)
            error = self.faults.get(task)
            if error is not None and self.seen.count(task) <= self.faulty_times:
                failures.append(Failure(entry, error))
            else:
                acknowledge(self.box, entry)
                self.done.append(task)
        return failures


def turns(box: Inbox, handle: Handler, *, settings: Settings = SETTINGS, **options: object) -> None:
    """Run the loop until it finds nothing more to read."""
    stop = Stop()

    def on_turn() -> int:
        if on_turn.idle():  # type: ignore[attr-defined]
            stop.event.set()
        return 1

    reads = [0]
    original = box.read

    def counted(block_ms: int = 1) -> list[Entry]:
        found = original(block_ms)
        reads[0] = 0 if found else reads[0] + 1
        return found

    box.read = counted  # type: ignore[method-assign]
    on_turn.idle = lambda: reads[0] >= 2  # type: ignore[attr-defined]
    work(box, handle, settings=settings, stop=stop, on_turn=on_turn, **options)  # type: ignore[arg-type]
    box.read = original  # type: ignore[method-assign]


def add(client: redis.Redis, *tasks: str, run: str = RUN) -> list[str]:
    return [client.xadd(READY, {"run": run, "task": task, "attempt": "1"}) for task in tasks]


def letters(client: redis.Redis) -> list[dict[str, str]]:
    return [fields for _, fields in client.xrange(Keys(0).dead)]


def make_stale(client: redis.Redis, stream: str = READY, group: str = "jobrunner") -> None:
    """As if a lease had passed."""
    for row in client.xpending_range(stream, group, "-", "+", 1_000):
        client.xclaim(stream, group, row["consumer"], 0, [row["message_id"]], idle=10_000_000, justid=True)


def test_a_good_batch_is_handled_once(client: redis.Redis) -> None:
    add(client, "a", "b")
    box = inbox(client)
    handling = Handling(box, {})
    turns(box, handling)
    assert handling.done == ["a", "b"]
    assert client.xlen(READY) == 0


def test_a_poison_entry_is_buried_after_some_deliveries_and_its_run_fails(client: redis.Redis) -> None:
    """Its words are in the dead letter and in the run; the others in its batch flow at once."""
    stage = Stage(client)
    stage.open({"a": [], "b": []})
    box = inbox(client)
    handling = Handling(box, {"a": ValueError("it is poison")})
    for _ in range(3):
        turns(box, handling)
        make_stale(client)
        box.next_reclaim = 0
    assert handling.done == ["b"]
    assert handling.seen.count("a") == 3
    letter = letters(client)[0]
    assert (letter["stream"], letter["task"], letter["deliveries"]) == (READY, "a", "3")
    assert letter["reason"] == "it failed 3 times: it is poison"
    assert client.xlen(READY) == 0
    assert client.xpending(READY, "jobrunner")["pending"] == 0
    assert stage.finalise() == 1
    assert stage.run()["status"] == "FAILED"
    assert "it is poison" in stage.run()["reason"]
    assert "'a'" in stage.run()["reason"]


@pytest.mark.parametrize(
    "error",
    [Refused("never"), ResponseError("WRONGTYPE Operation against a key"), msgspec.ValidationError("no such field")],
)
def test_what_no_repetition_cures_is_buried_at_once(client: redis.Redis, error: Exception) -> None:
    add(client, "a", "b")
    box = inbox(client)
    handling = Handling(box, {"a": error})
    turns(box, handling)
    assert [letter["reason"] for letter in letters(client)] == [str(error)]
    assert handling.done == ["b"]


@pytest.mark.parametrize(
    "error",
    [
        Later("no room"),
        OutOfMemoryError("command not allowed when used memory > 'maxmemory'.", status_code="OOM"),
        ResponseError("MISCONF Redis is configured to save RDB snapshots"),
        ResponseError("BUSY Redis is busy running a script"),
    ],
)
def test_what_is_only_not_now_is_put_off_and_never_counted(client: redis.Redis, error: Exception) -> None:
    add(client, "a", "b")
    box = inbox(client)
    handling = Handling(box, {"a": error})

    handling.faulty_times = 6
    box.later = Soon()
    turns(box, handling)
    assert handling.done == ["b", "a"]
    assert handling.seen.count("a") == 7
    assert letters(client) == []


class Soon(list[tuple[float, Entry]]):
    """What is put off here is due at once."""

    def append(self, item: tuple[float, Entry]) -> None:
        super().append((0.0, item[1]))


def test_an_entry_over_the_limit_killed_its_consumers_and_is_not_tried_again(client: redis.Redis) -> None:
    stage = Stage(client)
    stage.open({"a": [], "b": []})
    entry = stage.entry_of(READY, "a")
    client.xclaim(READY, "jobrunner", "one", 0, [entry], retrycount=3, justid=True)
    make_stale(client)
    box = inbox(client)
    handling = Handling(box, {})
    turns(box, handling)
    assert handling.done == ["b"]
    assert letters(client)[0]["reason"] == "it was delivered 3 times and never finished"
    assert "never finished" in stage.run()["reason"]


class Killed(BaseException):
    """Stands for kill -9: nothing in the loop may catch it."""


def test_an_entry_that_kills_its_consumer_takes_no_other_with_it(client: redis.Redis) -> None:
    """However often the process dies, only that one entry ends in the dead letters."""
    stage = Stage(client)
    names = [f"t{number}" for number in range(20)]
    stage.open({name: [] for name in names})
    done: list[str] = []

    for _ in range(20):
        box = inbox(client)

        def handle(entries: list[Entry], box: Inbox = box) -> Sequence[Failure]:
            for entry in entries:
                if entry.fields["task"] == "t3":
                    raise Killed
                done.append(entry.fields["task"])
                acknowledge(box, entry)
            return ()

        try:
            turns(box, handle)
            break
        except Killed:
            continue
    assert sorted(done) == sorted(set(names) - {"t3"})
    assert [letter["task"] for letter in letters(client)] == ["t3"]


def test_a_batch_whose_handler_raises_is_handled_one_by_one(client: redis.Redis) -> None:
    add(client, "a", "b", "c")
    box = inbox(client)
    inner = Handling(box, {})

    def handle(entries: list[Entry]) -> Sequence[Failure]:
        if any(entry.fields["task"] == "b" for entry in entries):
            raise RuntimeError("b")
        return inner(entries)

    turns(box, handle)
    assert inner.done == ["a", "c"]


def test_an_undecodable_entry_is_buried_with_the_field_at_fault(client: redis.Redis) -> None:
    client.xadd(READY, {"run": RUN, "attempt": "1"})
    client.xadd(READY, {"run": RUN, "task": "a", "attempt": "one"})
    client.xadd(READY, {"x": "y"})
    box = inbox(client)

    def handle(entries: list[Entry]) -> Sequence[Failure]:
        for entry in entries:
            decode(entry.fields, Ready)
        return ()

    turns(box, handle)
    reasons = [letter["reason"] for letter in letters(client)]
    assert len(reasons) == 3
    assert "task" in reasons[0]
    assert "attempt" in reasons[1]
    assert client.xlen(READY) == 0


def test_bytes_that_are_no_utf8_are_buried_and_kill_nobody(client: redis.Redis) -> None:
    """What Redis can hold, the loop survives, in any field of any stream."""
    for stream in (READY, CONTROLS):
        for field in (b"run", b"task", b"action", b"\xff"):
            client.xadd(stream, {b"run": b"1-0", b"task": b"t", b"attempt": b"1", field: b"\xff\xfe"})
    box = inbox(client, READY, CONTROLS)

    def handle(entries: list[Entry]) -> Sequence[Failure]:
        return [Failure(entry, Refused("no")) for entry in entries]

    turns(box, handle)
    assert len(letters(client)) == 8
    assert "\\xff\\xfe" in letters(client)[0]["run"]


def test_text_that_cannot_be_sent_to_redis_is_poison_at_once(client: redis.Redis) -> None:
    client.xadd(READY, {b"run": b"\xff", b"task": b"t", b"attempt": b"1"})
    add(client, "b")
    box = inbox(client)
    inner = Handling(box, {})

    def handle(entries: list[Entry]) -> Sequence[Failure]:
        for entry in entries:
            client.hget(Keys(0).task(entry.fields["run"], entry.fields["task"]), "status")
        return inner(entries)

    turns(box, handle)
    assert len(letters(client)) == 1
    assert inner.done == ["b"]


def test_an_entry_with_thousands_of_fields_can_be_buried(client: redis.Redis, only_real: None) -> None:
    """Lua cannot unpack them all; the letter holds the first few."""
    client.xadd(READY, {f"f{number}": "x" * 10_000 for number in range(6_000)})
    box = inbox(client)
    turns(box, lambda entries: [Failure(entry, Refused("no")) for entry in entries])
    assert len(letters(client)) == 1
    assert len(letters(client)[0]) < 40
    assert client.xlen(READY) == 0


def test_an_entrys_own_fields_do_not_hide_why_it_was_buried(client: redis.Redis) -> None:
    client.xadd(READY, {"run": RUN, "reason": "all is well", "stream": "another", "entry": "0-0"})
    box = inbox(client)
    turns(box, lambda entries: [Failure(entry, Refused("no")) for entry in entries])
    assert (letters(client)[0]["reason"], letters(client)[0]["stream"]) == ("no", READY)


def test_a_run_whose_finalisation_is_poison_ends_all_the_same(client: redis.Redis) -> None:
    """Burying it must not ask for another finalisation, which would be buried too, for ever."""
    stage = Stage(client)
    stage.open({"a": []})
    stage.pass_through("a")
    box = Inbox(
        client,
        group="collector",
        consumer="one",
        streams=[stage.keys.settled],
        batch_entries=10,
        lease_seconds=600,
    )
    turns(box, lambda entries: [Failure(entry, Refused("no")) for entry in entries])
    assert len(letters(client)) == 1
    assert (stage.run()["status"], client.xlen(stage.keys.settled)) == ("FAILED", 0)
    assert "no" in stage.run()["reason"]
    assert client.zcard(stage.keys.active) == 0


def test_an_entry_of_another_partition_is_buried_where_it_belongs(client: redis.Redis) -> None:
    """Without a run nobody can tell its partition; it must leave the stream all the same."""
    stream = Keys(1).ready
    client.xadd(stream, {"x": "y"})
    box = inbox(client, stream)
    settings = msgspec.structs.replace(SETTINGS, partitions=2)
    turns(box, lambda entries: [Failure(entry, Refused("no")) for entry in entries], settings=settings)
    assert client.xlen(stream) == 0
    assert sum(client.xlen(Keys(number).dead) for number in range(2)) == 1


def test_the_sender_is_told_before_an_ingress_entry_is_buried(client: redis.Redis) -> None:
    entry = client.xadd(SUBMISSIONS, {"dag": "x"})
    box = inbox(client, SUBMISSIONS)
    told: list[tuple[str, str]] = []
    turns(
        box,
        lambda entries: [Failure(entry, Refused("no")) for entry in entries],
        on_bury=lambda entry, reason: told.append((entry.id, reason)),
    )
    assert told == [(entry, "no")]
    assert client.xlen(SUBMISSIONS) == 0


def test_a_dead_letter_that_redis_will_not_take_just_now_is_not_lost(valkey: redis.Redis) -> None:
    """Out of memory while burying: the entry stays, and its run fails once there is room."""
    stage = Stage(valkey)
    stage.open({"a": []})
    box = inbox(valkey)
    box.read(1)
    box.history_unread = True
    handle = Handling(box, {"a": Refused("no")})
    turns(box, Handling(box, {"a": ValueError("not yet")}))  # loads nothing, buries nothing
    valkey.config_set("maxmemory", "1")
    make_stale(valkey)
    box.next_reclaim = 0
    stop = Stop()
    thread = threading.Thread(target=lambda: work(box, handle, settings=SETTINGS, stop=stop, on_turn=lambda: 1))
    try:
        thread.start()
        wait_until("the entry was tried", lambda: handle.seen)
        assert valkey.xlen(READY) == 1
        valkey.config_set("maxmemory", "0")
        wait_until("the entry is buried", lambda: letters(valkey))
        assert stage.run()["reason"]
    finally:
        valkey.config_set("maxmemory", "0")
        stop.event.set()
        thread.join()


@pytest.fixture
def loop(own_valkey: Valkey) -> Iterator[tuple[Valkey, Handling, Stop, threading.Thread]]:
    """A work loop on a thread, over a server that may be killed."""
    client = own_valkey.client()
    box = inbox(client)
    handling = Handling(box, {})
    stop = Stop()
    heartbeat = Heartbeat(client, "trial", "one")
    thread = threading.Thread(
        target=lambda: work(box, handling, settings=SETTINGS, stop=stop, heartbeat=heartbeat, on_turn=lambda: 50)
    )
    thread.start()
    yield own_valkey, handling, stop, thread
    stop.event.set()
    thread.join(20)
    assert not thread.is_alive()
    heartbeat.end()


def test_a_killed_server_is_waited_for_and_nothing_is_lost(
    loop: tuple[Valkey, Handling, Stop, threading.Thread],
) -> None:
    server, handling, _, _ = loop
    add(server.client(), "a")
    wait_until("the first entry is handled", lambda: handling.done == ["a"])
    server.kill()
    server.start()
    add(server.client(), "b")
    wait_until("the second entry is handled", lambda: "b" in handling.done)
    assert server.client().xlen(READY) == 0


def test_a_stop_during_a_blocking_read_loses_no_entry(
    loop: tuple[Valkey, Handling, Stop, threading.Thread],
) -> None:
    """The read is never broken off half-way: what it brought is handled, or is there for the next reader."""
    server, handling, stop, thread = loop
    client = server.client()
    wait_until("the loop waits in a read", lambda: client.info("clients")["blocked_clients"] == 1)
    stop.event.set()
    add(client, "a")
    thread.join(20)
    assert not thread.is_alive()
    if not handling.done:
        box = inbox(client)
        turns(box, handling)
    assert handling.done == ["a"]


def test_the_end_is_clean_although_redis_is_away(own_valkey: Valkey) -> None:
    heartbeat = Heartbeat(own_valkey.client(), "trial", "one")
    heartbeat.beat()
    assert [beat["service"] for beat in live_services(own_valkey.client())] == ["trial"]
    own_valkey.kill()
    heartbeat.end()


def test_a_loop_that_dies_ends_the_others_and_is_heard_of() -> None:
    """Half a service must not look alive."""
    stop = Stop()

    def dies() -> None:
        raise RuntimeError("the loop broke")

    def waits() -> None:
        assert stop.wait(20)

    with pytest.raises(RuntimeError, match="the loop broke"):
        run_loops(stop, waits, dies)


def test_sigterm_asks_for_a_stop() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    try:
        stop = Stop()
        stop.listen()
        os.kill(os.getpid(), signal.SIGTERM)
        wait_until("the stop is wanted", lambda: stop.wanted)
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])


@pytest.mark.parametrize(
    "error", [redis.ConnectionError("gone"), IsADirectoryError(21, "Is a directory"), ValueError("x"), KeyError("x")]
)
def test_a_periodic_look_that_fails_comes_again_and_ends_no_service(error: Exception) -> None:
    stop = Stop()
    looks: list[int] = []

    def look() -> None:
        looks.append(1)
        if len(looks) == 3:
            stop.event.set()
        raise error

    run_loops(stop, lambda: repeat(stop, 0.001, look))
    assert len(looks) == 3


LISTENING = """
import sys
from helios.worker import Stop

stop = Stop()
stop.listen()
print("ready", flush=True)
while not stop.wait(0.0005):
    pass
sys.exit(7)
"""


def test_any_number_of_signals_at_once_stop_a_process() -> None:
    """The second meets the handler of the first at work, or the main thread with the event's lock in its hand."""
    for _ in range(15):
        process = subprocess.Popen([sys.executable, "-c", LISTENING], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            for _ in range(300):
                process.send_signal(signal.SIGTERM)
            # One that comes when Python is on its way out meets no handler any more.
            assert process.wait(60) in (7, -signal.SIGTERM)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
