# pathlib costs ten milliseconds at every start:
# ruff: noqa: PTH208
"""Folders that a task has filled: how much is in them, and away with them, whatever the task has made of them.

A task may nest folders deeper than a path or a stack reaches, put more into one than fits into memory, put links in
everybody's way and change it all meanwhile. Nothing here follows a link, lists a folder as a whole, holds more than
DEEPEST folders open, or calls itself. Functions raise OSError.
"""

import contextlib
import errno
import os

from agent.folders import opened, remove

DEEPEST = 128
LEAST_BYTES = 512
"""What each name counts for at least: where it takes no block it takes an inode, of which a disk has only so many."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BLOCK = 512
_GONE = ".gone-"


class TooDeep(Exception):
    """Folders are nested more than DEEPEST deep."""


class _Level:
    """A folder of a walk that is open, and how far it was read."""

    def __init__(self, name: str, parent: int | None) -> None:
        self.folder = os.open(name, _FOLDER, dir_fd=parent)
        try:
            self.entries = os.scandir(self.folder)
        except BaseException:
            os.close(self.folder)
            raise

    def close(self) -> None:
        self.entries.close()
        os.close(self.folder)


def bytes_below(path: str, enough: int) -> int:
    """What the files below a folder take of the disk; one with several names counts for each. What vanishes meanwhile
    does not count, and the rest is not looked at once it is more than `enough`. Raises TooDeep.
    """
    total = 0
    walk = [_Level(path, None)]
    try:
        while walk and total <= enough:
            entry = next(walk[-1].entries, None)
            if entry is None:
                walk.pop().close()
                continue
            with contextlib.suppress(OSError):
                total += max(LEAST_BYTES, entry.stat(follow_symlinks=False).st_blocks * _BLOCK)
                if entry.is_dir(follow_symlinks=False):
                    if len(walk) == DEEPEST:
                        raise TooDeep
                    walk.append(_Level(entry.name, walk[-1].folder))
    finally:
        for level in walk:
            level.close()
    return total


def bytes_of(path: str) -> int:
    """The same of one file."""
    return os.stat(path, follow_symlinks=False).st_blocks * _BLOCK  # noqa: PTH116  # see above


def remove_all(name: str, parent: str) -> None:
    """Removes the folder parent/name with all below it; nothing happens when it is not there. Nobody may write below
    it any more.

    It gets another name in `parent` first, and goes even if that takes a later process: see remove_aside.
    """
    gone = set_aside(name, parent)
    if gone is not None:
        remove_aside([gone], parent)


def set_aside(name: str, parent: str) -> str | None:
    """Gives the folder parent/name a name by which it is known as one to be removed; None when it is not there."""
    with opened(parent) as above, contextlib.suppress(FileNotFoundError):
        os.rename(name, gone := _passing(), src_dir_fd=above, dst_dir_fd=above)
        return gone
    return None


def all_aside(parent: str) -> list[str]:
    """What was set aside in `parent` and is not removed yet."""
    return [name for name in os.listdir(parent) if name.startswith(_GONE)]


def remove_aside(names: list[str], parent: str) -> None:
    """Removes what was set aside. May be cut off, and done again."""
    with opened(parent) as above:
        for name in names:
            try:
                folder = os.open(name, _FOLDER, dir_fd=above)
            except NotADirectoryError:
                remove(name, above)
                continue
            try:
                while _emptied_some(folder):
                    pass
            finally:
                os.close(folder)
            os.rmdir(name, dir_fd=above)


def _emptied_some(top: int) -> bool:
    """Removes the files in a folder and in the folders in it, and moves what folders these have up beside them, so that
    the depth does not matter. False when there was nothing; more may be left, since folders change under the reading.
    """
    found = False
    with os.scandir(top) as entries:
        for entry in entries:
            found = True
            if not entry.is_dir(follow_symlinks=False):
                remove(entry.name, top)
                continue
            level = _Level(entry.name, top)
            try:
                for inner in level.entries:
                    if inner.is_dir(follow_symlinks=False):
                        os.rename(inner.name, _passing(), src_dir_fd=level.folder, dst_dir_fd=top)
                    else:
                        remove(inner.name, level.folder)
            finally:
                level.close()
            try:
                os.rmdir(entry.name, dir_fd=top)
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:
                    raise
    return found


def _passing() -> str:
    return f"{_GONE}{os.urandom(8).hex()}"
