"""`helios init`: a first DAG, and the schema by which editors complete and check it."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from cli.failure import SUCCEEDED, CommandFailed
from cli.output import narrate, put
from helios.dag_format import dag_schema

SCHEMA = "dag.schema.json"

FIRST = f"""\
# yaml-language-server: $schema={SCHEMA}
dagName: first

tasks:
  - name: make
    image: alpine:3.20
    command: [sh, -c, "echo hello > words.txt"]   # runs in /artifacts
    outputs: [words.txt]

  - name: count
    image: alpine:3.20
    command: [sh, -c, "wc -w words.txt"]
    inputs:
      - {{fromTask: make, name: words.txt}}        # so it runs after make
"""


def init(folder: Path = Path(), /, *, force: Annotated[bool, Parameter(negative=())] = False) -> int:
    """Write dag.yaml, a first DAG, and dag.schema.json, which its first line names for editors.

    Parameters
    ----------
    folder
        Where to; this folder unless given. It is made when it is missing.
    force
        Replace a dag.yaml that is there. The schema is replaced in any case: it is this version's.
    """
    dag, schema = folder / "dag.yaml", folder / SCHEMA
    if dag.exists() and not force:
        raise CommandFailed(f"{dag} is there already", hint="give another folder, or --force to replace it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        schema.write_bytes(dag_schema())
        dag.write_text(FIRST, encoding="utf-8")
    except OSError as error:
        raise CommandFailed(f"cannot write {error.filename}: {error.strerror}", hint="give another folder") from None
    put(f"{dag}\n{schema}")
    narrate(f"next: helios run {dag}")
    return SUCCEEDED
