"""What users send: whatever it is, there is an answer in the run's record, and the service lives."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import redis

from helios.keys import CONTROLS, SUBMISSIONS, SUBMITTER_GROUP, Keys, keys_of_run
from helios.settings import Settings
from helios.streams import Inbox
from helios.transitions import Call, commit_one
from helios.worker import Stop, work
from services.submitter import accept as accepting
from services.submitter.accept import accept, stated_name
from services.submitter.ingress import STREAMS, Ingress
from tests.stage import dag_text, parsed

SETTINGS = Settings(lease_seconds=600, deliveries_before_dead_letter=3)
MAXIMUM_ID = f"{2**64 - 1}-{2**64 - 1}"
GOOD = dag_text({"a": [], "b": ["a"]})


class Submitter:
    """The ingress loop, run until it finds nothing more."""

    def __init__(self, client: redis.Redis, partitions: int = 1) -> None:
        self.client = client
        self.partitions = partitions
        self.inbox = Inbox(
            client, group=SUBMITTER_GROUP, consumer="one", streams=STREAMS, batch_entries=4, lease_seconds=600
        )
        self.ingress = Ingress(client, self.inbox, partitions)

    def submit(self, **fields: Any) -> str:
        run = self.client.xadd(SUBMISSIONS, fields)
        self.serve()
        return run

    def control(self, **fields: Any) -> None:
        self.client.xadd(CONTROLS, fields)
        self.serve()

    def serve(self) -> None:
        stop = Stop()
        waiting: Callable[[], int] = lambda: sum(self._unread(stream) for stream in STREAMS)  # noqa: E731

        def on_turn() -> int:
            if self.inbox.groups_exist and not waiting() and not self.inbox.again:
                stop.event.set()
            return 1

        settings = Settings(
            partitions=self.partitions,
            lease_seconds=SETTINGS.lease_seconds,
            deliveries_before_dead_letter=SETTINGS.deliveries_before_dead_letter,
        )
        work(
            self.inbox,
            self.ingress.handle,
            settings=settings,
            stop=stop,
            on_turn=on_turn,
            on_bury=self.ingress.bury,
        )

    def _unread(self, stream: str) -> int:
        if self.client.xlen(stream) == 0:
            return 0
        if self.client.xinfo_stream(stream)["last-generated-id"] == MAXIMUM_ID:
            return int(self.client.xinfo_groups(stream)[0]["last-delivered-id"] != MAXIMUM_ID)
        last = next(group["last-delivered-id"] for group in self.client.xinfo_groups(stream))
        return len(self.client.xrange(stream, min=f"({last}" if last != "0-0" else "-"))

    def run(self, run: str) -> dict[str, str]:
        return self.client.hgetall(keys_of_run(run, self.partitions).run(run))

    def problems(self, run: str) -> list[str]:
        fields = self.run(run)
        assert fields["status"] == "REJECTED"
        return fields["problems"].split("\n")

    def dead(self) -> list[dict[str, str]]:
        return [fields for number in range(self.partitions) for _, fields in self.client.xrange(Keys(number).dead)]


@pytest.fixture
def submitter(client: redis.Redis) -> Submitter:
    return Submitter(client)


def test_a_good_dag_opens_the_run_whose_id_the_sender_was_given(submitter: Submitter) -> None:
    run = submitter.submit(dag=GOOD)
    assert submitter.run(run)["status"] == "RUNNING"
    assert submitter.client.xlen(Keys(0).ready) == 1
    assert submitter.client.xlen(SUBMISSIONS) == 0


@pytest.mark.parametrize(("text", "enabled"), [("true", "true"), ("FALSE", "false"), ("1", "true"), ("", "true")])
def test_the_submission_decides_about_the_cache(submitter: Submitter, text: str, enabled: str) -> None:
    run = submitter.submit(dag=GOOD, useCache=text)
    assert submitter.run(run)["cacheEnabled"] == enabled


WITH_PARAMS = (
    b'{"dagName": "d", "params": {"who": "all"}, "tasks": [{"name": "a", "image": "i", "command": ["${params.who}"]}]}'
)


def test_the_parameters_of_a_submission_become_part_of_its_tasks(submitter: Submitter) -> None:
    """The run keeps their values; what runs and what is memoized sees nothing else."""
    run = submitter.submit(dag=WITH_PARAMS, params='{"who": "me"}')
    assert json.loads(submitter.run(run)["params"]) == {"who": "me"}
    assert json.loads(submitter.client.hget(Keys(0).task(run, "a"), "spec"))["command"] == ["me"]
    default = submitter.submit(dag=WITH_PARAMS)
    assert json.loads(submitter.client.hget(Keys(0).task(default, "a"), "spec"))["command"] == ["all"]
    assert "params" not in submitter.run(submitter.submit(dag=GOOD))


def test_a_request_id_stands_for_one_dag_with_one_set_of_parameters(submitter: Submitter) -> None:
    first = submitter.submit(dag=WITH_PARAMS, requestId="r", params='{"who": "me"}')
    assert submitter.run(submitter.submit(dag=WITH_PARAMS, requestId="r", params='{"who": "me"}'))["aliasOf"] == first
    assert (
        "was used for another DAG"
        in submitter.problems(submitter.submit(dag=WITH_PARAMS, requestId="r", params='{"who": "you"}'))[0]
    )


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no dag": ({"DAG": "x"}, "dag"),
    "an empty dag": ({"dag": ""}, ""),
    "bytes that are not UTF-8": ({"dag": b"\xff\xfe\x00tasks"}, ""),
    "a UTF-16 text": ({"dag": GOOD.decode().encode("utf-16")}, ""),
    "not YAML": ({"dag": "{{{{"}, ""),
    "NaN": ({"dag": "dagName: d\ntasks: .nan\n"}, "tasks"),
    "NaN in JSON": ({"dag": '{"dagName": "d", "tasks": NaN}'}, ""),
    "deep nesting": ({"dag": "[" * 100_000}, ""),
    "an alias bomb": (
        {
            "dag": "a: &a [x,x,x,x,x,x,x,x,x]\n"
            + "\n".join(f"{c}: &{c} [{', '.join([f'*{p}'] * 9)}]" for p, c in zip("abcdefgh", "bcdefghi", strict=True))
        },
        "",
    ),
    "a huge integer": ({"dag": "dagName: d\ntasks: " + "9" * 10_000}, ""),
    "an empty list of tasks": ({"dag": '{"dagName": "d", "tasks": []}'}, "tasks"),
    "a useCache of its own": ({"dag": GOOD, "useCache": "perhaps"}, "useCache"),
    "a useCache that is not UTF-8": ({"dag": GOOD, "useCache": b"\xff"}, "useCache"),
    "params that are no object": ({"dag": GOOD, "params": "[1]"}, "params"),
    "params that are not JSON": ({"dag": GOOD, "params": "date=1"}, "params"),
    "params nested without end": ({"dag": GOOD, "params": '{"a":' * 100_000}, "params"),
    "params that are not UTF-8": ({"dag": GOOD, "params": b'{"a": "\xff"}'}, "params"),
    "a parameter that the DAG has not": ({"dag": GOOD, "params": '{"a": "1"}'}, "'a'"),
    "a parameter without a value": ({"dag": GOOD.replace(b'"dagName"', b'"params": {"a": null}, "dagName"')}, "-p a="),
    "an empty requestId": ({"dag": GOOD, "requestId": ""}, "requestId"),
    "a long requestId": ({"dag": GOOD, "requestId": "r" * 257}, "requestId"),
    "a requestId that is not UTF-8": ({"dag": GOOD, "requestId": b"\xff"}, "requestId"),
    "a name that leads elsewhere": ({"dag": GOOD.replace(b'"a"', b'"../a"')}, "a"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_submission_leaves_a_rejected_run_with_its_problems(submitter: Submitter, case: str) -> None:
    fields, word = BAD[case]
    run = submitter.submit(**fields)
    problems = submitter.problems(run)
    assert problems[0]
    assert word in " ".join(problems)
    assert submitter.dead() == []
    assert submitter.client.xlen(Keys(0).ready) == 0
    assert submitter.run(submitter.submit(dag=GOOD))["status"] == "RUNNING", "the service lives"


def test_every_problem_of_a_dag_is_listed(submitter: Submitter) -> None:
    """A self-edge, a cycle, an unknown parent and a name that is there twice, all at once."""
    dag = dag_text({"a": ["a"], "b": ["c"], "c": ["b"], "d": ["nobody"]}).replace(b'"d"', b'"d"')
    text = dag.decode().replace('{"name":"d"', '{"name":"d","image":"i","command":["x"]},{"name":"d"')
    problems = submitter.problems(submitter.submit(dag=text))
    found = " ".join(problems)
    assert len(problems) >= 4
    assert all(word in found for word in ("nobody", "cycle", "d", "a"))


def test_a_hundred_thousand_tasks_are_a_limit_error(submitter: Submitter) -> None:
    task = '{"name":"t","image":"i","command":["x"]}'
    text = '{"dagName":"d","tasks":[' + ",".join([task] * 100_000) + "]}"
    assert "10,000" in " ".join(submitter.problems(submitter.submit(dag=text)))


def test_sixty_four_mebibytes_are_a_limit_error(valkey: redis.Redis) -> None:
    submitter = Submitter(valkey)
    assert "bytes" in " ".join(submitter.problems(submitter.submit(dag=b"#" * 64 * 1024**2)))


def test_a_submission_that_is_delivered_twice_opens_one_run(submitter: Submitter) -> None:
    """The acknowledgement was lost; the entry comes again after a restart."""
    run = submitter.client.xadd(SUBMISSIONS, {"dag": GOOD})
    entry = submitter.inbox.read(1)
    assert accept(submitter.client, entry[0], 1) == "accepted"
    again = Submitter(submitter.client)
    again.serve()
    assert submitter.client.xlen(Keys(0).ready) == 1
    assert submitter.run(run)["status"] == "RUNNING"
    assert submitter.client.xlen(SUBMISSIONS) == 0


def test_a_submission_is_acknowledged_only_when_it_is_a_run(
    submitter: Submitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that ends before any of the writes leaves it to the next one."""
    pending: list[int] = []

    def write(client: redis.Redis, call: Call) -> Any:
        pending.append(client.xpending(SUBMISSIONS, SUBMITTER_GROUP)["pending"])
        return commit_one(client, call)

    monkeypatch.setattr(accepting, "commit_one", write)
    run = submitter.submit(dag=GOOD)
    assert len(pending) >= 2
    assert set(pending) == {1}
    assert submitter.run(run)["status"] == "RUNNING"
    assert submitter.client.xpending(SUBMISSIONS, SUBMITTER_GROUP)["pending"] == 0


def test_a_client_that_sends_again_gets_an_alias_of_its_first_run(submitter: Submitter) -> None:
    first = submitter.submit(dag=GOOD, requestId="r")
    second = submitter.submit(dag=GOOD, requestId="r")
    assert submitter.run(second) == {"dagId": second, "aliasOf": first}
    assert submitter.client.xlen(Keys(0).ready) == 1
    assert 0 < submitter.client.ttl(Keys(0).run(second)) <= 7 * 86_400


def test_the_same_request_id_with_another_dag_is_a_conflict(submitter: Submitter) -> None:
    first = submitter.submit(dag=GOOD, requestId="r")
    before = submitter.run(first)
    for fields in ({"dag": dag_text({"z": []})}, {"dag": GOOD, "useCache": "false"}):
        assert first in submitter.problems(submitter.submit(**fields, requestId="r"))[0]
    assert submitter.run(first) == before


@pytest.mark.parametrize("crash_after", [0, 1])
def test_a_crash_between_claim_and_open_is_made_good(submitter: Submitter, crash_after: int) -> None:
    """The request id is bound, the run not open: the redelivered entry opens it, and a repeat becomes its alias."""
    first = submitter.client.xadd(SUBMISSIONS, {"dag": GOOD, "requestId": "r"})
    entry = submitter.inbox.read(1)[0]
    if crash_after:
        submission = accepting.decode(entry.fields, accepting.Submission)
        accepting._claim(submitter.client, first, submission, GOOD, 1)
        accepting.commit_one(
            submitter.client, accepting.open_calls(Keys(0), first, parsed({"a": [], "b": ["a"]}), None)[0]
        )
    again = Submitter(submitter.client)
    second = again.submit(dag=GOOD, requestId="r")
    runs = {submitter.run(run).get("aliasOf", run) for run in (first, second)}
    assert len(runs) == 1
    assert submitter.client.xlen(Keys(0).ready) == 1


def test_cancelling_ends_a_run(submitter: Submitter) -> None:
    run = submitter.submit(dag=GOOD)
    submitter.control(run=run, action="cancel")
    assert submitter.run(run)["taskCancelled"] == "2"
    assert submitter.client.xlen(Keys(0).settled) == 1
    assert submitter.client.xlen(CONTROLS) == 0


def test_an_alias_cancels_the_run_it_stands_for(submitter: Submitter) -> None:
    first = submitter.submit(dag=GOOD, requestId="r")
    second = submitter.submit(dag=GOOD, requestId="r")
    submitter.control(run=second, action="cancel")
    assert submitter.run(first)["taskCancelled"] == "2"


def test_a_cancel_that_overtakes_its_submission_waits_for_it(submitter: Submitter) -> None:
    """Both streams are read at once; the control may come first."""
    other = Submitter(submitter.client)
    other.inbox.consumer = "other"
    run = submitter.client.xadd(SUBMISSIONS, {"dag": GOOD})
    held = other.inbox.read(1)
    submitter.client.xadd(CONTROLS, {"run": run, "action": "cancel"})
    submitter.serve()
    assert submitter.client.xlen(CONTROLS) == 1
    assert submitter.dead() == []
    other.ingress.handle(held)
    Submitter(submitter.client).serve()  # the first has handed it back at its end
    assert submitter.run(run)["taskCancelled"] == "2"
    assert submitter.client.xlen(CONTROLS) == 0


GARBAGE: dict[str, dict[str, Any]] = {
    "an unknown run": {"run": "1764027260123-7", "action": "cancel"},
    "no run id": {"run": "latest", "action": "cancel"},
    "an id beyond 64 bits": {"run": "99999999999999999999-0", "action": "cancel"},
    "an id of other digits": {"run": "١٢٣-٤", "action": "cancel"},
    "an unknown action": {"run": "1-0", "action": "explode"},
    "no action": {"run": "1-0"},
    "nothing known": {"x": "y"},
    "bytes that are not UTF-8": {"run": b"\xff", "action": b"\xfe"},
    "a huge run": {"run": "9" * 1_000_000, "action": "cancel"},
}


@pytest.mark.parametrize("case", GARBAGE)
def test_a_control_that_makes_no_sense_is_a_dead_letter_and_nothing_else(submitter: Submitter, case: str) -> None:
    submitter.control(**GARBAGE[case])
    assert len(submitter.dead()) == 1
    assert submitter.dead()[0]["reason"]
    assert submitter.client.xlen(CONTROLS) == 0
    assert submitter.run(submitter.submit(dag=GOOD))["status"] == "RUNNING"


def test_runs_are_spread_over_partitions_and_found_again(client: redis.Redis) -> None:
    submitter = Submitter(client, partitions=2)
    runs = [submitter.submit(dag=GOOD, requestId=f"r{number}") for number in range(8)]
    assert all(client.xlen(Keys(number).ready) for number in range(2))
    again = submitter.submit(dag=GOOD, requestId="r3")
    submitter.control(run=again, action="cancel")
    assert submitter.run(runs[3])["taskCancelled"] == "2"


def test_the_maximum_id_on_the_ingress_is_a_run_like_any_other(client: redis.Redis) -> None:
    submitter = Submitter(client)
    run = client.xadd(SUBMISSIONS, {"dag": GOOD}, id=MAXIMUM_ID)
    submitter.serve()
    assert submitter.run(run)["status"] == "RUNNING"
    submitter.control(run=run, action="cancel")
    assert submitter.run(run)["taskCancelled"] == "2"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("dagName: nightly\ntasks: []", "nightly"),
        ('{"dagName": "nightly", "tasks": []}', "nightly"),
        ("# first\ndagName: 'nightly'  # a name\ntasks: 3", "nightly"),
        ("dagName: not a name\ntasks: []", "(unreadable)"),
        ("\udcff", "(unreadable)"),
        ("", "(unreadable)"),
    ],
)
def test_a_rejected_run_is_listed_under_the_name_its_text_gives(text: str, name: str) -> None:
    assert stated_name(text) == name
