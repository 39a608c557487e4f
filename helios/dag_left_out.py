"""What is left of a DAG without the tasks that are left out of it. No I/O happens here.

A task that only waits for one that is left out waits for that one's own parents instead, so nothing runs earlier than
it would have. One that reads its output is left out too, unless other instances are left whose outputs it collects.
"""

from collections.abc import Mapping

from msgspec.structs import replace

from helios.dag_fan import LeftOut, Made
from helios.dag_format import DagSpec, InputSpec, ItemsSpec, TaskSpec
from helios.dag_graph import Graph
from helios.dag_problem import DagLimits, Findings, quoted

_NAMES = 10
"""Of one task's instances in a warning."""


def leave_out(made: Made, limits: DagLimits, findings: Findings, warnings: Findings) -> DagSpec:
    """The tasks that remain of a DAG without problems; every other is named in `warnings`. Raises DagInvalid when
    there are none, or too many edges. Cost: bounded by edges times tasks, in bits.
    """
    left_out = dict(made.left_out)
    tasks = made.spec.tasks
    positions = {task.name: at for at, task in enumerate(tasks)}
    parents = {
        task.name: [*(task.depends_on or ()), *(each.from_task for each in task.inputs or () if each.from_task)]
        for task in tasks
    }
    order = [positions[name] for name in Graph(parents).order]
    stand_ins = {of: join for join, of in made.joins.items() if of is not None}
    for at in order:
        if at in left_out:
            continue
        stand_in = made.joins.get(at)
        reason = _unreadable(at, made, positions, left_out)
        if reason is None and stand_in is not None:
            reason = left_out.get(stand_in)
        if reason is not None:
            left_out[at] = replace(reason, name=tasks[stand_ins[at]].name) if at in stand_ins else reason
            if stand_in is not None:
                left_out.setdefault(stand_in, replace(reason, name=tasks[at].name))
    instead: dict[int, int] = {}
    for at in order:
        if at in left_out:
            bits = 0
            for name in parents[tasks[at].name]:
                parent = positions[name]
                bits |= instead[parent] if parent in left_out else 1 << parent
            instead[at] = bits
    _warn(made, left_out, warnings)
    if len(left_out) == len(tasks):
        _warn(made, left_out, findings)
        findings.refuse(
            "nothing is left to run: every task is left out, for the reasons given; give other parameters, or change "
            "when or forEach",
            path=("tasks",),
        )
    return replace(made.spec, tasks=_remaining(tasks, left_out, positions, instead, limits, findings))


def without_stand_ins(spec: DagSpec, made: Made) -> DagSpec:
    """The tasks that there are before a list is: what stands for those that it makes goes, and who waits for that waits
    for what it would have waited for.
    """
    names = {made.spec.tasks[at].name for at in made.joins.values() if at is not None}
    parents = {
        task.name: [*(task.depends_on or ()), *(each.from_task for each in task.inputs or () if each.from_task)]
        for task in spec.tasks
        if task.name in names
    }
    tasks: list[TaskSpec] = []
    for task in spec.tasks:
        if task.name in names:
            continue
        if any(name in parents for name in task.depends_on or ()):
            mine = (each for name in task.depends_on or () for each in parents.get(name, [name]))
            task = replace(task, depends_on=list(dict.fromkeys(mine)))
        if isinstance(task.for_each, ItemsSpec):
            task = replace(
                task, depends_on=list(dict.fromkeys((*(task.depends_on or ()), task.for_each.from_task))), inputs=None
            )
        tasks.append(task)
    return replace(spec, tasks=tasks)


def _unreadable(at: int, made: Made, positions: Mapping[str, int], left_out: Mapping[int, LeftOut]) -> LeftOut | None:
    """Why a task cannot have one of its inputs."""
    task = made.spec.tasks[at]
    for name in sorted(made.reads.get(at, ())):
        if positions[name] in left_out:
            return LeftOut("inputs", f"an input comes from {quoted(name)}, which is left out")
    written: dict[int, InputSpec | None] = {}
    moved = made.origins.entries.get((at, "inputs")) if made.origins is not None else None
    for entry, source in enumerate(task.inputs or ()):
        of = moved[entry] if moved is not None else entry
        if source.from_task is None or positions[source.from_task] not in left_out:
            written[of] = None
        else:
            written.setdefault(of, source)
    for source in written.values():
        if source is not None and source.from_task is not None:
            missing = positions[source.from_task]
            name = left_out[missing].name or made.spec.tasks[missing].name
            return LeftOut("inputs", f"an input comes from {quoted(name)}, which is left out")
    return None


def _warn(made: Made, left_out: Mapping[int, LeftOut], findings: Findings) -> None:
    """One warning for all instances of a task that are left out for one reason."""
    alike: dict[tuple[int, LeftOut], list[int]] = {}
    for at in sorted(left_out):
        of = made.origins.tasks[at] if made.origins is not None else at
        alike.setdefault((of, left_out[at]), []).append(at)
    for (_, why), group in sorted(alike.items(), key=lambda each: each[1]):
        names = list(dict.fromkeys(quoted(why.name or made.spec.tasks[at].name) for at in group))
        more = f" and {len(names) - _NAMES:,} more" if len(names) > _NAMES else ""
        verb = "is" if len(names) == 1 else "are"
        findings.add(("tasks", group[0], why.field), f"{', '.join(names[:_NAMES])}{more} {verb} left out: {why.reason}")


def _remaining(
    tasks: list[TaskSpec],
    left_out: Mapping[int, LeftOut],
    positions: Mapping[str, int],
    instead: Mapping[int, int],
    limits: DagLimits,
    findings: Findings,
) -> list[TaskSpec]:
    remaining: list[TaskSpec] = []
    edges = 0
    for at, task in enumerate(tasks):
        if at in left_out:
            continue
        depends_on = [name for name in task.depends_on or () if positions[name] not in left_out]
        inputs = [
            each for each in task.inputs or () if each.from_task is None or positions[each.from_task] not in left_out
        ]
        edges += len(depends_on) + len(inputs)
        bits = 0
        for name in (*(task.depends_on or ()), *(each.from_task for each in task.inputs or () if each.from_task)):
            bits |= instead.get(positions[name], 0)
        if bits:
            for name in (*depends_on, *(each.from_task for each in inputs if each.from_task)):
                bits &= ~(1 << positions[name])
        edges += bits.bit_count()
        if edges > limits.max_edges:
            findings.refuse(
                "the tasks that wait for what is left out wait for its own parents instead, which makes more than "
                f"{limits.max_edges:,} entries of depends_on and inputs, the limit; let a task between collect them",
                path=("tasks", at),
            )
        while bits:
            lowest = bits & -bits
            depends_on.append(tasks[lowest.bit_length() - 1].name)
            bits ^= lowest
        if depends_on != (task.depends_on or []) or len(inputs) != len(task.inputs or ()):
            task = replace(task, depends_on=depends_on, inputs=inputs)
        remaining.append(task)
    return remaining
