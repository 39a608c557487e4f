"""`helios tui`: the dashboard, on this terminal or served to browsers."""

import contextlib
import os
import shlex
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from cyclopts import Parameter

from cli.connection import ALL, Link, connected
from cli.failure import BROKEN, SUCCEEDED, CommandFailed, with_extra
from cli.output import is_terminal, narrate

if TYPE_CHECKING:
    from tui.session import Options

SERVED_AT = "127.0.0.1:8415"
Switch = Annotated[bool, Parameter(negative=())]


def tui(
    address: str = "",
    /,
    *,
    read_only: Switch = False,
    ascii: Switch = False,
    theme: str = "",
    serve: Switch = False,
    serve_anywhere: Switch = False,
    recording: Path | None = None,
) -> int:
    """The dashboard: runs, tasks, logs and metrics, live. Press ? in it for its keys, q to leave.

    Parameters
    ----------
    address
        With --serve: HOST:PORT to listen at, 127.0.0.1:8415 unless given.
    read_only
        Nothing can be submitted, cancelled, retried or discarded.
    ascii
        Draw with ASCII characters only.
    theme
        Colours, by the name of a theme of Textual, such as nord or textual-light.
    serve
        Serve the dashboard to browsers, each with a session of its own, until Ctrl-C.
    serve_anywhere
        Let --serve listen at an address that other machines reach. There is no login.
    recording
        Show a file that `helios record` wrote; nothing is connected to, and nothing can be changed.
    """
    if (address or serve_anywhere) and not serve:
        raise CommandFailed("an address to listen at needs --serve", hint=f"helios tui --serve {address or SERVED_AT}")
    if not serve:
        check_terminal()
    try:
        from tui.session import Options
    except ImportError as error:
        raise missing(error) from None
    options = Options(
        read_only=read_only or recording is not None,
        ascii_only=ascii,
        theme=theme,
        recording=str(recording) if recording is not None else "",
    )
    check_theme(theme)
    with contextlib.ExitStack() as held:
        if recording is None:
            link = held.enter_context(connected(ALL))
        else:
            from cli.recorded import opened

            link = held.enter_context(opened(recording))
        if serve:
            return serve_browsers(address or SERVED_AT, command_of(options), anywhere=serve_anywhere)
        return show(link, options)


def missing(error: ImportError) -> CommandFailed:
    if (error.name or "").partition(".")[0] in ("tui", "cli", "helios"):
        raise error  # a fault of ours
    return CommandFailed(f"the dashboard is not installed: {error}", hint=with_extra("tui"))


def is_served() -> bool:
    """Whether a browser is at the other end, and no terminal is needed."""
    return os.environ.get("TEXTUAL_DRIVER", "").endswith("web_driver:WebDriver")


def check_terminal() -> None:
    if is_served():
        return
    if not (is_terminal(sys.stdin) and is_terminal(sys.stdout) and is_terminal(sys.stderr)):
        raise CommandFailed("the dashboard needs a terminal", hint="helios runs --watch")
    if os.environ.get("TERM", "dumb") == "dumb":
        raise CommandFailed(
            "the dashboard needs a terminal that can move its cursor, and TERM says it cannot",
            hint="helios runs --watch, or set TERM to what your terminal is",
        )


def check_theme(name: str) -> None:
    if not name:
        return
    try:
        from textual.theme import BUILTIN_THEMES
    except ImportError as error:
        raise missing(error) from None
    if name not in BUILTIN_THEMES:
        raise CommandFailed(f"there is no theme {name!r}", hint=f"take one of {', '.join(sorted(BUILTIN_THEMES))}")


def command_of(options: "Options") -> str:
    """What starts the dashboard for one browser, as a line for the shell; it has no secrets, the environment has."""
    words = [sys.executable, "-m", "cli.main", "tui"]
    words += ["--read-only"] * options.read_only + ["--ascii"] * options.ascii_only
    if options.theme:
        words.append(f"--theme={options.theme}")
    if options.recording:
        words.append(f"--recording={Path(options.recording).absolute()}")
    return f"exec {shlex.join(words)}"


def serve_browsers(address: str, command: str, *, anywhere: bool) -> int:
    try:
        from tui.serve import serve
    except ImportError as error:
        raise missing(error) from None
    serve(address, command, anywhere=anywhere)
    return SUCCEEDED


def show(link: Link, options: "Options") -> int:
    """Run the dashboard until the user leaves it."""
    try:
        from tui.app import HeliosApp
        from tui.preferences import PreferencesInvalid, preferences_file, read_preferences
        from tui.session import Session
        from tui.source.feed import Feed
    except ImportError as error:
        raise missing(error) from None
    try:
        preferences = read_preferences(preferences_file())
    except PreferencesInvalid as error:
        raise CommandFailed(str(error), hint="correct or remove that file") from None
    if preferences.ascii:
        options = msgspec.structs.replace(options, ascii_only=True)
    if is_served():
        from cli.embedded.processes import die_with_parent

        die_with_parent()
    with terminal_to_itself():
        app = HeliosApp(Session(link, Feed(link), options), preferences)
        app.run()
        return BROKEN if app.return_code else SUCCEEDED


@contextlib.contextmanager
def terminal_to_itself() -> Generator[None]:
    """While this is open, what libraries and subprocesses write to stderr goes to a file; only the dashboard draws.

    Textual draws on `sys.__stderr__`, so that, and `sys.stderr` for the traceback of a crash, lead to the terminal.
    """
    import platformdirs

    folder = Path(platformdirs.user_state_dir("helios"))
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix="tui-", suffix=".log", dir=folder)
    except OSError as error:
        raise CommandFailed(
            f"{folder} cannot be written: {error.strerror}", hint="make it writable, or set XDG_STATE_HOME"
        ) from None
    kept, former = os.dup(2), (sys.stderr, sys.__stderr__)
    file = Path(name)
    with os.fdopen(os.dup(2), "w", encoding="utf-8", errors="backslashreplace") as terminal:
        sys.stderr = sys.__stderr__ = terminal  # pyright: ignore[reportAttributeAccessIssue] -- Final in the stubs only
        os.dup2(handle, 2)
        os.close(handle)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            sys.stderr, sys.__stderr__ = former  # pyright: ignore[reportAttributeAccessIssue] -- as above
    if file.stat().st_size:
        narrate(f"what was written beside the dashboard is in {file}")
    else:
        file.unlink()
