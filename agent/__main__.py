# pathlib costs ten milliseconds at every start:
# ruff: noqa: PTH120
"""`python -I -S <folder or zipapp> fetch|publish|exec|keep|node|version`: a thin shell over the functions of the
same names.

Each verb reads its environment once, runs one function and turns its outcome into an exit code. Exit 2 means that a
verb could not even begin: a wrong verb or a wrong environment (exec uses 125 for that, since 2 may be the command's
own).
"""

import gc
import os
import sys
from collections.abc import Callable

USAGE = "usage: agent fetch | publish | exec -- COMMAND [ARG...] | keep | node | version\n"


def main(arguments: list[str]) -> int:
    """Runs one verb and returns the process's exit code."""
    # Nearly all that imports make stays; looking through it for garbage again and again is a tenth of the start.
    gc.disable()
    # http.client imports ssl, which takes five milliseconds, only if it can; agent.web imports it itself, once it
    # meets an https URL. None is the documented way to make an import fail, and this process is all ours.
    sys.modules["ssl"] = None  # pyright: ignore[reportArgumentType]  # the types know modules only
    verb = _verb(arguments)
    del sys.modules["ssl"]
    gc.freeze()
    gc.enable()
    return verb()


def _verb(arguments: list[str]) -> Callable[[], int]:
    """The verb, imported and ready to run."""
    match arguments:
        case ["version", *_]:
            return _print_version
        case ["exec", *command]:
            from agent.wrapper import exec_verb

            return lambda: exec_verb(command, dict(os.environ))
        case ["fetch", *_]:
            from agent.fetch import fetch_verb

            return lambda: fetch_verb(dict(os.environ))
        case ["publish", *_]:
            from agent.publish import publish_verb

            return lambda: publish_verb(dict(os.environ))
        case ["keep", *_]:
            from agent.keep import keep_verb

            return lambda: keep_verb(dict(os.environ))
        case ["node", *_]:
            from agent.node import node_verb

            return lambda: node_verb(dict(os.environ))
        case _:
            return _print_usage


def _print_version() -> int:
    from agent.version import VERSION

    os.write(1, f"{VERSION}\n".encode())
    return 0


def _print_usage() -> int:
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
    # Taking the interpreter apart costs milliseconds and serves nothing here: all output is written by os.write.
    os._exit(main(sys.argv[1:]))
