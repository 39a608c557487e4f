"""Triggers of streams: each event makes one run, whoever reads and is killed where; what becomes of the others."""

import json
from typing import Any

import pytest
import redis

from helios import triggers as rules
from helios.keys import CONTROLS, SUBMISSIONS, SUBMITTER_GROUP, TRIGGERS, Keys, trigger, trigger_answer
from helios.streams import Entry, Inbox
from services.submitter import trigger as reading
from services.submitter.ingress import STREAMS, Ingress
from services.submitter.trigger import TriggerReader
from tests.redis_servers import Valkey
from tests.services.test_schedule import Dies, MortalConnection, mortal
from tests.services.test_stopping import Services
from tests.services.test_stopping import services as services
from tests.stage import Stage
from tests.waiting import wait_until

LEASE_SECONDS = 0.2
ORDERS = "events:orders"
DAG = b"""\
dagName: order
params: {order: null, mode: fast}
tasks:
  - {name: a, image: alpine, command: [sh, -c, "echo ${params.order} ${params.mode}"]}
"""
PLAIN = b"dagName: plain\ntasks:\n  - {name: a, image: alpine, command: [sh]}\n"


class Setting:
    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.stage = Stage(client)
        self.inbox = Inbox(
            client, group=SUBMITTER_GROUP, consumer="a", streams=STREAMS, batch_entries=100, lease_seconds=15
        )
        self.ingress = Ingress(client, self.inbox, 1, trigger_streams="events:*, other")
        self.reader = self.replica(client)

    def replica(self, client: redis.Redis) -> TriggerReader:
        reader = TriggerReader(client, 1, streams="events:*", lease_seconds=LEASE_SECONDS, deliveries_at_most=3)
        reader.lease_ms = int(LEASE_SECONDS * 1000)
        return reader

    def control(self, action: str, name: str = "orders", **fields: str | bytes) -> str:
        """Returns the answer."""
        entry: Any = self.client.xadd(CONTROLS, {"action": f"trigger-{action}", "name": name, **fields})
        self.handle(entry)
        answer: Any = self.client.get(trigger_answer(entry))
        return answer

    def handle(self, entry: str) -> None:
        _, fields = self.client.xrange(CONTROLS, entry, entry)[0]
        reading.control_trigger(self.client, Entry(stream=CONTROLS, id=entry, fields=fields), "events:*", 1)
        self.client.xdel(CONTROLS, entry)

    def add(self, name: str = "orders", stream: str = ORDERS, dag: bytes = DAG, **fields: str) -> str:
        return self.control("add", name, kind="stream", stream=stream, dag=dag, **fields)

    def event(self, stream: str = ORDERS, **fields: str | bytes) -> str:
        return str(self.client.xadd(stream, {**fields}))

    def runs(self) -> list[dict[str, str]]:
        """Those that were opened, the oldest first."""
        while entries := self.inbox.read(1):
            for failure in self.ingress.handle(entries):
                raise failure.error
        found: Any = self.client.zrange(Keys(0).runs, 0, -1)
        return [self.stage.run(run) for run in found]

    def record(self, name: str = "orders") -> rules.Trigger:
        found = rules.trigger_of(self.client.hgetall(trigger(name)))
        assert found is not None
        return found

    def letters(self) -> list[dict[str, str]]:
        return [fields for _, fields in self.client.xrange(Keys(0).dead)]

    def pending(self, name: str = "orders", stream: str = ORDERS) -> int:
        found: Any = self.client.xpending(stream, self.record(name).group)
        return found["pending"]


@pytest.fixture
def setting(valkey: redis.Redis) -> Setting:
    return Setting(valkey)


def params(run: dict[str, str]) -> dict[str, str]:
    return json.loads(run["params"])


def test_an_entry_of_a_stream_starts_the_dag_with_its_fields_as_parameters(setting: Setting) -> None:
    """New entries only; nothing of the stream goes."""
    before = setting.event(order="0")
    assert setting.add() == "ok"
    event = setting.event(order="17", mode="slow")
    assert setting.reader.look() == 1
    assert setting.reader.look() == 0
    (run,) = setting.runs()
    assert (run["dagName"], params(run)) == ("order", {"order": "17", "mode": "slow"})
    assert [entry for entry, _ in setting.client.xrange(ORDERS)] == [before, event]
    assert setting.pending() == 0
    found = setting.record()
    assert (found.lastEvent, found.lastRun, found.runs, found.refused) == (event, run["dagId"], 1, 0)


def test_a_trigger_from_the_start_takes_what_is_there_already(setting: Setting) -> None:
    setting.event(order="1")
    setting.event(order="2")
    assert setting.add(fromStart="true") == "ok"
    setting.reader.look()
    assert [params(run)["order"] for run in setting.runs()] == ["1", "2"]


def test_what_a_parameter_is_made_of_may_lie_deep_in_the_event(setting: Setting) -> None:
    mapping = {"order": "${event.data.items.1.id}/$${event.x}/${trigger.name}", "mode": "${event.data.is_new}"}
    assert setting.add(params=json.dumps(mapping)) == "ok"
    setting.event(data='{"items": [{"id": 1}, {"id": 2.50}], "is_new": true}', extra="x")
    setting.reader.look()
    (run,) = setting.runs()
    assert params(run) == {"order": "2.50/${event.x}/orders", "mode": "true"}


@pytest.mark.parametrize(
    ("mapping", "fields", "reason"),
    [
        ("", {"mode": "x"}, "no 'order', which the DAG needs; it has 'mode'"),
        ("", {"order": "1", "mood": "x"}, "no parameter 'mood'; did you mean 'mode'?"),
        ('{"order": "${event.id}"}', {"order": "1"}, "the event has no 'id'"),
        ("", {"order": "x" * 70_000}, "the limit is 65,536"),
        ("", {"order": b"\xff"}, "not UTF-8"),
    ],
)
def test_an_event_that_cannot_start_the_dag_is_set_aside_with_the_reason_and_others_go_on(
    setting: Setting, mapping: str, fields: dict[str, Any], reason: str
) -> None:
    assert setting.add(params=mapping) == "ok"
    bad = setting.event(**fields)
    setting.event(**({"id": "7"} if mapping else {"order": "7"}))
    assert setting.reader.look() == 2
    assert [params(run)["order"] for run in setting.runs()] == ["7"]
    (letter,) = setting.letters()
    assert (letter["stream"], letter["entry"]) == (ORDERS, bad)
    assert letter["reason"].startswith("trigger orders: ")
    assert reason in letter["reason"]
    found = setting.record()
    assert (found.runs, found.refused) == (1, 1)
    assert reason in found.refusedWhy
    assert setting.pending() == 0


def test_a_replica_that_is_killed_at_any_of_its_commands_leaves_one_run_for_each_event(
    shared_valkey: Valkey, setting: Setting
) -> None:
    """Before a command has worked, and after it."""
    deaths, command, is_sent = 0, 1, False
    while True:
        setting.client.flushall()
        setting.inbox.groups_exist = False
        assert setting.add() == "ok"
        setting.event(order="1")
        setting.event(order="2")
        died = dies_at(setting, shared_valkey, command, is_sent)
        deaths += died
        other = setting.replica(setting.client)

        def all_done(other: TriggerReader = other) -> bool:
            other.next_reclaim = 0
            other.look()
            return setting.record().lastEntry != "" and setting.pending() == 0

        wait_until("the other has taken over what was left", all_done, 10)
        other.look()
        assert sorted(params(run)["order"] for run in setting.runs()) == ["1", "2"], (is_sent, command)
        assert setting.record().runs >= 2
        if died:
            command += 1
        elif is_sent:
            break
        else:
            is_sent, command = True, 1
    assert deaths > 15


def dies_at(setting: Setting, server: Valkey, command: int, is_sent: bool) -> bool:
    client = mortal(server)
    client.ping()
    MortalConnection.left, MortalConnection.is_sent = command - 1, is_sent
    try:
        setting.replica(client).look()
    except Dies:
        return True
    finally:
        MortalConnection.left = 10**9
        client.close()
    return False


def test_replicas_share_the_events_and_no_event_is_taken_twice(setting: Setting) -> None:
    setting.add()
    for number in range(100):
        setting.event(order=str(number))
    others = [setting.replica(setting.client) for _ in range(3)]
    for _ in range(50):
        for each in others:
            each._look_at("orders", setting.record(), reclaims=True)  # pyright: ignore[reportPrivateUsage]
        setting.runs()
    assert sorted(int(params(run)["order"]) for run in setting.runs()) == list(range(100))
    assert setting.client.xlen(SUBMISSIONS) == 0
    assert setting.record().runs == 100


def test_events_stay_in_their_stream_while_submissions_wait(setting: Setting) -> None:
    """And an event whose submission Redis refuses is tried again."""
    setting.add()
    for number in range(rules.SUBMISSIONS_WAITING + 50):
        setting.event(order=str(number))
    setting.reader.look()
    assert setting.client.xlen(SUBMISSIONS) == rules.SUBMISSIONS_WAITING
    assert setting.reader.look() == 0
    assert len(setting.runs()) == rules.SUBMISSIONS_WAITING
    setting.client.config_set("maxmemory", "1")
    try:
        with pytest.raises(redis.ResponseError, match="maxmemory"):
            setting.reader.look()
    finally:
        setting.client.config_set("maxmemory", "0")

    def all_there() -> bool:
        setting.reader.next_reclaim = 0
        setting.reader.look()
        return len(setting.runs()) == rules.SUBMISSIONS_WAITING + 50

    wait_until("all events have their runs", all_there, 20)
    assert setting.pending() == 0


def test_a_redis_that_takes_no_writes_counts_against_no_event(setting: Setting) -> None:
    """Handing out goes on while Redis is full, so a try at each look would make poison of them all."""
    setting.add()
    for number in range(40):
        setting.event(order=str(number))
    setting.client.config_set("maxmemory", "1")
    try:
        for _ in range(8):
            setting.reader.next_reclaim = 0
            with pytest.raises(redis.ResponseError, match="maxmemory"):
                setting.reader.look()
        assert 0 < setting.pending() <= reading.EVENTS_AT_A_TIME, "the others stay in their stream"
        group = setting.record().group
        rows: Any = setting.client.xpending_range(ORDERS, group, "-", "+", 100)
        assert {row["times_delivered"] for row in rows} <= {0, 1}
    finally:
        setting.client.config_set("maxmemory", "0")
    setting.reader.next_reclaim = 0
    setting.reader.look()
    assert [params(run)["order"] for run in setting.runs()] == [str(number) for number in range(40)]
    assert setting.letters() == []


def test_a_trigger_that_refuses_everything_is_paused_and_leaves_the_rest(setting: Setting) -> None:
    """A mapping that is wrong makes no dead letter of a whole stream."""
    setting.add(params='{"order": "${event.idd}"}')
    for number in range(reading.REFUSED_IN_A_ROW + 50):
        setting.event(order=str(number))
    for _ in range(3):
        setting.reader.look()
    assert len(setting.letters()) == reading.REFUSED_IN_A_ROW
    assert setting.record().paused
    assert setting.record().refused == reading.REFUSED_IN_A_ROW
    assert "has no 'idd'" in setting.record().refusedWhy


def test_what_was_decided_about_a_trigger_meanwhile_holds_for_the_next_event(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look takes many events, and a trigger may be paused, or be another of the same name, before it ends."""
    setting.add()
    for number in range(3):
        setting.event(order=str(number))
    request = reading.request_of
    changes = iter(["pause", None])

    def changed(*about: Any) -> str:
        if action := next(changes, None):
            assert setting.control(action) == "ok"
        return request(*about)

    monkeypatch.setattr(reading, "request_of", changed)
    setting.reader.look()
    assert [params(run)["order"] for run in setting.runs()] == ["0"]
    assert setting.control("remove") == "ok"
    assert setting.add(dag=PLAIN, params="{}") == "ok"
    setting.event(order="3")
    setting.reader.next_reclaim = 0
    setting.reader.look()
    assert [run["dagName"] for run in setting.runs()] == ["order", "plain"]


def test_what_a_dag_does_by_default_is_no_reason_to_refuse_what_an_event_may_make_of_it(setting: Setting) -> None:
    """With its defaults nothing of this DAG would be left."""
    dag = b"""\
dagName: chosen
params: {env: dev, rows: '[]'}
tasks:
  - {name: a, forEach: "${params.rows}", when: "${params.env} == prod", image: alpine, command: [echo, "${item}"]}
"""
    assert setting.add(dag=dag, params='{"env": "${event.env}", "rows": "${event.rows}"}') == "ok"
    setting.event(env="prod", rows='["x"]')
    setting.reader.look()
    (run,) = setting.runs()
    assert (run["status"], run["taskCount"]) == ("RUNNING", "1")


def test_a_parameter_that_no_event_brings_is_named_when_the_trigger_is_added(setting: Setting) -> None:
    assert "'order'" in setting.add(params='{"mode": "${event.mode}"}')
    assert setting.client.zcard(TRIGGERS) == 0


def test_a_busy_trigger_leaves_room_for_the_others(setting: Setting) -> None:
    for name in ("a", "z"):
        assert setting.add(name, stream=f"events:{name}") == "ok"
    for number in range(500):
        setting.event("events:a", order=str(number))
    setting.event("events:z", order="z")
    for _ in range(rules.SUBMISSIONS_WAITING - 2):
        setting.client.xadd(SUBMISSIONS, {"dag": PLAIN})
    setting.reader.look()
    assert "z" in [params(run)["order"] for run in setting.runs() if run["dagName"] == "order"]


def test_a_group_that_cannot_be_made_anew_keeps_no_other_from_its_events(setting: Setting) -> None:
    for name in ("a", "b"):
        assert setting.add(name, stream=f"events:{name}") == "ok"
    setting.client.xgroup_destroy("events:a", setting.record("a").group)
    setting.client.hset(trigger("a"), mapping={"start": "nonsense"})
    setting.event("events:b", order="1")
    setting.reader.look()
    assert [params(run)["order"] for run in setting.runs()] == ["1"]


def test_a_paused_triggers_events_wait_and_are_taken_when_it_is_resumed(setting: Setting) -> None:
    setting.add()
    assert setting.control("pause") == "ok"
    setting.event(order="1")
    assert setting.reader.look() == 0
    assert setting.control("resume") == "ok"
    assert setting.reader.look() == 1
    assert setting.control("remove") == "ok"
    setting.event(order="2")
    assert setting.reader.look() == 0
    assert "no trigger of that name" in setting.control("remove")
    assert setting.client.xlen(ORDERS) == 2


def test_an_event_that_is_never_finished_is_set_aside_unread(setting: Setting) -> None:
    setting.add()
    event = setting.event(order="1")
    group = setting.record().group
    setting.client.xreadgroup(group, reading.CONSUMER, {ORDERS: ">"})
    for _ in range(3):
        setting.client.xclaim(ORDERS, group, reading.CONSUMER, 0, [event])

    def is_buried() -> bool:
        setting.reader.next_reclaim = 0
        setting.reader.look()
        return len(setting.letters()) == 1

    wait_until("it is set aside", is_buried, 10)
    assert "never finished" in setting.letters()[0]["reason"]
    assert setting.runs() == []
    assert setting.pending() == 0


def test_a_stream_that_was_deleted_and_a_group_that_was_destroyed_are_gone_on_with(setting: Setting) -> None:
    setting.add()
    setting.event(order="1")
    setting.reader.look()
    setting.client.delete(ORDERS)
    setting.reader.look()
    setting.event(order="2")
    setting.reader.look()
    setting.client.xgroup_destroy(ORDERS, setting.record().group)
    setting.event(order="3")
    setting.reader.look()
    setting.reader.look()
    assert [params(run)["order"] for run in setting.runs()] == ["1", "2", "3"]


def test_a_damaged_trigger_keeps_no_other_from_its_events(setting: Setting) -> None:
    for name in "abcde":
        assert setting.add(name) == "ok"
    setting.client.hset(trigger("a"), "runs", "many")
    setting.client.delete(trigger("b"))
    setting.client.set(trigger("b"), "x")
    setting.client.hset(trigger("c"), "declared", "[")
    setting.client.hset(trigger("d"), "stream", "private")
    setting.event(order="1")
    setting.client.xadd("private", {"order": "2"})
    setting.reader.look()
    assert [params(run)["order"] for run in setting.runs()] == ["1"]
    assert setting.record("e").runs == 1
    assert [setting.control("remove", name) for name in "abcd"] == ["ok"] * 4


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"stream": "private"}, "may not read 'private'"),
        ({"stream": "helios:submissions"}, "Helios' own"),
        ({"stream": ""}, "1 to 512"),
        ({"stream": "events:text"}, "is no stream"),
        ({"kind": "mail"}, "stream or webhook"),
        ({"bucket": "b"}, "a webhook's"),
        ({"name": "a/b"}, "no name of a trigger"),
        ({"dag": b"dagName: x"}, "the DAG is not valid"),
        ({"dag": b"#" * (rules.DAG_BYTES_AT_MOST + 1)}, "at most"),
        ({"params": '{"ordr": "${event.x}"}'}, "did you mean 'order'"),
        ({"params": '{"mode": "${event.x}"}'}, "has no default"),
        ({"params": '{"order": "${trigger.x}"}'}, "there is no ${trigger.x}"),
        ({"params": "["}, "not a JSON object"),
    ],
)
def test_what_can_be_no_trigger_is_answered_in_words_and_not_kept(
    setting: Setting, fields: dict[str, Any], words: str
) -> None:
    setting.client.set("events:text", "x")
    sent = {"kind": "stream", "stream": ORDERS, "dag": DAG, **fields}
    assert words in setting.control("add", sent.pop("name", "orders"), **sent)
    assert setting.client.zcard(TRIGGERS) == 0


def test_there_are_so_many_triggers_and_no_two_of_one_name(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "TRIGGERS_AT_MOST", 2)
    assert [setting.add("a"), setting.add("b")] == ["ok", "ok"]
    assert "already" in setting.add("a", dag=PLAIN)
    assert "there are 2 triggers" in setting.add("c")
    assert setting.record("a").dagName == "order"


def test_a_dag_without_parameters_takes_every_event(setting: Setting) -> None:
    assert setting.add(dag=PLAIN) == "ok"
    setting.event(anything="x")
    setting.reader.look()
    assert [run["dagName"] for run in setting.runs()] == ["plain"]


def test_of_two_processes_one_is_killed_and_every_event_has_one_run(services: Services, own_valkey: Valkey) -> None:
    client = own_valkey.client()
    replicas = {name: services.start(name, "-m", "services.submitter", HELIOS_LEASE_SECONDS="1") for name in "ab"}
    entry: Any = client.xadd(
        CONTROLS, {"action": "trigger-add", "name": "orders", "kind": "stream", "stream": ORDERS, "dag": DAG}
    )
    wait_until("it is added", lambda: client.get(trigger_answer(entry)) == "ok", 60)
    for number in range(50):
        client.xadd(ORDERS, {"order": str(number)})
    wait_until("some are there", lambda: client.zcard(Keys(0).runs) > 0, 60)
    replicas["a"].kill()
    replicas["a"].wait()
    for number in range(50, 100):
        client.xadd(ORDERS, {"order": str(number)})
    group = f"helios:{entry}"

    def all_done() -> bool:
        found: Any = client.xinfo_groups(ORDERS)
        return (found[0]["name"], found[0]["lag"], found[0]["pending"]) == (group, 0, 0)

    wait_until("every event is acknowledged", all_done, 60)
    wait_until("nothing waits", lambda: client.xlen(SUBMISSIONS) == 0, 60)
    runs: Any = client.zrange(Keys(0).runs, 0, -1)
    orders = [json.loads(client.hget(Keys(0).run(run), "params") or "")["order"] for run in runs]
    assert sorted(map(int, orders)) == list(range(100))
