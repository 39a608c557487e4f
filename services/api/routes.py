"""From a request to its answer: decodes what was said, has a thread do the work, encodes what came of it."""

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import anyio
import msgspec
from msgspec import Struct
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from helios.dag_problem import LIMITS
from helios.heartbeat import Heartbeat
from helios.settings import Settings
from helios.triggers import EVENT_BYTES_AT_MOST
from services.api.asking import Asking
from services.api.bounds import Shares
from services.api.gate import READ_SECONDS, Gate
from services.api.openapi import describe
from services.api.operations import EVENTS, JSON, OPERATIONS, PREFIX, TEXT, Operation
from services.api.problems import Refused
from services.api.sending import cancel, submit
from services.api.shapes import Artifacts, DagMetrics, EventsQuery, LogQuery, RunQuery, RunsQuery, SubmitQuery
from services.api.store import Signer
from services.api.streaming import Following, Stream, in_thread
from services.api.tokens import Token, tokens_of
from services.api.triggering import start

WORKERS = 16
"""Requests that are at work with Redis at the same time."""
READERS = 16
"""Of streams: apart, so that followers keep nobody else waiting."""
LARGE_BYTES = 128 * 1024
"""A DAG from here on takes long to check; one at a time, so that others are still answered promptly."""
TAKEN = {
    "",
    "application/json",
    "application/yaml",
    "application/x-yaml",
    "text/yaml",
    "text/x-yaml",
    "text/plain",
    "application/octet-stream",
    # What curl says unless told otherwise.
    "application/x-www-form-urlencoded",
}
"""Whatever is said, the text itself decides between YAML and JSON."""

Query = TypeVar("Query", bound=Struct)
Found = TypeVar("Found")

_encode = msgspec.json.Encoder().encode


class Routes:
    """One method for each operation, by its id."""

    def __init__(
        self, asking: Asking, signer: Signer, following: Following, heartbeat: Heartbeat, draining: asyncio.Event
    ) -> None:
        self.asking = asking
        self.signer = signer
        self.following = following
        self.heartbeat = heartbeat
        self.draining = draining
        self.shares = Shares()
        self.workers = anyio.CapacityLimiter(WORKERS)
        self.large = anyio.CapacityLimiter(1)
        self.description = describe()

    async def _do(self, call: Callable[[], Found]) -> Found:
        return await in_thread(call, self.workers)

    async def submit(self, request: Request) -> Response:
        query = _query(request, SubmitQuery)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in TAKEN:
            raise Refused(415, "a DAG is sent as application/yaml or application/json")
        with contextlib.ExitStack() as room:
            text = await _body(request, self.shares, room)
            call = partial(submit, self.asking, text, query, _token(request).name, request.headers.get("traceparent"))
            if len(text) < LARGE_BYTES:
                done = await self._do(call)
            else:
                done = await in_thread(call, self.large)
        where = {"Location": f"{PREFIX}/dags/{done.dagId}"}
        return _json(done, 200 if done.repeated else 202, where)

    async def trigger(self, request: Request) -> Response:
        _no_query(request)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in TAKEN:
            raise Refused(415, "an event is sent as application/json")
        name, key = request.path_params["trigger"], request.headers.get("idempotency-key")
        with contextlib.ExitStack() as room:
            body = await _body(request, self.shares, room, EVENT_BYTES_AT_MOST, "an event")
            done = await self._do(partial(start, self.asking, name, body, key, _token(request).name))
        return _json(done, 202 if any(each.dagId and not each.repeated for each in done.events) else 200)

    async def list_runs(self, request: Request) -> Response:
        query = _query(request, RunsQuery)
        return _json({"runs": await self._do(lambda: self.asking.newest(query.limit))})

    async def get_run(self, request: Request) -> Response:
        query, named = _query(request, RunQuery), request.path_params["dagId"]
        return _json(await self._do(lambda: self.asking.run(named, with_tasks=query.tasks)))

    async def cancel_run(self, request: Request) -> Response:
        named, name = request.path_params["dagId"], _token(request).name
        _no_query(request)
        was_asked, what = await self._do(lambda: cancel(self.asking, named, name))
        return _json(what, 202 if was_asked else 200)

    async def dag_metrics(self, request: Request) -> Response:
        query, name = _query(request, RunsQuery), request.path_params["dagName"]
        runs = await self._do(lambda: self.asking.newest(query.limit, name))
        if not runs:
            raise Refused(404, "no run of a DAG of that name is kept")
        return _json(DagMetrics(dagName=name, runs=runs))  # pyright: ignore[reportArgumentType] -- dicts of that shape

    async def task_logs(self, request: Request) -> ASGIApp:
        query, named, task = _query(request, LogQuery), request.path_params["dagId"], request.path_params["task"]
        run = await self._do(lambda: self.asking.find(named))
        await self._do(lambda: self.asking.check_task(run, task))
        return self._stream(request, Stream(self.following.log(run, task, query), f"{TEXT}; charset=utf-8"))

    async def list_artifacts(self, request: Request) -> Response:
        named = request.path_params["dagId"]
        _no_query(request)
        return _json(Artifacts(artifacts=await self._do(lambda: self.asking.outputs(named))))

    async def get_artifact(self, request: Request) -> Response:
        named, task, name = (request.path_params[each] for each in ("dagId", "task", "name"))
        _no_query(request)
        output = await self._do(lambda: self.asking.output(named, task, name))
        unpacks = "zstd" in request.headers.get("accept-encoding", "")
        try:
            where = self.signer.url(output, unpacks=unpacks)
        except ValueError:
            raise Refused(404, "that output has a key that no store takes") from None
        return Response(status_code=307, headers={"Location": where})

    async def events(self, request: Request) -> ASGIApp:
        query, last = _query(request, EventsQuery), request.headers.get("last-event-id")
        place = await self.following.start_of(last)
        return self._stream(request, Stream(self.following.events(place, query.dagId), EVENTS))

    async def system_status(self, request: Request) -> Response:
        _no_query(request)
        return _json(await self._do(lambda: self.asking.system(self.signer.endpoint)))

    async def openapi(self, request: Request) -> Response:
        _no_query(request)
        return Response(self.description, media_type=JSON)

    def _stream(self, request: Request, stream: Stream) -> ASGIApp:
        if self.draining.is_set():
            raise Refused(503, "this replica is about to end", retry_seconds=1)
        name = _token(request).name

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            with self.shares.stream(name):
                await stream(scope, receive, send)

        return answer

    async def alive(self, request: Request) -> Response:
        del request
        return PlainTextResponse("alive\n")

    async def ready(self, request: Request) -> Response:
        del request
        waits = "its end" if self.draining.is_set() else self.heartbeat.waits_for()
        return PlainTextResponse(f"it waits for {waits}\n" if waits else "ready\n", 503 if waits else 200)

    def all(self) -> list[BaseRoute]:
        methods: dict[str, Callable[[Request], Any]] = {
            "submit": self.submit,
            "trigger": self.trigger,
            "listRuns": self.list_runs,
            "getRun": self.get_run,
            "cancelRun": self.cancel_run,
            "dagMetrics": self.dag_metrics,
            "taskLogs": self.task_logs,
            "listArtifacts": self.list_artifacts,
            "getArtifact": self.get_artifact,
            "events": self.events,
            "systemStatus": self.system_status,
            "openapi": self.openapi,
        }
        by_path: dict[str, dict[str, tuple[Operation, Callable[[Request], Any]]]] = {}
        for each in OPERATIONS:
            by_path.setdefault(each.path, {})[each.method] = (each, methods[each.id])
        found = [_Place(path, served) for path, served in by_path.items()]
        probes = [Route("/healthz", self.alive, methods=["GET"]), Route("/readyz", self.ready, methods=["GET"])]
        return [*probes, *(each.route() for each in found)]


class _Place:
    """The operations of one path."""

    def __init__(self, path: str, served: dict[str, tuple[Operation, Callable[[Request], Any]]]) -> None:
        self.path = path
        self.served = served

    def route(self) -> Route:
        path = PREFIX + self.path.replace("{name}", "{name:path}")
        # An ASGI application takes every method: what is served here is decided below, so no HEAD follows the feed.
        return Route(path, self, methods=None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self.served.get(scope["method"])
        if found is None:
            allowed = ", ".join(sorted(self.served))
            raise Refused(405, f"this place takes {allowed}", headers={"Allow": allowed})
        operation, call = found
        token: Token = scope["token"]
        if operation.scope is not None and operation.scope not in token.scopes:
            raise Refused(403, f"this token has not the scope {operation.scope}")
        request = Request(scope, receive)
        try:
            answer = await call(request)
        except ClientDisconnect:
            return
        await answer(scope, receive, send)


async def _unknown(scope: Scope, receive: Receive, send: Send) -> None:
    del scope, receive, send
    raise Refused(404, "there is nothing here; /api/v1/openapi.json lists what there is")


def application(routes: Routes, settings: Settings) -> ASGIApp:
    """The whole, with its gate. Raises SettingInvalid."""
    app = Router(routes=routes.all(), redirect_slashes=False, default=_unknown)
    return Gate(app, tokens_of(settings.http_tokens), settings.http_requests_per_second)


def _token(request: Request) -> Token:
    return request.scope["token"]


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(_encode(value), status, headers, media_type=JSON)


def _query(request: Request, kind: type[Query]) -> Query:
    """What is said in the URL. Raises Refused, naming what is not understood."""
    pairs = request.query_params.multi_items()
    said = dict(pairs)
    if len(said) != len(pairs):
        raise Refused(400, "a query parameter is given twice")
    try:
        return msgspec.convert(said, kind, strict=False)
    except msgspec.ValidationError as error:
        raise Refused(400, f"the query is not understood: {error}") from None


def _no_query(request: Request) -> None:
    if request.url.query:
        raise Refused(400, "no query is taken here")


async def _body(
    request: Request,
    shares: Shares,
    room: contextlib.ExitStack,
    limit: int = LIMITS.max_payload_bytes,
    what: str = "a DAG",
) -> bytes:
    """The body, within its bounds of bytes and time. `room` gives back what it takes of the bytes of all."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large(limit, what)
    pieces: list[bytes] = []
    size = 0
    stream = request.stream().__aiter__()
    while True:
        try:
            async with asyncio.timeout(READ_SECONDS):
                piece = await anext(stream)
        except StopAsyncIteration:
            return b"".join(pieces)
        except TimeoutError:
            raise Refused(408, f"nothing came for {READ_SECONDS:.0f} s", headers={"Connection": "close"}) from None
        size += len(piece)
        if size > limit:
            raise _too_large(limit, what)
        shares.take_bytes(len(piece))
        room.callback(shares.give_bytes, len(piece))
        pieces.append(piece)


def _too_large(limit: int, what: str) -> Refused:
    return Refused(413, f"{what} has at most {limit:,} bytes", headers={"Connection": "close"})
