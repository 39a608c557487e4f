"""Two runs side by side: how long, with what outcome and bytes; what differs in their DAGs and in their inputs.

Rule: of a secret only its reference is known here, never a value.
"""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from cli.figures import duration, size
from helios.dag import Dag, EnvSecret, Task, TaskInput, parents
from helios.records import TaskView

PATH_OF_DAG = ""
"""Stands where a change is of the DAG and not of one of its tasks."""


class Side(msgspec.Struct, frozen=True):
    """One run as it was read. `fields` is its object of cli/run_object.py; None where the run is not kept."""

    run: str
    fields: Mapping[str, Any] | None = None
    views: Sequence[TaskView] = ()
    dag: Dag | None = None

    def duration_ms(self, now_ms: int) -> int | None:
        if self.fields is None or self.fields["startTime"] is None:
            return None
        known = self.fields["durationMs"]
        return known if known is not None else max(0, now_ms - self.fields["startTime"])


class Heading(msgspec.Struct, frozen=True):
    """One line of the heading: what, left, right, and the difference in words where there is one."""

    label: str
    left: str
    right: str
    delta: str = ""


class TaskDelta(msgspec.Struct, frozen=True):
    """A task of either run; None on the side whose run has no such task. Durations in milliseconds, until now while it
    goes on, None where it has not started."""

    name: str
    left: TaskView | None
    right: TaskView | None
    left_ms: int | None = None
    right_ms: int | None = None

    @property
    def delta_ms(self) -> int | None:
        if self.left_ms is None or self.right_ms is None:
            return None
        return self.right_ms - self.left_ms

    @property
    def ratio(self) -> float | None:
        """How many times as long the right one took."""
        return self.right_ms / self.left_ms if self.left_ms and self.right_ms is not None else None

    @property
    def differs(self) -> bool:
        """In anything but the time it took."""
        if self.left is None or self.right is None:
            return True
        return any(
            getattr(self.left, name) != getattr(self.right, name)
            for name in ("status", "cache", "cacheHitBytes", "cacheMissBytes", "exitCode")
        )


class Change(msgspec.Struct, frozen=True):
    """One difference. `before` is None where it was added, `after` where it was removed."""

    task: str
    field: str
    before: str | None
    after: str | None

    @property
    def kind(self) -> str:
        return "added" if self.before is None else "removed" if self.after is None else "changed"


class Comparison(msgspec.Struct, frozen=True):
    left: Side
    right: Side
    headings: Sequence[Heading]
    tasks: Sequence[TaskDelta]
    """Sorted: the greatest differences of time first, then those that cannot be compared."""
    dag_changes: Sequence[Change]
    input_changes: Sequence[Change]
    notes: Sequence[str]
    """What keeps the comparison from being complete, in words."""


def compare(left: Side, right: Side, now_ms: int) -> Comparison:
    """`now_ms` is the Redis server's time."""
    tasks = _task_deltas(left, right, now_ms)
    return Comparison(
        left,
        right,
        _headings(left, right, now_ms),
        sorted(tasks, key=lambda each: (each.delta_ms is None, -abs(each.delta_ms or 0))),
        dag_changes(left.dag, right.dag) if left.dag and right.dag else [],
        input_changes(left, right),
        _notes(left, right),
    )


def _notes(left: Side, right: Side) -> list[str]:
    notes: list[str] = []
    for side in (left, right):
        if side.fields is None:
            notes.append(f"run {side.run} is no longer kept")
        elif side.fields["status"] == "RUNNING":
            notes.append(f"run {side.run} is still running: its figures are those until now")
        if side.fields is not None and side.dag is None:
            notes.append(f"the DAG of run {side.run} is not kept, so DAGs are not compared")
    if left.fields and right.fields and left.fields["dagName"] != right.fields["dagName"]:
        notes.append(f"these are two DAGs: {left.fields['dagName']} and {right.fields['dagName']}")
    return notes


def _headings(left: Side, right: Side, now_ms: int) -> list[Heading]:
    ours, theirs = left.fields or {}, right.fields or {}
    took, takes = left.duration_ms(now_ms), right.duration_ms(now_ms)
    between = "" if took is None or takes is None else signed_duration(takes - took)
    lines = [Heading("duration", duration(took), duration(takes), between)]
    for label, field in (("tasks", "taskCount"), ("ok", "taskSucceeded"), ("failed", "taskFailed")):
        lines.append(_numbers(label, ours.get(field), theirs.get(field)))
    for label, field in (("from cache", "cacheHitBytes"), ("missed", "cacheMissBytes")):
        lines.append(_bytes(label, ours.get(field), theirs.get(field)))
    return lines


def _numbers(label: str, left: int | None, right: int | None) -> Heading:
    delta = f"{right - left:+,}" if left is not None and right is not None and left != right else ""
    return Heading(label, "" if left is None else f"{left:,}", "" if right is None else f"{right:,}", delta)


def _bytes(label: str, left: int | None, right: int | None) -> Heading:
    delta = ""
    if left is not None and right is not None and left != right:
        delta = f"{'+' if right > left else '-'}{size(abs(right - left))}"
    return Heading(label, "" if left is None else size(left), "" if right is None else size(right), delta)


def signed_duration(delta_ms: int) -> str:
    return f"{'-' if delta_ms < 0 else '+'}{duration(abs(delta_ms))}"


def _task_deltas(left: Side, right: Side, now_ms: int) -> list[TaskDelta]:
    before = {view.name: view for view in left.views}
    after = {view.name: view for view in right.views}
    names = dict.fromkeys((*before, *after))
    return [
        TaskDelta(
            name, before.get(name), after.get(name), _took(before.get(name), now_ms), _took(after.get(name), now_ms)
        )
        for name in names
    ]


def _took(view: TaskView | None, now_ms: int) -> int | None:
    if view is None or view.startTime is None:
        return None
    return max(0, (now_ms if view.endTime is None else view.endTime) - view.startTime)


def dag_changes(left: Dag, right: Dag) -> list[Change]:
    """What differs between the DAGs, those of the whole DAG first, then by task in the order of the right one."""
    changes = _differences(PATH_OF_DAG, _dag_fields(left), _dag_fields(right))
    before = {task.name: task for task in left.tasks}
    after = {task.name: task for task in right.tasks}
    for name in dict.fromkeys((*after, *before)):
        old, new = before.get(name), after.get(name)
        if old is None:
            changes.append(Change(name, "task", None, _words(after[name].command)))
        elif new is None:
            changes.append(Change(name, "task", _words(old.command), None))
        else:
            changes += _differences(name, _task_fields(old), _task_fields(new))
    return changes


def _differences(task: str, before: Mapping[str, str], after: Mapping[str, str]) -> list[Change]:
    return [
        Change(task, field, before.get(field), after.get(field))
        for field in dict.fromkeys((*before, *after))
        if before.get(field) != after.get(field)
    ]


def _dag_fields(dag: Dag) -> dict[str, str]:
    return {"dagName": dag.dag_name, "useCache": "true" if dag.use_cache else "false"}


def _words(words: Sequence[str]) -> str:
    return shlex.join(words)


def _task_fields(task: Task) -> dict[str, str]:
    fields = {
        "image": task.image,
        "command": _words(task.command),
        "args": _words(task.args),
        "depends_on": ", ".join(sorted(parents(task))),
        "retries": str(task.retries),
        "timeout": "none" if task.timeout_seconds is None else f"{task.timeout_seconds} s",
        "serviceAccountName": task.service_account_name or "",
        "tolerations": msgspec.json.encode(task.tolerations).decode() if task.tolerations else "",
    }
    for each in task.env:
        is_secret = isinstance(each, EnvSecret)
        fields[f"env {each.name}"] = f"secret {each.secret}, key {each.key}" if is_secret else f"'{each.value}'"
    for kind, quantities in (("requests", task.requests), ("limits", task.limits), ("node", task.node_selector)):
        fields |= {f"{kind} {name}": amount for name, amount in quantities.items()}
    for source in task.inputs:
        origin = f"{source.name} of {source.from_task}" if isinstance(source, TaskInput) else source.uri
        fields[f"input {source.as_}"] = f"{origin} ({source.mode}, {source.verify})"
    fields |= {f"output {path}": "made" for path in task.outputs}
    return {name: text for name, text in fields.items() if text}


def input_changes(left: Side, right: Side) -> list[Change]:
    """Same inputs of the same tasks, with other contents, another size or another cause."""
    before = {view.name: view for view in left.views}
    made_before, made_after = _digests(left), _digests(right)
    from_before, from_after = _origins(left), _origins(right)
    changes: list[Change] = []
    for view in right.views:
        known = {each.name: each for each in before[view.name].inputs} if view.name in before else {}
        for each in view.inputs:
            old = known.get(each.name)
            place = (view.name, each.name)
            contents = (
                made_before.get(from_before.get(place, ("", ""))),
                made_after.get(from_after.get(place, ("", ""))),
            )
            if old is None:
                continue
            if None not in contents and contents[0] != contents[1]:
                changes.append(Change(view.name, f"{each.name} sha256", *(str(each)[:12] for each in contents)))
            if old.bytes != each.bytes:
                changes.append(Change(view.name, f"{each.name} bytes", size(old.bytes), size(each.bytes)))
            if old.cause != each.cause or each.cause == "changed":
                changes.append(Change(view.name, f"{each.name} cause", old.cause, each.cause))
    return changes


def _digests(side: Side) -> dict[tuple[str, str], str]:
    """Digests of outputs by task and name."""
    return {(view.name, output.name): output.sha256 for view in side.views for output in view.outputs}


def _origins(side: Side) -> dict[tuple[str, str], tuple[str, str]]:
    """Where each task's inputs come from: task and output by task and place."""
    return {
        (task.name, source.as_): (source.from_task, source.name)
        for task in (side.dag.tasks if side.dag else ())
        for source in task.inputs
        if isinstance(source, TaskInput)
    }
