"""Why a task's inputs were brought or were not, and why the task ran, against an earlier run of the same DAG. No I/O
happens here.

Rule: what a record does not say is called unknown, never guessed. A change is followed up the DAG to where it began.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec
from msgspec import Struct, field

from cli.figures import count
from helios import memo
from helios.dag import Dag, EnvSecret, ExternalInput, Input, Task, TaskInput
from helios.dag_fan import Items
from helios.memo import MemoCheck
from helios.records import HIT_CAUSES, InputRecord, OutputRecord, TaskView

ROOTS_AT_MOST = 20
PARTS_AT_MOST = 8
"""Differing parts that a sentence names."""

Content = Literal["same", "changed", "new", "unknown"]


class Side(Struct, frozen=True, kw_only=True):
    """One run, as far as it is known."""

    run: str
    cache_enabled: bool = True
    memoize: bool = True
    tasks: Mapping[str, TaskView] = {}
    specs: Mapping[str, Task] = {}
    memo: MemoCheck | None = None
    """Of the task that is asked about."""
    lists: Mapping[str, Items] = {}
    """By task, what its `forEach` went over, where an earlier task made that."""
    records_by_name: dict[str, dict[str, InputRecord]] = field(default_factory=dict[str, dict[str, InputRecord]])
    declared_by_name: dict[str, dict[str, Input]] = field(default_factory=dict[str, dict[str, Input]])
    task_by_brought: dict[str, str] = field(default_factory=dict[str, str])
    """These three are filled as they are asked for: a task may have ten thousand inputs."""

    def record(self, task: str, name: str) -> InputRecord | None:
        """What is recorded of a task's input."""
        known = self.records_by_name.get(task)
        if known is None:
            view = self.tasks.get(task)
            known = self.records_by_name[task] = {each.name: each for each in view.inputs} if view else {}
        return known.get(name)

    def declared(self, task: str, name: str) -> Input | None:
        """The input of that name in the DAG."""
        known = self.declared_by_name.get(task)
        if known is None:
            spec = self.specs.get(task)
            known = self.declared_by_name[task] = {each.as_: each for each in spec.inputs} if spec else {}
        return known.get(name)

    def brought_by(self, sha256: str) -> str:
        """A task that had to fetch the content; empty if none did. A skipped one fetched nothing itself."""
        if not self.task_by_brought:
            self.task_by_brought[""] = ""
            for name, view in self.tasks.items():
                for each in view.inputs if view.skipped is None else ():
                    if each.cause not in HIT_CAUSES:
                        self.task_by_brought.setdefault(each.sha256, name)
        return self.task_by_brought.get(sha256, "")

    def node(self, task: str) -> str:
        return self.tasks[task].node if task in self.tasks else ""


class Root(Struct, frozen=True):
    """Where a change began. `path`: the tasks from the one whose output is an input here up to the one that changed."""

    kind: Literal["definition", "source", "new-task", "not-deterministic", "unknown"]
    task: str
    words: str
    path: tuple[str, ...] = ()


class Before(Struct, frozen=True):
    """The same input in the earlier run."""

    cause: str
    node: str
    version: str
    sha256: str


class InputWhy(Struct, frozen=True, kw_only=True):
    """One input: what happened to it, and why."""

    name: str
    origin: str
    """`s3://bucket/key` or `task/output`."""
    bytes: int | None
    hit: bool | None
    """None: no account of it is left."""
    cause: str
    source: str
    content: Content
    """Against the earlier run."""
    words: str
    before: Before | None = None
    roots: Sequence[Root] = ()


class Why(Struct, frozen=True, kw_only=True):
    """The whole answer on one task."""

    task: str
    status: str
    attempt: int
    node: str
    compared: str | None
    """The earlier run; None where the task has never succeeded before."""
    compared_node: str
    ran: str
    """Why it ran, or why it did not."""
    reason: str = ""
    """Why it failed, where it did."""
    differing_parts: Sequence[str] = ()
    """Of the memoization key."""
    definition: Sequence[str] = ()
    """What is different in the task itself."""
    inputs: Sequence[InputWhy] = field(default_factory=list[InputWhy])


def explain(now: Side, before: Side | None, task: str) -> Why:
    """Why `task` went as it did in `now`; `before` is an earlier run in which it succeeded."""
    view, spec = now.tasks[task], now.specs.get(task)
    earlier = before.specs.get(task) if before else None
    declared = spec.inputs if spec else ()
    return Why(
        task=task,
        status=view.status,
        attempt=view.attempt,
        node=view.node,
        compared=before.run if before else None,
        compared_node=before.node(task) if before else "",
        ran=why_it_ran(now, before, task),
        reason=(view.reason or "") if view.status == "FAILED" else "",
        differing_parts=differing_parts(now.memo, before.memo if before else None),
        definition=definition_changes(earlier, spec) if earlier and spec else (),
        inputs=[_input(now, before, task, each) for each in declared],
    )


# The task itself.


def why_it_ran(now: Side, before: Side | None, task: str) -> str:
    view, spec, look = now.tasks[task], now.specs.get(task), now.memo
    match view.status:
        case "WAITING" | "QUEUED":
            return f"it has not run yet: it is {view.status}"
        case "UPSTREAM_FAILED" | "CANCELLED":
            return f"it did not run: {view.reason or view.status}"
        case _:
            pass
    skipped = view.skipped
    if skipped is not None:
        return f"it did not run: the success of task {skipped.task} in run {skipped.run} stands for it"
    if spec is not None and spec.for_each is not None:
        if task not in now.lists:
            return f"it made no tasks of {spec.for_each.origin}"
        items = count(len(now.lists[task]), "item")
        return f"it stands for what its forEach made of the {items} of {spec.for_each.origin}"
    if spec is None or spec.memoize is None:
        return "it ran because it is not memoized (memoize: true lets an earlier success stand for it)"
    if not now.memoize:
        return "it ran because memoization was off for this run"
    if look is not None and look.why:
        differing = differing_parts(look, before.memo if before else None)
        parts = f"; against run {before.run} {_listed(differing)}" if differing and before else ""
        return f"it ran because {look.why}{parts}"
    return "it ran; why it was not skipped is not recorded"


def differing_parts(ours: MemoCheck | None, theirs: MemoCheck | None) -> list[str]:
    """Names of the parts of the memoization key that differ; none where one of the keys is not known."""
    if ours is None or theirs is None or not ours.parts or not theirs.parts:
        return []
    return memo.differing_parts(ours.parts, theirs.parts)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:PARTS_AT_MOST])
    more = f" and {len(names) - PARTS_AT_MOST} more" if len(names) > PARTS_AT_MOST else ""
    return f"{shown}{more} differ{'s' if len(names) == 1 else ''}"


def definition_changes(before: Task, now: Task) -> list[str]:
    """What is different in a task of the DAG, of that which can change what it makes. Values of variables are not told:
    they may be secret.
    """
    changes: list[str] = []
    if before.image != now.image:
        changes.append(f"its image changed from {before.image} to {now.image}")
    for name in ("command", "args"):
        if getattr(before, name) != getattr(now, name):
            changes.append(f"its {name} changed" if name == "command" else "its args changed")
    ours, theirs = _variables(now), _variables(before)
    for name in {**ours, **theirs}:
        if name not in ours:
            changes.append(f"its variable {name} is gone")
        elif name not in theirs:
            changes.append(f"its variable {name} is new")
        elif ours[name] != theirs[name]:
            changes.append(f"its variable {name} changed")
    inputs, earlier = ({each.as_: each for each in task.inputs} for task in (now, before))
    for name in {**inputs, **earlier}:
        if name not in inputs:
            changes.append(f"its input {name} is gone")
        elif name not in earlier:
            changes.append(f"its input {name} is new")
        elif origin_of(inputs[name]) != origin_of(earlier[name]):
            changes.append(f"its input {name} is {origin_of(inputs[name])}, and was {origin_of(earlier[name])}")
        elif inputs[name].mode != earlier[name].mode:
            changes.append(f"its input {name} is a {inputs[name].mode}, and was a {earlier[name].mode}")
    if set(before.outputs) != set(now.outputs):
        changes.append("its outputs have other names")
    return changes


def _variables(task: Task) -> dict[str, tuple[str, ...]]:
    return {each.name: (each.secret, each.key) if isinstance(each, EnvSecret) else (each.value,) for each in task.env}


def origin_of(each: Input) -> str:
    return each.uri if isinstance(each, ExternalInput) else f"{each.from_task}/{each.name}"


# Its inputs.


def _input(now: Side, before: Side | None, task: str, declared: Input) -> InputWhy:
    view = now.tasks[task]
    record = now.record(task, declared.as_)
    known = before.record(task, declared.as_) if before else None
    digest = digest_of(now, task, declared)
    earlier = before.declared(task, declared.as_) if before else None
    digest_before = digest_of(before, task, earlier) if before and earlier else ""
    content: Content
    if before is None or earlier is None:
        content = "new"
    elif not digest or not digest_before:
        content = "unknown"
    else:
        content = "same" if digest == digest_before else "changed"
    cause = record.cause if record else ""
    roots = _roots_of_input(now, before, task, declared) if before and content == "changed" else []
    node_before = before.node(task) if before else ""
    return InputWhy(
        name=declared.as_,
        origin=origin_of(declared),
        bytes=record.bytes if record else None,
        hit=cause in HIT_CAUSES if record else None,
        cause=cause,
        source=record.source if record else "",
        content=content,
        words=_words(now, before, view, declared, record, known, content),
        before=Before(known.cause if known else "", node_before, known.version if known else "", digest_before)
        if before and earlier
        else None,
        roots=roots,
    )


def _words(
    now: Side,
    before: Side | None,
    view: TaskView,
    declared: Input,
    record: InputRecord | None,
    known: InputRecord | None,
    content: Content,
) -> str:
    node = view.node or "the node"
    if record is None:
        return _no_account(view)
    detail = f" ({record.detail})" if record.detail else ""
    match record.cause:
        case "cached":
            return (
                f"it was in the cache of {node}{detail}{_changed_beside(now, before, view, declared, known, content)}"
            )
        case "coalesced":
            beside = _changed_beside(now, before, view, declared, known, content)
            return f"another task on {node} was bringing it, and this one waited for that{detail}{beside}"
        case "warm":
            return f"it was left in the cache of {node} when it was stored{detail}"
        case "never-here":
            return f"{_never_here(now, before, view, declared, known, content)}{_from(record)}"
        case "evicted":
            told = record.detail if record.detail.startswith("evicted") else "it has been evicted since"
            return f"it was in the cache of {node}: {told}{_from(record)}"
        case "changed":
            return f"{_changed(before, record, known)}{_from(record)}"
        case "corrupt":
            return f"the copy in the cache of {node} was damaged, so it was put aside and brought anew{detail}"
        case "disabled":
            return "the cache was off for this run"
        case "cache-fault":
            return f"the cache of {node} could not be used{detail}"
        case _:
            return f"{record.cause}{detail}"


def _changed_beside(
    now: Side, before: Side | None, view: TaskView, declared: Input, known: InputRecord | None, content: Content
) -> str:
    """Of a hit on another content than the earlier run had: that the source changed, and which task of this run brought
    it, since its miss tells the rest.
    """
    record = now.record(view.name, declared.as_)
    if content != "changed" or record is None or not isinstance(declared, ExternalInput):
        return ""
    task = now.brought_by(record.sha256)
    return f"; {_changed(before, record, known)}{f', and task {task} of this run brought it' if task else ''}"


def _no_account(view: TaskView) -> str:
    if view.skipped is not None:
        return "it was not brought, because the task was skipped"
    if view.status in ("WAITING", "QUEUED", "RUNNING"):
        return "nothing is reported yet"
    if view.status in ("UPSTREAM_FAILED", "CANCELLED"):
        return "it was not brought, because the task did not run"
    if view.status == "FAILED":
        return "it was not brought, or no account of it is left"
    return "no account of it is left"


def _from(record: InputRecord) -> str:
    if record.source == "peer":
        node = record.detail.rpartition("from node ")[2] if "from node " in record.detail else ""
        return f"; it came from {f'node {node}' if node else 'another node'}, not from the store"
    return ""


def _never_here(
    now: Side, before: Side | None, view: TaskView, declared: Input, known: InputRecord | None, content: Content
) -> str:
    node = view.node or "this node"
    if before is None:
        return f"{node} never had it, and no earlier run of this DAG that is kept had this task succeed"
    there = before.node(view.name)
    match content:
        case "new":
            return f"{node} never had it: in run {before.run} the task had no such input"
        case "changed" if isinstance(declared, TaskInput):
            return f"{node} never had this content: it is not the one of run {before.run}"
        case "changed":
            return f"{_changed(before, now.record(view.name, declared.as_), known)}, and {node} never had this content"
        case _:
            pass
    same = "the same content" if content == "same" else "it"
    if there and view.node and there != view.node:
        return f"other node: run {before.run} had {same} on {there}, this ran on {view.node}, which never had it"
    if known is not None and known.cause in ("disabled", "cache-fault"):
        why = "the cache was off" if known.cause == "disabled" else "the cache could not be used"
        return f"{node} never kept it: in run {before.run} {why}"
    if not now.specs or content == "unknown":
        return f"{node} never had it"
    return f"{node} has no trace of it, although run {before.run} had it there: its cache folder is not the same"


def _changed(before: Side | None, record: InputRecord | None, known: InputRecord | None) -> str:
    version = record.version if record else ""
    if known is not None and before is not None and known.version and version and known.version != version:
        return f"the source changed from {version_words(known.version)} (run {before.run}) to {version_words(version)}"
    was = record.detail if record and record.detail.startswith("was ") else ""
    to = f" to {version_words(version)}" if version else ""
    return f"the source changed{f' from {version_words(was[4:])}' if was else ''}{to}"


def version_words(version: str) -> str:
    """`etag "abc"` as `ETag abc`."""
    kind, _, rest = version.partition(" ")
    name = {"etag": "ETag", "version": "version"}.get(kind)
    return f"{name} {rest.strip(chr(34))}" if name and rest else version


# Up the DAG.


def _roots_of_input(now: Side, before: Side, task: str, declared: Input) -> list[Root]:
    """Where the other content of one input of a task began."""
    if isinstance(declared, ExternalInput):
        return []
    if origin_of(declared) != origin_of(before.declared(task, declared.as_) or declared):
        return []
    return roots_above(now, before, [declared.from_task])


def roots_above(now: Side, before: Side, starts: Iterable[str]) -> list[Root]:
    """Why outputs of these tasks are not those of `before`: the changes furthest up, each with the way to it."""
    found: list[Root] = []
    stack: list[tuple[str, tuple[str, ...]]] = [(task, (task,)) for task in starts]
    seen = {task for task, _ in stack}
    while stack and len(found) < ROOTS_AT_MOST:
        task, path = stack.pop()
        spec, earlier = now.specs.get(task), before.specs.get(task)
        if spec is None or earlier is None:
            kind = "unknown" if spec is None else "new-task"
            words = "is not known any more" if spec is None else f"is new: run {before.run} had no such task"
            found.append(Root(kind, task, words, path))
            continue
        explained = False
        changes = definition_changes(earlier, spec)
        if changes:
            found.append(Root("definition", task, "; ".join(changes), path))
            explained = True
        doubtful = False
        for each in spec.inputs:
            known = before.declared(task, each.as_)
            if known is None or origin_of(known) != origin_of(each):
                continue  # told as a change of the definition
            ours, theirs = digest_of(now, task, each), digest_of(before, task, known)
            if isinstance(each, TaskInput):
                if ours and theirs and ours != theirs:
                    explained = True
                    if each.from_task not in seen:
                        seen.add(each.from_task)
                        stack.append((each.from_task, (*path, each.from_task)))
                doubtful |= not ours or not theirs
                continue
            change = _source_change(now, before, task, each)
            if change:
                found.append(Root("source", task, change, path))
                explained = True
            elif change is None:
                doubtful = True
        if not explained:
            found.append(_unexplained(task, path, before, doubtful))
    return found


def _unexplained(task: str, path: tuple[str, ...], before: Side, doubtful: bool) -> Root:
    if doubtful:
        return Root("unknown", task, "why its output is another is not recorded", path)
    words = f"made another output from the same image, command and inputs as in run {before.run}"
    return Root("not-deterministic", task, words, path)


def _source_change(now: Side, before: Side, task: str, declared: ExternalInput) -> str | None:
    """What changed of an external object between the runs; empty if nothing did, None if that is not known."""
    ours, theirs = now.record(task, declared.as_), before.record(task, declared.as_)
    if ours is None or theirs is None:
        return None
    if ours.sha256 and ours.sha256 == theirs.sha256:
        return ""
    if ours.version and theirs.version:
        if ours.version == theirs.version:
            return ""
        change = f"from {version_words(theirs.version)} to {version_words(ours.version)}"
        return f"its input {declared.uri} changed {change}"
    if ours.sha256 and theirs.sha256:
        return f"its input {declared.uri} has other content"
    return None


# What it had to make room for.


_ROOM = re.compile(r"(?<=to make room for )[0-9a-f]{64}")


def contents_evicted_for(told: Why) -> set[str]:
    """Digests of the blobs for which its inputs were evicted."""
    return {digest for each in told.inputs for digest in _ROOM.findall(each.words)}


def with_names(told: Why, names: Mapping[str, str]) -> Why:
    """The same with words for those digests where there are any, and the beginning of each."""

    def named(found: re.Match[str]) -> str:
        short, name = f"{found[0][:12]}…", names.get(found[0])
        return f"{name} ({short})" if name else f"a blob that no run which is kept names ({short})"

    inputs = [msgspec.structs.replace(each, words=_ROOM.sub(named, each.words)) for each in told.inputs]
    return msgspec.structs.replace(told, inputs=inputs)


# What records say.


def output_of(view: TaskView | None, name: str) -> OutputRecord | None:
    return next((each for each in view.outputs if each.name == name), None) if view else None


def digest_of(side: Side, task: str, declared: Input) -> str:
    """The digest of an input's content in a run: what fetch found, or else what the task that made it has stored."""
    record = side.record(task, declared.as_)
    if record is not None and record.sha256:
        return record.sha256
    if isinstance(declared, ExternalInput):
        return ""
    output = output_of(side.tasks.get(declared.from_task), declared.name)
    return output.sha256 if output else ""


def specs_of(dag: Dag | None) -> dict[str, Task]:
    return {task.name: task for task in dag.tasks} if dag else {}
