# pathlib costs ten milliseconds at every start:
# ruff: noqa: PTH123
"""Bind mounts, and the identity of the process that makes them: what of the kernel only the driver uses.

Python has no names for these calls; they are taken from the C library that it is linked with. All functions raise
OSError.
"""

import ctypes
import os
import re

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND = 0x1, 0x2, 0x4, 0x20, 0x1000
MNT_DETACH, UMOUNT_NOFOLLOW = 0x2, 0x8
PR_SET_KEEPCAPS, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 8, 24, 38
CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_SYS_ADMIN = 0, 1, 3, 21
_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


def bind(source: str, target: str, stage: str, *, readonly: bool = False) -> None:
    """Shows the folder `source` at the folder `target` as well, without devices and set-user-id programs.

    Flags need a second call, and what it changes stays in this process's own mount namespace, while the mount itself
    reaches the node's. So it gets them at the folder `stage`, which the node does not see, and `target` is its copy.
    """
    flags = MS_BIND | MS_NOSUID | MS_NODEV | (MS_RDONLY if readonly else 0)
    _mount(source, stage, MS_BIND)
    try:
        _mount(None, stage, MS_REMOUNT | flags)
        _mount(stage, target, MS_BIND)
    finally:
        _check(_libc.umount2(os.fsencode(stage), MNT_DETACH | UMOUNT_NOFOLLOW), stage)


def mounted_below(path: str) -> list[str]:
    """The mount points at and below `path`, as the kernel names them, in the order in which they were made."""
    wanted = os.fsencode(path)
    fd = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        # Most of a node's mounts are others': only lines that may be meant are taken apart.
        points = [_unescaped(line.split(b" ", 5)[4]) for line in file if wanted in _unescaped(line)]
    return [os.fsdecode(point) for point in points if point == wanted or point.startswith(wanted + b"/")]


def unmount_below(path: str) -> None:
    """Unmounts all that is mounted at and below `path`, inner first; nothing when nothing is. Whoever still works in
    one of them goes on until he is done.

    The mount points are the kernel's own, so no link that lies in one of them is ever followed.
    """
    for point in reversed(mounted_below(path)):
        _check(_libc.umount2(os.fsencode(point), MNT_DETACH | UMOUNT_NOFOLLOW), point)


def become(user: int, group: int, capabilities: tuple[int, ...]) -> None:
    """Makes root's process another user's, who keeps these capabilities and can gain no others, not even by executing
    a program. To be called before there is any other thread.
    """
    keep = sum(1 << each for each in capabilities)
    for each in range(64):
        if not keep >> each & 1 and _libc.prctl(PR_CAPBSET_DROP, each, 0, 0, 0) < 0:
            break  # the kernel knows no more
    _check(_libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0), "PR_SET_KEEPCAPS")
    os.setgroups([])
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    low, high = keep & 0xFFFFFFFF, keep >> 32
    _check(_libc.capset(header, (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)), "capset")
    _check(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS")


def _mount(source: str | None, target: str, flags: int) -> None:
    from_ = None if source is None else os.fsencode(source)
    _check(_libc.mount(from_, os.fsencode(target), None, ctypes.c_ulong(flags), None), target)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def _unescaped(text: bytes) -> bytes:
    """mountinfo writes blanks and backslashes as octal numbers."""
    return re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), text) if b"\\" in text else text
