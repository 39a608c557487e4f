"""The pod endpoint, called in this process: what a token opens, and what a report does."""

import io
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import minio.time
import msgspec
import pytest
import redis
import structlog
from structlog.testing import LogCapture

from helios.dag import parse_dag
from helios.podwire import FetchManifest, Plan, Report, Stored, StoredOutput
from helios.settings import Settings
from helios.streams import CLIENT_OPTIONS
from helios.tokens import Attempt, mint
from helios.transitions import commit_one
from services.collector import endpoint
from services.collector.endpoint import BODY_BYTES, PodEndpoint
from services.collector.store import Store
from services.jobrunner.jobs import wanted_job
from services.submitter.accept import open_calls
from tests.redis_servers import free_port
from tests.stage import RUN, Stage

SETTINGS = Settings(
    token_key="k", s3_endpoint="http://127.0.0.1:9", s3_access_key="access", s3_secret_key="hidden", s3_bucket="helios"
)
DAG = b"""
dagName: d
tasks:
  - {name: up, image: i, command: [x], outputs: [made]}
  - name: a
    image: i
    command: [x]
    inputs: [{uri: "s3://bucket/deep/in.csv", as: in.csv, verify: always}, {fromTask: up, name: made, mode: copy}]
    outputs: [o/p]
"""
HOUR = 3_600


def token(task: str = "a", attempt: int = 1, *, run: str = RUN, seconds: float = HOUR, key: str = "k") -> str:
    return mint(key, Attempt(run=run, task=task, attempt=attempt, expires=int(time.time() + seconds)))


def stored(name: str, key: str) -> StoredOutput:
    return StoredOutput(name=name, key=key, bytes=7, sha256="ab" * 32)


class Caller:
    def __init__(self, client: redis.Redis) -> None:
        self.stage = Stage(client)
        self.endpoint = PodEndpoint(client, Store(SETTINGS), SETTINGS)
        for call in open_calls(self.stage.keys, RUN, parse_dag(DAG), None):
            commit_one(client, call)

    def make_input(self) -> None:
        self.stage.launch("up")
        answer = self.post(
            "/v1/result",
            report("up", outputs=[stored("made", f"runs/{RUN}/up/1/pod-1/made")]),
            token("up"),
        )
        assert answer == ("200 OK", {"status": "committed"})
        self.stage.settle("up")

    def call(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        bearer: str | None = None,
        *,
        pod: str = "pod-1",
        **environ: Any,
    ) -> tuple[str, dict[str, Any]]:
        answered: list[str] = []
        given = {
            "REQUEST_METHOD": method,
            "PATH_INFO": path,
            "CONTENT_LENGTH": str(len(body)),
            "wsgi.input": io.BytesIO(body),
            "HTTP_HELIOS_POD": pod,
            "HTTP_AUTHORIZATION": f"Bearer {token() if bearer is None else bearer}",
            **environ,
        }
        parts = self.endpoint(given, lambda status, headers: answered.append(status))
        return answered[0], msgspec.json.decode(b"".join(parts))

    def get(self, path: str, bearer: str | None = None, **environ: Any) -> tuple[str, dict[str, Any]]:
        return self.call("GET", path, b"", bearer, **environ)

    def post(self, path: str, body: object, bearer: str | None = None) -> tuple[str, dict[str, Any]]:
        return self.call("POST", path, body if isinstance(body, bytes) else msgspec.json.encode(body), bearer)


def report(task: str = "a", **fields: Any) -> Report:
    values: dict[str, Any] = {"run": RUN, "task": task, "attempt": 1, "podUid": "pod-1", "exitCode": 0, **fields}
    return Report(**values)


FETCHED = FetchManifest(ok=True, hits=1, misses=1, hitBytes=7, missBytes=9)


def good() -> Report:
    return report(outputs=[stored("o/p", f"runs/{RUN}/a/1/pod-1/o/p")], fetch=FETCHED)


@pytest.fixture
def caller(client: redis.Redis) -> Caller:
    return Caller(client)


def test_a_plan_has_fresh_urls_for_single_objects_and_no_credential(caller: Caller) -> None:
    caller.make_input()
    status, answer = caller.get("/v1/plan")
    assert status == "200 OK"
    plan = msgspec.convert(answer, Plan)
    outside, made = plan.inputs
    assert (outside.name, outside.verify, outside.sha256, outside.source) == (
        "in.csv",
        "always",
        None,
        "127.0.0.1:9/bucket/deep/in.csv",
    )
    assert outside.headUrl is not None
    assert outside.url.startswith("http://127.0.0.1:9/bucket/deep/in.csv?X-Amz-")
    assert (made.name, made.mode, made.sha256, made.bytes, made.headUrl) == ("made", "copy", "ab" * 32, 7, None)
    assert [each.key for each in plan.outputs] == [f"runs/{RUN}/a/1/pod-1/o/p"]
    assert plan.cacheEnabled
    assert "hidden" not in str(answer)


def test_a_task_that_waited_in_a_queue_for_eight_days_gets_fresh_urls(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its token is the jobrunner's from then; signatures, which last a week at most, are made when they are used."""
    caller.make_input()
    (task,) = [task for task in parse_dag(DAG).dag.tasks if task.name == "a"]
    job = wanted_job("job", task, run=RUN, attempt=1, cache_enabled=True, settings=SETTINGS, now_seconds=time.time())
    waited = job.agent_env["HELIOS_TOKEN"]
    later = datetime.now(UTC) + timedelta(days=8)
    monkeypatch.setattr(endpoint, "time", SimpleNamespace(time=later.timestamp))
    monkeypatch.setattr(minio.time, "utcnow", lambda: later)
    status, answer = caller.get("/v1/plan", waited)
    assert status == "200 OK"
    plan = msgspec.convert(answer, Plan)
    for url in (plan.inputs[0].url, plan.inputs[0].headUrl, plan.inputs[1].url, plan.outputs[0].url):
        assert f"X-Amz-Date={later:%Y%m%dT%H%M}" in (url or "")
    caller.stage.launch("a")
    assert caller.post("/v1/result", good(), waited) == ("200 OK", {"status": "committed"})


def test_two_pods_of_one_attempt_store_in_places_of_their_own(caller: Caller) -> None:
    caller.make_input()
    plans = [msgspec.convert(caller.get("/v1/plan", HTTP_HELIOS_POD=pod)[1], Plan) for pod in ("p1", "p2")]
    assert plans[0].outputs[0].key != plans[1].outputs[0].key


def test_the_list_of_outputs_has_a_place_that_no_output_can_take(caller: Caller) -> None:
    """Each pod's own, beside its folder and not in it; a task without outputs needs none."""
    caller.make_input()
    plans = [msgspec.convert(caller.get("/v1/plan", HTTP_HELIOS_POD=pod)[1], Plan) for pod in ("p1", "p2")]
    places = [plan.manifest.key for plan in plans if plan.manifest]
    assert places == [f"runs/{RUN}/a/1/p1.manifest.json", f"runs/{RUN}/a/1/p2.manifest.json"]
    assert plans[0].manifest is not None
    assert f"/{places[0]}?X-Amz-" in plans[0].manifest.url


def test_a_plan_before_its_inputs_exist_is_a_conflict(caller: Caller) -> None:
    caller.stage.client.hset(caller.stage.keys.task(RUN, "a"), mapping={"status": "QUEUED", "attempt": "1"})
    assert caller.get("/v1/plan")[0] == "409 Conflict"


TOKENS = {
    "no token": "",
    "garbage": "abc.def",
    "not base64": "é.é",
    "another key": token(key="other"),
    "expired": token(seconds=-1),
    "a changed body": token("up").partition(".")[0] + "." + token().partition(".")[2],
    "a body alone": token().partition(".")[0],
    "surrogates": "\udcff.\udcff",
}


@pytest.mark.parametrize("case", TOKENS)
@pytest.mark.parametrize("path", ["/v1/plan", "/v1/result", "/nowhere"])
def test_a_token_that_is_not_ours_opens_nothing(caller: Caller, case: str, path: str) -> None:
    status, answer = caller.call("POST", path, b"{}", TOKENS[case])
    assert status == "401 Unauthorized"
    assert answer["error"]


def test_another_scheme_than_bearer_opens_nothing(caller: Caller) -> None:
    assert caller.get("/v1/plan", HTTP_AUTHORIZATION=f"Basic {token()}")[0] == "401 Unauthorized"


@pytest.mark.parametrize("pod", ["", "../..", "a/b", "x" * 65, "a b", "é"])
def test_a_pod_uid_that_could_lead_elsewhere_is_refused(caller: Caller, pod: str) -> None:
    assert caller.get("/v1/plan", HTTP_HELIOS_POD=pod)[0] == "400 Bad Request"


def test_the_token_of_an_attempt_that_is_over_gets_no_plan(caller: Caller) -> None:
    caller.make_input()
    assert caller.get("/v1/plan", token("up"))[0] == "410 Gone"
    assert caller.get("/v1/plan", token("a", 2))[0] == "410 Gone"
    assert caller.get("/v1/plan", token("nobody"))[0] == "410 Gone"
    caller.stage.cancel(["a"])
    assert caller.get("/v1/plan")[0] == "410 Gone"


def test_a_good_result_is_committed_at_once_and_leaves_the_job_to_be_wrapped_up(caller: Caller) -> None:
    caller.make_input()
    caller.stage.launch("a")
    assert caller.post("/v1/result", good()) == ("200 OK", {"status": "committed"})
    assert caller.stage.status("a") == "SUCCEEDED"
    assert caller.stage.task("a")["cache"] == "Partial"
    assert caller.stage.run()["cacheHitBytes"] == "7"
    assert caller.stage.emitted(caller.stage.keys.launched)[-1] == ("a", "1")


def test_a_result_that_is_sent_again_is_stale_and_counted_once(caller: Caller) -> None:
    caller.make_input()
    caller.stage.launch("a")
    caller.post("/v1/result", good())
    assert caller.post("/v1/result", good()) == ("200 OK", {"status": "stale"})
    assert caller.stage.run()["taskSucceeded"] == "2"


def test_a_result_ahead_of_its_launch_is_too_early(caller: Caller) -> None:
    """The Job runs before its launch is recorded; the pod tries again."""
    caller.make_input()
    assert caller.post("/v1/result", good())[0] == "425 Too Early"
    assert caller.stage.status("a") == "QUEUED"


@pytest.mark.parametrize(
    "bad",
    [
        report(exitCode=1, fetch=FETCHED),
        report(reason="the upload failed", fetch=FETCHED),
        report(fetch=FETCHED),
        report(outputs=[stored("o/p", "elsewhere")], fetch=FETCHED),
        report(outputs=[stored("o/p", f"runs/{RUN}/a/1/../../up/1/pod-1/made")], fetch=FETCHED),
        msgspec.structs.replace(good(), fetch=None),
    ],
    ids=["a failure", "a lost upload", "no output", "a foreign key", "a climbing key", "no account of its inputs"],
)
def test_a_result_that_does_not_show_success_waits_for_the_pod(caller: Caller, bad: Report) -> None:
    caller.make_input()
    caller.stage.launch("a")
    assert caller.post("/v1/result", bad) == ("200 OK", {"status": "recorded"})
    assert caller.stage.status("a") == "RUNNING"
    assert caller.stage.task("a")["reportAttempt"] == "1"


def dump(client: redis.Redis) -> dict[str, Any]:
    """Everything in Redis."""
    readers = {
        "hash": client.hgetall,
        "stream": client.xrange,
        "string": client.get,
        "list": lambda key: client.lrange(key, 0, -1),
    }
    found: dict[str, Any] = {}
    for key in client.keys("*"):
        read = readers.get(client.type(key))
        found[key] = read(key) if read else client.zrange(key, 0, -1, withscores=True)
    return found


def superseded(caller: Caller) -> tuple[bytes, str]:
    """The attempt was lost with its node, and the next one runs."""
    caller.stage.end("a", status="FAILED", disrupted=True)
    caller.stage.settle("a")
    caller.stage.launch("a", 2)
    return msgspec.json.encode(good()), token()


def repeated(caller: Caller) -> tuple[bytes, str]:
    caller.post("/v1/result", good())
    return msgspec.json.encode(good()), token()


def contradicting(caller: Caller) -> tuple[bytes, str]:
    """A failure after a success, as from a second pod of the attempt."""
    caller.post("/v1/result", good())
    return msgspec.json.encode(report(exitCode=1, fetch=FETCHED, podUid="pod-2")), token()


def after_the_pod(caller: Caller) -> tuple[bytes, str]:
    """The pod's status was faster and has ended the attempt."""
    caller.stage.end("a", status="FAILED")
    return msgspec.json.encode(good()), token()


def cancelled(caller: Caller) -> tuple[bytes, str]:
    caller.stage.cancel(["a"])
    return msgspec.json.encode(good()), token()


def deleted(caller: Caller) -> tuple[bytes, str]:
    caller.stage.client.delete(caller.stage.keys.task(RUN, "a"))
    return msgspec.json.encode(good()), token()


VOID: dict[str, tuple[Callable[[Caller], tuple[bytes, str]], str]] = {
    "late, its attempt superseded": (superseded, "stale"),
    "late, its pod's status was faster": (after_the_pod, "stale"),
    "late, its run cancelled": (cancelled, "stale"),
    "late, its run deleted": (deleted, "stale"),
    "repeated": (repeated, "stale"),
    "repeated, with another result": (contradicting, "stale"),
    "expired": (lambda caller: (msgspec.json.encode(good()), token(seconds=-1)), ""),
    "forged, by another key": (lambda caller: (msgspec.json.encode(good()), token(key="guessed")), ""),
    "forged, with a neighbour's token": (lambda caller: (msgspec.json.encode(good()), token("up")), ""),
    "forged, for another attempt": (lambda caller: (msgspec.json.encode(good()), token(attempt=2)), ""),
    "forged, for another run": (lambda caller: (msgspec.json.encode(good()), token(run="1-0")), ""),
}


@pytest.mark.parametrize("case", VOID)
def test_a_call_that_comes_too_late_again_or_from_another_changes_nothing(caller: Caller, case: str) -> None:
    """Not one byte in Redis, whoever sends it and however often."""
    caller.make_input()
    caller.stage.launch("a")
    prepare, answered = VOID[case]
    body, bearer = prepare(caller)
    before = dump(caller.stage.client)
    for _ in range(2):
        status, answer = caller.post("/v1/result", body, bearer)
        if answered:
            assert (status, answer) == ("200 OK", {"status": answered})
        else:
            assert status in ("401 Unauthorized", "403 Forbidden")
    assert dump(caller.stage.client) == before
    assert caller.endpoint.kept.overdue() == []
    assert not caller.endpoint.kept.waiting


def test_a_failure_that_is_sent_again_is_kept_once_more_and_ends_nothing(caller: Caller) -> None:
    caller.make_input()
    caller.stage.launch("a")
    bad = report(exitCode=1, fetch=FETCHED)
    for _ in range(2):
        assert caller.post("/v1/result", bad) == ("200 OK", {"status": "recorded"})
    assert caller.stage.status("a") == "RUNNING"
    assert caller.stage.emitted(caller.stage.keys.finished) == []


def test_an_early_failure_is_waited_for_by_the_loop(caller: Caller) -> None:
    """Whoever takes the report sees to it that the run goes on though the pod's status never comes."""
    caller.make_input()
    caller.stage.launch("a")
    caller.post("/v1/result", report(exitCode=1, fetch=FETCHED))
    assert [(each.run, each.task, each.attempt) for each in caller.endpoint.kept.waiting] == [(RUN, "a", 1)]


def test_an_early_success_is_committed_and_what_waits_for_it_goes_on(caller: Caller) -> None:
    """Before Kubernetes knows anything: no pod, no watch and no wrap-up has a part in this."""
    caller.stage.launch("up")
    made = report("up", outputs=[stored("made", f"runs/{RUN}/up/1/pod-1/made")])
    assert caller.post("/v1/result", made, token("up"))[1] == {"status": "committed"}
    caller.stage.settle("up")
    assert ("a", "1") in caller.stage.emitted(caller.stage.keys.ready)
    assert caller.stage.emitted(caller.stage.keys.launched) == [("up", "1")]


def test_a_report_that_is_lost_changes_nothing_and_the_next_try_commits(caller: Caller) -> None:
    """Lost on the way here, or its answer on the way back: the pod cannot tell which, and sends it again."""
    caller.make_input()
    caller.stage.launch("a")
    well, caller.endpoint.client = caller.endpoint.client, redis.Redis(port=free_port(), retry=CLIENT_OPTIONS["retry"])
    before = dump(caller.stage.client)
    assert caller.post("/v1/result", good())[0] == "503 Service Unavailable"
    assert dump(caller.stage.client) == before
    caller.endpoint.client = well
    assert caller.post("/v1/result", good())[1] == {"status": "committed"}
    assert caller.post("/v1/result", good())[1] == {"status": "stale"}
    assert caller.stage.run()["taskSucceeded"] == "2"


def test_a_report_on_another_attempt_than_the_tokens_is_refused(caller: Caller) -> None:
    caller.make_input()
    caller.stage.launch("a")
    for other in (report("up"), msgspec.structs.replace(good(), attempt=2), msgspec.structs.replace(good(), run="1-0")):
        assert caller.post("/v1/result", other)[0] == "403 Forbidden"
    assert caller.stage.status("a") == "RUNNING"


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b"\xff\xfe", b'{"run": 1}', b"null", b"[" * 10_000, b'{"later":' + b"[" * 10_000]
)
def test_a_body_that_is_not_understood_is_a_bad_request(caller: Caller, body: bytes) -> None:
    assert caller.post("/v1/result", body)[0] == "400 Bad Request"


@pytest.mark.parametrize("length", ["", "0", "-1", "many", str(BODY_BYTES + 1)])
def test_a_body_of_no_or_too_great_length_is_refused_unread(caller: Caller, length: str) -> None:
    assert caller.call("POST", "/v1/result", b"{}", CONTENT_LENGTH=length)[0] == "413 Content Too Large"


@pytest.mark.parametrize("number", [b"-1", b"9223372036854775807", b"1" + b"0" * 30, b"1e30"])
def test_numbers_no_counter_can_hold_are_no_account(caller: Caller, number: bytes) -> None:
    """Redis would refuse to add them up, in the middle of the script."""
    caller.make_input()
    caller.stage.launch("a")
    body = msgspec.json.encode(good()).replace(b'"hitBytes":7', b'"hitBytes":' + number)
    assert caller.post("/v1/result", body)[0] in ("200 OK", "400 Bad Request")
    assert int(caller.stage.run()["cacheHitBytes"]) < 2**60
    assert caller.stage.client.xlen(caller.stage.keys.finished) <= 1


def test_a_part_of_an_output_nobody_declared_is_refused(caller: Caller) -> None:
    caller.make_input()
    for body in ({"name": "x", "bytes": 1}, {"name": "o/p", "bytes": 0}):
        assert caller.post("/v1/multipart", body)[0] == "400 Bad Request"


@pytest.mark.parametrize(
    "field", [{"partBytes": 1}, {"partBytes": 2**50}, {"partBytes": "8"}, {"codec": "x\r\nEvil: 1"}]
)
def test_parts_that_s3_would_not_take_and_unknown_codecs_are_refused(caller: Caller, field: dict[str, Any]) -> None:
    caller.make_input()
    assert caller.post("/v1/multipart", {"name": "o/p", "bytes": 10**9, **field})[0] == "400 Bad Request"


def test_how_an_output_lies_in_the_store_is_told_to_the_next_task(caller: Caller) -> None:
    lies = Stored(codec="zstd", bytes=3)
    made = msgspec.structs.replace(stored("made", f"runs/{RUN}/up/1/pod-1/made"), stored=lies)
    caller.stage.launch("up")
    assert caller.post("/v1/result", report("up", outputs=[made]), token("up"))[1] == {"status": "committed"}
    caller.stage.settle("up")
    outside, planned = msgspec.convert(caller.get("/v1/plan")[1], Plan).inputs
    assert (planned.bytes, planned.stored) == (7, lies)
    assert outside.stored is None


def test_a_store_that_does_not_answer_is_service_unavailable(caller: Caller) -> None:
    caller.make_input()
    caller.endpoint.store.http.connection_pool_kw["retries"] = False
    status, answer = caller.post("/v1/multipart", {"name": "o/p", "bytes": 10**10})
    assert status == "503 Service Unavailable"
    assert "hidden" not in answer["error"]


def test_an_object_that_cannot_be_signed_for_is_a_conflict_which_no_pod_repeats(caller: Caller) -> None:
    """A DAG of an older version, say, whose bucket the store's client refuses."""
    caller.make_input()
    spec = caller.stage.task("a")["spec"].replace("s3://bucket/", "s3://a.-b/")
    caller.stage.client.hset(caller.stage.keys.task(RUN, "a"), "spec", spec)
    status, answer = caller.get("/v1/plan")
    assert status == "409 Conflict"
    assert "a.-b" in answer["error"]


def test_an_unforeseen_fault_is_told_as_json_and_logged(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise KeyError("a secret of the inside")

    caller.make_input()
    monkeypatch.setattr(caller.endpoint.store, "get_url", fails)
    logged = LogCapture()
    heard = structlog.wrap_logger(None, [logged], wrapper_class=structlog.make_filtering_bound_logger(0))
    monkeypatch.setattr("services.collector.endpoint.log", heard)
    status, answer = caller.get("/v1/plan")
    assert status == "500 Internal Server Error"
    assert "inside" not in answer["error"]
    assert [each["log_level"] for each in logged.entries] == ["error"]


def test_what_is_not_there_is_not_found_and_health_needs_no_token(caller: Caller) -> None:
    assert caller.get("/v1/other")[0] == "404 Not Found"
    assert caller.call("DELETE", "/v1/plan")[0] == "404 Not Found"
    assert caller.get("/healthz", "") == ("200 OK", {"ok": True})


def test_without_redis_the_answer_is_service_unavailable(caller: Caller) -> None:
    """The pod tries again; nothing is lost."""
    caller.endpoint.client = redis.Redis(port=free_port(), retry=CLIENT_OPTIONS["retry"])
    for status, _ in (caller.get("/v1/plan"), caller.post("/v1/result", good())):
        assert status == "503 Service Unavailable"
