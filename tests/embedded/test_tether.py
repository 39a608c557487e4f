"""A process on a lifeline: it runs the module as usual, and ends when the other end of the pipe is gone."""

import os
import subprocess
import sys
from pathlib import Path


def test_a_tethered_module_ends_when_its_lifeline_is_cut(tmp_path: Path):
    """Where the kernel does not end a child with its parent, this does."""
    (tmp_path / "waiter.py").write_text("import signal, sys\nprint(__name__, sys.argv, flush=True)\nsignal.pause()\n")
    ours, theirs = os.pipe()
    os.set_inheritable(ours, True)
    process = subprocess.Popen(
        [sys.executable, "-m", "cli.embedded.tether", "waiter", "word"],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "HELIOS_LIFELINE_FD": str(ours)},
        pass_fds=(ours,),
        stdout=subprocess.PIPE,
        text=True,
    )
    os.close(ours)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("__main__ [")
    assert process.poll() is None
    os.close(theirs)
    assert process.wait(60) == 1
    process.stdout.close()
