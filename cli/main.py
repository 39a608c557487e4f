"""The entry point: finds the command, imports only that one, and turns whatever it raises into words and an exit code.

Rule: nothing heavy is imported here, so that `helios --help` answers at once; the overview is plain text for the same
reason. The commands' own help comes from their signatures.
"""

import io
import keyword
import os
import signal
import sys
from collections.abc import Sequence
from typing import NamedTuple

from cli.failure import BROKEN, INTERRUPTED, SUCCEEDED, CommandFailed
from cli.output import narrate, put, silence_stdout, styled


class Command(NamedTuple):
    name: str
    usage: str
    summary: str


GROUPS: dict[str, tuple[Command, ...]] = {
    "Run": (
        Command("run", "FILE [--no-cache] [--plan]", "Run a DAG, follow it to its end and show its metrics."),
        Command("plan", "FILE [--no-cache] [-o json]", "Say what a run would fetch, skip and take."),
        Command("submit", "FILE|- [--watch]", "Submit a DAG and print the run's id."),
        Command("cancel", "RUN", "Cancel a run."),
        Command("schedule", "[add|list|show|remove|pause|resume] …", "Submit DAGs at their times, as cron does."),
        Command(
            "trigger", "[add|list|show|remove|pause|resume] …", "Start DAGs by events: streams, webhooks, buckets."
        ),
        Command("put", "FILE s3://bucket/key", "Store a file that DAGs can name as an input."),
    ),
    "Look": (
        Command("tui", "[--serve] [--recording FILE]", "The dashboard: runs, tasks and logs, live on the full screen."),
        Command("runs", "[DAG] [--limit N] [--watch]", "List runs, newest first, or watch them."),
        Command("show", "RUN", "Show one run: its metrics, its tasks, its reasons."),
        Command("why", "RUN TASK [--input NAME]", "Say why a task ran, and why its inputs were hits or misses."),
        Command("assert", "RUN --hit-bytes 0.8 …", "Check that a run kept to what is expected of it, for CI."),
        Command("logs", "RUN TASK [--follow]", "Print what a task printed."),
        Command("critical", "RUN", "Show what a run waited for: its critical path, phase by phase."),
        Command("cache", "stats [--dag NAME] [--node NODE]", "Show what the cache saved, by DAG and by node."),
        Command("record", "FILE [RUN ...]", "Write the records of runs into a file for `helios tui --recording`."),
        Command("artifacts", "RUN [TASK] [NAME] [--to DIR]", "List the outputs of a run, or fetch them."),
    ),
    "Write": (
        Command("validate", "FILE", "Check a DAG and name every problem with its line."),
        Command(
            "import",
            "argo|wfformat FILE [--to FILE]",
            "Make a DAG out of one of another system, and say what it lacks.",
        ),
        Command("init", "[FOLDER]", "Write a first DAG, and the schema by which editors complete it."),
        Command("schema", "", "Print the JSON Schema of DAGs, for editors."),
    ),
    "Operate": (
        Command("up", "[--replicas N] [--http PORT]", "Run everything in the foreground and say how to reach it."),
        Command("token", "NAME [--scope read|submit]", "Make a token for the HTTP API, and the entry that lets it in."),
        Command("env", "", "Print how to reach the embedded servers, for eval."),
        Command("gc", "[--dry-run] [--older-than 7d]", "Delete stored outputs of runs that are no longer kept."),
        Command(
            "dead", "[list|show|retry|discard] …", "Look at entries that could not be handled; retry or discard them."
        ),
        Command("recover", "[--apply]", "Rebuild the runs that a lost Redis had under way."),
        Command("doctor", "[--cluster]", "Check everything Helios needs; each failure comes with its fix."),
        Command("completions", "bash|zsh|fish", "Print what a shell needs to complete the command's words."),
        Command("version", "[--services]", "Print the version, and those of the services."),
    ),
}

NOTES = """\
RUN is a run's id, or @latest for the newest run. FILE may be - for standard input.
Without HELIOS_REDIS_URL everything runs on this machine, under HELIOS_HOME.
Exit codes: 0 succeeded, 1 the run failed, 2 usage or invalid DAG, 3 cannot connect, 4 cancelled, 130 interrupted.
`helios COMMAND --help` tells more about each command; docs/cli.md shows them all."""


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = run(sys.argv[1:])
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is over; one more Ctrl-C must not end in a traceback
    except KeyboardInterrupt:
        code = INTERRUPTED
    try:
        sys.stdout.flush()
    except (BrokenPipeError, ValueError):
        silence_stdout()
    sys.exit(code)


def run(tokens: Sequence[str]) -> int:
    """Run one command line; never raises for what a user can do wrong."""
    try:
        if not tokens or list(tokens) in (["--help"], ["-h"], ["help"]):
            put(overview())
            return SUCCEEDED
        if list(tokens) == ["--version"]:
            tokens = ["version"]
        if tokens[0] == "help":
            tokens = [*tokens[1:], "--help"]
        return _dispatch(tokens)
    except CommandFailed as failure:
        complain(failure)
        return failure.code
    except BrokenPipeError:
        silence_stdout()
        return SUCCEEDED
    except KeyboardInterrupt:
        narrate("interrupted")
        return INTERRUPTED
    except Exception as error:
        if os.environ.get("HELIOS_DEBUG"):
            raise
        narrate(f"helios: a fault of Helios itself: {type(error).__name__}: {error}")
        narrate("  next: run it again with HELIOS_DEBUG=1 and report the traceback")
        return BROKEN


def _dispatch(tokens: Sequence[str]) -> int:
    known = {command.name: command for commands in GROUPS.values() for command in commands}
    command = known.get(tokens[0])
    if command is None:
        import difflib

        near = difflib.get_close_matches(tokens[0], known, n=1)
        hint = f"did you mean `helios {near[0]}`? `helios --help` lists all commands" if near else "helios --help"
        raise CommandFailed(f"there is no command {tokens[0]!r}", hint=hint)

    from cyclopts import App, CycloptsError

    app = App(name="helios", version_flags=[], help_format="plaintext", help_formatter="plain")
    module = f"{command.name}_" if keyword.iskeyword(command.name) else command.name
    app.command(f"cli.commands.{module}:{module}", name=command.name)
    try:
        code = app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        raise CommandFailed(" ".join(str(error).split()), hint=f"helios {command.name} --help") from None
    return code if isinstance(code, int) else SUCCEEDED


def complain(failure: CommandFailed) -> None:
    narrate(f"{styled('helios:', 'red', sys.stderr)} {failure.message}")
    if failure.hint:
        narrate(f"  next: {failure.hint}")


def overview() -> str:
    """What `helios --help` prints."""
    lines = ["Helios runs DAGs of containers and makes repeated inputs free.", "", "Usage: helios COMMAND …", ""]
    for group, commands in GROUPS.items():
        lines.append(styled(f"{group}:", "bold", sys.stdout))
        for command in commands:
            call = f"{command.name} {command.usage}".strip()
            lines.append(f"  {call:<39} {command.summary}")
        lines.append("")
    return "\n".join([*lines, NOTES])


if __name__ == "__main__":
    main()
