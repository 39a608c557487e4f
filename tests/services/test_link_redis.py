"""The three services and their way to Redis: whatever the connection does, every run ends right, once, and in time."""

import time
from collections.abc import Iterator

import pytest

from helios.keys import SUBMISSIONS, Keys, keys_of_run
from tests.faulty_link import Fault, FaultyLink, Plan, long
from tests.redis_servers import Valkey
from tests.services.link_services import SECRET, LinkedServices
from tests.stage import counters, dag_text
from tests.waiting import wait_until

COMMANDS = {
    "submitter": ("-m", "services.submitter"),
    "jobrunner": ("-m", "bench.instant", "jobrunner"),
    "collector": ("-m", "bench.instant", "collector"),
}
LOSSES = (Fault.RESET_REQUEST, Fault.RESET_SENT, Fault.RESET_REPLY, Fault.CUT_REPLY)
PARTITIONS = 1
NOTICED_SECONDS = 10
"""A read that gets no answer for so long ends, and so do all idle connections (docs/design.md)."""
BACK_SECONDS = 5
"""So long after the connection is well, or its silence is noticed, everything goes on."""


class Trial:
    """The services, their server, and the link between."""

    def __init__(self, server: Valkey, link: FaultyLink, services: LinkedServices) -> None:
        self.client = server.client()
        self.link = link
        self.services = services
        self.runs: list[str] = []

    def submit(self) -> list[str]:
        """Some hundred tasks, without the link."""
        layers: dict[str, list[str]] = {
            f"t{layer}-{number}": [f"t{layer - 1}-{other}" for other in range(5)] if layer else []
            for layer in range(8)
            for number in range(5)
        }
        flat: dict[str, list[str]] = {f"t{number}": [] for number in range(80)}
        runs: list[str] = [self.client.xadd(SUBMISSIONS, {"dag": dag_text(tasks)}) for tasks in (layers, flat)]
        self.runs += runs
        return runs

    def done(self, runs: list[str]) -> int:
        found = (self.client.hget(keys_of_run(run, PARTITIONS).run(run), "taskSucceeded") for run in runs)
        return sum(int(number or 0) for number in found)

    def wait_for_the_end(self, runs: list[str], seconds: float) -> None:
        def states() -> set[str | None]:
            return {self.client.hget(keys_of_run(run, PARTITIONS).run(run), "status") for run in runs}

        wait_until("every run has ended", lambda: states() == {"SUCCEEDED"}, seconds)

    def check(self, runs: list[str]) -> None:
        """Each attempt is the first and committed once, and nothing is left behind."""
        for run in runs:
            keys = keys_of_run(run, PARTITIONS)
            fields, names = self.client.hgetall(keys.run(run)), self.client.lrange(keys.task_names(run), 0, -1)
            assert fields["taskSucceeded"] == fields["taskCount"] == str(len(names))
            assert counters(fields)["taskFailed"] == "0"
            assert {self.client.hget(keys.task(run, name), "attempt") for name in names} == {"1"}
            ends = [fields["event"] for _, fields in self.client.xrange(keys.events) if f'"{run}"' in fields["event"]]
            ended = [event for event in ends if "SUCCEEDED" in event and '"task"' in event]
            assert len(ended) == len(names)
        keys = Keys(0)
        for stream in (keys.ready, keys.checks, keys.launched, keys.finished, keys.settled, keys.cancelled):
            wait_until(f"{stream} is empty", lambda stream=stream: self.client.xlen(stream) == 0, 30)
            assert all(group["pending"] == 0 for group in self.client.xinfo_groups(stream))
        assert self.client.xlen(keys.dead) == self.client.xlen(SUBMISSIONS) == self.client.zcard(keys.active) == 0


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    server.start()
    server.client().execute_command("ACL", "SETUSER", "linked", "on", f">{SECRET}", "~*", "&*", "+@all")
    with FaultyLink(("127.0.0.1", server.port), seed=11) as link:
        url = f"redis://linked:{SECRET}@127.0.0.1:{link.port}/0"
        services = LinkedServices(tmp_path_factory.mktemp("services"), COMMANDS, {"HELIOS_REDIS_URL": url})
        try:
            yield Trial(server, link, services)
        finally:
            services.kill()
            server.kill()


@pytest.fixture(autouse=True)
def healed(trial: Trial) -> Iterator[None]:
    yield
    trial.link.heal()


@long
def test_messages_that_are_lost_on_the_way_to_redis_cost_nothing(trial: Trial) -> None:
    """Whether Redis got the command or not is not known, and every command is sent again."""
    for fault in LOSSES:
        trial.link.on(fault, share=0.05)
    runs = trial.submit()
    wait_until("every fault has hit often", lambda: all(trial.link.counts[fault] >= 10 for fault in LOSSES), 60)
    trial.link.heal()
    trial.wait_for_the_end(runs, BACK_SECONDS + 10)
    trial.check(runs)


@pytest.mark.alone
def test_a_redis_that_falls_silent_is_noticed_in_time(trial: Trial) -> None:
    """No connection ends, and none says a word; whatever was on its way is done when the time is over."""
    runs = trial.submit()
    wait_until("some tasks are done", lambda: trial.done(runs) > 10, 60)
    trial.link.on(Fault.HALF_OPEN)
    began = time.monotonic()
    trial.link.heal()
    trial.wait_for_the_end(runs, NOTICED_SECONDS + BACK_SECONDS + 10)
    took = time.monotonic() - began
    trial.check(runs)
    assert took <= NOTICED_SECONDS + BACK_SECONDS


@pytest.mark.alone
def test_a_redis_that_refuses_costs_no_processor_and_is_said_without_secrets(trial: Trial) -> None:
    """Nobody asks in a tight loop, each service says what it waits for, and goes on soon after."""
    runs = trial.submit()
    wait_until("some tasks are done", lambda: trial.done(runs) > 10, 60)
    known = {service: len(trial.services.log(service)) for service in COMMANDS}
    trial.link.on(Fault.REFUSE)
    before, began = trial.services.cpu_seconds(), time.monotonic()
    for service in COMMANDS:
        wait_until(
            f"{service} asks less and less often",
            lambda service=service: "retry_in_seconds=2" in trial.services.log(service)[known[service] :],
        )
    away = time.monotonic() - began
    used = {service: seconds - before[service] for service, seconds in trial.services.cpu_seconds().items()}
    trial.link.heal()
    trial.wait_for_the_end(runs, BACK_SECONDS + 10)
    trial.check(runs)
    assert max(used.values()) < 0.1 + 0.25 * away
    assert SECRET not in trial.services.logs()
    assert "Traceback" not in trial.services.logs()


@long
def test_a_random_course_of_faults_ends_well(trial: Trial) -> None:
    """Every kind of fault, one after the other, while runs come in."""
    runs: list[str] = []
    with trial.link.wander(Plan(quiet_seconds=(0.5, 2), fault_seconds=(0.1, 0.6), share=0.2)):
        for _ in range(6):
            submitted = trial.submit()
            wait_until("half is done", lambda submitted=submitted: trial.done(submitted) > 60, 110)
            runs += submitted
    trial.wait_for_the_end(runs, 2 * NOTICED_SECONDS + BACK_SECONDS)
    trial.check(runs)


@long
def test_a_stop_while_redis_is_silent_waits_for_one_answer_only(trial: Trial) -> None:
    """The last test of the module's services: they end in order, and nothing is lost that they had in hand."""
    runs = trial.submit()
    wait_until("some tasks are done", lambda: trial.done(runs) > 10, 60)
    trial.link.on(Fault.SILENT)
    ended = trial.services.stop()
    assert {code for code, _ in ended.values()} == {0}
    assert max(seconds for _, seconds in ended.values()) <= NOTICED_SECONDS + 4
    trial.link.heal()
    trial.services.start()
    trial.wait_for_the_end(runs, BACK_SECONDS + 10)
    trial.check(runs)
