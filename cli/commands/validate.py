"""`helios validate`: what is wrong with a DAG, without running anything."""

from typing import Annotated

from cyclopts import Parameter

from cli.failure import SUCCEEDED, USAGE
from cli.figures import count
from cli.output import Format, narrate, put, put_json
from cli.submission import File, Params, name_of, problem_line, read_dag, read_param_options
from helios.dag import DagInvalid, parse_dag
from helios.dag_problem import Problem


def validate(
    file: File,
    /,
    *,
    param: Params = (),
    output: Annotated[Format, Parameter(name=["--output", "-o"])] = "table",
) -> int:
    """Check a DAG and name every problem with its line.

    Parameters
    ----------
    file
        The DAG, as YAML or JSON; - for standard input.
    param
        As for `helios run`: -p NAME=VALUE.
    output
        table for people and editors, json for one object.
    """
    text = read_dag(file)
    name = name_of(file)
    params = read_param_options(param)
    problems: list[Problem] = []
    warnings: list[Problem] = []
    tasks = 0
    dag_name = None
    try:
        parsed = parse_dag(text, params=params)
        warnings, tasks, dag_name = parsed.warnings, len(parsed.dag.tasks), parsed.dag.dag_name
    except DagInvalid as invalid:
        problems = invalid.problems
    if output == "json":
        put_json(
            {
                "valid": not problems,
                "dagName": dag_name,
                "tasks": tasks,
                "problems": [problem_object(each) for each in problems],
                "warnings": [problem_object(each) for each in warnings],
            }
        )
    else:
        for problem in problems:
            put(problem_line(name, problem))
        for warning in warnings:
            put(f"{problem_line(name, warning)} (warning)")
    if problems:
        narrate(f"{name} is not valid: {count(len(problems), 'problem')}")
        narrate("  next: correct the lines above; `helios schema` has the whole format")
        return USAGE
    narrate(f"{name} is valid: {dag_name}, {count(tasks, 'task')}")
    return SUCCEEDED


def problem_object(problem: Problem) -> dict[str, object]:
    return {"message": problem.message, "path": problem.path, "line": problem.line, "column": problem.column}
