# pathlib costs ten milliseconds at every start:
# ruff: noqa: PTH123
"""What is known of one volume, in <cache>/volumes/<volume id>/volume.json, so that any later process goes on with it.

The file is replaced as a whole; it holds the attempt's token, and only the agent may read it.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from enum import Enum
from typing import Any

from agent.documents import read_object
from agent.folders import write_whole
from agent.frozen import Frozen
from agent.names import NameRefused, check_view

FILE = "volume.json"
VERSION = "1"
_POD = "csi.storage.k8s.io/"
MAX_CHARACTERS = 4096
"""Of an attribute."""
MOST = 2**32 - 1
"""Above all numbers among them; as a uid it means none."""
_MOST_BYTES = 1024 * 1024


class AttributesRefused(ValueError):
    """A volume's attributes are not those of a task's pod; the message says which is wrong."""


class Phase(Enum):
    """How far a volume has come."""

    BRINGING = "bringing"
    """Its inputs are being brought; the task's container is not made before the next phase."""
    READY = "ready"
    """It is mounted: its task starts, runs, or has ended and is being stored."""
    FAILED = "failed"
    """Its attempt has failed for `reason`, which is not told yet."""
    OVER = "over"
    """The attempt's result is told, or nobody wants it."""


class VolumeRecord(Frozen, secret=("token",)):
    """One volume; see the pod in docs/design.md for the first ten, which its attributes say."""

    run: str
    task: str
    attempt: int
    job: str
    cache_enabled: bool
    token: str
    user: int
    """The uid of the task."""
    inputs: int
    outputs: int
    pod_uid: str
    target: str
    """Where kubelet wants it."""
    boot: str | None
    """The boot (agent.stamp.boot_id) in which it was mounted."""
    phase: Phase
    published: bool
    """False once kubelet has given it up."""
    reason: str | None
    disrupted: bool

    def but(self, **changed: object) -> "VolumeRecord":
        """The same record with some fields changed."""
        fields: dict[str, Any] = {**vars(self), **changed}
        return VolumeRecord(**fields)

    def write(self, folder: str) -> None:
        document = {"v": 1, **vars(self), "phase": self.phase.value}
        write_whole(f"{folder}/{FILE}", json.dumps(document).encode(), 0o600)


def new_record(context: Mapping[str, str], target: str, boot: str | None) -> VolumeRecord:
    """Of the volume that kubelet publishes with this context. Raises AttributesRefused."""
    if context.get("v") != VERSION:
        raise AttributesRefused(f"v must be {VERSION}, not {context.get('v')!r}")
    run, task, attempt = _text(context, "run"), _text(context, "task"), _whole(context, "attempt")
    job = _text(context, "job")
    token = _text(context, "token")
    if not token.isascii() or not token.isprintable():
        raise AttributesRefused("token cannot be sent as a header")
    try:
        check_view(job)
    except NameRefused as refused:
        raise AttributesRefused(f"job: {refused}") from None
    if job != job_name(run, task, attempt):
        # It names the view, and the plan, which is of this attempt or none, is all that says who may have one.
        raise AttributesRefused("job is not the Job of this attempt")
    enabled = _text(context, "cacheEnabled")
    if enabled not in ("true", "false"):
        raise AttributesRefused("cacheEnabled must be true or false")
    return VolumeRecord(
        run=run,
        task=task,
        attempt=attempt,
        job=job,
        cache_enabled=enabled == "true",
        token=token,
        user=_whole(context, "user"),
        inputs=_whole(context, "inputs"),
        outputs=_whole(context, "outputs"),
        pod_uid=_text(context, f"{_POD}pod.uid"),
        target=target,
        boot=boot,
        phase=Phase.BRINGING,
        published=True,
        reason=None,
        disrupted=False,
    )


def job_name(run: str, task: str, attempt: int) -> str:
    """The Job of an attempt, as the jobrunner names it."""
    digest = hashlib.sha256(f"{run}\0{task}\0{attempt}".encode()).hexdigest()[:16]
    readable = "".join(letter if letter.isalnum() else "-" for letter in task.lower()).strip("-")
    return f"{readable[: 62 - len(digest)].rstrip('-')}-{digest}".lstrip("-")


def is_ephemeral(context: Mapping[str, str]) -> bool:
    return context.get(f"{_POD}ephemeral") == "true"


def pod_namespace(context: Mapping[str, str]) -> str:
    """Of the pod that wants the volume, on kubelet's word; empty when it says none."""
    return context.get(f"{_POD}pod.namespace", "")


def is_volume_id(name: str) -> bool:
    """Whether it can be a folder's name beside others."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", name) is not None


def read_record(folder: str) -> VolumeRecord | None:
    """None where there is none that can be read: its writer died before it had begun, or the disk lost it. Fields that
    only a newer agent knows are passed over, so that an older one that is put back in its place goes on.
    """
    try:
        fd = os.open(f"{folder}/{FILE}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            found = read_object(file.read(_MOST_BYTES))
    except OSError:
        return None
    if found is None or found.get("v") != 1:
        return None
    known: dict[str, Any] = {name: found[name] for name in VolumeRecord.__match_args__ if name in found}
    try:
        known["phase"] = Phase(known.get("phase"))
        record = VolumeRecord(**known)
    except (TypeError, ValueError):
        return None
    return record if _is_sound(record) else None


def _is_sound(record: VolumeRecord) -> bool:
    texts = (record.run, record.task, record.job, record.token, record.pod_uid, record.target)
    numbers = (record.attempt, record.user, record.inputs, record.outputs)
    switches = (record.cache_enabled, record.published, record.disrupted)
    return (
        all(type(each) is str for each in texts)
        and all(type(each) is int and 0 <= each < MOST for each in numbers)
        and all(type(each) is bool for each in switches)
        and all(each is None or type(each) is str for each in (record.boot, record.reason))
    )


def _text(context: Mapping[str, str], name: str) -> str:
    value = context.get(name, "")
    if not value:
        raise AttributesRefused(f"{name} is missing")
    if len(value) > MAX_CHARACTERS:
        raise AttributesRefused(f"{name} is too long")
    return value


def _whole(context: Mapping[str, str], name: str) -> int:
    value = _text(context, name)
    if not value.isascii() or not value.isdigit() or len(value) > 10 or int(value) >= MOST:
        raise AttributesRefused(f"{name} must be a whole number, not {value!r}")
    return int(value)
