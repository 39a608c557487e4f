"""What every request passes: who asks, how often, and how long anything may take.

Rule: nothing but the two probes is answered without a token, and nothing that a client does or leaves undone holds this
process up: each wait for it has a bound.
"""

import asyncio
import time

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.api.bounds import Rate, refuse_rate
from services.api.problems import Refused, refusal_of
from services.api.tokens import Token, token_of

log = structlog.get_logger()

PROBES = ("/healthz", "/readyz")
READ_SECONDS = 15.0
"""For the next piece of a body."""
WRITE_SECONDS = 30.0
"""For a client to take the next piece of an answer."""
TELL_SECONDS = 1.0
"""Unknown tokens are told of in the log so often at most."""

HEADERS = [
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
]


class TooSlow(Exception):
    """The client does not take its answer."""


class Gate:
    """ASGI, around the routes."""

    def __init__(self, app: ASGIApp, tokens: list[Token], per_second: float) -> None:
        self.app = app
        self.tokens = tokens
        self.rate = Rate(per_second)
        self.told = 0.0
        self.unknown = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        began = time.monotonic()
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), *HEADERS]}
            try:
                async with asyncio.timeout(WRITE_SECONDS):
                    await send(message)
            except TimeoutError:
                raise TooSlow from None

        try:
            if scope["path"] not in PROBES:
                scope["token"] = self._pass(scope)
            await self.app(scope, receive, answer)
        except TooSlow:
            log.info("a client was cut off: it does not read", path=scope["path"])
        except OSError:
            pass  # the client is gone
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is answered, and logged where it is told
            refusal = refusal_of(error)
            if status:  # too late for words
                return
            await refusal.response()(scope, receive, answer)
        finally:
            took = round((time.monotonic() - began) * 1000, 1)
            log.debug("request", method=scope["method"], path=scope["path"], status=status, ms=took)

    def _pass(self, scope: Scope) -> Token:
        """Who asks. Raises Refused."""
        headers = [value for name, value in scope["headers"] if name == b"authorization"]
        token = token_of(headers[0].decode("latin-1"), self.tokens) if len(headers) == 1 else None
        if token is None:
            self._tell(scope)
            raise Refused(
                401,
                "a bearer token is needed: Authorization: Bearer …",
                headers={"WWW-Authenticate": 'Bearer realm="helios"'},
            )
        wait = self.rate.take(token.name)
        if wait:
            raise refuse_rate(wait, self.rate.per_second)
        return token

    def _tell(self, scope: Scope) -> None:
        self.unknown += 1
        if time.monotonic() > self.told + TELL_SECONDS:
            client = scope.get("client")
            log.warning("requests without a known token", count=self.unknown, last_from=client[0] if client else "")
            self.told, self.unknown = time.monotonic(), 0
