"""`forEach` and `when` at the point where a DAG is read: from tasks as they are written to the tasks that there are. No
I/O happens here.

What the tasks, their edges and their text come to is worked out before any of them is made.
"""

import re
from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping
from typing import Any, cast

from msgspec import Struct, json
from msgspec.structs import replace

from helios.dag_binding import Binder, Item, has_reference, mentioned_params, mentions_item
from helios.dag_format import DagSpec, InputSpec, ItemsSpec, TaskSpec, plain_text
from helios.dag_names import name_fault
from helios.dag_params import STAND_IN, ParamsUnreadable, read_list
from helios.dag_problem import DagLimits, Findings, Origins, Path, quoted
from helios.dag_when import Condition, holds, read_condition, texts_of

_WHOLE_PARAM = re.compile(r"\$\{params\.([A-Za-z0-9][A-Za-z0-9._-]*)\}")
_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,62}")
_ANY = "${item}"
"""Ends the name of the one that stands for instances which are not known yet. Nobody can write such a name."""
_ONE_LIST = "a list comes from one task that is there from the start"
_VARYING = frozenset({"image", "command", "args", "outputs", "env", "inputs", "depends_on"})
Items = list[str | dict[str, str]]
"""What `forEach` goes over, in order."""
KEY_FIELD = "key"
"""Of an item that is a mapping: what ends the instance's name."""


class LeftOut(Struct, frozen=True):
    """Why a task that is written is not to run."""

    field: str
    reason: str
    name: str = ""
    """The task's, where it is another than that of the one which was made."""


class Made(Struct, frozen=True):
    """The tasks that there are, with those that are left out."""

    spec: DagSpec
    origins: Origins | None = None
    """None: each task is at the place where it is written."""
    left_out: dict[int, LeftOut] = {}
    """By position in `spec.tasks`."""
    joins: dict[int, int | None] = {}
    """The tasks that stand for those which a `forEach` makes once its list is there, and wait for them: by position in
    `spec.tasks`, that of the one which stands for all of them meanwhile, or where the list is empty.
    """
    reads: dict[int, frozenset[str]] = {}
    """By position in `spec.tasks`, such tasks of whose instances it reads outputs."""


class _Fan(Struct):
    """What `forEach` makes of one task."""

    at: int
    items: list[Item]
    empty: bool = False
    """The list is; an item that nobody wrote stands for what the task would be."""
    later: bool = False
    """An earlier task makes the list."""
    known: bool = True
    """Its items are those that there are."""

    @property
    def is_one_for_all(self) -> bool:
        """An item that nobody made stands for those of a list that comes later, or is empty."""
        return self.later and not self.known

    names: list[str] = []
    names_chars: int = 0


def is_plain(spec: DagSpec) -> bool:
    return all(task.for_each is None and task.when is None for task in spec.tasks)


def make_tasks(
    spec: DagSpec,
    values: Mapping[str, str],
    unknown: Collection[str],
    limits: DagLimits,
    findings: Findings,
    lists: Mapping[str, Items],
) -> Made:
    """The DAG with every value put in, every instance made and every condition decided. Raises DagInvalid when a limit
    is passed; reports what else is wrong, and goes on with stand-ins. `unknown`: parameters whose value is a stand-in,
    on which no condition fails. `lists`: of tasks whose items an earlier task makes, those that are there by now.
    """
    return _Maker(spec, Binder(spec, values, limits, findings), values, unknown, limits, findings, lists).made()


class _Maker:
    def __init__(
        self,
        spec: DagSpec,
        binder: Binder,
        values: Mapping[str, str],
        unknown: Collection[str],
        limits: DagLimits,
        findings: Findings,
        lists: Mapping[str, Items],
    ) -> None:
        self._spec = spec
        self._binder = binder
        self._values = values
        self._unknown = unknown
        self._limits = limits
        self._findings = findings
        self._lists: dict[str, Items | None] = {}
        self._later_lists = lists
        self._fans: dict[str, _Fan] = {}
        self._tasks: list[TaskSpec] = []
        self._origins = Origins([], [], [], {})
        self._left_out: dict[int, LeftOut] = {}
        self._joins: dict[int, int | None] = {}
        self._reads: dict[int, frozenset[str]] = {}
        self._made_later: dict[str, str] = {}
        """Instances that a list has made, with the task that they are of."""
        self._later: dict[str, str] = {}
        """How names of instances begin, up to their `-`, whose list comes later, with the task that they are of."""
        self._later_lengths: list[int] = []
        self._known: list[str] = []
        """The tasks that are there from the start, in the order of their names."""
        self._spanned: set[tuple[str, str]] = set()
        self._names: frozenset[str] = frozenset()
        self._open: set[str] = set()
        """How names of instances begin, up to their `-`, that are not known yet, or wrong already."""
        self._said: set[str] = set()

    def made(self) -> Made:
        fans = self._read_fans()
        if fans:
            self._check_size(fans)
            self._name(fans)
        on_exit = self._spec.on_exit and self._bound(self._spec.on_exit, ("onExit",))
        if not fans and is_plain(self._spec):
            tasks = [self._bound(task, ("tasks", at)) for at, task in enumerate(self._spec.tasks)]
            return Made(replace(self._spec, tasks=tasks, on_exit=on_exit))
        for at, task in enumerate(self._spec.tasks):
            self._make(task, at, fans.get(at))
        return Made(
            replace(self._spec, tasks=self._tasks, on_exit=on_exit),
            self._origins,
            self._left_out,
            self._joins,
            self._reads,
        )

    def _bound(self, task: TaskSpec, path: Path) -> TaskSpec:
        """A task that is one, whatever the others are."""
        changes = self._binder.fields(task, path, None)
        if task.inputs and (inputs := self._inputs(task, path, None, {})) is not None:
            changes["inputs"] = inputs[0]
        return replace(task, **changes) if changes else task

    def _read_fans(self) -> dict[int, _Fan]:
        """By position of the task; those of known names by name too."""
        fans: dict[int, _Fan] = {}
        total = 0
        for at, task in enumerate(self._spec.tasks):
            path = ("tasks", at, "forEach")
            wrong = self._findings.wrong_under(*path)
            if task.for_each is None and not wrong:
                continue
            fault = name_fault(task.name, self._limits.max_task_name_chars)
            if fault is not None:
                if has_reference(task.name):
                    fault = "needs no ${…}: with forEach each task's name is this one, '-' and its item"
                self._findings.add(("tasks", at, "name"), fault)
            items = None if wrong or task.for_each is None else self._items(task.for_each, path, task)
            later = isinstance(task.for_each, ItemsSpec)
            fan = _Fan(
                at,
                items or [Item(_ANY if later else STAND_IN)],
                empty=items is not None and not items and not later,
                later=later,
                known=bool(items),
            )
            if later:
                self._later[f"{task.name}-"] = task.name
                if len(self._later) == self._limits.max_later_fans + 1:
                    self._findings.refuse(
                        f"more than {self._limits.max_later_fans} tasks have a forEach over an output: the limit",
                        path=path,
                    )
            if items is None:
                self._open.add(f"{task.name}-")
            total += len(fan.items)
            if len(self._spec.tasks) - len(fans) - 1 + total > self._limits.max_tasks:
                self._findings.refuse(
                    f"with what forEach makes there are more than {self._limits.max_tasks:,} tasks, which is the limit",
                    path=path,
                )
            fans[at] = fan
            self._fans.setdefault(task.name, fan)
        self._later_lengths = sorted({len(begins) for begins in self._later})
        return fans

    def _items(self, written: Any, path: Path, task: TaskSpec) -> list[Item] | None:
        """None when it cannot be said, or not yet."""
        if isinstance(written, ItemsSpec):
            found = self._later_lists.get(task.name)
            if found is not None and len(found) > self._limits.max_tasks:
                self._findings.refuse(
                    f"its list has {len(found):,} items; the limit is {self._limits.max_tasks:,}", path=path
                )
            self._check_fields(found or (), path)
        else:
            found = self._of_param(written, path) if isinstance(written, str) else self._written_items(written, path)
        if found is None:
            return None
        items: list[Item] = []
        for at, value in enumerate(found):
            here = (*path, at) if isinstance(written, list) else path
            key = value.get(KEY_FIELD) if isinstance(value, dict) else value
            if key is not None and not _KEY.fullmatch(key):
                if isinstance(value, dict):
                    self._findings.add(
                        here,
                        f"the key {quoted(key)} of item {at} cannot end a task's name: use up to 63 ASCII letters, "
                        "digits, '.', '_' and '-', and no '.' at its beginning",
                    )
                key = None
            items.append(Item(str(at) if key is None else key, value))
        # Where the list comes later, tasks wait already for what it makes: an item without a task is none.
        return self._wanted(task, items, path[:-1]) if isinstance(written, ItemsSpec) else items

    def _wanted(self, task: TaskSpec, items: list[Item], path: Path) -> list[Item]:
        condition, _ = self._condition(task, path, has_items=True)
        read: dict[str, str] = {}
        return [item for item in items if condition is None or self._holds(condition, item, path, read)]

    def _of_param(self, written: str, path: Path) -> Items | None:
        match = _WHOLE_PARAM.fullmatch(written.strip())
        if match is None:
            self._findings.add(
                path, f"{quoted(written)} is no list; write one, or ${{params.NAME}} of a parameter that holds one"
            )
            return None
        name = match[1]
        if name in self._unknown:
            return None
        if name not in self._values:
            self._binder.text(match[0], path)  # says why
            return None
        if name not in self._lists:
            try:
                self._lists[name] = read_list(self._values[name])
            except ParamsUnreadable as error:
                self._lists[name] = None
                self._findings.add(
                    path,
                    f"the value {quoted(self._values[name])} of the parameter {quoted(name)} {error}; "
                    f'give one, such as -p \'{name}=["a", "b"]\'',
                )
        found = self._lists[name]
        self._check_fields(found or (), path)
        return found

    def _written_items(self, written: list[Any], path: Path) -> Items:
        items: Items = []
        for at, value in enumerate(written):
            here = (*path, at)
            if isinstance(value, dict):
                fields = cast("dict[str, str | int | float | bool]", value)
                items.append({name: self._item_text(each, (*here, name)) for name, each in fields.items()})
            else:
                items.append(self._item_text(value, here))
        self._check_fields(items, path)
        return items

    def _item_text(self, value: str | float | bool, path: Path) -> str:
        return self._binder.text(value, path) if isinstance(value, str) else plain_text(value)

    def _check_fields(self, items: Iterable[str | dict[str, str]], path: Path) -> None:
        names = dict.fromkeys(name for each in items if isinstance(each, dict) for name in each)
        for name in names:
            fault = name_fault(name, self._limits.max_param_name_chars)
            if fault is not None:
                self._findings.add(path, f"the name of a field of its items: {fault}")

    def _check_size(self, fans: Mapping[int, _Fan]) -> None:
        """Before anything is made: how many edges there will be, and how much text without what items add to it."""
        for fan in fans.values():
            base = len(self._spec.tasks[fan.at].name) + 1
            fan.names_chars = sum(base + len(item.key) for item in fan.items)
        edges = 0
        for at, task in enumerate(self._spec.tasks):
            fan = fans.get(at)
            instances = len(fan.items) if fan is not None else 1
            one, chars = 0, 0
            for name in task.depends_on or ():
                of = self._fans.get(name)
                one += len(of.items) if of is not None else 1
                chars += of.names_chars if of is not None else 0
            for source in task.inputs or ():
                of = self._fans.get(source.from_task or "")
                one += len(of.items) if of is not None else 1
                chars += len(of.items) * len(json.encode(source)) + 2 * of.names_chars if of is not None else 0
            if fan is not None:
                chars += len(json.encode(replace(task, for_each=None)))
            edges += instances * one
            path = ("tasks", at)
            if edges > self._limits.max_edges:
                self._findings.refuse(
                    f"with what forEach makes, depends_on and inputs have {edges:,} entries in all, or more; "
                    f"the limit is {self._limits.max_edges:,}: let a task between collect what one makes for the other",
                    path=path,
                )
            self._binder.spend(instances * chars, path)

    def _name(self, fans: Mapping[int, _Fan]) -> None:
        """Name the instances; what is not unique, or too long, is reported."""
        taken: dict[str, tuple[int, int | None]] = {}
        for at, task in enumerate(self._spec.tasks):
            other = taken.setdefault(task.name, (at, None))[0]
            if other != at and (at in fans or other in fans):
                self._findings.add(("tasks", at, "name"), f"{quoted(task.name)} is the name of tasks[{other}] too")
        for at, fan in fans.items():
            base = self._spec.tasks[at].name
            written = isinstance(self._spec.tasks[at].for_each, list)
            for position, item in enumerate(fan.items):
                name = f"{base}-{item.key}"
                fan.names.append(name)
                if fan.is_one_for_all:
                    continue
                other = taken.setdefault(name, (at, position))
                path = ("tasks", at, "forEach", position) if written else ("tasks", at, "forEach")
                if other == (at, position):
                    if len(name) > self._limits.max_task_name_chars and len(base) <= self._limits.max_task_name_chars:
                        limit = self._limits.max_task_name_chars
                        self._findings.add(
                            path, f"the name {quoted(name)} has {len(name)} characters; the limit is {limit}"
                        )
                        self._findings.pass_over(("tasks", at, "name"))
                elif fan.items[position].value is not None:
                    where = (
                        f"as item {other[1]} is"
                        if other[0] == at
                        else f"which is the name of tasks[{other[0]}] too"
                        if other[1] is None
                        else f"which forEach of tasks[{other[0]}] makes too"
                    )
                    self._findings.add(
                        path,
                        f"item {position} makes the task {quoted(name)}, {where}; a mapping's field '{KEY_FIELD}' "
                        "gives it another name",
                    )
                    self._findings.pass_over(("tasks", at, "name"))
                    self._findings.pass_over(("tasks", other[0], "name"))
            if fan.later and fan.known:
                self._made_later |= dict.fromkeys(fan.names, base)
        self._names = frozenset(taken)
        self._known = sorted(
            {task.name for at, task in enumerate(self._spec.tasks) if at not in fans}.union(
                *(fan.names for fan in fans.values() if not fan.later)
            )
        )

    def _make(self, task: TaskSpec, at: int, fan: _Fan | None) -> None:
        path = ("tasks", at)
        condition, decided = self._condition(task, path, fan is not None)
        read: dict[str, str] = {}
        join = len(self._tasks)
        if fan is not None and fan.later:
            self._join(task, at, fan, decided)
        for position, item in enumerate(fan.items if fan is not None else (None,)):
            here = len(self._tasks)
            changes = self._binder.fields(task, path, item)
            waits: dict[str, int] = {}
            reads: dict[str, int] = {}
            depends_on = self._depends_on(task, path, item, waits)
            inputs = self._inputs(task, path, item, reads)
            if reads:
                self._reads[here] = frozenset(name for name in reads if name in self._fans)
            if fan is not None and fan.later:
                source = self._source(task, path).from_task
                if source in self._names and self._source_fault(source, task.name) is None:
                    waits.setdefault(source, 0)  # another is reported as the join's
            depends_on = _with_waits(task, depends_on, {**reads, **waits})
            self._origins.tasks.append(at)
            is_stand_in = fan is not None and (fan.empty or fan.is_one_for_all)
            if fan is not None and fan.is_one_for_all:
                self._findings.ignore(("tasks", here, "name"))
            self._origins.instances.append("" if fan is None or is_stand_in else fan.names[position])
            if depends_on is not None:
                changes["depends_on"], self._origins.entries[here, "depends_on"] = depends_on
            if inputs is not None:
                changes["inputs"], self._origins.entries[here, "inputs"] = inputs
            varying = _VARYING & changes.keys()
            self._origins.varying.append(varying)
            if fan is not None:
                changes |= {"name": fan.names[position], "for_each": None}
            self._tasks.append(replace(task, **changes) if changes else task)
            if fan is not None and fan.empty:
                self._left_out[here] = LeftOut("forEach", "the list of its forEach is empty", task.name)
            elif decided is False or (condition is not None and not self._holds(condition, item, path, read)):
                self._left_out[here] = _not_held(task, task.name if fan is not None and fan.later else "")
            if here in self._left_out:
                # Its values may be none that such a field takes: that may be why it is left out.
                for field in varying - {"depends_on"}:
                    self._findings.ignore(("tasks", here, field))
        if fan is not None and fan.later:
            self._joins[join] = len(self._tasks) - 1 if fan.is_one_for_all else None

    def _join(self, task: TaskSpec, at: int, fan: _Fan, decided: bool | None) -> None:
        """The task that waits for what `forEach` makes of this one; others wait for it, and need not know those."""
        here = len(self._tasks)
        source = self._source(task, ("tasks", at))
        self._tasks.append(
            TaskSpec(
                name=task.name,
                image=STAND_IN,
                command=[STAND_IN],
                depends_on=list(fan.names),
                inputs=[InputSpec(source.from_task, source.name)]
                if self._source_fault(source.from_task, task.name) is None
                else None,
                for_each=source,
            )
        )
        self._origins.tasks.append(at)
        self._origins.instances.append("")
        self._origins.varying.append(frozenset())
        self._origins.joins.add(here)
        if decided is False:
            self._left_out[here] = _not_held(task, task.name)

    def _source(self, task: TaskSpec, path: Path) -> ItemsSpec:
        assert isinstance(task.for_each, ItemsSpec)
        here = (*path, "forEach")
        name = self._binder.text(task.for_each.from_task, (*here, "fromTask"))
        fault = self._source_fault(name, task.name)
        if fault is not None:
            self._once((*here, "fromTask"), fault)
        return ItemsSpec(name, self._binder.text(task.for_each.name, (*here, "name")))

    def _source_fault(self, name: str, task: str) -> str | None:
        """Why no list can come from there; of a task that there is not, the rules say so."""
        fan = self._fans.get(name)
        later = next((of for begins, of in self._later.items() if name.startswith(begins)), None)
        if name == task:
            return f"the task {quoted(name)} cannot make the list that it goes over"
        if fan is not None and fan.later:
            return f"{quoted(name)} is not one task but those of its own forEach; {_ONE_LIST}"
        if fan is not None:
            return f"the tasks of {quoted(name)} make a list each; name one: {fan.names[0]}"
        if later is not None and name not in self._names:
            return f"the tasks of {quoted(later)} are not known yet; {_ONE_LIST}"
        return None

    def _condition(self, task: TaskSpec, path: Path, has_items: bool) -> tuple[Condition | None, bool | None]:
        """The condition that is still to be decided for each item, or the decision."""
        if task.when is None or isinstance(task.when, bool):
            return None, task.when
        read = read_condition(task.when, has_items, (*path, "when"), self._limits, self._findings)
        if read is None:
            return None, None
        texts = list(texts_of(read))
        if any(name in self._unknown for text in texts for name in mentioned_params(text)):
            return None, True
        return (read, None) if any(mentions_item(text) for text in texts) else (None, self._holds(read, None, path, {}))

    def _holds(self, condition: Condition, item: Item | None, path: Path, read: dict[str, str]) -> bool:
        if item is not None and item.value is None:
            return True
        here = (*path, "when")

        def value(text: str) -> str:
            if text in read:
                return read[text]
            found = self._binder.text(text, here, item)
            if not mentions_item(text):
                read[text] = found
            return found

        def fault(message: str) -> None:
            if message not in self._said and len(self._said) < self._limits.max_problems:
                self._said.add(message)
                self._findings.add(here, message)

        return holds(condition, value, fault)

    def _depends_on(
        self, task: TaskSpec, path: Path, item: Item | None, waits: dict[str, int]
    ) -> tuple[list[str], list[int]] | None:
        """The names with the position of each in the text; None when they are as they are written. `waits` gets the
        tasks to wait for beside them, with such a position.
        """
        if (
            not self._open
            and not self._later
            and not any(
                name in self._fans or (item is not None and has_reference(name)) for name in task.depends_on or ()
            )
        ):
            return None
        names: list[str] = []
        positions: list[int] = []
        for at, name in enumerate(task.depends_on or ()):
            fan = self._fans.get(name)
            if fan is None:
                bound = self._reference(name, (*path, "depends_on", at), item, waits, task.name, at)
                bound = [each for each in bound if self._made_later.get(each, task.name) == task.name]
            else:
                bound = [name] if fan.later else fan.names
            names += bound
            positions += [at] * len(bound)
        return None if names == task.depends_on else (names, positions)

    def _reference(
        self, name: str, path: Path, item: Item | None, waits: dict[str, int], task: str, at: int = 0
    ) -> list[str]:
        """The task that `task` means; none where that is not known. Of tasks that are made once a list is there, and of
        all that may be meant by one such, `waits` gets those to wait for.
        """
        found = name if item is None else self._binder.text(name, path, item)
        unknown = item is not None and item.value is None and mentions_item(name)
        if found.endswith(_ANY) and found.removesuffix(_ANY) in self._later:
            self._once(path, f"no task is named {quoted(found)}: only tasks with forEach have items")
            return []
        if self._later:
            begins = self._begins(name, path) if unknown else found
            for length in self._later_lengths:
                of = self._later.get(begins[:length])
                if of is not None and of != task:
                    waits.setdefault(of, at)
            if unknown and f"{task}-" in self._later:
                self._span(begins, task, path, waits, at)
        if found in self._names:
            return [found]
        return [] if unknown or self._is_open(found) else [found]

    def _begins(self, name: str, path: Path) -> str:
        """What is known of a name that an item is part of: up to there."""
        bound = self._binder.text(name, path)
        return bound[: bound.index("${item")] if "${item" in bound else bound

    def _span(self, begins: str, task: str, path: Path, waits: dict[str, int], at: int) -> None:
        """Wait for every task that is there from the start and may be meant, since by then no edge can be added."""
        if not begins:
            self._once(
                path,
                "begins with the item, so which task that is cannot be told before the run begins; write the beginning "
                "of its name: NAME-${item}",
            )
            return
        if (task, begins) in self._spanned:
            return
        self._spanned.add((task, begins))
        for place in range(bisect_left(self._known, begins), len(self._known)):
            if not self._known[place].startswith(begins):
                break
            waits.setdefault(self._known[place], at)

    def _once(self, path: Path, message: str) -> None:
        if f"{path} {message}" not in self._said:
            self._said.add(f"{path} {message}")
            self._findings.add(path, message)

    def _is_open(self, name: str) -> bool:
        if not self._open or name_fault(name, self._limits.max_task_name_chars) is not None:
            return False
        return any(name[: found.end()] in self._open for found in re.finditer("-", name))

    def _inputs(
        self, task: TaskSpec, path: Path, item: Item | None, waits: dict[str, int]
    ) -> tuple[list[InputSpec], list[int]] | None:
        """As `_depends_on`."""
        inputs: list[InputSpec] = []
        positions: list[int] = []
        for at, source in enumerate(task.inputs or ()):
            here = (*path, "inputs", at)
            fan = self._fans.get(source.from_task) if source.from_task is not None else None
            if fan is not None:
                bound = self._collected(source, here, fan)
                if fan.later:
                    waits.setdefault(source.from_task or "", 0)
                    bound = bound if fan.known else []
            else:
                bound = [self._binder.input(source, here, item)]
                if source.from_task is not None and (
                    self._open or self._later or (item is not None and has_reference(source.from_task))
                ):
                    found = self._reference(source.from_task, (*here, "fromTask"), item, waits, task.name)
                    bound = [replace(bound[0], from_task=name) for name in found]
            inputs += bound
            positions += [at] * len(bound)
        written = task.inputs or ()
        if len(inputs) == len(written) and all(new is old for new, old in zip(inputs, written, strict=True)):
            return None
        return inputs, positions

    def _collected(self, source: InputSpec, path: Path, fan: _Fan) -> list[InputSpec]:
        """An output of every instance: `${item}` is the instance's, and stands in `as`, or its key is added to that."""
        apart = mentions_item(source.as_ if source.as_ is not None else source.name or "")
        collected: list[InputSpec] = []
        for item, name in zip(fan.items, fan.names, strict=True):
            bound = self._binder.input(source, path, item)
            place = bound.path()
            collected.append(replace(bound, from_task=name, as_=place if apart else f"{place}/{item.key}"))
        return collected


def _not_held(task: TaskSpec, name: str) -> LeftOut:
    shown = plain_text(task.when) if task.when is not None else ""
    return LeftOut("when", f"{quoted(shown, 200)} does not hold", name)


def _with_waits(
    task: TaskSpec, depends_on: tuple[list[str], list[int]] | None, waits: Mapping[str, int]
) -> tuple[list[str], list[int]] | None:
    """What `_depends_on` gives, with those to wait for beside."""
    if not waits:
        return depends_on
    names, positions = depends_on or (list(task.depends_on or ()), list(range(len(task.depends_on or ()))))
    more = {name: at for name, at in waits.items() if name not in names}
    return [*names, *more], [*positions, *more.values()]
