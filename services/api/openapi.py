"""The OpenAPI description, made of the operations and their structs. No I/O happens here."""

from typing import Any

import msgspec

from helios.dag_format import DagSpec
from helios.events import AnyEvent
from helios.version import VERSION
from services.api.operations import EVENTS, JSON, OPERATIONS, PATTERNS, PREFIX, TEXT, Answer, Operation
from services.api.problems import TITLES, ProblemAnswer

REFUSALS = (400, 401, 403, 429, 500, 503)
"""What any operation may answer."""
REFERENCE = "#/components/schemas/{name}"


def describe() -> bytes:
    """The document, as JSON."""
    shapes: list[Any] = [DagSpec, AnyEvent, ProblemAnswer]
    for each in OPERATIONS:
        shapes += [answer.shape for answer in each.answers.values() if answer.shape is not None]
    (_, event, *_), schemas = msgspec.json.schema_components(shapes, ref_template=REFERENCE)
    schemas["Event"] = event
    paths: dict[str, dict[str, Any]] = {}
    for each in OPERATIONS:
        paths.setdefault(PREFIX + each.path, {})[each.method.lower()] = _operation(each)
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "Helios",
            "version": VERSION,
            "description": "Runs DAGs of containers and makes repeated inputs free.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }
    return msgspec.json.encode(document)


def _operation(each: Operation) -> dict[str, Any]:
    scope = f" Needs the scope `{each.scope}`." if each.scope else ""
    found: dict[str, Any] = {
        "operationId": each.id,
        "summary": each.words,
        "description": each.words + scope,
        "parameters": [*_path_parameters(each.path), *_query_parameters(each)],
        "responses": {str(status): _answer(answer) for status, answer in each.answers.items()},
    }
    if each.resumes:
        found["parameters"].append(
            {"name": "Last-Event-ID", "in": "header", "required": False, "schema": {"type": "string"}}
        )
    if each.takes_event:
        found["parameters"].append(
            {"name": "Idempotency-Key", "in": "header", "required": False, "schema": {"type": "string"}}
        )
        found["requestBody"] = {"required": True, "content": {JSON: {"schema": {"type": "object"}}}}
    for status in sorted({*REFUSALS, *each.refusals}):
        found["responses"][str(status)] = _refusal(status)
    if each.takes_dag:
        found["requestBody"] = {
            "required": True,
            "content": {
                JSON: {"schema": {"$ref": REFERENCE.format(name="DagSpec")}},
                "application/yaml": {"schema": {"type": "string"}},
            },
        }
    return found


def _path_parameters(path: str) -> list[dict[str, Any]]:
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "pattern": PATTERNS[name]}}
        for name in names
    ]


def _query_parameters(each: Operation) -> list[dict[str, Any]]:
    (_,), components = msgspec.json.schema_components([each.query], ref_template=REFERENCE)
    schema = components[each.query.__name__]
    found: list[dict[str, Any]] = []
    for name, value in schema["properties"].items():
        kinds = [kind for kind in value.get("anyOf", ()) if kind.get("type") != "null"]
        rest = {key: text for key, text in value.items() if key not in ("anyOf", "default")}
        plain = {**rest, **kinds[0]} if kinds else value
        found.append({"name": name, "in": "query", "required": False, "schema": plain})
    return found


def _answer(answer: Answer) -> dict[str, Any]:
    found: dict[str, Any] = {"description": answer.words}
    if answer.shape is not None:
        found["content"] = {JSON: {"schema": {"$ref": REFERENCE.format(name=answer.shape.__name__)}}}
    elif answer.media in (TEXT, EVENTS):
        found["content"] = {answer.media: {"schema": {"type": "string"}}}
    elif not answer.headers:
        found["content"] = {JSON: {"schema": {"type": "object"}}}
    if answer.headers:
        found["headers"] = {name: {"schema": {"type": "string"}} for name in answer.headers}
    return found


def _refusal(status: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        "description": TITLES[status],
        "content": {"application/problem+json": {"schema": {"$ref": REFERENCE.format(name="ProblemAnswer")}}},
    }
    if status in (429, 503):
        found["headers"] = {"Retry-After": {"schema": {"type": "integer"}}}
    return found
