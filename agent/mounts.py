# pathlib costs ten milliseconds at every start:
# ruff: noqa: PTH123
"""Bind mounts, and the identity of the process that makes them: what of the kernel only the driver uses.

Python has no names for these calls; they are taken from the C library that it is linked with. All functions raise
OSError.
"""

import ctypes
import errno
import os
import re

OPEN_TREE, MOVE_MOUNT, MOUNT_SETATTR = 428, 429, 442
"""System calls by their numbers, the same on all machines; the last one came with Linux 5.12, and C libraries lag."""
AT_FDCWD, AT_EMPTY_PATH, OPEN_TREE_CLONE, MOVE_MOUNT_F_EMPTY_PATH = -100, 0x1000, 0x1, 0x4
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC = 0x1, 0x2, 0x4, 0x8
MNT_DETACH, UMOUNT_NOFOLLOW = 0x2, 0x8
PR_SET_KEEPCAPS, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 8, 24, 38
CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_SYS_ADMIN = 0, 1, 3, 21
_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


def bind(source: str, target: str, *, readonly: bool = False) -> None:
    """Shows the folder `source` at the folder `target` as well, without devices and set-user-id programs.

    Programs can be run from it though they cannot from the mount that it is in: some systems forbid that below /var.

    The mount has its flags before it is anywhere: they would not follow it to the other namespaces that it is seen in,
    the node's and all containers'.
    """
    mount = _detached(source, readonly=readonly)
    try:
        _call(MOVE_MOUNT, mount, b"", AT_FDCWD, os.fsencode(target), MOVE_MOUNT_F_EMPTY_PATH, what=target)
    finally:
        os.close(mount)


def check_kernel(folder: str) -> None:
    """Raises OSError where `bind` cannot work."""
    try:
        os.close(_detached(folder, readonly=True))
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        raise OSError(errno.ENOSYS, "tasks' volumes need Linux 5.12 (mount_setattr), which this kernel lacks") from None


def _detached(source: str, *, readonly: bool) -> int:
    """A descriptor of a new mount of the folder; the mount goes with it unless it is put somewhere."""
    flags = OPEN_TREE_CLONE | os.O_CLOEXEC
    mount = _call(OPEN_TREE, AT_FDCWD, os.fsencode(source), flags, what=source)
    try:
        wanted = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | (MOUNT_ATTR_RDONLY if readonly else 0)
        attributes = (ctypes.c_uint64 * 4)(wanted, MOUNT_ATTR_NOEXEC, 0, 0)
        size = ctypes.sizeof(attributes)
        _call(MOUNT_SETATTR, mount, b"", AT_EMPTY_PATH, ctypes.byref(attributes), size, what=source)
    except OSError:
        os.close(mount)
        raise
    return mount


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


def _call(number: int, *arguments: object, what: str) -> int:
    """A system call; whole numbers are passed as the long ones that the kernel takes."""
    result: int = _syscall(number, *(ctypes.c_long(each) if isinstance(each, int) else each for each in arguments))
    _check(min(result, 0), what)
    return result


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def _unescaped(text: bytes) -> bytes:
    """mountinfo writes blanks and backslashes as octal numbers."""
    return re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), text) if b"\\" in text else text
