"""The plan as the pod endpoint sends it, checked once here; past this file everything is typed and every name is safe
to be a path.
"""

from agent.documents import Json, read_json
from agent.frozen import TYPE_CHECKING, Frozen
from agent.names import NameRefused, check_digest, check_disjoint, escape

if TYPE_CHECKING:
    from typing import Literal

    Mode = Literal["link", "copy"]
    Verify = Literal["size", "always"]
else:
    Mode = Verify = str


class PlanRefused(ValueError):
    """The plan is not what the protocol says; the message names the field."""


class Stored(Frozen):
    """How an object lies in the store when it is not stored as it is; `size` is the object's, in bytes."""

    codec: str
    size: int

    def document(self) -> dict[str, object]:
        return {"codec": self.codec, "bytes": self.size}


class PlannedInput(Frozen, secret=("url", "head_url")):
    """One file (or archived folder) to bring to artifacts/<name>."""

    name: str
    mode: Mode
    verify: Verify
    url: str
    head_url: str | None
    """Presigned HEAD of an external object; None for another task's output."""
    source: str
    """endpoint/bucket/key, without a version."""
    sha256: str | None
    size: int | None
    """Bytes; None for an external object until its HEAD."""
    archive: bool
    """The object is a folder's deterministic tar, to be unpacked at artifacts/<name>/."""
    stored: Stored | None
    """`size` and `sha256` are the content's all the same."""


class PlannedOutput(Frozen, secret=("url",)):
    """One file or folder that the task must have written at artifacts/<name>."""

    name: str
    key: str
    url: str


class Plan(Frozen, secret=("keeper_url",)):
    run: str
    task: str
    attempt: int
    cache_enabled: bool
    inputs: tuple[PlannedInput, ...]
    outputs: tuple[PlannedOutput, ...]
    single_put_limit: int
    """Outputs of more bytes than this go up in parts."""
    manifest: PlannedOutput | None
    """Where the list of outputs goes when the termination message has no room for it."""
    locate: bool
    """The endpoint knows of other nodes' caches: it is worth asking before a download."""
    keeper_url: str | None
    """Where outputs can be streamed to, into this node's cache; signed."""


def read_plan(body: bytes) -> Plan:
    """The plan in a response's body, or PlanRefused."""
    try:
        document = read_json(body)
    except ValueError:
        raise PlanRefused("the plan is not JSON") from None
    top = _Fields(document, "plan")
    plan = Plan(
        run=top.text("run"),
        task=top.text("task"),
        attempt=top.whole("attempt"),
        cache_enabled=top.boolean("cacheEnabled"),
        inputs=tuple(_input(_Fields(item, "input")) for item in top.items("inputs")),
        outputs=tuple(_output(_Fields(item, "output")) for item in top.items("outputs")),
        single_put_limit=top.whole("singlePutLimit"),
        manifest=_output(top.inner("manifest")) if top.has("manifest") else None,
        locate=top.has("locate") and top.boolean("locate"),
        keeper_url=top.inner("keeper").url("putUrl") if top.has("keeper") else None,
    )
    try:
        check_disjoint(item.name for item in plan.inputs)
        check_disjoint(item.name for item in plan.outputs)
    except NameRefused as refusal:
        raise PlanRefused(str(refusal)) from None
    return plan


def _input(item: "_Fields") -> PlannedInput:
    name = item.text("name")
    item.where = f"input {escape(name)}"
    sha256 = item.optional_text("sha256")
    if sha256 is not None:
        try:
            check_digest(sha256)
        except NameRefused as refusal:
            raise PlanRefused(f"{item.where}: {refusal}") from None
    planned = PlannedInput(
        name=name,
        mode="copy" if item.choice("mode", ("link", "copy")) == "copy" else "link",
        verify="always" if item.choice("verify", ("size", "always")) == "always" else "size",
        url=item.url("url"),
        head_url=None if item.optional_text("headUrl") is None else item.url("headUrl"),
        source=item.text("source"),
        sha256=sha256,
        size=item.optional_whole("bytes"),
        archive=item.boolean("archive"),
        stored=_stored(item.inner("stored")) if item.has("stored") else None,
    )
    if planned.head_url is None and (planned.sha256 is None or planned.size is None):
        raise PlanRefused(f"{item.where}: neither sha256 and bytes nor a headUrl")
    if planned.stored is not None and planned.size is None:
        raise PlanRefused(f"{item.where}: compressed, and the content's bytes are not known")
    return planned


def _stored(stored: "_Fields") -> Stored:
    return Stored(codec=stored.text("codec"), size=stored.whole("bytes"))


def _output(item: "_Fields") -> PlannedOutput:
    return PlannedOutput(name=item.text("name"), key=item.text("key"), url=item.url("url"))


class _Fields:
    """Typed reading of one JSON object; `where` names it in errors."""

    def __init__(self, value: Json, where: str) -> None:
        if not isinstance(value, dict):
            raise PlanRefused(f"{where} is not an object")
        self._fields = value
        self.where = where

    def has(self, name: str) -> bool:
        return self._fields.get(name) is not None

    def inner(self, name: str) -> "_Fields":
        return _Fields(self._fields.get(name), name)

    def text(self, name: str) -> str:
        value = self._fields.get(name)
        if not isinstance(value, str) or not value:
            raise PlanRefused(f"{self.where}: {name} must be a text")
        return value

    def optional_text(self, name: str) -> str | None:
        return None if self._fields.get(name) is None else self.text(name)

    def url(self, name: str) -> str:
        value = self.text(name)
        if not value.startswith(("http://", "https://")) or not value.isascii() or not value.isprintable():
            raise PlanRefused(f"{self.where}: {name} is not a URL")
        return value

    def whole(self, name: str) -> int:
        value = self._fields.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
            raise PlanRefused(f"{self.where}: {name} must be a whole number")
        return value

    def optional_whole(self, name: str) -> int | None:
        return None if self._fields.get(name) is None else self.whole(name)

    def boolean(self, name: str) -> bool:
        value = self._fields.get(name)
        if not isinstance(value, bool):
            raise PlanRefused(f"{self.where}: {name} must be true or false")
        return value

    def choice(self, name: str, allowed: tuple[str, ...]) -> str:
        value = self._fields.get(name)
        if not isinstance(value, str) or value not in allowed:
            raise PlanRefused(f"{self.where}: {name} must be one of {', '.join(allowed)}")
        return value

    def items(self, name: str) -> list[Json]:
        value = self._fields.get(name)
        if not isinstance(value, list):
            raise PlanRefused(f"{self.where}: {name} must be a list")
        return value
