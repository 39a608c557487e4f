"""The collector, as a node's keeper speaks with it. One try a call: whoever calls knows what a failure costs."""

import json
from collections.abc import Mapping

from agent.documents import Json, read_object
from agent.grants import keeper_token
from agent.web import Web, WebError

MAX_ANSWER_BYTES = 16 * 1024 * 1024


class CollectorAway(Exception):
    """No answer, or none that helps; the message says why and holds no URL."""


class Collector:
    """Safe to use from many threads."""

    def __init__(self, web: Web, endpoint: str, key: str, node: str) -> None:
        self.node = node
        self._web = web
        self._endpoint = endpoint
        self._headers = {
            "Authorization": f"Bearer {keeper_token(key, node)}",
            "Helios-Node": node,
            "Content-Type": "application/json",
        }

    def call(self, path: str, document: Mapping[str, object]) -> dict[str, Json]:
        """The answer to POST `path`. Raises CollectorAway."""
        body = json.dumps({"node": self.node, **document}, separators=(",", ":")).encode()
        try:
            with self._web.request("POST", self._endpoint + path, self._headers, body) as response:
                answer = response.read(MAX_ANSWER_BYTES)
                status = response.status
        except WebError as error:
            raise CollectorAway(str(error)) from None
        found = read_object(answer)
        if status != 200 or found is None:
            raise CollectorAway(f"HTTP {status}")
        return found
