"""`python -m cli.embedded.tether <module>`: runs the module, and ends at once when the lifeline is cut.

For systems whose kernel cannot end a process with its parent. The lifeline is a pipe that nobody writes to: its end of
file means that the process at the other end is gone.
"""

import os
import runpy
import sys
import threading


def hold(fd: int) -> None:
    """Start the thread that ends this process when the pipe's other end closes."""
    os.set_inheritable(fd, False)
    threading.Thread(target=_watch, args=(fd,), name="lifeline", daemon=True).start()


def _watch(fd: int) -> None:
    while os.read(fd, 1):
        pass
    os._exit(1)


def main() -> None:
    del sys.argv[0]
    hold(int(os.environ["HELIOS_LIFELINE_FD"]))
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
