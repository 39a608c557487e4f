"""The client against the whole product in local mode: one embedded stack, which the module's first client starts."""

import asyncio
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import helios
from cli.imports.argo import import_argo
from helios import AsyncClient, Client, Dag, DagInvalid, HeliosError, NotAccepted, RunFailed, Unreachable
from helios.dag_plain import yaml_text
from tests.redis_servers import Valkey

pytestmark = pytest.mark.timeout(180)
PAGE = Path(__file__).parents[2] / "docs" / "sdk.md"


@pytest.fixture(scope="module")
def client(at_home: Path) -> Iterator[Client]:
    with Client() as client:
        yield client


def one(name: str, script: str, **fields: Any) -> Dag:
    dag = Dag(name)
    dag.task("only", image="alpine", command=["sh", "-c", script], **fields)
    return dag


def test_every_line_of_python_in_the_documentation_runs(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page is one program, from its top to its end."""
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text()
    code = [block.partition("\n```")[0] for block in text.split("```python\n")[1:]]
    assert len(code) >= 5
    told: list[str] = []
    names: dict[str, Any] = {"__name__": "page"}
    try:
        for block in code:
            exec(compile(block, str(PAGE), "exec"), names)
            told.append(capsys.readouterr().out)
    finally:
        if "client" in names:
            names["client"].close()
    assert told[1].strip() == text.split("```\ntasks['report']")[1].join(["tasks['report']", ""]).partition("\n```")[0]
    assert told[2].startswith("SUCCEEDED")
    assert (tmp_path / "results" / "count" / "words").read_text().strip() == "6"
    assert "count SUCCEEDED" in told[3]
    assert told[4].count("SUCCEEDED") == 2


def test_a_run_is_submitted_followed_and_its_outputs_fetched(client: Client, tmp_path: Path) -> None:
    run = client.submit(one("follows", "echo hello; echo hello > out.txt", outputs=["out.txt"]))
    updates = list(run.follow(timeout=60))
    assert [each.status for each in updates][-1] == "SUCCEEDED"
    assert updates[-1].settled
    info = run.wait()
    assert (info.dag_id, info.dag_name, info.status, info.task_succeeded) == (run.id, "follows", "SUCCEEDED", 1)
    assert client.run(run.id).info() == client.run().info() == info
    assert [each.dag_id for each in client.runs("follows")] == [run.id]
    (artifact,) = run.artifacts("only", "out.txt")
    assert (artifact.bytes, artifact.archive) == (6, False)
    assert run.fetch(tmp_path, "only") == [tmp_path / "out.txt"]
    assert (tmp_path / "out.txt").read_text() == "hello\n"
    (tmp_path / "out.txt").write_text("mine")
    with pytest.raises(HeliosError, match="other content"):
        run.fetch(tmp_path, "only")
    run.fetch(tmp_path, "only", force=True)
    assert (tmp_path / "out.txt").read_text() == "hello\n"
    assert run.logs("only") == ["hello"]


def test_a_submission_gives_the_values_of_parameters(client: Client) -> None:
    dag = Dag("daily", params={"day": None})
    dag.task("t", image="alpine:3.20", command=["echo", "it is ${params.day}"])
    run = client.submit(dag, params={"day": 7}).wait(timeout=60)
    assert run.params == {"day": "7"}
    with pytest.raises(DagInvalid, match="day"):
        client.submit(dag)


def test_a_file_that_is_put_is_an_input(client: Client, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("moby")
    uri = client.put(tmp_path / "in.txt", "s3://corpora/sdk/in.txt")
    run = client.submit(one("puts", "cat in.txt > out", inputs=[uri], outputs=["out"]))
    assert run.wait(timeout=60, check=True).task("only").inputs[0].name == "in.txt"
    assert run.fetch(tmp_path / "to", "only")[0].read_text() == "moby"


def test_a_failed_run_says_why(client: Client) -> None:
    run = client.submit(one("fails", "exit 3"))
    with pytest.raises(RunFailed, match=r"only: .*3") as failed:
        run.wait(timeout=60, check=True)
    assert failed.value.info.task("only").exit_code == 3


def test_a_run_is_cancelled_and_a_wait_ends_in_time(client: Client) -> None:
    run = client.submit(one("sleeps", "sleep 600"))
    with pytest.raises(TimeoutError, match="goes on"):
        run.wait(timeout=0.5)
    run.cancel()
    assert run.wait(timeout=60).status == "CANCELLED"


def test_a_request_id_makes_one_run_however_often_it_is_submitted(client: Client) -> None:
    dag = one("once", "true")
    assert client.submit(dag, request_id="sdk-1").id == client.submit(dag, request_id="sdk-1").id


def test_what_the_submitter_rejects_names_every_problem(client: Client) -> None:
    with pytest.raises(DagInvalid) as rejected:
        client.submit("dagName: a b\ntasks: [{name: x, command: [y]}]")
    assert len(rejected.value.problems) == 2
    with pytest.raises(DagInvalid):
        client.submit(Dag("empty"))


def test_unknown_runs_and_outputs_are_named(client: Client, tmp_path: Path) -> None:
    with pytest.raises(HeliosError, match="there is no run 1-1"):
        client.run("1-1")
    run = client.submit(one("bare", "true"))
    run.wait(timeout=60)
    with pytest.raises(HeliosError, match="no task 'onyl'"):
        run.fetch(tmp_path, "onyl")


def test_asyncio_waits_for_many_runs_at_once_and_its_waits_can_be_cancelled(client: Client) -> None:
    async def all_of_it() -> list[str]:
        async with AsyncClient() as apart:
            runs = [await apart.submit(one(f"async-{at}", "true")) for at in range(3)]
            ended = await asyncio.gather(*(run.wait(timeout=60) for run in runs))
            sleeper = await apart.submit(one("async-sleeper", "sleep 600"))
            waiting = asyncio.create_task(sleeper.wait())
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await sleeper.cancel()
            seen = [each.status async for each in sleeper.follow(timeout=60)]
            return [*(info.status for info in ended), seen[-1]]

    assert asyncio.run(all_of_it()) == ["SUCCEEDED", "SUCCEEDED", "SUCCEEDED", "CANCELLED"]


def test_threads_may_share_a_client(client: Client) -> None:
    ended: list[str] = []
    run = client.submit(one("shared", "true"))
    threads = [threading.Thread(target=lambda: ended.append(run.wait(timeout=60).status)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ended == ["SUCCEEDED"] * 4


class Notebook:
    """What IPython is to whoever draws in it: a display with a handle, and a shell with a kernel."""

    def __init__(self) -> None:
        self.drawn: list[str] = []
        self.kernel = self

    def display(self, shown: Any, *, display_id: bool) -> "Notebook":
        assert display_id
        self.update(shown)
        return self

    def update(self, shown: Any) -> None:
        self.drawn.append(shown._repr_html_())


def test_a_notebook_shows_a_run_as_a_table_that_is_live(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = Notebook()
    ipython, display = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    ipython.__dict__["get_ipython"] = lambda: notebook
    display.__dict__["display"] = notebook.display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    run = client.submit(one("drawn", "echo '<b>' > out; exit 1", outputs=["out"]))
    info = run.watch(timeout=60)
    assert info.status == "FAILED"
    assert len(notebook.drawn) >= 2, "while it goes on, and at its end"
    assert notebook.drawn[-1] == info._repr_html_() == run._repr_html_()
    assert "FAILED" in notebook.drawn[-1]
    assert run.id in notebook.drawn[0]


def test_elsewhere_the_progress_is_lines(client: Client, capfd: pytest.CaptureFixture[str]) -> None:
    client.submit(one("lines", "true")).watch(timeout=60)
    assert "only" in capfd.readouterr().err


def test_servers_that_are_named_are_asked_and_nothing_else(shared_valkey: Valkey, valkey: Any) -> None:
    """A Redis without services: the submission stays, and the error says which run it will be."""
    with Client(shared_valkey.url, s3_endpoint="http://127.0.0.1:1") as client:
        with pytest.raises(NotAccepted, match="submitter") as waiting:
            client.submit(one("waits", "true"), accept_seconds=0.1)
        assert waiting.value.run.count("-") == 1
        assert client.runs() == []
        with pytest.raises(Unreachable, match="object store"):
            client.put(Path(__file__), "s3://bucket/k")


def test_servers_that_are_not_there_are_unreachable() -> None:
    with Client("redis://127.0.0.1:1/0") as client, pytest.raises(Unreachable, match=r"127\.0\.0\.1:1"):
        client.runs()
    with pytest.raises(HeliosError, match="HELIOS_PARTITIONS"):
        Client("redis://127.0.0.1:1/0", partitions="many")


def test_what_the_package_promises_is_there() -> None:
    assert {name for name in helios.__all__ if getattr(helios, name) is None} == set()
    assert set(helios.__all__) <= set(dir(helios))
    with pytest.raises(AttributeError, match="no attribute 'Dga'"):
        _ = helios.Dga  # pyright: ignore[reportAttributeAccessIssue]


def test_an_imported_workflow_runs(client: Client) -> None:
    """Its artifacts are found where its commands were told."""
    text = """
kind: Workflow
metadata: {name: imported}
spec:
  entrypoint: main
  templates:
  - name: main
    steps:
    - - {name: make, template: make}
    - - name: read
        template: read
        arguments: {artifacts: [{name: words, from: "{{steps.make.outputs.artifacts.words}}"}]}
  - name: make
    container: {image: alpine, command: [sh, -c, "echo moby dick > /tmp/out/words.txt"]}
    outputs: {artifacts: [{name: words, path: /tmp/out/words.txt}]}
  - name: read
    inputs: {artifacts: [{name: words, path: /data/in}]}
    script: {image: alpine, command: [sh], source: "cat /data/in"}
"""
    (found,) = import_argo(text)
    assert found.complete
    run = client.submit(yaml_text(found.dag))
    run.wait(timeout=60, check=True)
    assert run.logs("read") == ["moby dick"]
