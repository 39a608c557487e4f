"""Every operation: its place, who may, what can be said beside it, and what it answers. The routes and the OpenAPI
description are both made of this one table.
"""

from collections.abc import Sequence

from msgspec import Struct

from services.api.shapes import (
    Artifacts,
    Cancelling,
    DagMetrics,
    EventsQuery,
    LogQuery,
    NoQuery,
    RunQuery,
    Runs,
    RunsQuery,
    SubmitQuery,
    Submitted,
    SystemStatus,
    Triggered,
    WholeRun,
)
from services.api.tokens import Scope

PREFIX = "/api/v1"

RUN_ID = r"^[0-9]{1,20}-[0-9]{1,20}$"
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
PATTERNS = {"dagId": RUN_ID, "dagName": NAME, "task": NAME, "name": r"^.+$", "trigger": NAME}

JSON = "application/json"
TEXT = "text/plain"
EVENTS = "text/event-stream"


class Answer(Struct, frozen=True):
    """What comes with a status. `shape`: of its JSON."""

    words: str
    shape: type[Struct] | None = None
    media: str = JSON
    headers: Sequence[str] = ()


class Operation(Struct, frozen=True, kw_only=True):
    id: str
    method: str
    path: str
    scope: Scope | None
    """None: any token."""
    words: str
    query: type[Struct] = NoQuery
    answers: dict[int, Answer]
    refusals: Sequence[int] = ()
    """Beside 400 (a query that is not understood), 401, 403, 429, 500 and 503."""
    takes_dag: bool = False
    takes_event: bool = False
    """A JSON object, and an Idempotency-Key beside it."""
    resumes: bool = False
    """By Last-Event-ID."""


OPERATIONS = (
    Operation(
        id="submit",
        method="POST",
        path="/dags",
        scope="submit",
        words="Submit a DAG, as YAML or JSON.",
        query=SubmitQuery,
        answers={
            200: Answer("The requestId was used before for the same DAG.", Submitted, headers=("Location",)),
            202: Answer("It is submitted.", Submitted, headers=("Location",)),
        },
        refusals=(408, 409, 413, 415),
        takes_dag=True,
    ),
    Operation(
        id="trigger",
        method="POST",
        path="/triggers/{trigger}",
        scope="submit",
        words="Tell a trigger of an event: a JSON object, or the notification of a bucket as S3 has it.",
        answers={
            200: Answer("Every event was sent before, or is none of the trigger's.", Triggered),
            202: Answer("What it starts is submitted.", Triggered),
        },
        refusals=(404, 408, 409, 413, 415),
        takes_event=True,
    ),
    Operation(
        id="listRuns",
        method="GET",
        path="/dags",
        scope="read",
        words="The newest runs of all DAGs, newest first, without their tasks.",
        query=RunsQuery,
        answers={200: Answer("The runs.", Runs)},
    ),
    Operation(
        id="getRun",
        method="GET",
        path="/dags/{dagId}",
        scope="read",
        words="One run with its tasks.",
        query=RunQuery,
        answers={200: Answer("The run.", WholeRun)},
        refusals=(404, 410),
    ),
    Operation(
        id="cancelRun",
        method="DELETE",
        path="/dags/{dagId}",
        scope="submit",
        words="Cancel a run: what waits never starts, what runs is ended.",
        answers={
            200: Answer("It had ended already.", Cancelling),
            202: Answer("It was asked to end.", Cancelling),
        },
        refusals=(404, 410),
    ),
    Operation(
        id="dagMetrics",
        method="GET",
        path="/dags/{dagName}/metrics",
        scope="read",
        words="The metrics of a DAG's last runs, newest first.",
        query=RunsQuery,
        answers={200: Answer("The runs' hashes.", DagMetrics)},
        refusals=(404,),
    ),
    Operation(
        id="taskLogs",
        method="GET",
        path="/dags/{dagId}/tasks/{task}/logs",
        scope="read",
        words="What a step of a task printed; with follow=true as it grows, to its end.",
        query=LogQuery,
        answers={200: Answer("The lines, as they were printed.", media=TEXT)},
        refusals=(404, 410),
    ),
    Operation(
        id="listArtifacts",
        method="GET",
        path="/dags/{dagId}/artifacts",
        scope="read",
        words="What a run has stored.",
        answers={200: Answer("The outputs.", Artifacts)},
        refusals=(404, 410),
    ),
    Operation(
        id="getArtifact",
        method="GET",
        path="/dags/{dagId}/tasks/{task}/artifacts/{name}",
        scope="read",
        words="The bytes of an output: a redirect to the object store, by a signed URL that expires. `name` may hold "
        "slashes.",
        answers={307: Answer("Where they are.", headers=("Location",))},
        refusals=(404, 410),
    ),
    Operation(
        id="events",
        method="GET",
        path="/events",
        scope="read",
        words="What happens, as server-sent events. Each id is a place in the feed: with Last-Event-ID it goes on "
        "after that. An event `gap` says that some are not kept any more.",
        query=EventsQuery,
        answers={200: Answer("The events; `data` is an object of the schema Event.", media=EVENTS)},
        resumes=True,
    ),
    Operation(
        id="systemStatus",
        method="GET",
        path="/system/status",
        scope="read",
        words="The services and their replicas, the work streams with pending and lag, Redis and the object store.",
        answers={200: Answer("How it is.", SystemStatus)},
    ),
    Operation(
        id="openapi",
        method="GET",
        path="/openapi.json",
        scope=None,
        words="This description.",
        answers={200: Answer("OpenAPI 3.1.")},
    ),
)
