"""`helios completions`: what a shell needs to complete the command's words."""

import keyword
from typing import Literal

from cli.failure import SUCCEEDED
from cli.output import put_as_it_is

Shell = Literal["bash", "zsh", "fish"]


def completions(shell: Shell, /) -> int:
    """Print a script that makes a shell complete commands, options and their values.

    bash: source <(helios completions bash); zsh: as the file _helios in a folder of $fpath; fish: as
    ~/.config/fish/completions/helios.fish.

    Parameters
    ----------
    shell
        bash, zsh or fish.
    """
    from cyclopts import App

    from cli.main import GROUPS

    app = App(name="helios", version_flags=[], help_format="plaintext")
    for commands in GROUPS.values():
        for command in commands:
            module = f"{command.name}_" if keyword.iskeyword(command.name) else command.name
            app.command(f"cli.commands.{module}:{module}", name=command.name, help=command.summary)
    put_as_it_is(app.generate_completion(prog_name="helios", shell=shell).rstrip("\n"))
    return SUCCEEDED
