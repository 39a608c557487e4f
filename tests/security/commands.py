"""Commands run in the test's own process: starting one for each takes far longer than what it does."""

import contextlib
import io
import os
import pty
import threading
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

import pytest

from cli.main import run


@contextlib.contextmanager
def _surroundings(folder: Path, environ: Mapping[str, str]) -> Generator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith(("HELIOS_", "KUBECONFIG", "KUBERNETES_")):
                patch.delenv(name)
        for name, value in environ.items():
            patch.setenv(name, value)
        patch.chdir(folder)
        yield


def piped(words: Sequence[str], folder: Path, environ: Mapping[str, str]) -> tuple[int, str, str]:
    """The exit code, and what goes to standard output and standard error."""
    out, err = io.StringIO(), io.StringIO()
    with _surroundings(folder, environ), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(words)
    return code, out.getvalue(), err.getvalue()


def on_a_terminal(words: Sequence[str], folder: Path, environ: Mapping[str, str]) -> str:
    """All that a command writes to its terminal, but for the carriage returns that its driver adds."""
    ours, its = pty.openpty()
    seen: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # the other end is closed
            while piece := os.read(ours, 65536):
                seen.append(piece)

    reader = threading.Thread(target=read)
    reader.start()
    # As main() sets up its own streams.
    with (
        os.fdopen(its, "w", encoding="utf-8", errors="backslashreplace") as terminal,
        _surroundings(folder, environ),
        contextlib.redirect_stdout(terminal),
        contextlib.redirect_stderr(terminal),
    ):
        run(words)
    reader.join()
    os.close(ours)
    return b"".join(seen).decode("utf-8", "surrogateescape").replace("\r\n", "\n")
