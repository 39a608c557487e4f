"""The user's own editor, which works on a copy of the text in a file that is gone afterwards."""

import os
import shlex
import subprocess
import tempfile
from pathlib import Path

from cli.failure import CommandFailed

_HINT = "set EDITOR to a command that waits until the file is closed"


def editor_command() -> list[str]:
    """What VISUAL or else EDITOR says; vi where neither says anything. Raises CommandFailed."""
    said = next((value for name in ("VISUAL", "EDITOR") if (value := os.environ.get(name, "").strip())), "vi")
    try:
        return shlex.split(said)
    except ValueError as error:
        raise CommandFailed(f"{said} is no command: {error}", hint=_HINT) from None


def edited(command: list[str], text: str) -> str | CommandFailed:
    """The text as the editor leaves it, or why there is none; returns when the editor does.

    Nothing is raised: Textual takes the terminal back only after a block that ends well.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="helios-") as folder:
            file = Path(folder) / "dag.yaml"
            file.write_text(text, encoding="utf-8", errors="surrogateescape")
            code = subprocess.run([*command, str(file)], check=False).returncode
            if code:
                return CommandFailed(f"{command[0]} ended with {code}; the text is as it was", hint=_HINT)
            return file.read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        return CommandFailed(f"cannot edit with {command[0]}: {why}; the text is as it was", hint=_HINT)
