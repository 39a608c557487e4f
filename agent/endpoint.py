"""The collector's pod endpoint, as a pod sees it: ask for the plan, ask for the parts of a big upload, deliver the
report. The node's agent, where it does a pod's steps, sends their log lines too, and says that it is at work.

401, 403 and 410 mean that the attempt is over or the token is not valid: never retried. 425, 429, 5xx and a broken
connection are retried until the attempt's patience ends. Nothing else is.
"""

import json
import time
from collections.abc import Mapping, Sequence

from agent.documents import Json, read_object
from agent.frozen import Frozen
from agent.logs import Log, one_line
from agent.names import is_digest
from agent.pace import Backoff, Every
from agent.plan import Plan, PlanRefused, read_plan
from agent.settings import Attempt
from agent.web import Web, WebError

ASIDE_SECONDS = 5.0
"""So long the endpoint is waited for where there is another way."""
SILENCE_SECONDS = 20.0
"""An endpoint that says nothing for so long is asked anew: its connection may be dead. It answers within ten."""
MAX_ANSWER_BYTES = 64 * 1024 * 1024


class EndpointError(Exception):
    """The endpoint could not be reached within the patience, or its answer makes no sense."""


class AttemptOver(EndpointError):
    """The endpoint refuses this attempt: it was fenced, its run is over, or the token is not valid."""


class Refused(EndpointError):
    """The endpoint will not take this request, however often it is made."""


class Parts(Frozen, secret=("urls", "complete_url")):
    """Where the parts of one big upload go: every part but the last has `part_bytes` bytes."""

    part_bytes: int
    urls: tuple[str, ...]
    complete_url: str


class Peer(Frozen, secret=("url",)):
    """A node that has a blob, and a signed GET for it at that node's keeper."""

    node: str
    url: str


class Located(Frozen):
    """Who has a blob. `wait`: another node brings it now. Neither peers nor wait: it is this node's to bring."""

    sha256: str | None
    peers: tuple[Peer, ...]
    wait: bool


class Endpoint:
    """Speaks the pod protocol for one attempt; safe to use from many threads."""

    def __init__(self, web: Web, attempt: Attempt, log: Log) -> None:
        self._web = web
        self._attempt = attempt
        self._log = log

    def plan(self) -> Plan:
        """The plan with fresh URLs. Raises EndpointError, or PlanRefused when it is another attempt's or malformed."""
        plan = read_plan(self._ask("GET", "/v1/plan", None, Backoff(0.2, 10.0)))
        mine = (self._attempt.run_id, self._attempt.task, self._attempt.attempt)
        if (plan.run, plan.task, plan.attempt) != mine:
            raise PlanRefused("the plan is for another attempt")
        return plan

    def multipart(self, name: str, size: int, wanted: int | None = None, codec: str | None = None) -> Parts:
        """Opens an upload of at most `size` bytes in parts for the output `name`; each has the `wanted` bytes, or more
        when the endpoint is an older one, or finds that too many.
        """
        request: dict[str, object] = {"name": name, "bytes": size}
        if wanted is not None:
            request["partBytes"] = wanted
        if codec is not None:
            request["codec"] = codec
        answer = _object(self._ask("POST", "/v1/multipart", request, Backoff(0.2, 10.0)))
        part_bytes, urls, complete_url = answer.get("partBytes"), answer.get("urls"), answer.get("completeUrl")
        if not isinstance(part_bytes, int) or part_bytes < 1 or not isinstance(complete_url, str):
            raise EndpointError("the endpoint's answer to a multipart request is malformed")
        if not isinstance(urls, list) or len(urls) != -(-size // part_bytes):
            raise EndpointError("the endpoint's answer to a multipart request has the wrong number of parts")
        return Parts(part_bytes, tuple(str(url) for url in urls), complete_url)

    def result(self, report: Mapping[str, object]) -> str:
        """Delivers the report; returns the endpoint's word on it: committed, recorded or stale."""
        # The first answer is often 425, because the result overtakes the event that says the task was launched.
        answer = _object(self._ask("POST", "/v1/result", report, Backoff(0.02, 5.0)))
        return str(answer.get("status", "recorded"))

    def locate(self, lacking: Mapping[str, object]) -> Located:
        """Asks who has an input that this node lacks: {"name", "bytes", "version", "sha256"}."""
        request = {"node": self._attempt.node, "inputs": [lacking]}
        answer = _object(self._ask("POST", "/v1/locate", request, Backoff(0.1, 1.0), patience=ASIDE_SECONDS))
        inputs = answer.get("inputs")
        if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
            raise EndpointError("the endpoint's answer on who has an input is malformed")
        return _located(inputs[0])

    def brought(self, brought: Mapping[str, object]) -> None:
        """Tells that this node's cache now holds an input."""
        request = {"node": self._attempt.node, "inputs": [brought]}
        self._ask("POST", "/v1/brought", request, Backoff(0.1, 1.0), patience=ASIDE_SECONDS)

    def lines(self, step: str, after: int, lines: Sequence[str]) -> None:
        """The next lines of a step's log, of which `after` were sent before."""
        request = {"step": step, "after": after, "lines": lines}
        self._ask("POST", "/v1/lines", request, Backoff(0.2, 2.0), patience=ASIDE_SECONDS)

    def at_work(self) -> None:
        """Tells that the attempt is worked for, although its pod has not started yet or has ended."""
        self._ask("POST", "/v1/at-work", {}, Backoff(0.2, 2.0), patience=ASIDE_SECONDS)

    def _ask(
        self,
        method: str,
        path: str,
        document: Mapping[str, object] | None,
        backoff: Backoff,
        patience: float | None = None,
    ) -> bytes:
        """`patience` in seconds; the attempt's own unless given."""
        headers = {
            "Authorization": f"Bearer {self._attempt.token}",
            "Helios-Pod": self._attempt.pod_uid,
            "Helios-Node": self._attempt.node,
            "Accept": "application/json",
        }
        body = None
        if document is not None:
            headers["Content-Type"] = "application/json"
            body = json.dumps(document, separators=(",", ":")).encode()
        began = time.monotonic()
        progress = Every(10.0)
        while True:
            try:
                with self._web.request(
                    method, self._attempt.endpoint + path, headers, body, SILENCE_SECONDS
                ) as response:
                    answer = response.read(MAX_ANSWER_BYTES)
                    trouble = _trouble(response.status, answer) or _short(response.header("Content-Length"), answer)
                if trouble is None:
                    return answer
            except WebError as error:
                trouble = str(error)
            waited = time.monotonic() - began
            left = (self._attempt.plan_patience_seconds if patience is None else patience) - waited
            if left <= 0:
                raise EndpointError(f"no answer to {method} {path} within {waited:.0f} s: {trouble}")
            if progress.due():
                self._log.line(f"Waiting for the pod endpoint, {waited:.0f} s so far: {one_line(trouble)}")
            backoff.pause(left)


def _located(document: dict[str, Json]) -> Located:
    """What makes no sense is left out: there is always the store."""
    sha256, listed = document.get("sha256"), document.get("peers")
    peers: list[Peer] = []
    for each in listed if isinstance(listed, list) else []:
        if isinstance(each, dict):
            node, url = each.get("node"), each.get("url")
            if isinstance(node, str) and isinstance(url, str) and url.startswith(("http://", "https://")):
                peers.append(Peer(node, url))
    known = isinstance(sha256, str) and is_digest(sha256)
    return Located(str(sha256) if known else None, tuple(peers) if known else (), document.get("wait") is True)


def _trouble(status: int, answer: bytes) -> str | None:
    """None for success, words for what is worth another try; raises for what is not."""
    if status == 200:
        return None
    words = _reason(status, answer)
    if status in (401, 403, 410):
        raise AttemptOver(f"the attempt is over or its token is not valid: {words}")
    if status in (425, 429) or status >= 500:
        return words
    raise Refused(f"the endpoint refused the request: {words}")


def _short(length: str | None, answer: bytes) -> str | None:
    if length is not None and length.isdigit() and int(length) != len(answer):
        return "the answer was cut off or is too large"
    return None


def _reason(status: int, answer: bytes) -> str:
    document = read_object(answer)
    said = document.get("error") if document is not None else None
    return f"HTTP {status}: {one_line(said[:200])}" if isinstance(said, str) and said else f"HTTP {status}"


def _object(body: bytes) -> dict[str, Json]:
    document = read_object(body)
    if document is None:
        raise EndpointError("the endpoint's answer is not a JSON object")
    return document
