"""Schedules: each time makes one run, whoever looks and whoever is killed where; what people are told of them."""

import itertools
import json
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import redis
import structlog
from structlog.testing import capture_logs

from helios import schedules as rules
from helios.keys import CONTROLS, SCHEDULES, SUBMISSIONS, SUBMITTER_GROUP, Keys, schedule, schedule_answer
from helios.streams import CLIENT_OPTIONS, Entry, Inbox
from services.submitter import schedule as sending
from services.submitter.ingress import STREAMS, Ingress
from services.submitter.schedule import Scheduler, control_schedule
from services.submitter.told import AGAIN_MS
from tests.redis_servers import Valkey
from tests.services.test_stopping import Services
from tests.services.test_stopping import services as services
from tests.stage import Stage, dag_text
from tests.waiting import wait_until

LEASE_SECONDS = 15
DAG = dag_text({"a": []})


def at(text: str, zone: str = "UTC") -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()) * 1000


class Setting:
    """Submitters whose clock is the test's."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.stage = Stage(client)
        self.now = at("2026-05-05T02:00")
        self.inbox = Inbox(
            client, group=SUBMITTER_GROUP, consumer="a", streams=STREAMS, batch_entries=100, lease_seconds=LEASE_SECONDS
        )
        self.ingress = Ingress(client, self.inbox, 1)
        self.scheduler = self.replica(client)

    def replica(self, client: redis.Redis) -> Scheduler:
        return Scheduler(client, 1, LEASE_SECONDS, lambda: self.now)

    def control(self, action: str, name: str = "nightly", **fields: str | bytes) -> str:
        """Returns the answer."""
        entry: Any = self.client.xadd(CONTROLS, {"action": f"schedule-{action}", "name": name, **fields})
        self.handle(entry)
        answer: Any = self.client.get(schedule_answer(entry))
        return answer

    def handle(self, entry: str) -> None:
        _, fields = self.client.xrange(CONTROLS, entry, entry)[0]
        control_schedule(self.client, Entry(stream=CONTROLS, id=entry, fields=fields), lambda: self.now)

    def add(self, name: str = "nightly", cron: str = "0 3 * * *", dag: bytes = DAG, **fields: str) -> str:
        return self.control("add", name, cron=cron, dag=dag, **fields)

    def look(self, when: str = "") -> int:
        if when:
            self.now = at(when)
        return self.scheduler.look()

    def serve(self) -> None:
        """Opens what was submitted, and carries out the cancels; controls about schedules were handled by `control`."""
        for entry, fields in self.client.xrange(CONTROLS):
            if fields["action"].startswith("schedule-"):
                self.client.xdel(CONTROLS, entry)
        while entries := self.inbox.read(1):
            for failure in self.ingress.handle(entries):
                raise failure.error

    def runs(self) -> list[str]:
        """Those that were opened, the oldest first."""
        self.serve()
        found: Any = self.client.zrange(Keys(0).runs, 0, -1)
        return found

    def record(self, name: str = "nightly") -> rules.Schedule:
        found = rules.schedule_of(self.client.hgetall(schedule(name)))
        assert found is not None
        return found

    def end(self, run: str) -> None:
        self.stage.cancel(["a"], run=run)
        assert self.stage.finalise(run) == 1


@pytest.fixture
def setting(client: redis.Redis) -> Setting:
    return Setting(client)


def test_each_time_makes_one_run_however_many_look(setting: Setting) -> None:
    assert setting.add() == "ok"
    assert setting.look() == 0
    assert setting.look("2026-05-05T02:59:59") == 0
    assert setting.look("2026-05-05T03:00:00") == 1
    others = [setting.replica(setting.client) for _ in range(3)]
    assert [each.look() for each in others] == [0, 0, 0]
    assert setting.look("2026-05-05T03:00:30") == 0
    assert setting.look("2026-05-06T03:00:01") == 1
    runs = setting.runs()
    assert len(runs) == 2
    assert [setting.stage.run(run)["dagName"] for run in runs] == ["trial", "trial"]
    found = setting.record()
    assert (found.lastRun, found.lastTime, found.runs) == (runs[1], at("2026-05-06T03:00"), 2)
    assert (found.next, found.firing, found.missedTime) == (at("2026-05-07T03:00"), None, None)


def test_after_a_long_time_without_a_submitter_the_latest_time_runs_once(setting: Setting) -> None:
    setting.add(cron="*/10 * * * *")
    assert setting.look("2026-06-01T12:34") == 1
    assert setting.look() == 0
    assert len(setting.runs()) == 1
    found = setting.record()
    assert found.lastTime == at("2026-06-01T12:30")
    assert found.next == at("2026-06-01T12:40")
    assert found.missedTime == at("2026-05-05T02:10")


def test_a_time_whose_starting_deadline_has_passed_is_left_out(setting: Setting) -> None:
    setting.add(deadlineSeconds="600")
    assert setting.look("2026-05-05T03:10:01") == 0
    assert setting.runs() == []
    found = setting.record()
    assert (found.missedTime, found.missedWhy) == (at("2026-05-05T03:00"), sending.DEADLINE_PASSED)
    assert found.next == at("2026-05-06T03:00")
    assert setting.look("2026-05-06T03:09:59") == 1
    assert len(setting.runs()) == 1


def test_where_clocks_change_a_time_in_the_doubled_hour_runs_once(setting: Setting) -> None:
    setting.now = at("2026-10-25T00:00", "UTC")
    setting.add(cron="30 2 * * *", timezone="Europe/Berlin")
    for minute in range(0, 240, 10):
        setting.now = at("2026-10-25T00:00") + minute * 60_000
        setting.look()
    assert len(setting.runs()) == 1
    assert setting.record().lastTime == at("2026-10-25T00:30")


def test_allowed_side_by_side_runs_do_not_wait(setting: Setting) -> None:
    setting.add(cron="0 * * * *")
    for hour in (3, 4, 5):
        assert setting.look(f"2026-05-05T0{hour}:00:00") == 1
    assert [setting.stage.run(run)["status"] for run in setting.runs()] == ["RUNNING"] * 3


def test_a_forbidden_time_waits_for_the_last_run_and_only_the_latest_is_made_up_for(setting: Setting) -> None:
    """A run that waits in its stream goes on as well."""
    setting.add(cron="0 * * * *", concurrency="forbid")
    assert setting.look("2026-05-05T03:00") == 1
    assert setting.look("2026-05-05T04:00") == 0, "the first is not even open"
    (first,) = setting.runs()
    assert setting.look("2026-05-05T05:30") == 0
    setting.end(first)
    assert setting.look() == 1
    assert setting.look() == 0
    assert len(setting.runs()) == 2
    found = setting.record()
    assert (found.lastTime, found.missedTime) == (at("2026-05-05T05:00"), at("2026-05-05T04:00"))
    assert found.missedWhy == sending.OVERTAKEN


def test_a_replaced_run_is_cancelled_and_one_that_has_ended_is_left_alone(setting: Setting) -> None:
    setting.add(cron="0 * * * *", concurrency="replace")
    setting.look("2026-05-05T03:00")
    (first,) = setting.runs()
    setting.look("2026-05-05T04:00")
    runs = setting.runs()
    assert len(runs) == 2
    assert "cancelledAt" in setting.stage.run(first)
    assert "cancelledAt" not in setting.stage.run(runs[1])
    setting.end(runs[1])
    assert setting.look("2026-05-05T05:00") == 1
    assert [fields for _, fields in setting.client.xrange(CONTROLS) if fields["action"] == "cancel"] == []


class Dies(Exception):
    """As a process does."""


class MortalConnection(redis.Connection):
    """Of a replica that is killed at one of its commands: before it is sent, or before its reply is there."""

    left = 10**9
    is_sent = False

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        MortalConnection.left -= 1
        if MortalConnection.left < 0 and not MortalConnection.is_sent:
            raise Dies
        super().send_packed_command(command, check_health=check_health)

    def read_response(self, *args: Any, **options: Any) -> Any:
        found = super().read_response(*args, **options)
        if MortalConnection.left < 0:
            raise Dies
        return found


def mortal(server: Valkey) -> redis.Redis:
    pool = redis.ConnectionPool.from_url(server.url, connection_class=MortalConnection, **CLIENT_OPTIONS)
    return redis.Redis(connection_pool=pool)


def test_two_replicas_that_are_killed_at_any_of_their_commands_leave_one_run_for_each_time(
    shared_valkey: Valkey, valkey: redis.Redis
) -> None:
    """The first dies at each of its commands in turn, before and after it has worked; the second, which takes over, at
    some of its own. The third finds nothing twice.
    """
    deaths = 0
    first = second = 1
    is_sent = False
    while True:
        valkey.flushall()
        setting = Setting(valkey)
        setting.add(cron="0 * * * *", concurrency="replace")
        setting.look("2026-05-05T03:00")
        (before,) = setting.runs()
        setting.now = at("2026-05-05T04:00")
        died = [dies_at(setting, shared_valkey, first, is_sent)]
        setting.now += LEASE_SECONDS * 1000 + 1
        died.append(dies_at(setting, shared_valkey, second, is_sent))
        setting.now += LEASE_SECONDS * 1000 + 1
        setting.look()
        setting.look()
        runs = setting.runs()
        assert len(runs) == 2, (is_sent, first, second)
        assert "cancelledAt" in setting.stage.run(before)
        found = setting.record()
        assert (found.runs, found.lastTime, found.firing) == (2, at("2026-05-05T04:00"), None)
        deaths += sum(died)
        if died[1]:
            second += 5
        elif died[0]:
            first, second = first + 1, 1
        elif not is_sent:
            is_sent, first, second = True, 1, 1
        else:
            break
    assert deaths > 30


def dies_at(setting: Setting, server: Valkey, command: int, is_sent: bool) -> bool:
    client = mortal(server)
    client.ping()  # its connection is there
    MortalConnection.left, MortalConnection.is_sent = command - 1, is_sent
    try:
        setting.replica(client).look()
    except Dies:
        return True
    finally:
        MortalConnection.left = 10**9
        client.close()
    return False


def test_a_replica_that_slept_makes_no_second_run_and_moves_nothing(setting: Setting) -> None:
    """It has claimed a time; another has finished it, and the next one, when it wakes."""
    setting.add(cron="0 * * * *")
    setting.now = at("2026-05-05T03:00")
    sleeper = setting.replica(setting.client)
    claimed = sleeper._claim("nightly", setting.record(), setting.now)  # pyright: ignore[reportPrivateUsage]
    assert claimed is not None
    assert setting.look() == 0, "it is the claimant's"
    setting.now += LEASE_SECONDS * 1000
    assert setting.look() == 1
    assert setting.look("2026-05-05T04:00") == 1
    sleeper._send("nightly", claimed)  # pyright: ignore[reportPrivateUsage]
    assert len(setting.runs()) == 2
    assert (setting.record().lastTime, setting.record().runs) == (at("2026-05-05T04:00"), 2)


def test_a_paused_schedule_makes_no_run_and_what_it_misses_is_not_made_up_for(setting: Setting) -> None:
    setting.add()
    assert setting.control("pause") == "ok"
    assert setting.control("pause") == "ok"
    assert setting.look("2026-05-06T03:00") == 0
    setting.now = at("2026-05-06T04:00")
    assert setting.control("resume") == "ok"
    assert setting.look() == 0
    assert setting.look("2026-05-07T03:00") == 1
    assert len(setting.runs()) == 1


def test_what_was_claimed_before_a_pause_is_finished_and_nothing_after_it(setting: Setting) -> None:
    setting.add(cron="0 * * * *")
    setting.now = at("2026-05-05T03:00")
    setting.scheduler._claim("nightly", setting.record(), setting.now)  # pyright: ignore[reportPrivateUsage]
    setting.control("pause")
    assert setting.look("2026-05-05T04:00") == 1
    assert setting.look("2026-05-05T05:00") == 0
    assert setting.record().lastTime == at("2026-05-05T03:00")


def test_a_control_that_comes_again_later_undoes_nothing(setting: Setting) -> None:
    setting.add()
    (added, _), *_ = setting.client.xrange(CONTROLS)
    assert setting.control("remove") == "ok"
    setting.handle(added)
    assert setting.client.exists(schedule("nightly")) == 0
    assert setting.client.zcard(SCHEDULES) == 0
    assert setting.add() == "ok", "the name is free again"
    setting.handle(added)
    assert setting.record().id != added


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"dag": b"dagName: x"}, "the DAG is not valid"),
        ({"dag": b"\xff\xfe"}, "the DAG is not valid"),
        ({"dag": b"#" * (rules.DAG_BYTES_AT_MOST + 1)}, "at most"),
        ({"cron": "every day"}, "five fields"),
        ({"timezone": "Berlin"}, "no time zone"),
        ({"concurrency": "maybe"}, "allow, forbid or replace"),
        ({"name": "a/b"}, "no name of a schedule"),
    ],
)
def test_what_can_be_no_schedule_is_answered_in_words_and_not_kept(
    setting: Setting, fields: dict[str, Any], words: str
) -> None:
    assert words in setting.add(**fields)
    assert setting.client.zcard(SCHEDULES) == 0


def test_there_are_so_many_schedules_and_no_two_of_one_name(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "SCHEDULES_AT_MOST", 2)
    assert [setting.add("a"), setting.add("b")] == ["ok", "ok"]
    assert "already" in setting.add("a", cron="1 1 * * *")
    assert "there are 2 schedules" in setting.add("c")
    assert "no schedule of that name" in setting.control("remove", "c")
    assert setting.record("a").cron == "0 3 * * *"


def test_a_damaged_schedule_keeps_no_other_from_its_time(setting: Setting) -> None:
    for name in ("a", "b", "c", "d"):
        setting.add(name)
    setting.client.hset(schedule("a"), "next", "soon")
    setting.client.hset(schedule("b"), "timezone", "Europe/Nowhere")
    setting.client.delete(schedule("c"))
    setting.client.set(schedule("c"), "x")
    assert setting.look("2026-05-05T03:00") == 1
    assert setting.record("d").runs == 1
    assert setting.control("remove", "a") == "ok"


PARAMS = b"""\
dagName: daily
params: {date: null, mode: fast}
tasks:
  - {name: a, image: alpine, command: [sh, -c, "echo ${params.date} ${params.mode}"]}
"""


def test_a_schedule_gives_its_dag_parameters_and_the_scheduled_time_among_them(setting: Setting) -> None:
    """The time that was scheduled, in the schedule's time zone, however late it is sent."""
    params = '{"date": "${schedule.date}T${schedule.time} $${schedule.date}", "mode": "slow"}'
    assert setting.add(cron="30 0 * * *", timezone="Europe/Berlin", dag=PARAMS, params=params) == "ok"
    assert setting.look("2026-05-06T21:00") == 1
    (run,) = setting.runs()
    found = setting.stage.run(run)
    assert found["status"] == "RUNNING"
    assert json.loads(found["params"]) == {"date": "2026-05-06T00:30:00 ${schedule.date}", "mode": "slow"}


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ("", "has no default"),
        ('{"date": "x", "colour": "red"}', "no parameter 'colour'"),
        ('{"date": "${schedule.day}"}', "there is no ${schedule.day}"),
        ('{"date": ["x"]}', "neither text"),
        ("[", "not a JSON object"),
        ('{"date": "' + "x" * 70_000 + '"}', "characters"),
    ],
)
def test_parameters_that_the_dag_does_not_take_are_refused_when_the_schedule_is_added(
    setting: Setting, params: str, words: str
) -> None:
    assert words in setting.add(dag=PARAMS, params=params)
    assert setting.client.zcard(SCHEDULES) == 0


def test_a_damaged_schedule_is_told_of_once_for_each_change_and_every_hour(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(0))
    monkeypatch.setattr(sending, "log", structlog.get_logger())
    setting.add()
    setting.client.hset(schedule("nightly"), "next", "soon")

    def told(looks: int) -> int:
        with capture_logs() as lines:
            for _ in range(looks):
                setting.now += 1_000
                setting.look()
        return sum(line["log_level"] == "error" for line in lines)

    setting.now = at("2026-05-05T03:00")
    assert told(100) == 1
    setting.client.hset(schedule("nightly"), "runs", "many")
    setting.client.hset(schedule("nightly"), "next", at("2026-05-05T03:00"))
    assert told(100) == 1
    setting.now += AGAIN_MS
    assert told(100) == 1
    setting.client.hset(schedule("nightly"), "runs", "0")
    assert told(1) == 0
    assert setting.record().runs == 1


def test_of_two_processes_one_makes_the_run_and_when_it_is_killed_the_other_the_next(
    services: Services, own_valkey: Valkey
) -> None:
    """By the server's clock, from a yearly schedule whose time is set back."""
    client = own_valkey.client()
    replicas = {name: services.start(name, "-m", "services.submitter", HELIOS_LEASE_SECONDS="1") for name in "ab"}
    entry: Any = client.xadd(
        CONTROLS, {"action": "schedule-add", "name": "yearly", "cron": "0 0 1 1 *", "dag": dag_text({"a": []})}
    )
    wait_until("it is added", lambda: client.get(schedule_answer(entry)) == "ok", 60)

    def set_back() -> int:
        """As if every submitter had been away since before the latest time."""
        before = client.hget(schedule("yearly"), "next")
        assert before is not None
        year = datetime.fromtimestamp(int(before) / 1000, ZoneInfo("UTC")).year
        times = list(itertools.islice(rules.times_after("0 0 1 1 *", "UTC", at(f"{year - 3}-06-01T00:00")), 1))
        client.hset(schedule("yearly"), "next", times[0])
        client.zadd(SCHEDULES, {"yearly": times[0]})
        return times[0]

    def made() -> int:
        return int(client.hget(schedule("yearly"), "runs") or 0)

    set_back()
    wait_until("its time is sent", lambda: made() == 1, 60)
    first = client.hget(schedule("yearly"), "lastTime")
    replicas["a"].kill()
    replicas["a"].wait()
    set_back()
    wait_until("its time is sent again", lambda: made() == 2, 60)
    assert client.hget(schedule("yearly"), "lastTime") == first
    wait_until("nothing waits", lambda: client.xlen(SUBMISSIONS) == 0, 60)
    assert client.zcard(Keys(0).runs) == 1, "the same time is the same run, whichever process sends it"
