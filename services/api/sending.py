"""What a request changes: it adds one entry, a submission or a control. Plain synchronous code: a thread runs it."""

import uuid
from typing import Any

import redis
import structlog

from helios.dag import DagInvalid, parse_dag
from helios.dag_params import ParamsUnreadable, read_params
from helios.keys import Keys, partition_of
from helios.records import ENDED
from helios.submitting import add_submission, ask_cancel, submission_digest, submission_fields
from helios.trace import parse_traceparent
from services.api.asking import SUBMITTED, Asking
from services.api.problems import REDIS_RETRY_SECONDS, Refused
from services.api.shapes import Cancelling, SubmitQuery, Submitted

log = structlog.get_logger()


def submit(asking: Asking, text: bytes, query: SubmitQuery, token: str, traceparent: str | None) -> Submitted:
    """Check the DAG and add it. Raises Refused: 400 with every problem, 409 for another DAG under a used request id."""
    try:
        parsed = parse_dag(text, params=read_params(query.params))
    except ParamsUnreadable as error:
        raise Refused(400, str(error)) from None
    except DagInvalid as invalid:
        raise Refused(400, "the DAG is not valid", problems=invalid.problems) from None
    # With an id of its own a submission whose reply is lost can be sent again, and is one run all the same.
    request = query.requestId or f"http-{uuid.uuid4().hex}"
    fields = submission_fields(
        text,
        use_cache=query.useCache,
        memoize=query.memoize,
        priority=query.priority,
        params=query.params,
        traceparent=traceparent if parse_traceparent(traceparent or "") else None,
        request_id=request,
    )
    first = first_run(asking, request, fields) if query.requestId is not None else None
    if first is None:
        try:
            run = add_submission(asking.client, fields)
        except (redis.ConnectionError, redis.TimeoutError) as error:
            log.warning("it is not known whether a submission arrived", error=str(error), request_id=request)
            raise Refused(
                503,
                "Redis cannot be reached just now, so the DAG may have been submitted or not; "
                "send it again with this requestId",
                retry_seconds=REDIS_RETRY_SECONDS,
                request_id=request,
            ) from None
        log.info("submitted", run=run, dag=parsed.dag.dag_name, token=token)
    return Submitted(
        dagId=first or run,  # pyright: ignore[reportPossiblyUnboundVariable] -- bound where there is no first
        dagName=parsed.dag.dag_name,
        taskCount=len(parsed.dag.tasks),
        repeated=first is not None,
        warnings=parsed.warnings,
        waits=_why_waiting(asking),
    )


def _why_waiting(asking: Asking) -> str:
    """Nothing may fail behind the XADD: whoever is told of an error would send the DAG again, as another run."""
    try:
        return asking.why_waiting()
    except redis.RedisError:
        return ""


def first_run(
    asking: Asking, request: str, fields: dict[Any, Any], what: str = "this requestId was used for another DAG"
) -> str | None:
    """The run that the request id stands for already. Of two that come at the same moment the submitter knows: the
    second becomes an alias of the first, or REJECTED with the conflict for its problem.
    """
    keys = Keys(partition_of(request, asking.settings.partitions))
    run, digest = asking.client.hmget(keys.request(request), "run", "digest")  # pyright: ignore[reportGeneralTypeIssues, reportUnknownVariableType] -- the stub is for both kinds of client
    if run is None:
        return None
    if digest != submission_digest(fields):
        raise Refused(409, f"{what} by run {run}; send a new one")
    return str(run)


def cancel(asking: Asking, named: str, token: str) -> tuple[bool, Cancelling]:
    """Whether the run was asked to end, which one that has ended is not."""
    run = asking.find(named)
    status: Any = asking.client.hget(asking.keys(run).run(run), "status")
    if status in ENDED:
        return False, Cancelling(dagId=run, status=status)
    ask_cancel(asking.client, run)
    log.info("cancellation asked for", run=run, token=token)
    return True, Cancelling(dagId=run, status=status or SUBMITTED)
