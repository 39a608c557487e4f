"""The workflows that `bench/argo.py` gives to Argo."""

from bench.argo import in_order, with_artifacts
from bench.bare_jobs import Bare

FIRST = {"name": "first", "image": "i", "command": ["sh", "-c", "echo > out"], "outputs": ["out"]}
SECOND = {
    "name": "second",
    "image": "i",
    "command": ["cat", "in"],
    "inputs": [{"fromTask": "first", "name": "out", "as": "in"}],
}


def test_a_workflow_has_the_order_of_the_bare_jobs_and_their_containers() -> None:
    jobs = {"a": Bare({"image": "i", "command": ["true"]}), "b": Bare({"image": "i", "command": ["false"]}, ["a"])}
    spec = in_order(jobs)
    main, *templates = spec["templates"]
    assert {task["name"]: task["dependencies"] for task in main["dag"]["tasks"]} == {"a": [], "b": ["a"]}
    assert [each["container"]["command"] for each in templates] == [["true"], ["false"]]


def test_a_workflow_passes_the_artifacts_that_a_dag_of_helios_passes() -> None:
    main, first, second = with_artifacts({"dagName": "two", "tasks": [FIRST, SECOND]})["templates"]
    assert first["outputs"]["artifacts"] == [{"name": "out", "path": "/artifacts/out"}]
    assert second["inputs"]["artifacts"] == [{"name": "in", "path": "/artifacts/in"}]
    passes = main["dag"]["tasks"][1]
    assert passes["dependencies"] == ["first"]
    assert passes["arguments"]["artifacts"] == [{"name": "in", "from": "{{tasks.first.outputs.artifacts.out}}"}]
