"""The DAG as the services see it: checked, complete and in one form. No I/O happens here.

These structs are stored, and read by services of other versions while a rolling update is under way: they gain fields
with defaults only, and what is not known is passed over.

`parse_dag` reads what users write (helios/dag_format.py) and either gives a `Dag` or names every problem.
"""

from collections.abc import Mapping
from typing import Any, Literal, cast

import msgspec
from msgspec import Struct, field

from helios.dag_fan import Items, Made, is_plain, make_tasks
from helios.dag_format import (
    DagSpec,
    EnvSpec,
    InputSpec,
    ItemsSpec,
    MemoizeSpec,
    Priority,
    SecretRef,
    TaskSpec,
    plain_text,
)
from helios.dag_graph import Graph
from helios.dag_left_out import leave_out, without_stand_ins
from helios.dag_names import duration_seconds
from helios.dag_params import param_values
from helios.dag_problem import LIMITS, DagInvalid, DagLimits, Findings, Problem, quoted
from helios.dag_rules import RESERVED_ENV, check_rules, find_warnings
from helios.dag_shape import to_spec
from helios.dag_text import read_document

Mode = Literal["link", "copy"]
"""`link`: a read-only link into the cache; `copy`: a private writable copy."""
Verify = Literal["size", "always"]
"""What a cache hit checks: the size and the time of change, or the digest of every byte."""


class TaskInput(Struct, frozen=True, rename="camel", tag_field="kind", tag="task", gc=False):
    """An output of an earlier task, placed at `/artifacts/<as_>`."""

    from_task: str
    name: str
    as_: str = field(name="as")
    mode: Mode = "link"
    verify: Verify = "size"


class ExternalInput(Struct, frozen=True, rename="camel", tag_field="kind", tag="external", gc=False):
    """An object that no task of the DAG makes, placed at `/artifacts/<as_>`."""

    uri: str
    """`s3://bucket/key`, the key as the store has it, without percent-encoding."""
    as_: str = field(name="as")
    mode: Mode = "link"
    verify: Verify = "size"

    @property
    def bucket(self) -> str:
        return self.uri.removeprefix("s3://").partition("/")[0]

    @property
    def key(self) -> str:
        return self.uri.removeprefix("s3://").partition("/")[2]


Input = TaskInput | ExternalInput


class EnvValue(Struct, frozen=True, tag_field="kind", tag="value", gc=False):
    """An environment variable whose value is written in the DAG."""

    name: str
    value: str


class EnvSecret(Struct, frozen=True, tag_field="kind", tag="secret", gc=False):
    """An environment variable whose value is the entry `key` of the secret `secret`."""

    name: str
    secret: str
    key: str


EnvVar = EnvValue | EnvSecret


class Toleration(Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True, gc=False):
    """A Kubernetes toleration, passed through."""

    key: str | None = None
    operator: Literal["Exists", "Equal"] = "Equal"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: int | None = None


class Memoize(Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True, gc=False):
    """An earlier success of the same work may stand for the task."""

    max_age_seconds: int | None = None
    """None: however old it is."""
    verify: float = 0.0
    """The share of skips that run all the same, from 0 to 1."""


class ItemsFrom(Struct, frozen=True, rename="camel", gc=False):
    """Where the items are that tasks are made for: an output of an earlier task, a JSON list."""

    from_task: str
    name: str

    @property
    def origin(self) -> str:
        """`task/output`."""
        return f"{self.from_task}/{self.name}"


class Task(Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """One container to run. Encodes to JSON of its own, which is stored for each task."""

    name: str
    image: str
    command: tuple[str, ...]
    """Never empty: the program and its first arguments."""
    args: tuple[str, ...] = ()
    depends_on: tuple[str, ...] = field(default=(), name="depends_on")
    """As written; `parents` adds what the inputs imply."""
    inputs: tuple[Input, ...] = ()
    outputs: tuple[str, ...] = ()
    """Paths under `/artifacts`."""
    retries: int = 0
    """Attempts after the first, when the task itself fails."""
    env: tuple[EnvVar, ...] = ()
    requests: dict[str, str] = {}
    """Kubernetes quantities by resource name: `{"cpu": "500m"}`."""
    limits: dict[str, str] = {}
    timeout_seconds: int | None = None
    """None: no limit."""
    node_selector: dict[str, str] = {}
    tolerations: tuple[Toleration, ...] = ()
    service_account_name: str | None = None
    """The task's own or else the DAG's; Kubernetes only."""
    memoize: Memoize | None = None
    """None: it always runs."""
    priority: Priority | None = None
    """None: its run's."""
    for_each: ItemsFrom | None = None
    """Such a task has no container. Once what it waits for has succeeded it makes a task for each item, and then waits
    for those; its image is empty, so that a version which does not know of it cannot run it.
    """


class Notify(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Whom to tell that the run ended."""

    url: str
    on: tuple[str, ...] = ("ended",)
    secret: str | None = None
    """Of the operator's secrets, by name."""


class Growth(Struct, frozen=True, kw_only=True):
    """What it takes to make the tasks of a DAG that are not known when it is read."""

    spec: str
    """The DAG as it was written, with the values of its parameters: JSON that `parse_dag` reads."""
    lists: dict[str, Items] = {}
    """The items that are known by now, by the task whose `forEach` goes over them."""


class Dag(Struct, frozen=True, rename="camel", kw_only=True):
    """A checked DAG: names are unique, every parent and every input exists, there is no cycle."""

    dag_name: str
    use_cache: bool = True
    tasks: tuple[Task, ...]
    """At least one, in the order in which they are written; then the `on_exit` task, if there is one."""
    on_exit: str | None = None
    """The last task, which runs once all others have ended, however they did. To a version that does not know of it, it
    is a task that nothing depends on."""
    priority: Priority = "normal"
    params: dict[str, str] = {}
    """The value of each parameter; the tasks hold them already."""
    notify: tuple[Notify, ...] = ()
    """Each of another URL."""
    growth: Growth | None = None
    """None: all its tasks are known."""

    def graph(self) -> Graph:
        """The order of the tasks. Cost: linear in tasks and edges; keep it rather than ask again."""
        return Graph(self.after())

    def success_graph(self) -> Graph:
        """Who waits for whose success: in it the `on_exit` task, which waits for ends, is alone."""
        return Graph({task.name: parents(task) for task in self.tasks})

    def after(self) -> dict[str, tuple[str, ...]]:
        """The tasks that each comes after: its parents. The `on_exit` task's are those that nothing depends on."""
        found = {task.name: parents(task) for task in self.tasks}
        if self.on_exit is not None:
            depended_on = {name for of_task in found.values() for name in of_task}
            found[self.on_exit] = tuple(
                task.name for task in self.tasks if task.name not in depended_on and task.name != self.on_exit
            )
        return found


class ParsedDag(Struct, frozen=True):
    """A valid DAG and what in its text has no effect or a better form."""

    dag: Dag
    warnings: list[Problem] = []


def parents(task: Task) -> tuple[str, ...]:
    """The tasks that must succeed first: `depends_on`, then those the inputs come from; each once."""
    if not task.inputs:
        return tuple(dict.fromkeys(task.depends_on))
    return tuple(
        dict.fromkeys(
            (*task.depends_on, *(source.from_task for source in task.inputs if isinstance(source, TaskInput)))
        )
    )


def parse_dag(
    text: bytes,
    limits: DagLimits = LIMITS,
    *,
    params: Mapping[str, str] | None = None,
    recorded: bool = False,
    draft: bool = False,
    lists: Mapping[str, Items] | None = None,
) -> ParsedDag:
    """Read and check a DAG in YAML or JSON (UTF-8). Raises DagInvalid with every problem found.

    `params`: values of its parameters that go before their defaults. `recorded`: the text is a service's own record,
    maybe of a version that knew no parameters; where it declares none, `${params.NAME}` is text. `draft`: its
    parameters are not decided yet, so those without a default may have any value, and no task is left out. `lists`: the
    items that tasks of the DAG have made by now, by the task whose `forEach` goes over them.
    """
    findings, warnings = Findings(limits), Findings(limits)
    document = read_document(text, limits, findings)
    spec = to_spec(document, limits, findings)
    values: dict[str, str] = {}
    growth: Growth | None = None
    try:
        if spec is not None:
            findings.begin_stage()
            made = Made(spec)
            if not recorded or spec.params is not None or not is_plain(spec):
                values = param_values(spec, params or {}, limits, findings, draft=draft)
                unknown = {name for name, value in (spec.params or {}).items() if value is None and draft}
                made = make_tasks(spec, values, unknown - (params or {}).keys(), limits, findings, lists or {})
                findings.begin_stage()
            findings.trace(made.origins)
            check_rules(made.spec, limits, findings)
            if made.joins:
                growth = Growth(spec=_grown_from(spec, values, limits, findings), lists=dict(lists or {}))
            spec = made.spec
            if not findings:
                warnings.trace(made.origins)
                find_warnings(spec, warnings)
                if made.left_out and not draft:
                    spec = leave_out(made, limits, findings, warnings)
                if made.joins:
                    spec = without_stand_ins(spec, made)
    except DagInvalid:
        raise DagInvalid(findings.problems(document.lines_of)) from None
    if findings or spec is None:
        raise DagInvalid(findings.problems(document.lines_of))
    return ParsedDag(_normalised(spec, values, growth), warnings.problems(document.lines_of))


def grown(dag: Dag, task: str, items: Items, limits: DagLimits = LIMITS) -> Dag:
    """The DAG with a task for each item that `task`'s `forEach` goes over. What it had stays, but that those which read
    outputs of the new tasks have them as inputs. Raises DagInvalid, whose problems have no lines.
    """
    assert dag.growth is not None, "a task with such a forEach has what it grows from"
    growth, findings = dag.growth, Findings(limits)
    try:
        found = parse_dag(growth.spec.encode(), limits, recorded=True, lists={**growth.lists, task: items}).dag
    except DagInvalid as invalid:
        raise DagInvalid(msgspec.structs.replace(each, line=None, column=None) for each in invalid.problems) from None
    names = {each.name for each in found.tasks}
    gone = next((each.name for each in dag.tasks if each.name not in names), None)
    if gone is not None:
        findings.add((), f"the task {quoted(gone)} waits already, and all whose outputs it reads would be left out")
    known, before = {each.name for each in dag.tasks}, _before(dag, task)
    for each in found.tasks if gone is None else ():
        early = next((name for name in parents(each) if name in known and name not in before), None)
        if each.name not in known and early is not None:
            findings.add(
                (), f"{quoted(each.name)} would wait for {quoted(early)}, which {quoted(task)} has not waited for"
            )
    if findings:
        raise DagInvalid(findings.problems())
    return found


def dag_params(text: bytes, limits: DagLimits = LIMITS) -> tuple[str, Mapping[str, Any]]:
    """The name of a DAG, and its parameters with their defaults, None for those that have none. Its tasks are not
    looked at. Raises DagInvalid.
    """
    findings = Findings(limits)
    document = read_document(text, limits, findings)
    spec = to_spec(document, limits, findings)
    if findings or spec is None:
        raise DagInvalid(findings.problems(document.lines_of))
    return spec.dag_name, spec.params or {}


def readable_params(text: bytes, limits: DagLimits = LIMITS) -> Mapping[str, Any]:
    """As `dag_params`, of a text that is being written: as far as it can be read."""
    findings = Findings(limits)
    try:
        spec = to_spec(read_document(text, limits, findings), limits, findings)
    except DagInvalid:
        return {}
    return (spec.params if spec is not None else None) or {}


def _before(dag: Dag, task: str) -> set[str]:
    """The task and all that it waits for, directly or not."""
    above = {each.name: parents(each) for each in dag.tasks}
    found, to_visit = {task}, [task]
    while to_visit:
        new = [name for name in above.get(to_visit.pop(), ()) if name not in found]
        found.update(new)
        to_visit += new
    return found


def _grown_from(spec: DagSpec, values: Mapping[str, str], limits: DagLimits, findings: Findings) -> str:
    declared = msgspec.structs.replace(spec, params=dict(values)) if spec.params is not None else spec
    text = msgspec.json.encode(_stated(msgspec.to_builtins(declared)))
    if len(text) > limits.max_payload_bytes:
        findings.add(
            (),
            f"with a forEach over an output the DAG is kept as JSON, which has {len(text):,} bytes; the limit is "
            f"{limits.max_payload_bytes:,}",
        )
    return text.decode()


def _stated(value: Any) -> Any:
    """Without what is not there."""
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        return {name: _stated(each) for name, each in fields.items() if each is not None}
    return [_stated(each) for each in cast("list[Any]", value)] if isinstance(value, list) else value


def _normalised(spec: DagSpec, params: dict[str, str], growth: Growth | None) -> Dag:
    return Dag(
        dag_name=spec.dag_name,
        use_cache=spec.use_cache,
        priority=spec.priority,
        params=params,
        notify=tuple(Notify(url=each.url, on=tuple(each.on), secret=each.secret) for each in spec.notify or ()),
        tasks=tuple(_task(task, spec.service_account_name) for _, task in spec.all_tasks()),
        on_exit=spec.on_exit.name if spec.on_exit is not None else None,
        growth=growth if any(isinstance(task.for_each, ItemsSpec) for task in spec.tasks) else None,
    )


def _task(spec: TaskSpec, account: str | None) -> Task:
    if isinstance(spec.for_each, ItemsSpec):
        return Task(
            name=spec.name,
            image="",
            command=("",),
            depends_on=tuple(spec.depends_on or ()),
            for_each=ItemsFrom(spec.for_each.from_task, spec.for_each.name),
        )
    resources = spec.resources
    return Task(
        name=spec.name,
        image=spec.image,
        command=tuple(spec.command),
        args=tuple(spec.args or ()),
        depends_on=tuple(dict.fromkeys(spec.depends_on or ())),
        inputs=tuple([_input(source) for source in spec.inputs]) if spec.inputs else (),
        outputs=tuple(spec.outputs or ()),
        retries=spec.retries.count if spec.retries else 0,
        env=_env(spec.env) if spec.env else (),
        requests=_quantities(resources.requests) if resources else {},
        limits=_quantities(resources.limits) if resources else {},
        timeout_seconds=spec.timeout_seconds,
        node_selector=spec.node_selector or {},
        tolerations=tuple(
            Toleration(
                key=each.key,
                operator=each.operator,
                value=each.value,
                effect=each.effect,
                toleration_seconds=each.toleration_seconds,
            )
            for each in spec.tolerations or ()
        ),
        service_account_name=spec.service_account_name or account,
        memoize=_memoize(spec.memoize),
        priority=spec.priority,
    )


def _memoize(spec: bool | MemoizeSpec | None) -> Memoize | None:
    if not isinstance(spec, MemoizeSpec):
        return Memoize() if spec else None
    return Memoize(
        max_age_seconds=duration_seconds(spec.max_age) if spec.max_age is not None else None, verify=spec.verify
    )


def _input(spec: InputSpec) -> Input:
    if spec.uri is not None:
        return ExternalInput(spec.uri, spec.path(), spec.mode, spec.verify)
    assert spec.from_task is not None and spec.name is not None
    return TaskInput(spec.from_task, spec.name, spec.path(), spec.mode, spec.verify)


def _env(spec: EnvSpec) -> tuple[EnvVar, ...]:
    variables: list[EnvVar] = []
    for name, value in spec.items() if isinstance(spec, dict) else ((item.name, item.source()) for item in spec):
        if name in RESERVED_ENV:
            continue
        if isinstance(value, SecretRef):
            variables.append(EnvSecret(name, value.secret, value.key))
        else:
            variables.append(EnvValue(name, plain_text(value)))
    return tuple(variables)


def _quantities(spec: dict[str, str | int | float] | None) -> dict[str, str]:
    return {name: plain_text(quantity) for name, quantity in (spec or {}).items()}
