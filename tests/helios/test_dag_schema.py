"""The JSON Schema for editors is the one in docs/."""

from pathlib import Path
from typing import Any

import msgspec

from helios.dag import parse_dag
from helios.dag_format import dag_schema
from helios.dag_problem import LIMITS

REPO = Path(__file__).parents[2]


def definitions() -> dict[str, Any]:
    return msgspec.json.decode(dag_schema())["$defs"]


def test_the_committed_schema_is_the_generated_one() -> None:
    committed = (REPO / "docs/dag.schema.json").read_bytes()
    assert committed == dag_schema(), "regenerate it: helios schema > docs/dag.schema.json"


def test_the_schema_says_what_the_parser_enforces() -> None:
    schema = definitions()
    assert all(
        definition.get("additionalProperties") is False for definition in schema.values() if "properties" in definition
    )
    assert schema["DagSpec"]["required"] == ["dagName", "tasks"]
    assert schema["TaskSpec"]["required"] == ["name", "image", "command"]
    assert schema["DagSpec"]["properties"]["dagName"]["maxLength"] == LIMITS.max_dag_name_chars
    assert schema["DagSpec"]["properties"]["tasks"]["maxItems"] == LIMITS.max_tasks
    assert schema["TaskSpec"]["properties"]["name"]["maxLength"] == LIMITS.max_task_name_chars
    assert schema["TaskSpec"]["properties"]["image"]["maxLength"] == LIMITS.max_image_chars
    assert schema["RetriesSpec"]["properties"]["count"]["maximum"] == LIMITS.max_retries


def test_every_field_a_user_meets_is_described() -> None:
    schema = definitions()
    for name in ("DagSpec", "TaskSpec", "InputSpec"):
        for field, of_field in schema[name]["properties"].items():
            assert "description" in str(of_field) or "$ref" in str(of_field), f"{name}.{field}"


def test_every_dag_in_the_documentation_is_valid() -> None:
    text = (REPO / "docs/dag.md").read_text()
    blocks = [block.partition("```")[0] for block in text.split("```yaml\n")[1:]]
    dags = [block for block in blocks if "dagName:" in block]
    assert dags
    for block in dags:
        parse_dag(block.encode())
