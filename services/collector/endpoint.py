"""The pod endpoint: an attempt's plan with fresh URLs, and its result before anyone else knows it.

Rule: a caller gets and changes only what its token names, and only while that attempt is current. Every call may be
lost, late or repeated.
"""

import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import redis
import structlog

from helios.dag import ExternalInput, Input, Task
from helios.keys import Keys, keys_of_run
from helios.logged import about
from helios.podwire import (
    Lines,
    Locate,
    LocateAnswer,
    LocateInput,
    Multipart,
    MultipartWanted,
    Plan,
    PlanInput,
    PlanKeeper,
    PlanOutput,
    Report,
    ResultAnswer,
)
from helios.records import OutputRecord, decode_attempt
from helios.settings import Settings
from helios.tokens import Attempt, TokenInvalid, check
from helios.transitions import commit_one, keep_report, note_heard, pipelined
from services.collector.classify import classify
from services.collector.counted import TIMES, count_end
from services.collector.demand import Demand
from services.collector.keepers import Keepers, Over, nobody_knows
from services.collector.kept import KeptReports
from services.collector.locate import Declared, Locator
from services.collector.nodes import Nodes, Refused, adding, ask, checked_node
from services.collector.outcome import end_call, ended_well, from_final, from_report, manifest_key, output_prefix
from services.collector.seed import Seeding
from services.collector.step_lines import take_lines
from services.collector.store import PART_BYTES, ObjectRefused, Store, StoreRefused

log = structlog.get_logger()

BODY_BYTES = 16 * 1024**2
STORE_CALLS = 4
"""So many calls ask the object store at the same time, half of the endpoint's threads: a store that is silent holds up
nobody who does not need it. Others are told to come again."""

_task_decoder = msgspec.json.Decoder(Task)
_POD = re.compile(r"[A-Za-z0-9-]{1,64}")

StartResponse = Callable[[str, list[tuple[str, str]]], Any]


class Answer(Exception):
    """An HTTP answer other than success."""

    def __init__(self, status: str, error: str) -> None:
        super().__init__(error)
        self.status = status
        self.error = error


class PodEndpoint:
    """A WSGI application."""

    def __init__(
        self,
        client: redis.Redis,
        store: Store,
        settings: Settings,
        kept: KeptReports | None = None,
        over: Over = nobody_knows,
        waits_for: Callable[[], str] = lambda: "",
    ) -> None:
        """`waits_for` says what keeps this replica from its work; empty when nothing does."""
        self.waits_for = waits_for
        self.client = client
        self.store = store
        self.settings = settings
        self.kept = kept or KeptReports()
        self.store_calls = threading.BoundedSemaphore(STORE_CALLS)
        self.nodes = Nodes(client, settings.keeper_key, settings.inventory_blobs)
        self.locator = Locator(client, self.nodes)
        demand = Demand(client, settings.partitions, store.bucket, store.source)
        self.keepers = Keepers(self.nodes, demand, Seeding(client, demand, self.locator, store), over)

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        with about(**self._subject(environ)):
            return self._respond(environ, start_response)

    def _subject(self, environ: dict[str, Any]) -> dict[str, Any]:
        """The attempt that a call is about, by its token: what is logged of the call says it."""
        try:
            attempt = self._attempt(environ.get("HTTP_AUTHORIZATION", ""))
        except Answer:
            return {}
        return {"run": attempt.run, "task": attempt.task, "attempt": attempt.attempt}

    def _respond(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        status = "200 OK"
        try:
            body = msgspec.json.encode(self._answer(environ))
        except Answer as answer:
            status, body = answer.status, _error(answer.error)
        except Refused as refusal:
            status, body = "400 Bad Request", _error(str(refusal))
        except ObjectRefused as refusal:
            # Not 5xx, which pods repeat: the answer would stay the same.
            status, body = "409 Conflict", _error(str(refusal))
        except (redis.RedisError, StoreRefused) as error:
            log.warning("the pod endpoint cannot serve just now", error=str(error))
            status, body = "503 Service Unavailable", _error(str(error))
        except Exception:
            log.exception("the pod endpoint failed", path=environ.get("PATH_INFO", ""))
            status, body = "500 Internal Server Error", _error("a fault of the collector; its log says more")
        start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]

    def _answer(self, environ: dict[str, Any]) -> Any:
        method, path = environ["REQUEST_METHOD"], environ.get("PATH_INFO", "")
        if (method, path) == ("GET", "/healthz"):
            return {"ok": True}
        if (method, path) == ("GET", "/readyz"):
            if words := self.waits_for():
                raise Answer("503 Service Unavailable", f"it waits for {words}")
            return {"ok": True}
        if method == "POST" and path in Keepers.PATHS:
            return self._answer_keeper(path, environ)
        attempt = self._attempt(environ.get("HTTP_AUTHORIZATION", ""))
        pod, node = environ.get("HTTP_HELIOS_POD", ""), environ.get("HTTP_HELIOS_NODE", "")
        if not _POD.fullmatch(pod):
            raise Answer("400 Bad Request", "the header Helios-Pod must hold the pod's uid")
        match method, path:
            case "GET", "/v1/plan":
                return self.plan(attempt, pod, node)
            case "POST", "/v1/locate":
                return self.locate(attempt, pod, _body(environ, Locate))
            case "POST", "/v1/brought":
                return self.brought(attempt, _body(environ, Locate))
            case "POST", "/v1/multipart":
                return self.multipart(attempt, pod, _body(environ, MultipartWanted))
            case "POST", "/v1/lines":
                return self.lines(attempt, _body(environ, Lines))
            case "POST", "/v1/at-work":
                return self.at_work(attempt)
            case "POST", "/v1/result":
                return self.result(attempt, _body(environ, Report))
            case _:
                raise Answer("404 Not Found", f"there is no {method} {path[:80]}")

    def _answer_keeper(self, path: str, environ: dict[str, Any]) -> Any:
        kind, _, token = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        node = environ.get("HTTP_HELIOS_NODE", "")
        if kind != "Bearer" or not self.nodes.is_keeper(node, token):
            raise Answer("401 Unauthorized", "that is not the token of this node's keeper")
        return self.keepers.answer(node, path, lambda struct: _body(environ, struct))

    def _attempt(self, authorization: str) -> Attempt:
        kind, _, token = authorization.partition(" ")
        try:
            if kind != "Bearer":
                raise TokenInvalid("there is no bearer token")
            return check(self.settings.token_key, token, time.time())
        except (TokenInvalid, msgspec.DecodeError, ValueError) as error:
            raise Answer("401 Unauthorized", str(error)) from None

    def _current(self, attempt: Attempt, keys: Keys) -> tuple[str, Task]:
        """The attempt's state and task; raises 410 when the attempt is over."""
        status, task, _ = self._current_timed(attempt, keys)
        return status, task

    def _current_timed(self, attempt: Attempt, keys: Keys) -> tuple[str, Task, list[str | None]]:
        """The same, with its TIMES."""
        found: Any = self.client.hmget(keys.task(attempt.run, attempt.task), "status", "attempt", "spec", *TIMES)
        status, current, spec, *times = found
        if status not in ("QUEUED", "RUNNING") or current != str(attempt.attempt):
            raise _over(attempt)
        return status, _task_decoder.decode(spec), times

    def plan(self, attempt: Attempt, pod: str, node: str) -> Plan:
        keys = keys_of_run(attempt.run, self.settings.partitions)
        _, task = self._current(attempt, keys)
        prefix = output_prefix(attempt.run, attempt.task, attempt.attempt)
        cache_enabled = self.client.hget(keys.run(attempt.run), "cacheEnabled") == "true"
        return Plan(
            run=attempt.run,
            task=attempt.task,
            attempt=attempt.attempt,
            cacheEnabled=cache_enabled,
            inputs=self._inputs(keys, attempt.run, task.inputs),
            outputs=[
                PlanOutput(name=name, key=f"{prefix}{pod}/{name}", url=self.store.put_url(f"{prefix}{pod}/{name}"))
                for name in task.outputs
            ],
            singlePutLimit=self.settings.single_put_limit_bytes,
            manifest=self._manifest(manifest_key(prefix, pod)) if task.outputs else None,
            locate=cache_enabled and bool(self.nodes.key),
            keeper=self._keeper(node, attempt) if task.outputs and cache_enabled else None,
        )

    def _keeper(self, node: str, attempt: Attempt) -> PlanKeeper | None:
        try:
            url = self.nodes.put_url(node, attempt)
        except redis.ResponseError as error:  # a plan does without
            log.warning("the keeper of a node cannot be looked up", node=node, error=str(error))
            return None
        return None if url is None else PlanKeeper(putUrl=url)

    def _manifest(self, key: str) -> PlanOutput:
        return PlanOutput(name="the list of outputs", key=key, url=self.store.put_url(key))

    def _inputs(self, keys: Keys, run: str, inputs: Sequence[Input]) -> list[PlanInput]:
        made = self._outputs_of(keys, run, {each.from_task for each in inputs if not isinstance(each, ExternalInput)})
        planned: list[PlanInput] = []
        for each in inputs:
            if isinstance(each, ExternalInput):
                planned.append(
                    PlanInput(
                        name=each.as_,
                        mode=each.mode,
                        verify=each.verify,
                        url=self.store.get_url(each.bucket, each.key),
                        headUrl=self.store.head_url(each.bucket, each.key),
                        source=self.store.source(each.bucket, each.key),
                        sha256=None,
                        bytes=None,
                        archive=False,
                    )
                )
                continue
            output = made.get((each.from_task, each.name))
            if output is None:
                raise Answer("409 Conflict", f"task {each.from_task!r} has no stored output {each.name!r}")
            planned.append(
                PlanInput(
                    name=each.as_,
                    mode=each.mode,
                    verify=each.verify,
                    url=self.store.get_url(self.store.bucket, output.key),
                    headUrl=None,
                    source=self.store.source(self.store.bucket, output.key),
                    sha256=output.sha256,
                    bytes=output.bytes,
                    archive=output.archive,
                    stored=output.stored,
                )
            )
        return planned

    def _outputs_of(self, keys: Keys, run: str, tasks: set[str]) -> dict[tuple[str, str], OutputRecord]:
        names = sorted(tasks)
        pipeline = pipelined(self.client)
        for name in names:
            pipeline.hget(keys.task(run, name), "record")
        found: list[str | None] = pipeline.execute() if names else []
        return {
            (name, output.name): output
            for name, record in zip(names, found, strict=True)
            if record is not None
            for output in decode_attempt(record).outputs
        }

    def locate(self, attempt: Attempt, pod: str, wanted: Locate) -> LocateAnswer:
        declared = self._declared(attempt, wanted.inputs)
        return LocateAnswer(inputs=self.locator.locate(wanted.node, pod, wanted.inputs, declared))

    def brought(self, attempt: Attempt, brought: Locate) -> dict[str, Any]:
        self.locator.brought(brought.node, brought.inputs, self._declared(attempt, brought.inputs))
        return {}

    def _declared(self, attempt: Attempt, asked: Sequence[LocateInput]) -> dict[str, Declared]:
        """The inputs of the attempt's task that are asked for, by name; those that do not exist are left out."""
        keys = keys_of_run(attempt.run, self.settings.partitions)
        _, task = self._current(attempt, keys)
        names = {each.name for each in asked}
        inputs = [each for each in task.inputs if each.as_ in names]
        parents = {each.from_task for each in inputs if not isinstance(each, ExternalInput)}
        made = self._outputs_of(keys, attempt.run, parents)
        declared: dict[str, Declared] = {}
        for each in inputs:
            if isinstance(each, ExternalInput):
                declared[each.as_] = Declared(self.store.source(each.bucket, each.key))
            elif (output := made.get((each.from_task, each.name))) is not None:
                source = self.store.source(self.store.bucket, output.key)
                declared[each.as_] = Declared(source, output.sha256, output.bytes)
        return declared

    def multipart(self, attempt: Attempt, pod: str, wanted: MultipartWanted) -> Multipart:
        keys = keys_of_run(attempt.run, self.settings.partitions)
        _, task = self._current(attempt, keys)
        if wanted.name not in task.outputs:
            raise Answer("400 Bad Request", f"task {attempt.task!r} declares no output {wanted.name[:80]!r}")
        key = f"{output_prefix(attempt.run, attempt.task, attempt.attempt)}{pod}/{wanted.name}"
        if wanted.codec not in (None, "zstd"):
            raise Answer("400 Bad Request", f"{wanted.codec[:80]!r} is no codec that can be unpacked")
        if not self.store_calls.acquire(blocking=False):
            raise StoreRefused("enough calls wait for the object store already")
        try:
            part_bytes, urls, complete = self.store.multipart(
                key, wanted.bytes, part_bytes=wanted.partBytes or PART_BYTES, encoding=wanted.codec
            )
        finally:
            self.store_calls.release()
        return Multipart(partBytes=part_bytes, urls=urls, completeUrl=complete)

    def lines(self, attempt: Attempt, sent: Lines) -> dict[str, Any]:
        """Lines of a step that the node's agent does."""
        if not take_lines(self.client, keys_of_run(attempt.run, self.settings.partitions), attempt, sent):
            raise _over(attempt)
        return {}

    def at_work(self, attempt: Attempt) -> dict[str, Any]:
        """The node's agent is at work on the attempt, though its pod has not started or has ended: it is waited for."""
        keys = keys_of_run(attempt.run, self.settings.partitions)
        if not commit_one(self.client, note_heard(keys, run=attempt.run, task=attempt.task, attempt=attempt.attempt)):
            raise _over(attempt)
        return {}

    def result(self, attempt: Attempt, report: Report) -> ResultAnswer:
        """Commit a success at once, and a failure that the node's agent knows all of; keep any other until the pod's
        status says more.
        """
        if (report.run, report.task, report.attempt) != (attempt.run, attempt.task, attempt.attempt):
            raise Answer("403 Forbidden", "the report is not on the attempt that the token names")
        keys = keys_of_run(attempt.run, self.settings.partitions)
        try:
            status, task, times = self._current_timed(attempt, keys)
        except Answer:
            return ResultAnswer("stale")
        if status == "QUEUED":
            raise Answer("425 Too Early", "the attempt's launch is not recorded yet")
        accounted = report.fetch is not None or not task.inputs
        prefix = output_prefix(attempt.run, attempt.task, attempt.attempt)
        good = ended_well(report, task.outputs, prefix)
        final = report.final and report.form == "csi" and not good
        if not final and not (accounted and good):
            kept = commit_one(
                self.client,
                keep_report(
                    keys,
                    run=attempt.run,
                    task=attempt.task,
                    attempt=attempt.attempt,
                    report=msgspec.json.encode(report),
                ),
            )
            if not kept:
                return ResultAnswer("stale")
            self.kept.add(attempt, report)
            return ResultAnswer("recorded")
        switch: Any = self.client.hmget(keys.run(attempt.run), "cacheEnabled", "startTime")
        classification = classify(
            inputs_declared=len(task.inputs),
            cache_enabled=switch[0] == "true",
            manifest=report.fetch,
            message=None,
            log=None,
        )
        if good:
            self._note_warm(report)
            self._note_sources(task, report)
        ended = from_final(report, classification) if final else from_report(report, classification)
        # Without its volume a pod waits for ever, and what went wrong while its command runs does not end that.
        call = end_call(keys, "", attempt.run, attempt.task, attempt.attempt, ended, deletes_job=final)
        applied = commit_one(self.client, call)
        if applied:
            count_end(ended, (switch[1], *times), local=self.settings.launcher == "local")
            log.info("an attempt ended", status=ended.status, reason=ended.record.reason, node=ended.record.node)
        return ResultAnswer("committed" if applied else "stale")

    def _note_sources(self, task: Task, report: Report) -> None:
        """What external inputs contained, for whoever plans with them; hits too, since what is known expires."""
        declared = {
            each.as_: Declared(self.store.source(each.bucket, each.key))
            for each in task.inputs
            if isinstance(each, ExternalInput)
        }
        fetched = (report.fetch.inputs or ()) if report.fetch is not None else ()
        try:
            told = [
                {"name": each.name, "bytes": each.bytes, "version": each.version, "sha256": each.sha256}
                for each in fetched
                if each.name in declared and each.version and each.sha256
            ]
            self.locator.note_sources(msgspec.convert(told, list[LocateInput]), declared)
        except (redis.RedisError, msgspec.ValidationError) as error:
            log.warning("what external inputs contained is not noted", error=str(error))

    def _note_warm(self, report: Report) -> None:
        """Ahead of the commit, so that whoever places the tasks that follow knows where their inputs are."""
        try:
            warm = {output.sha256: output.bytes for output in report.outputs if output.warm}
            ask(self.client, adding(checked_node(report.node), warm))
        except (Refused, redis.RedisError) as error:
            log.warning("what a node kept of an attempt's outputs is not noted", node=report.node, error=str(error))


def _over(attempt: Attempt) -> Answer:
    return Answer("410 Gone", f"attempt {attempt.attempt} of task {attempt.task!r} is over")


def _error(text: str) -> bytes:
    return msgspec.json.encode({"error": text.encode("utf-8", "replace").decode()})


def _body(environ: dict[str, Any], kind: Any) -> Any:
    try:
        length = int(environ.get("CONTENT_LENGTH") or 0)
    except ValueError:
        length = 0
    if not 0 < length <= BODY_BYTES:
        raise Answer("413 Content Too Large", f"a body takes 1 to {BODY_BYTES} bytes")
    try:
        return msgspec.json.decode(environ["wsgi.input"].read(length), type=kind)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise Answer("400 Bad Request", f"the body is not understood: {error}") from None
