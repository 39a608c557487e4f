# pathlib costs ten milliseconds at every start:
# ruff: noqa: PTH208
"""Folders that a task has filled: how much is in them, and away with them, whatever the task has made of them.

A task may nest folders deeper than a path or a stack reaches, put links in everybody's way and change it all meanwhile.
Nothing here follows a link, holds more than DEEPEST descriptors, or calls itself. Functions raise OSError.
"""

import contextlib
import os

from agent.folders import opened, remove

DEEPEST = 128
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BLOCK = 512


class TooDeep(Exception):
    """Folders are nested more than DEEPEST deep."""


def bytes_below(path: str) -> int:
    """What the files below a folder take of the disk; one with several names counts for each. What vanishes meanwhile
    does not count. Raises TooDeep.
    """
    total = 0
    walk: list[tuple[int, list[str]]] = []
    try:
        walk.append((os.open(path, _FOLDER), []))
        total += _look(*walk[-1])
        while walk:
            folder, inner = walk[-1]
            if not inner:
                os.close(walk.pop()[0])
                continue
            name = inner.pop()
            if len(walk) >= DEEPEST:
                raise TooDeep
            with contextlib.suppress(OSError):
                walk.append((os.open(name, _FOLDER, dir_fd=folder), []))
                total += _look(*walk[-1])
    finally:
        for folder, _ in walk:
            os.close(folder)
    return total


def _look(folder: int, inner: list[str]) -> int:
    """The bytes of what is in a folder itself; its folders' names go into `inner`."""
    total = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                total += entry.stat(follow_symlinks=False).st_blocks * _BLOCK
                if entry.is_dir(follow_symlinks=False):
                    inner.append(entry.name)
    return total


def remove_all(name: str, parent: str) -> None:
    """Removes the folder parent/name with all below it; nothing happens when it is not there. Nobody may write below
    it any more.

    Inner folders are moved up beside it first, so that the depth does not matter; cut off, it leaves folders in
    `parent` whose names begin with `.gone-`.
    """
    with opened(parent) as above, contextlib.suppress(FileNotFoundError):
        os.rename(name, gone := _passing(), src_dir_fd=above, dst_dir_fd=above)
        _remove_flat([gone], above)


def remove_leftovers(parent: str) -> None:
    """What `remove_all` left when it was cut off."""
    with opened(parent) as above:
        _remove_flat([name for name in os.listdir(above) if name.startswith(".gone-")], above)


def _remove_flat(names: list[str], above: int) -> None:
    while names:
        gone = names.pop()
        try:
            folder = os.open(gone, _FOLDER, dir_fd=above)
        except NotADirectoryError:
            remove(gone, above)
            continue
        try:
            with os.scandir(folder) as entries:
                found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
            for name, is_folder in found:
                if is_folder:
                    os.rename(name, passing := _passing(), src_dir_fd=folder, dst_dir_fd=above)
                    names.append(passing)
                else:
                    remove(name, folder)
        finally:
            os.close(folder)
        os.rmdir(gone, dir_fd=above)


def _passing() -> str:
    return f".gone-{os.urandom(8).hex()}"
