"""Targets that are functions of what they are given: texts and documents in, a value or a declared refusal out."""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import yaml

from agent.grants import granted
from agent.logs import read_fetch_log
from agent.names import parts_of
from agent.plan import PlanRefused, read_plan
from agent.volume_record import AttributesRefused, job_name, new_record
from cli.run_text import reason_lines, task_lines
from helios.dag import Dag, parse_dag
from helios.dag_problem import DagInvalid
from helios.events import RunAccepted, TaskEnded, TasksQueued, decode_event, encode_event
from helios.localjobs import PodStatus, StepStatus
from helios.podwire import Report
from helios.records import TASK_FIELDS, decode_attempt, task_view
from helios.run_object import task_object
from helios.settings import Settings
from helios.tokens import Attempt, TokenInvalid, check, mint
from services.collector.classify import COUNTED_AT_MOST, NAME_CHARACTERS, classify
from services.collector.kube_api import ApiAway, ApiRefused
from services.collector.kube_objects import Job, Node, Pod
from services.collector.kube_stamps import entry_id, split, stamped
from services.collector.kube_status import (
    is_only_scheduled,
    job_failure,
    job_trouble,
    pod_trouble,
    status_of,
    termination_message,
)
from services.collector.kube_watch import Expired, Watch
from services.collector.loglines import LINE_BYTES, cut, readable
from services.collector.manifests import ManifestLost, Manifests, NotYet
from services.collector.outcome import Ended, ended_well, from_final, from_pod, from_report, publish_message, report_of
from services.jobrunner.jobs import wanted_job
from services.jobrunner.manifest import job_manifest
from services.submitter.accept import new_tasks, stated_name
from tests.fuzz.cases import Json, body_bytes, to_bytes
from tests.fuzz.engine import Target, pure

SETTINGS = Settings(token_key="k", s3_bucket="helios")
RUN = "1764027260123-0"
PREFIX = f"runs/{RUN}/a/1/"
DIGEST = "ab" * 32
RECORD_BYTES = 32 * 1024
"""More than any record of two inputs and one output takes, whatever was reported."""

YAML = """\
dagName: word-count
useCache: true
params: {corpus: moby, day: 2026-01-01, size: 0x1F}
tasks:
  - &base
    name: split
    image: alpine:3.20
    command: [sh, -c, "split -n l/4 corpus.txt part-"]
    inputs: [{uri: "s3://corpora/${params.corpus}.txt", as: corpus.txt, mode: copy, verify: always}]
    outputs: [part-aa, part-ab]
    timeoutSeconds: 60
    resources: {requests: {cpu: 500m, memory: 1Gi}, limits: {memory: 1Gi}}
  - {<<: *base, name: count, inputs: [{fromTask: split, name: part-aa}], depends_on: [split], retries: {count: 2},
     env: {A: 1.10, B: {secret: s, key: k}, C: "$${params.day} ${params.day}"}, memoize: {maxAge: 7d, verify: 0.1}}
  - name: each
    forEach: [{key: eu, n: 010}, {key: "${params.day}", n: 2}]
    when: ${params.corpus} in [moby, emma] and not (${item.n} == 2)
    image: alpine:3.20
    command: [sh, -c, "echo ${item.n}"]
    depends_on: [count]
    outputs: ["n-${item.n}"]
  - {name: all, image: alpine:3.20, command: [cat], inputs: [{fromTask: each, name: "n-${item.n}", as: in}]}
"""
DOCUMENT = {
    "dagName": "d",
    "useCache": False,
    "serviceAccountName": "runner",
    "tasks": [
        {
            "name": "a",
            "image": "i",
            "command": ["x", "$(A)"],
            "args": ["y"],
            "env": [{"name": "A", "value": "1"}],
            "outputs": ["o/p"],
            "nodeSelector": {"disk": "ssd"},
            "tolerations": [{"key": "k", "operator": "Equal", "value": "v", "effect": "NoExecute"}],
            "memoize": True,
        },
        {
            "name": "b",
            "image": "i",
            "command": ["x"],
            "inputs": [{"fromTask": "a", "name": "o/p", "as": "in"}, {"uri": "s3://b/k", "as": "e"}],
        },
        {"name": "c", "image": "i", "command": ["${item}"], "forEach": ["x", 1], "when": "${item} != x or a == b"},
    ],
}
GRAMMAR = ["&a ", "*a", "*base", "<<: ", "? ", "- ", "|\n", ">-\n  ", "!!str ", "!!int ", "%TAG", "---\n", "...\n", "#"]
GRAMMAR += [
    "tasks:",
    "depends_on: [",
    "inputs: [",
    "forEach: [",
    "when: ",
    "${item}",
    "${item.n}",
    "== ",
    "params: {",
    "${params.day}",
    "$${params.",
    "{",
    "}",
    "&a [*a, *a]",
    ".nan",
    ".inf",
    "0o7",
    "~",
    "\ufeff",
    "\x85",
]


def texts_of(case: Json) -> dict[str, str]:
    return {name: value for name, value in case.items() if isinstance(value, str)} if isinstance(case, dict) else {}


def is_unicode(text: str) -> bool:
    """Whether it can come by gRPC or out of a URL's query, which hold no half characters."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def check_dag(text: bytes) -> str:
    """What is accepted can be stored, ordered and made into Jobs of both forms; what is not has readable reasons."""
    stated_name(text.decode("utf-8", "surrogateescape")).encode()
    try:
        parsed = parse_dag(text)
    except DagInvalid as invalid:
        assert invalid.problems
        for problem in invalid.problems:
            str(problem).encode()
        return f"refused: {invalid.problems[0].message}"
    dag = parsed.dag
    for warning in parsed.warnings:
        str(warning).encode()
    assert msgspec.json.decode(msgspec.json.encode(dag), type=Dag) == dag
    assert len(new_tasks(dag, dag.graph())) == len(dag.tasks)
    for task in dag.tasks[:3]:
        name = job_name(RUN, task.name, 1)
        assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name), name
        job = wanted_job(name, task, run=RUN, attempt=1, cache_enabled=True, settings=SETTINGS, now_seconds=0)
        for form in ("init", "csi"):
            json.dumps(job_manifest(job, SETTINGS, form), allow_nan=False).encode()
        for path in (*task.outputs, *(each.as_ for each in task.inputs)):
            parts_of(path)
    return "accepted"


def check_dag_text(case: Json) -> str:
    return check_dag(to_bytes(case)) if isinstance(case, str) else "no text"


def check_dag_document(case: Json) -> str:
    """The same document as JSON and as YAML."""
    content = body_bytes(case)
    word = check_dag(content)
    if len(content) > 20_000:
        return word  # to write it as YAML would take more than to read it
    try:
        text = yaml.dump(case, Dumper=yaml.CSafeDumper, allow_unicode=True)
    except (yaml.YAMLError, RecursionError, UnicodeError):
        return word
    check_dag(to_bytes(text))
    return word


# What pods say of themselves.

FETCHED = {
    "v": 1,
    "step": "fetch",
    "ok": True,
    "cacheEnabled": True,
    "hits": 1,
    "misses": 1,
    "hitBytes": 7,
    "missBytes": 9,
    "causes": {"cached": 1, "never-here": 1},
    "inputs": [
        {"name": "i", "bytes": 7, "hit": True, "cause": "cached", "sha256": DIGEST, "source": "cache", "savedMs": 3},
        {"name": "j", "bytes": 9, "hit": False, "cause": "never-here", "source": "peer", "ms": 4, "version": "v1"},
    ],
    "error": None,
    "elapsedMs": 5,
    "endedAt": 1764027260990,
}
REPORT = {
    "v": 1,
    "run": RUN,
    "task": "a",
    "attempt": 1,
    "podUid": "pod-1",
    "node": "n1",
    "exitCode": 0,
    "signal": None,
    "timedOut": False,
    "cpuMs": 12,
    "peakMemoryBytes": 1000,
    "startedAt": 1764027261000,
    "endedAt": 1764027261900,
    "publishedAt": 1764027261950,
    "reason": None,
    "disrupted": False,
    "fetch": FETCHED,
    "outputs": [
        {"name": "o", "key": f"{PREFIX}pod-1/o", "bytes": 9, "sha256": DIGEST, "stored": {"codec": "zstd", "bytes": 5}}
    ],
}
PUBLISHED = {
    "v": 1,
    "step": "publish",
    "ok": True,
    "exitCode": 0,
    "outputs": 1,
    "outputBytes": 9,
    "stored": [["o", 9, DIGEST, False, 5]],
    "report": "undelivered",
    "cpuMs": 12,
    "startedAt": 1764027261000,
}
POD = {"job": "j", "uid": "pod-1", "node": "n1", "phase": "Succeeded", "exitCodes": {"fetch": 0, "task": 0}}


def pod_of(fields: Json) -> PodStatus:
    fields = fields if isinstance(fields, dict) else {}
    codes = fields.get("exitCodes")
    known = {name: value for name, value in (codes.items() if isinstance(codes, dict) else ()) if type(value) is int}
    return PodStatus(
        job="j",
        uid="pod-1",
        node="n1",
        phase="Failed" if fields.get("phase") == "Failed" else "Succeeded",
        reason=fields["reason"] if isinstance(fields.get("reason"), str) else None,
        disrupted=fields.get("disrupted") is True,
        steps={name: StepStatus(startedAt=1, endedAt=2, exitCode=code) for name, code in known.items()},
    )


def check_shown(ended: Ended) -> None:
    """A record that is committed can be read and shown by everybody, and counted."""
    assert ended.status in ("SUCCEEDED", "FAILED")
    record = msgspec.json.encode(ended.record)
    assert msgspec.json.encode(decode_attempt(record)) == record
    assert len(record) < RECORD_BYTES, len(record)
    assert 0 <= ended.record.cacheHitBytes <= COUNTED_AT_MOST and 0 <= ended.record.cacheMissBytes <= COUNTED_AT_MOST
    known = {"status": ended.status, "attempt": "1", "queuedAt": "1", "launchedAt": "2", "endedAt": "3"}
    view = task_view("a", [{**known, "record": record.decode()}.get(field) for field in TASK_FIELDS])
    msgspec.json.encode(task_object(view))
    "\n".join([*task_lines([view]), *reason_lines(view)]).encode("utf-8", "backslashreplace")


def check_messages(case: Json) -> str:
    if not isinstance(case, dict):
        return "no case"
    texts = {step: body_bytes(case.get(step)).decode("utf-8", "surrogateescape") for step in ("fetch", "publish")}
    log = case.get("log")
    lines = [line for line in log if isinstance(line, str) and is_unicode(line)] if isinstance(log, list) else None
    account = classify(inputs_declared=2, cache_enabled=True, manifest=None, message=texts["fetch"], log=lines)
    pod, report = pod_of(case.get("pod")), None
    message = publish_message(texts["publish"])
    if message is not None:
        report = report_of(
            message, pod, run=RUN, task="a", attempt=1, declared_outputs=["o"], manifest=lambda _key, _digest: ()
        )
    ended = from_pod(
        pod,
        report=report,
        messages=dict(texts),
        classification=account,
        declared_outputs=["o"],
        prefix=PREFIX,
    )
    check_shown(ended)
    return f"{ended.status} {account.cache}"


def check_report(case: Json) -> str:
    try:
        report = msgspec.json.decode(body_bytes(case), type=Report)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return "refused"
    account = classify(inputs_declared=2, cache_enabled=True, manifest=report.fetch, message=None, log=None)
    pods = [pod_of({"phase": phase, "exitCodes": {"task": 1}}) for phase in ("Succeeded", "Failed")]
    ends = [
        from_pod(pod, report=report, messages={}, classification=account, declared_outputs=["o"], prefix=PREFIX)
        for pod in pods
    ]
    if ended_well(report, ["o"], PREFIX):
        ends.append(from_report(report, account))
    for ended in (*ends, from_final(report, account)):
        check_shown(ended)
    return f"{ends[0].status} {account.cache}"


LOG = [
    "[HELIOS] Init container starting for task 'process-data'",
    "[HELIOS] Plan: 2 inputs, cache on",
    "[HELIOS] Cache hit for 'data.txt' -> /cache/views/j/data.txt",
    "[HELIOS] Cache miss for 'b'; downloading from MinIO...",
    "[HELIOS] Downloading 'b': 1048576 of 4194304 bytes, 12.5 MiB/s",
    "[HELIOS] Input 'data.txt': hit cached, 1200000 bytes",
    r"[HELIOS] Input 'b\'s': miss never-here, 7 bytes",
    "[HELIOS] Init container completed.",
]


def check_fetch_log(case: Json) -> str:
    """The collector's reader and the agent's own, which has no numbers too large for it, find the same."""
    lines = [line for line in case if isinstance(line, str)] if isinstance(case, list) else []
    found = classify(inputs_declared=10, cache_enabled=True, manifest=None, message=None, log=lines)
    try:
        own = read_fetch_log(lines)
    except ValueError as error:
        raise AssertionError(f"the agent's reader raised {error}") from error
    if found.cache == "Unknown":
        return "unknown"
    assert own is not None and own.complete
    known = {each.name: (each.hit, each.size) for each in own.inputs}
    # A record has no more of a name, so that nothing that a pod says makes it large.
    kept = sorted((name[:NAME_CHARACTERS], size) for name, (_, size) in known.items())
    assert sorted((each.name, each.bytes) for each in found.inputs) == kept
    assert found.hit_bytes == sum(size for hit, size in known.values() if hit)
    return found.cache


def check_log_lines(case: Json) -> str:
    """Logs of tasks, from a file and from Kubernetes: every line bounded, ids in order, whatever is printed."""
    if not isinstance(case, dict) or not isinstance(case.get("text"), str):
        return "no text"
    text = to_bytes(case["text"])
    for followed in (True, False):
        reached = -1
        at = 0
        while at != reached:
            reached = at
            part = cut(lambda start, count: text[start : start + count], len(text), at, final=True, followed=followed)
            at = part.reached
            ids = [int(line.id.partition("-")[0]) for line in part.lines]
            assert ids == sorted(set(ids)) and all(len(line.text.encode()) <= 4 * LINE_BYTES for line in part.lines)
            if not part.more:
                break
        assert at == len(text) or not followed
    step = case.get("chunk") if type(case.get("chunk")) is int and 0 < case["chunk"] < 10_000 else 7
    chunks = [text[start : start + step] for start in range(0, min(len(text), 2_000 * step), step)]
    found = list(stamped(split(chunks, [], 16 * 1024**2), 0))
    positions = [position for position, _ in found]
    assert positions == sorted(set(positions))
    for position, line in found:
        assert re.fullmatch(r"\d{1,20}-\d{1,20}", entry_id(position)) and int(entry_id(position).split("-")[0]) < 2**64
        readable(line).encode()
    return f"{min(len(found), 3)} stamped"


# What the agent is told.

PLAN = {
    "run": RUN,
    "task": "count",
    "attempt": 1,
    "cacheEnabled": True,
    "singlePutLimit": 5368709120,
    "inputs": [
        {
            "name": "part-aa",
            "mode": "link",
            "verify": "size",
            "url": "http://store/a",
            "headUrl": None,
            "source": "store/b/a",
            "sha256": DIGEST,
            "bytes": 312,
            "archive": False,
            "stored": {"codec": "zstd", "bytes": 96},
        },
        {
            "name": "x/y",
            "mode": "copy",
            "verify": "always",
            "url": "http://store/x",
            "headUrl": "http://store/x",
            "source": "store/b/x",
            "sha256": None,
            "bytes": None,
            "archive": False,
        },
    ],
    "outputs": [{"name": "n", "key": "runs/n", "url": "http://store/n"}],
    "manifest": {"name": "the list of outputs", "key": "runs/m", "url": "http://store/m"},
    "locate": True,
    "keeper": {"putUrl": "http://10.0.0.7:8415/v1/output?x=1"},
}


def check_plan(case: Json) -> str:
    try:
        plan = read_plan(body_bytes(case))
    except PlanRefused as refused:
        return f"refused: {refused}"
    for each in (*plan.inputs, *plan.outputs):
        assert not {"", ".", ".."} & set(parts_of(each.name)) and "\0" not in each.name
        assert each.url.isascii() and each.url.isprintable()
    return "read"


JOB = job_name(RUN, "count", 1)
ATTRIBUTES = {
    "v": "1",
    "run": RUN,
    "task": "count",
    "attempt": "1",
    "job": JOB,
    "cacheEnabled": "true",
    "token": "abc.def",
    "user": "65532",
    "inputs": "1",
    "outputs": "1",
    "csi.storage.k8s.io/ephemeral": "true",
    "csi.storage.k8s.io/pod.uid": "5b8b1a4e-0000-4000-8000-000000000000",
    "csi.storage.k8s.io/pod.namespace": "helios-tasks",
}


def check_attributes(case: Json) -> str:
    context = {name: value for name, value in texts_of(case).items() if is_unicode(name + value)}
    try:
        record = new_record(context, "/target", "boot")
    except AttributesRefused as refused:
        str(refused).encode("utf-8", "backslashreplace")
        return f"refused: {refused}"
    assert record.job == job_name(record.run, record.task, record.attempt) and "/" not in record.job
    assert 0 <= record.user < 2**32 - 1
    return "taken"


def check_manifest(case: Json) -> str:
    """The object that lists a pod's outputs."""
    content = body_bytes(case)
    manifests = Manifests(lambda _key, most: content[:most])
    try:
        for _ in range(10_000):
            try:
                return f"{min(2, len(manifests.get('k', hashlib.sha256(content).hexdigest())))} outputs"
            except NotYet:
                manifests.threads.submit(lambda: None).result()
        raise AssertionError("it is never read")
    except ManifestLost as lost:
        return f"lost: {lost}"
    finally:
        manifests.close()


def check_event(case: Json) -> str:
    """The feed as its readers decode it: a version that is not known, or damage, is a DecodeError."""
    try:
        event = decode_event(body_bytes(case))
    except (msgspec.DecodeError, UnicodeError):
        return "passed over"
    encode_event(event)
    return type(event).__name__


def check_token(case: Json) -> str:
    """Tokens and grants: whatever does not bear our signature opens nothing."""
    if not isinstance(case, dict):
        return "no case"
    token = texts_of(case).get("token", "")
    genuine = mint("k", Attempt(run=RUN, task="a", attempt=1, expires=2**40))
    token = token.replace("{genuine}", genuine)
    header = to_bytes(token).decode("latin-1")
    try:
        assert check("k", header, 1.0) == Attempt(run=RUN, task="a", attempt=1, expires=2**40)
        assert header == genuine
        word = "good"
    except (TokenInvalid, msgspec.DecodeError, ValueError):
        word = "refused"
    fields = {name: value for name, value in texts_of(case).items() if is_unicode(value)}
    assert not granted("k", "GET", fields, 1.0)
    return word


# What the API server says.


class GivenApi:
    """Answers with the bytes that it was given."""

    def __init__(self, listed: bytes, lines: Sequence[bytes]) -> None:
        self.listed = listed
        self.lines = lines

    def get(self, _path: str, _query: Any = None, **_: Any) -> bytes:
        listed, self.listed = self.listed, b'{"metadata":{}}'
        return listed

    @contextmanager
    def stream(self, _path: str, _query: Any, **_: Any) -> Iterator[Iterator[bytes]]:
        yield iter(self.lines)


META = {"name": "p", "uid": "u", "resourceVersion": "7", "labels": {"helios.dev/job": "j"}}
META |= {"annotations": {"helios.dev/form": "csi"}, "finalizers": ["helios.dev/result"]}
META |= {"creationTimestamp": "2026-01-01T00:00:00Z"}
ENDED = {"exitCode": 1, "reason": "Error", "message": "{}", "startedAt": "2026-01-01T00:00:00Z"}
ENDED |= {"finishedAt": "2026-01-01T00:00:09Z"}
KUBE_POD = {
    "metadata": META,
    "spec": {"nodeName": "n1"},
    "status": {
        "phase": "Failed",
        "reason": "",
        "message": "",
        "conditions": [{"type": "PodScheduled", "status": "True", "reason": "", "message": ""}],
        "containerStatuses": [
            {"name": "fetch", "state": {"terminated": {**ENDED, "exitCode": 0}}, "imageID": ""},
            {"name": "task", "state": {"terminated": ENDED}, "imageID": f"i@sha256:{DIGEST}"},
            {"name": "publish", "state": {"waiting": {"reason": "ErrImagePull", "message": "x"}}},
        ],
    },
}
DELETED = {**META, "deletionTimestamp": "2026-01-01T00:00:05Z", "deletionGracePeriodSeconds": 30}
KUBE_JOB = {
    "metadata": META,
    "status": {"conditions": [{"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}]},
}
KUBE_SEEDS = [
    {"kind": "Pod", "list": {"metadata": {"resourceVersion": "5"}, "items": [KUBE_POD]}, "lines": []},
    {
        "kind": "Pod",
        "list": {"metadata": {}, "items": []},
        "lines": [
            {"type": "ADDED", "object": KUBE_POD},
            {"type": "MODIFIED", "object": {**KUBE_POD, "metadata": DELETED}},
            {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "9"}}},
            {"type": "DELETED", "object": {"metadata": META}},
        ],
    },
    {
        "kind": "Pod",
        "list": {"metadata": {}},
        "lines": [{"type": "ADDED", "object": {**KUBE_POD, "status": {"phase": "Pending"}}}],
    },
    {"kind": "Job", "list": {"metadata": {}, "items": [KUBE_JOB]}, "lines": [{"type": "ADDED", "object": KUBE_JOB}]},
    {
        "kind": "Node",
        "list": {"metadata": {}, "items": [{"metadata": META}]},
        "lines": [{"type": "ERROR", "object": {"code": 410, "message": "old"}}],
    },
]


def check_kube(case: Json) -> str:
    if not isinstance(case, dict) or not isinstance(case.get("lines"), list):
        return "no case"
    kinds: dict[str, Any] = {"Job": Job, "Node": Node}
    kind = kinds.get(case["kind"], Pod) if isinstance(case.get("kind"), str) else Pod
    api: Any = GivenApi(body_bytes(case.get("list")), [body_bytes(line) + b"\n" for line in case["lines"]])
    watch: Watch[Any] = Watch(api, "/pods", kind)
    word = "live"
    try:
        # One turn of what Watch.run does, with its refusals.
        version = watch._list()
        for line in watch._lines(version, 1):
            watch._apply(line)
    except (Expired, ApiAway, ApiRefused, msgspec.DecodeError, UnicodeError, RecursionError) as error:
        word = type(error).__name__
    for found in watch.mirror.drain().values():
        if isinstance(found, Pod):
            trouble = pod_trouble(found, SETTINGS)
            for lost in (True, False):
                status = status_of(found, node_lost=lost, job_failed=None, expired=trouble)
                msgspec.json.encode(status)
            is_only_scheduled(found)
            for step in ("fetch", "task", "publish"):
                termination_message(found, step)
        elif isinstance(found, Job):
            job_trouble(found, SETTINGS), job_failure(found)
    return word


TARGETS = [
    Target("dag-text", [YAML, json.dumps(DOCUMENT), "dagName: d\ntasks: []\n"], pure(check_dag_text), pieces=GRAMMAR),
    Target("dag-document", [DOCUMENT], pure(check_dag_document)),
    Target(
        "termination-messages",
        [
            {"fetch": FETCHED, "publish": PUBLISHED, "pod": POD, "log": LOG},
            {"fetch": {"raw": ""}, "publish": PUBLISHED, "pod": {**POD, "phase": "Failed"}, "log": LOG},
            {"fetch": FETCHED, "publish": {**PUBLISHED, "stored": None, "manifest": DIGEST}, "pod": POD, "log": []},
        ],
        pure(check_messages),
    ),
    Target(
        "report",
        [REPORT, {**REPORT, "exitCode": 137, "signal": "SIGKILL", "outputs": []}],
        pure(check_report),
        # A body of 16 MiB, once as bytes, once decoded, and once more as what is kept of it.
        peak_bytes=96 * 1024**2,
    ),
    Target("fetch-log", [LOG], pure(check_fetch_log)),
    Target(
        "log-lines",
        [
            {"text": "2026-01-01T00:00:00.123456789Z hello\n2026-01-01T00:00:00.123456789Z again\r\n", "chunk": 9},
            {"text": "2026-01-01T00:00:00.5+02:00 hello\nno stamp\n\n\n", "chunk": 100},
        ],
        pure(check_log_lines),
    ),
    Target("plan", [PLAN], pure(check_plan)),
    Target("csi-attributes", [ATTRIBUTES], pure(check_attributes)),
    Target("manifest", [{"v": 1, "outputs": [["o", 9, DIGEST, False, 5], ["p/q", 1, DIGEST]]}], pure(check_manifest)),
    Target(
        "event",
        [
            json.loads(encode_event(event))
            for event in (
                RunAccepted(RUN, "d", 3, True),
                TasksQueued(RUN, 1, ["a"]),
                TaskEnded(RUN, "a", 1, "FAILED", "Hit", 1, 2, "n", "why"),
            )
        ],
        pure(check_event),
    ),
    Target(
        "token",
        [{"token": "{genuine}"}, {"token": "{genuine}", "digest": DIGEST, "expires": "99", "grant": DIGEST}],
        pure(check_token),
    ),
    Target("kubernetes", KUBE_SEEDS, pure(check_kube)),
]
