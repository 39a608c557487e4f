"""Pages of the documentation, run as they are written: their blocks marked `sh local`, in order, in one shell."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.cli.command import NOT_OURS, ROOT


def script(page: Path, before: Mapping[str, str] | None = None, after: Mapping[str, str] | None = None) -> str:
    """The page's blocks; `before` and `after` name sections, and what belongs around all blocks of each."""
    lines = ["set -eu"]
    for section in re.split(r"^## ", page.read_text(encoding="utf-8"), flags=re.MULTILINE):
        title = section.partition("\n")[0]
        blocks = re.findall(r"^```sh local\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)
        if blocks:
            lines += [(before or {}).get(title, ""), *blocks, (after or {}).get(title, "")]
    return "\n".join(lines)


def run(script: str, folder: Path, seconds: float) -> str:
    """What it said, once it has succeeded in `folder`, with `helios` and `python` being this checkout's."""
    commands = folder / "bin"
    commands.mkdir()
    for name, arguments in (("helios", '-c "from cli.main import main; main()" "$@"'), ("python", '"$@"')):
        (commands / name).write_text(f"#!/bin/sh\nexec {sys.executable} {arguments}\n")
        (commands / name).chmod(0o755)
    environment = {name: text for name, text in os.environ.items() if not name.startswith(NOT_OURS)}
    environment |= {"PATH": f"{commands}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "HELIOS_LINGER_SECONDS": "5"}
    with (folder / "out.log").open("wb") as log:
        done = subprocess.run(
            ["bash", "-c", script], cwd=folder, env=environment, stdout=log, stderr=log, timeout=seconds
        )
    said = (folder / "out.log").read_text()
    assert done.returncode == 0, said[-4000:]
    return said
