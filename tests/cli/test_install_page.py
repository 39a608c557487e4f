"""docs/install.md as it is written: the wheel, and the three ways to install it. They need a package index."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helios.version import VERSION
from tests.cli.command import ROOT
from tests.cli.doc_pages import run, script

TOOLS = ("pipx==1.8.0", "uv==0.9.7")

pytestmark = [
    pytest.mark.skipif(not os.environ.get("HELIOS_LONG"), reason="it downloads much; `make test-install` runs it"),
    pytest.mark.timeout(600),
]


def test_every_way_to_install_gives_a_helios_that_runs_a_dag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = tmp_path / "tools"
    subprocess.run([sys.executable, "-m", "venv", str(tools)], check=True)
    subprocess.run([str(tools / "bin" / "pip"), "install", "--quiet", *TOOLS], check=True)
    places = {name: tmp_path / name for name in ("PIPX_HOME", "PIPX_BIN_DIR", "UV_TOOL_DIR", "UV_TOOL_BIN_DIR")}
    for name, place in places.items():
        monkeypatch.setenv(name, str(place))
    monkeypatch.setenv("PATH", f"{tools / 'bin'}:{os.environ['PATH']}")
    here = tmp_path / "here"
    here.mkdir()
    (here / "Makefile").write_text(
        f"wheel:\n\t@$(MAKE) --no-print-directory -C {ROOT} wheel\n\tln -s {ROOT}/dist dist\n"
    )
    # This checkout on the path would be taken for an installed Helios.
    run(f"unset PYTHONPATH\n{script(ROOT / 'docs' / 'install.md')}", here, 500)
    for binaries in (places["PIPX_BIN_DIR"], places["UV_TOOL_BIN_DIR"], here / "env" / "bin"):
        helios = str(binaries / "helios")
        assert (
            subprocess.run([helios, "--version"], check=True, capture_output=True, text=True).stdout.strip() == VERSION
        )
        environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "HELIOS_HOME": str(tmp_path / binaries.parent.name)}
        hello = [helios, "run", str(ROOT / "examples" / "hello.yaml")]
        done = subprocess.run(hello, env=environ, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        assert "SUCCEEDED" in done.stdout
