"""JSON that comes from elsewhere, read into types that need no casts."""

import json

from agent.frozen import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TypeAlias

    Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"
else:
    Json = object


def read_json(data: bytes) -> Json:
    """Any JSON value; raises ValueError for what is none, or is nested too deeply."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_object(data: bytes) -> dict[str, Json] | None:
    """The JSON object in `data`, or None when it is anything else."""
    try:
        document = read_json(data)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None
