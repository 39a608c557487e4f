# pathlib costs ten milliseconds at every start:
# ruff: noqa: PTH120
"""`python -I -S <folder or zipapp> fetch|publish|exec|version`: a thin shell over the functions of the same names.

Each verb reads its environment once, runs one function and turns its outcome into an exit code. Exit 2 means that a
verb could not even begin: a wrong verb or a wrong environment (exec uses 125 for that, since 2 may be the command's
own).
"""

import os
import sys

USAGE = "usage: agent fetch | publish | exec -- COMMAND [ARG...] | version\n"


def main(arguments: list[str]) -> int:
    """Runs one verb and returns the process's exit code."""
    verb = arguments[0] if arguments else ""
    if verb == "version":
        from agent.version import VERSION

        os.write(1, f"{VERSION}\n".encode())
        return 0
    if verb == "exec":
        from agent.wrapper import exec_verb

        return exec_verb(arguments[1:], dict(os.environ))
    if verb == "fetch":
        from agent.fetch import fetch_verb

        return fetch_verb(dict(os.environ))
    if verb == "publish":
        from agent.publish import publish_verb

        return publish_verb(dict(os.environ))
    os.write(2, USAGE.encode())
    return 2


def bind_package() -> None:
    """Makes `import agent.x` work when this runs as a folder or a zipapp, whatever either is called.

    sys.path[0] is then the inside of the package, where plan.py or names.py could shadow modules of the same name; it
    is taken off.
    """
    from types import ModuleType

    here = os.path.dirname(__file__)
    package = ModuleType("agent")
    package.__path__ = [here]
    sys.modules["agent"] = package
    sys.path[:] = [entry for entry in sys.path if entry != here]


if __name__ == "__main__":
    if not __package__:
        bind_package()
    sys.exit(main(sys.argv[1:]))
