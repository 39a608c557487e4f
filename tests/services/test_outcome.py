"""How an attempt ended, and what a run's metrics come to: pure decisions."""

from typing import Any

import msgspec
import pytest

from helios.localjobs import PodStatus, StepStatus
from helios.podwire import FetchedInput, FetchManifest, MessageOutput, Report, StoredOutput
from helios.records import InputRecord, OutputRecord, TaskView
from services.collector.classify import UNKNOWN, Classification, classify
from services.collector.metrics import disagreements, fold, run_cache, run_status
from services.collector.outcome import (
    Ended,
    ended_well,
    from_pod,
    from_report,
    publish_message,
    report_of,
    vanished,
)

PREFIX = "runs/1-0/a/1/"
HIT = Classification(cache="Hit", hit_bytes=5, inputs=(InputRecord("i", 5, "cached"),))


def report(**fields: Any) -> Report:
    values: dict[str, Any] = {"run": "1-0", "task": "a", "attempt": 1, "podUid": "u", "exitCode": 0, **fields}
    return Report(**values)


def output(name: str = "o", key: str = f"{PREFIX}u/o") -> StoredOutput:
    return StoredOutput(name=name, key=key, bytes=1, sha256="0" * 64)


def pod(phase: str = "Succeeded", *, task: int = 0, fetch: int = 0, publish: int = 0, **fields: Any) -> PodStatus:
    codes = {"fetch": fetch, "task": task, "publish": publish}
    steps = {step: StepStatus(startedAt=1, endedAt=2, exitCode=code) for step, code in codes.items()}
    return PodStatus(job="j", uid="u", node="n", phase=phase, steps=steps, **fields)


def end(
    status: PodStatus,
    given: Report | None = None,
    *,
    outputs: tuple[str, ...] = (),
    messages: dict[str, str | None] | None = None,
) -> Ended:
    return from_pod(
        status,
        report=given,
        messages=messages or {},
        classification=HIT,
        declared_outputs=outputs,
        prefix=PREFIX,
    )


def test_exit_zero_and_every_output_stored_is_a_success() -> None:
    good = report(outputs=[output()])
    assert ended_well(good, ["o"], PREFIX)
    ended = from_report(good, HIT)
    assert (ended.status, ended.disrupted, ended.record.cache) == ("SUCCEEDED", False, "Hit")
    assert [(each.name, each.key) for each in ended.record.outputs] == [("o", f"{PREFIX}u/o")]


def test_a_pod_that_was_told_that_its_attempt_is_over_is_repeated_if_it_is_not() -> None:
    """Redis has lost that the attempt had begun, refused its pod, and has begun it once more meanwhile."""
    text = '{"v": 1, "ok": false, "hits": 0, "misses": 0, "hitBytes": 0, "missBytes": 0, "error": "it is over"%s}'
    told = end(pod("Failed", fetch=1), messages={"fetch": text % ', "disrupted": true'})
    assert (told.status, told.disrupted, told.record.reason) == ("FAILED", True, "it is over")
    assert not end(pod("Failed", fetch=1), messages={"fetch": text % ""}).disrupted
    assert not end(pod("Failed", task=1), messages={"fetch": text % ', "disrupted": true'}).disrupted


BAD_REPORTS = {
    "another exit code": report(exitCode=1, outputs=[output()]),
    "no exit code": report(exitCode=None, outputs=[output()]),
    "a failed upload": report(reason="the store refused", outputs=[output()]),
    "a missing output": report(),
    "an output nobody declared": report(outputs=[output(), output("p", f"{PREFIX}u/p")]),
    "a key of another attempt": report(outputs=[output(key="runs/1-0/a/2/u/o")]),
    "a key of another run": report(outputs=[output(key="runs/1-1/a/1/u/o")]),
    "a key that climbs out": report(outputs=[output(key=f"{PREFIX}../../b/1/u/o")]),
}


@pytest.mark.parametrize("case", BAD_REPORTS)
def test_a_report_that_does_not_show_success_is_none(case: str) -> None:
    bad = BAD_REPORTS[case]
    assert not ended_well(bad, ["o"], PREFIX)
    ended = end(pod("Failed"), bad, outputs=("o",))
    assert ended.status == "FAILED"
    assert ended.record.outputs == []
    assert ended.record.reason


def test_exit_zero_but_a_lost_upload_fails_with_that_reason() -> None:
    ended = end(pod("Failed", publish=1), report(reason="output 'o' is missing"), outputs=("o",))
    assert (ended.status, ended.record.reason) == ("FAILED", "output 'o' is missing")
    assert not ended.disrupted


def test_an_early_success_stays_although_the_pod_says_otherwise() -> None:
    ended = end(pod("Failed", publish=1, reason="Error"), report(outputs=[output()]), outputs=("o",))
    assert ended.status == "SUCCEEDED"


def test_an_early_exit_code_gives_way_to_the_reason_only_the_pod_knows() -> None:
    """A node that was lost is the node's doing, whatever code the command exited with."""
    ended = end(pod("Failed", task=137, reason="the node was drained", disrupted=True), report(exitCode=137))
    assert (ended.record.reason, ended.disrupted) == ("the node was drained", True)


def test_a_lost_report_on_outputs_that_no_message_lists_repeats_the_attempt_at_nobodys_cost() -> None:
    ended = end(pod(), None, outputs=("o",))
    assert (ended.status, ended.disrupted) == ("FAILED", True)


def made(fields: str, *outputs: str) -> Report | None:
    """The report that is made of publish's message; the object that lists outputs has one."""
    message = publish_message(f"{{{fields}}}")
    listed = {f"{PREFIX.removesuffix('/')}/u.manifest.json": [MessageOutput("o", 1, "0" * 64)]}
    return message and report_of(
        message,
        pod(),
        run="1-0",
        task="a",
        attempt=1,
        declared_outputs=outputs,
        manifest=lambda key, digest: listed[key] if digest == "5" * 64 else [],
    )


STORED = f'["o",1,"{"0" * 64}",false]'


@pytest.mark.parametrize("place", [f'"stored":[{STORED}]', f'"manifest":"{"5" * 64}"'])
def test_a_message_that_lists_the_outputs_serves_for_the_lost_report(place: str) -> None:
    """Its exit code, its times and the place of every output are those of the report."""
    given = made(f'"ok":true,"exitCode":0,"outputs":1,"cpuMs":7,"startedAt":3,"endedAt":9,{place}', "o")
    ended = end(pod(), given, outputs=("o",))
    assert (ended.status, ended.disrupted, ended.record.exitCode, ended.record.cpuMs) == ("SUCCEEDED", False, 0, 7)
    assert list(ended.record.outputs) == [OutputRecord("o", 1, "0" * 64, f"{PREFIX}u/o")]
    assert (ended.record.startedAt, ended.record.finishedAt) == (3, 9)


@pytest.mark.parametrize(
    "fields",
    [
        f'"ok":false,"exitCode":0,"stored":[{STORED}]',
        f'"ok":true,"exitCode":1,"stored":[{STORED}]',
        f'"ok":true,"stored":[{STORED}]',
        '"ok":true,"exitCode":0,"outputs":1',
        '"ok":true,"exitCode":0,"stored":[]',
        f'"ok":true,"exitCode":0,"stored":[{STORED},["p",1,"{"0" * 64}"]]',
        f'"ok":true,"exitCode":0,"stored":[["../b/1/u/o",1,"{"0" * 64}"]]',
        '"ok":true,"exitCode":0,"stored":[["o",1,"0000"]]',
        f'"ok":true,"exitCode":0,"stored":[["o",-1,"{"0" * 64}"]]',
        f'"ok":true,"exitCode":0,"manifest":"{"6" * 64}"',
    ],
)
def test_a_message_that_does_not_show_success_makes_no_report(fields: str) -> None:
    assert made(fields, "o") is None


def test_a_lost_report_without_outputs_is_made_good_by_the_pod() -> None:
    ended = end(pod(), None)
    assert (ended.status, ended.record.node, ended.record.exitCode) == ("SUCCEEDED", "n", 0)


REASONS = {
    "it ran longer than its timeoutSeconds": (pod("Failed", task=143), report(exitCode=143, timedOut=True), {}),
    "it was ended by SIGKILL": (pod("Failed", task=137), report(exitCode=137, signal="SIGKILL"), {}),
    "it exited with code 3": (pod("Failed", task=3), report(exitCode=3), {}),
    "it exited with code 4": (pod("Failed", task=4), None, {}),
    "no such object": (
        pod("Failed", fetch=1),
        None,
        {"fetch": '{"ok":false,"hits":0,"misses":0,"hitBytes":0,"missBytes":0,"error":"no such object"}'},
    ),
    "fetch exited with code 1": (pod("Failed", fetch=1), None, {"fetch": "{broken"}),
    "disk full": (pod("Failed", publish=1), None, {"publish": '{"ok":false,"reason":"disk full"}'}),
    "its outputs could not be stored": (pod("Failed", publish=1), None, {"publish": None}),
    "Evicted": (pod("Failed", reason="Evicted"), None, {}),
    "it failed, and nothing that is left says why": (pod("Failed"), None, {}),
}


@pytest.mark.parametrize("reason", REASONS)
def test_a_failure_gives_the_most_telling_reason_there_is(reason: str) -> None:
    status, given, messages = REASONS[reason]
    assert end(status, given, messages=messages).record.reason == reason


def test_a_reason_stays_short() -> None:
    assert len(end(pod("Failed", reason="x" * 10_000)).record.reason or "") == 1_000


def test_a_vanished_pod_is_a_disruption() -> None:
    ended = vanished(UNKNOWN)
    assert (ended.status, ended.disrupted, ended.record.cache) == ("FAILED", True, "Unknown")


def task(status: str, cache: str = "N/A", **fields: Any) -> TaskView:
    return TaskView(name="t", status=status, cache=cache, **fields)


@pytest.mark.parametrize(
    ("caches", "expected"),
    [
        (["Hit", "Hit", "N/A"], "Hit"),
        (["Miss", "N/A"], "Miss"),
        (["Hit", "Miss"], "Partial"),
        (["Partial", "Hit"], "Partial"),
        (["N/A"], "N/A"),
        ([], "N/A"),
        (["Hit", "Unknown"], "Unknown"),
    ],
)
def test_a_runs_outcome_is_that_of_its_tasks(caches: list[str], expected: str) -> None:
    assert run_cache([task("SUCCEEDED", cache) for cache in caches], True) == expected
    assert run_cache([task("SUCCEEDED", cache) for cache in caches], False) == "N/A"


@pytest.mark.parametrize(
    ("statuses", "run", "expected"),
    [
        (["SUCCEEDED"], {}, "SUCCEEDED"),
        (["SUCCEEDED", "FAILED"], {}, "FAILED"),
        (["UPSTREAM_FAILED"], {}, "FAILED"),
        (["SUCCEEDED", "CANCELLED"], {"cancelledAt": "1"}, "CANCELLED"),
        (["SUCCEEDED", "SUCCEEDED"], {"cancelledAt": "1"}, "SUCCEEDED"),
        (["FAILED", "UPSTREAM_FAILED"], {"cancelledAt": "1"}, "FAILED"),
        (["CANCELLED"], {"cancelledAt": "1", "reason": "poison"}, "FAILED"),
        (["SUCCEEDED", "UNKNOWN"], {}, "FAILED"),
    ],
)
def test_a_runs_status_is_that_of_its_tasks(statuses: list[str], run: dict[str, str], expected: str) -> None:
    assert run_status([task(status) for status in statuses], run) == expected


def test_the_fold_counts_what_ended_by_itself() -> None:
    """A cancelled task's last attempt has no say in the outcome; what its earlier ones fetched was fetched."""
    tasks = [
        task("SUCCEEDED", "Hit", cacheHitBytes=5, fetchMs=1, savedMs=30, node="n2"),
        task("FAILED", "Miss", cacheMissBytes=7, fetchMs=40, peerBytes=4, storeBytes=3, node="n1"),
        task("CANCELLED", "Hit", cacheHitBytes=100, node="n1"),  # by attempts before the one that was cancelled
        task("UPSTREAM_FAILED"),
    ]
    final = fold(tasks, {"cacheEnabled": "true"})
    assert final == {
        "status": "FAILED",
        "cacheHit": "Partial",
        "taskCount": "4",
        "taskSucceeded": "1",
        "taskFailed": "1",
        "taskUpstreamFailed": "1",
        "taskCancelled": "1",
        "taskSkipped": "0",
        "cacheHitTasks": "1",
        "cachePartialTasks": "0",
        "cacheMissTasks": "1",
        "cacheHitBytes": "105",
        "cacheMissBytes": "7",
        "cacheFetchMs": "41",
        "cacheSavedMs": "30",
        "cachePeerBytes": "4",
        "cacheStoreBytes": "3",
        "nodes": "n1,n2",
    }
    assert disagreements(final, final) == {}
    assert disagreements({"taskFailed": "0"}, final) == {"taskFailed": ("0", "1")}


def test_a_report_can_say_that_its_attempt_was_disrupted() -> None:
    """An input that somebody else changed is not the task's fault."""
    ended = end(pod("Failed", publish=1), report(reason="input 'i' was changed", disrupted=True))
    assert (ended.status, ended.disrupted, ended.record.reason) == ("FAILED", True, "input 'i' was changed")


CHANGED = '{"ok":false,"exitCode":%d,"reason":"input i was changed","disrupted":true}'


@pytest.mark.parametrize("code", [0, 3])
def test_without_its_report_publishs_message_says_that_the_attempt_was_disrupted(code: int) -> None:
    status = pod("Failed", task=code, publish=1)
    ended = end(status, messages={"publish": CHANGED % code}, outputs=("o",))
    assert (ended.status, ended.disrupted, ended.record.reason) == ("FAILED", True, "input i was changed")


def test_a_report_outranks_the_message_of_its_publish() -> None:
    ended = end(pod("Failed", task=3), report(exitCode=3), messages={"publish": CHANGED % 3})
    assert (ended.disrupted, ended.record.reason) == (False, "it exited with code 3")


@pytest.mark.parametrize("step", ["fetch", "publish"])
@pytest.mark.parametrize(
    "text", ["[" * 4096, '{"step":' * 500, "\udcff", '{"step":"other","ok":false,"disrupted":true}']
)
def test_a_message_that_is_none_fails_the_attempt_all_the_same(step: str, text: str) -> None:
    """A task of local mode can write there what it likes."""
    ended = end(pod("Failed", **{step: 1}), messages={step: text})
    assert (ended.status, ended.disrupted) == ("FAILED", False)
    assert ended.record.reason in ("fetch exited with code 1", "its outputs could not be stored")


def test_nothing_that_a_report_says_makes_its_record_large() -> None:
    """Records share Redis's memory with the work, and a pod's word is all that most of one is."""
    long = "x" * 1_000_000
    fetched = FetchedInput(
        name=long, bytes=1, hit=False, cause=long, sha256=long, source=long, version=long, detail=long
    )
    manifest = FetchManifest(ok=True, hits=0, misses=1, hitBytes=0, missBytes=1, inputs=[fetched])
    account = classify(inputs_declared=1, cache_enabled=True, manifest=manifest, message=None, log=None)
    given = report(signal=long, exitCode=None, fetch=manifest)
    ended = from_pod(
        pod("Failed", task=1), report=given, messages={}, classification=account, declared_outputs=(), prefix=PREFIX
    )
    assert len(msgspec.json.encode(ended.record)) < 10_000
    assert ended.record.reason is not None and ended.record.reason.startswith("it was ended by xxx")


@pytest.mark.parametrize("field", ["key", "sha256", "codec"])
def test_a_report_of_an_output_without_end_is_refused(field: str) -> None:
    stored = {"codec": "zstd", "bytes": 5}
    good: dict[str, Any] = {"name": "o", "key": f"{PREFIX}u/o", "bytes": 9, "sha256": "0" * 64, "stored": stored}
    bad = {**good, "stored": {**stored, "codec": "x" * 2_000}} if field == "codec" else {**good, field: "0" * 2_000}
    fields = {"run": "1-0", "task": "a", "attempt": 1, "podUid": "u"}
    msgspec.json.decode(msgspec.json.encode({**fields, "outputs": [good]}), type=Report)
    with pytest.raises(msgspec.ValidationError, match=field):
        msgspec.json.decode(msgspec.json.encode({**fields, "outputs": [bad]}), type=Report)


@pytest.mark.parametrize("node", ["n" * 254, "a,b", "a/b", "a b", "é", "\n"])
def test_a_report_of_a_node_that_no_node_can_be_is_refused(node: str) -> None:
    """It becomes part of a key, and of a list with commas."""
    text = msgspec.json.encode({"run": "1-0", "task": "a", "attempt": 1, "podUid": "u", "node": node})
    with pytest.raises(msgspec.ValidationError, match="node"):
        msgspec.json.decode(text, type=Report)
