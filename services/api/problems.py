"""What is answered when a request cannot be done: `application/problem+json` (RFC 9457), in words for people."""

from collections.abc import Sequence

import msgspec
import redis
import structlog
from redis.exceptions import AuthenticationError, ResponseError
from starlette.responses import Response

from helios.dag_problem import Problem
from helios.submitting import ReplyLost
from helios.wire import TRANSIENT, error_code

log = structlog.get_logger()

REDIS_RETRY_SECONDS = 2

TITLES = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    409: "Conflict",
    410: "Gone",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
}

MEDIA_TYPE = "application/problem+json"


class ProblemAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why the request was not done. `problems`: of a DAG, every one that was found."""

    title: str
    status: int
    detail: str
    problems: Sequence[Problem] = ()
    requestId: str | None = None
    """Of a submission whose fate is not known: sending it again with this id starts no second run."""


class Refused(Exception):
    """The request is answered with this status and these words."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        problems: Sequence[Problem] = (),
        retry_seconds: int | None = None,
        request_id: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.answer = ProblemAnswer(
            title=TITLES[status], status=status, detail=detail, problems=problems, requestId=request_id
        )
        self.headers = dict(headers or {})
        if retry_seconds is not None:
            self.headers["Retry-After"] = str(retry_seconds)

    def response(self) -> Response:
        return Response(
            msgspec.json.encode(self.answer),
            self.answer.status,
            {**self.headers},
            media_type=MEDIA_TYPE,
        )


def refusal_of(error: Exception) -> Refused:
    """What a failure means for whoever asked. Words of Redis go out only where they say what to do."""
    match error:
        case Refused():
            return error
        case AuthenticationError():
            log.error("Redis refuses the login", error=str(error))
            return Refused(503, "Redis refuses this service's login", retry_seconds=REDIS_RETRY_SECONDS)
        case redis.ConnectionError() | redis.TimeoutError() | ReplyLost():
            log.warning("Redis is away", error=str(error))
            return Refused(503, "Redis cannot be reached just now", retry_seconds=REDIS_RETRY_SECONDS)
        case ResponseError() if (code := error_code(error)) in TRANSIENT:
            log.warning("Redis says: not now", error=str(error), code=code)
            why = {
                "OOM": "Redis takes no writes, because its memory is full",
                "MISCONF": "Redis takes no writes, because its disk is full or not writable",
                "READONLY": "Redis takes no writes, because it is a replica",
            }.get(code, f"Redis is not ready: {code}")
            return Refused(503, why, retry_seconds=REDIS_RETRY_SECONDS)
        case _:
            log.error("a request failed", error=str(error), exc_info=error)
            return Refused(500, "the request failed for a reason that is in this service's log")
