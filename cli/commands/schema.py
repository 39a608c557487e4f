"""`helios schema`: the format of DAGs for editors."""

from cli.failure import SUCCEEDED
from cli.output import put
from helios.dag_format import dag_schema


def schema() -> int:
    """Print the JSON Schema of DAGs, for editors and other tools."""
    put(dag_schema().decode().rstrip("\n"))
    return SUCCEEDED
