"""The command line itself: what is imported, what is printed where, and which exit code stands for what."""

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.cli.command import COMMAND, ROOT, Helios

HEAVY = ("redis", "minio", "rich", "cyclopts", "msgspec", "yaml", "platformdirs", "urllib3")

EXPLAINED = ("run", "submit", "logs", "artifacts", "doctor", "put", "up", "env", "plan", "why", "assert", "gc")

VALID = "dagName: x\ntasks: [{name: a, image: i, command: [c]}]\n"


def test_help_imports_nothing_heavy() -> None:
    """`helios --help` answers in a fraction of a second because of this."""
    code = f"import sys, cli.main; cli.main.run(['--help']); print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",), ("help",)])
def test_the_overview_names_every_command(helios: Helios, words: tuple[str, ...]) -> None:
    done = helios(*words)
    assert done.code == 0
    for name in (*EXPLAINED, "cancel", "runs", "show", "validate", "schema"):
        assert f"\n  {name} " in done.out
    assert done.err == ""


@pytest.mark.parametrize("name", EXPLAINED)
def test_every_command_explains_itself(helios: Helios, name: str) -> None:
    done = helios(name, "--help")
    assert done.code == 0, done.err
    assert f"Usage: helios {name}" in done.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("rnus",), "helios runs"),
        (("runs", "--bogus"), "--bogus"),
        (("run", "--bogus"), "--bogus"),
        (("logs",), "RUN"),
        (("runs", "--limit", "many"), "many"),
        (("runs", "--limit", "0"), "--limit"),
        (("runs", "-o", "xml"), "xml"),
        (("run", "nowhere.yaml"), "nowhere.yaml"),
        (("put", "nowhere.txt", "s3://bucket/key"), "nowhere.txt"),
        (("put", "nowhere.txt", "bucket/key"), "s3://"),
        (("put", "nowhere.txt", "s3://a.-b/key"), "side by side"),
        (("submit", "-", "--request-id", ""), "--request-id"),
    ],
)
def test_a_wrong_command_line_is_explained_with_exit_code_2(helios: Helios, words: tuple[str, ...], said: str) -> None:
    done = helios(*words)
    assert done.code == 2, done.err
    assert said in done.err
    assert "next:" in done.err
    assert done.out == ""


@pytest.mark.parametrize("words", [("runs",), ("show", "@latest"), ("cancel", "1-1"), ("submit", "-"), ("run", "-")])
def test_a_server_that_is_not_there_is_exit_code_3(helios: Helios, words: tuple[str, ...]) -> None:
    done = helios(*words, text=VALID)
    assert done.code == 3, done.err
    assert "127.0.0.1:1 cannot be reached" in done.err
    assert "next:" in done.err


def test_a_password_is_not_printed_with_the_address(helios: Helios) -> None:
    helios.environ["HELIOS_REDIS_URL"] = "redis://someone:secret@127.0.0.1:1/0"
    done = helios("runs")
    assert done.code == 3
    assert "secret" not in done.err


def test_doctor_says_what_is_missing_and_how_to_mend_it(helios: Helios) -> None:
    helios.environ["HELIOS_S3_ENDPOINT"] = "http://127.0.0.1:1"
    done = helios("doctor", "-o", "json")
    assert done.code == 3
    findings = {each["check"]: each for each in done.json()}
    assert not findings["redis"]["ok"]
    assert findings["redis"]["fix"]
    assert not findings["s3"]["ok"]


@pytest.mark.parametrize("home", ["/proc/nowhere", "/tmp/" + "x" * 1_000])
@pytest.mark.parametrize("words", [("runs",), ("run", "-"), ("up",)])
def test_a_home_that_cannot_be_used_is_explained(helios: Helios, home: str, words: tuple[str, ...]) -> None:
    helios.environ.pop("HELIOS_REDIS_URL")
    helios.environ["HELIOS_HOME"] = home
    done = helios(*words, text=VALID)
    assert done.code == 3
    assert "HELIOS_HOME" in done.err
    assert "next:" in done.err


@pytest.mark.parametrize("variable", ["HELIOS_PARTITIONS", "HELIOS_LEASE_SECONDS"])
def test_a_bad_variable_is_named(helios: Helios, variable: str) -> None:
    helios.environ[variable] = "many"
    done = helios("runs")
    assert done.code == 2
    assert variable in done.err


def test_every_problem_of_a_dag_comes_with_its_line(helios: Helios) -> None:
    text = "dagName: x\ntasks:\n  - {name: a, image: i, command: [c], depends_on: [zz]}\n  - {name: a, image: i}\n"
    done = helios("validate", helios.dag("bad", text))
    assert done.code == 2
    lines = done.out.splitlines()
    assert any(line.startswith("bad.yaml:3") and "zz" in line for line in lines), lines
    assert any(line.startswith("bad.yaml:4") for line in lines), lines
    found = helios("validate", "-", "-o", "json", text=text).json()
    assert not found["valid"]
    assert {"message", "path", "line", "column"} == set(found["problems"][0])


def test_a_valid_dag_is_called_valid_with_its_warnings(helios: Helios) -> None:
    done = helios("validate", "-", text=f"artifactRepository: x\n{VALID}")
    assert done.code == 0
    assert "(warning)" in done.out
    assert "is valid" in done.err


WITH_PARAMS = "dagName: x\nparams: {date: }\ntasks: [{name: a, image: i, command: ['${params.date}']}]\n"


def test_a_dag_is_checked_with_the_parameters_that_a_run_would_have(helios: Helios) -> None:
    assert helios("validate", "-", "-p", "date=2026-11-01", text=WITH_PARAMS).code == 0
    missing = helios("validate", "-", text=WITH_PARAMS)
    assert (missing.code, "-p date=VALUE" in missing.out) == (2, True)
    unknown = helios("run", "-", "-p", "date=1", "--param", "dat=a=b", text=WITH_PARAMS)
    assert unknown.code == 2
    assert "no parameter 'dat'; did you mean 'date'?" in unknown.err


@pytest.mark.parametrize("command", ["run", "submit", "plan", "validate"])
@pytest.mark.parametrize(
    ("words", "said"),
    [(("-p", "date"), "-p NAME=VALUE"), (("-p", "=x"), "-p NAME=VALUE"), (("-p", "a=1", "-p", "a=2"), "twice")],
)
def test_what_is_no_parameter_is_said_before_anything_is_sent(
    helios: Helios, command: str, words: tuple[str, ...], said: str
) -> None:
    done = helios(command, "-", *words, text=WITH_PARAMS)
    assert done.code == 2
    assert said in done.err


def test_the_schema_is_json(helios: Helios) -> None:
    assert json.loads(helios("schema").out)["title"] == "Helios DAG"


def test_the_version_is_that_of_the_package(helios: Helios) -> None:
    from importlib.metadata import version

    assert helios("version").out == f"{version('helios')}\n"
    assert helios("--version").out == helios("version").out


@pytest.mark.parametrize("words", [("schema",), ("--help",), ("validate", "bad.yaml")])
def test_a_closed_pipe_ends_a_command_without_a_word(helios: Helios, words: tuple[str, ...]) -> None:
    helios.dag("bad", "tasks: 1")
    read, write = os.pipe()
    os.close(read)
    process = subprocess.Popen(
        [*COMMAND, *words], cwd=helios.folder, env=helios.environ, stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "BrokenPipe" not in err
    assert "Traceback" not in err


def test_colours_are_written_to_terminals_only_and_never_unwanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from cli.output import colourful, styled

    terminal, other = os.openpty()
    with os.fdopen(terminal, "wb"), os.fdopen(other, "w") as stream:
        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setenv("TERM", "xterm")
        assert styled("x", "red", stream) == "\x1b[31mx\x1b[0m"
        monkeypatch.setenv("NO_COLOR", "1")
        assert not colourful(stream)
        monkeypatch.setenv("NO_COLOR", "")
        monkeypatch.setenv("TERM", "dumb")
        assert styled("x", "red", stream) == "x"
    with open(os.devnull, "w") as stream:
        assert not colourful(stream)


def test_a_server_that_is_no_redis_is_named_as_such(tmp_path: Path) -> None:
    """A wrong port is the user's to correct, not a fault of Helios."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            connection.recv(4096)
            connection.sendall(b"<html>no Redis here</html>\r\n")
            connection.close()

        threading.Thread(target=answer, daemon=True).start()
        helios = Helios(tmp_path, {"HELIOS_REDIS_URL": f"redis://127.0.0.1:{listener.getsockname()[1]}/0"})
        done = helios("runs")
    assert done.code == 3
    assert "does not speak Redis" in done.err


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("HELIOS_CACHE_LIMIT_BYTES", "50GB", "a whole number of bytes"),
        ("HELIOS_CACHE_LOW", "0.99", "must not be above HELIOS_CACHE_HIGH"),
        ("HELIOS_DISK_RESERVE_MB", "some", "a whole number of megabytes"),
    ],
)
def test_a_setting_with_which_no_node_would_start_is_refused_before_anything_starts(
    tmp_path: Path, name: str, value: str, said: str
) -> None:
    """Runs would wait for ever for the node."""
    done = Helios(tmp_path, {"HELIOS_HOME": str(tmp_path / "home"), name: value})("runs")
    assert done.code == 2
    assert name in done.err
    assert said in done.err
    assert not (tmp_path / "home").exists()
