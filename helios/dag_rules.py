"""What must hold in a DAG beyond its shape: names, paths, references, order, limits. No I/O happens here.

Every rule reports to `Findings` with the path of the value, as it is in the user's text.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from helios.dag_files import check_files
from helios.dag_format import (
    DagSpec,
    InputSpec,
    MemoizeSpec,
    NotifySpec,
    ResourcesSpec,
    SecretRef,
    TaskSpec,
    TolerationSpec,
    plain_text,
)
from helios.dag_graph import Graph, cycles
from helios.dag_names import (
    argument_fault,
    duration_seconds,
    env_name_fault,
    image_digest,
    image_fault,
    label_key_fault,
    label_value_fault,
    name_fault,
    object_name_fault,
    quantity,
    resource_is_known,
    resource_names,
    secret_key_fault,
    utf8_bytes,
)
from helios.dag_problem import DagLimits, Findings, Path, quoted
from helios.notify import url_fault

EXIT_ENV = ("HELIOS_RUN_STATUS", "HELIOS_FAILED_TASKS")
"""What the onExit task is told."""
RESERVED_ENV = frozenset({"HELIOS_CACHE_ENABLED", "HELIOS_RUN_ID", "HELIOS_TASK_NAME", "HELIOS_ATTEMPT", *EXIT_ENV})
"""Variables that Helios sets itself."""

_CYCLE_NAMES = 100
"""A longer cycle is shown with its middle left out."""


def check_rules(spec: DagSpec, limits: DagLimits, findings: Findings) -> None:
    """Report everything that is wrong with a DAG of the right shape."""
    _report(findings, ("dagName",), name_fault(spec.dag_name, limits.max_dag_name_chars))
    if spec.service_account_name is not None:
        _report(findings, ("serviceAccountName",), object_name_fault(spec.service_account_name))
    if not spec.tasks:
        findings.add(("tasks",), "is empty; a DAG needs at least one task")
    positions = _positions(spec, limits, findings)
    for path, task in spec.all_tasks():
        _check_task(task, path, limits, findings)
    if spec.on_exit is not None:
        _check_on_exit(spec.on_exit, positions, limits, findings)
    _check_notify(spec.notify or (), limits, findings)
    edges = sum(len(task.depends_on or ()) + len(task.inputs or ()) for _, task in spec.all_tasks())
    if edges > limits.max_edges:
        findings.add(
            ("tasks",), f"depends_on and inputs have {edges:,} entries in all; the limit is {limits.max_edges:,}"
        )
        return
    _check_order(_References(spec, positions, findings).parents(), positions, limits, findings)


def find_warnings(spec: DagSpec, findings: Findings) -> None:
    """Report what a valid DAG holds without effect, or in an older form."""
    local = "is used on Kubernetes only: local mode has no service accounts"
    if spec.artifact_repository is not None:
        findings.add(("artifactRepository",), "has no effect: Helios keeps artifacts in the store it is set up with")
    if spec.service_account_name is not None:
        findings.add(("serviceAccountName",), local)
    _warn_of_tags(spec, findings)
    for path, task in spec.all_tasks():
        if task.service_account_name is not None:
            findings.add((*path, "serviceAccountName"), local)
        for position, output in enumerate(task.outputs or ()):
            if any(mark in output for mark in "*?["):
                findings.add(
                    (*path, "outputs", position), "is taken as a path, not as a pattern; name a folder instead"
                )
        if task.memoize and not task.outputs:
            findings.add((*path, "memoize"), "skips whatever the task does, and it declares no outputs")
        if not task.env:
            continue
        if isinstance(task.env, list):
            findings.add((*path, "env"), "is a list, the older form; better a mapping: env: {NAME: value}")
        for name, here, _ in _variables(task, path):
            if name in RESERVED_ENV:
                findings.add(here, f"has no effect: Helios sets {name} itself")


def _warn_of_tags(spec: DagSpec, findings: Findings) -> None:
    """One warning for all memoized tasks: a DAG often has the same tag in hundreds of them."""
    tagged = [at for at, task in enumerate(spec.tasks) if task.memoize and image_digest(task.image) is None]
    if tagged:
        others = len(tagged) - 1
        more = f" (and so in {others:,} more memoized {'task' if others == 1 else 'tasks'})" if others else ""
        findings.add(
            ("tasks", tagged[0], "image"),
            f"is a tag, which may move{more}: on Kubernetes memoize goes by the image that last ran under it; "
            "@sha256:… pins one",
        )


def _report(findings: Findings, path: Path, fault: str | None) -> None:
    if fault is not None:
        findings.add(path, fault)


def _positions(spec: DagSpec, limits: DagLimits, findings: Findings) -> dict[str, int]:
    """Where each task is, by name."""
    positions: dict[str, int] = {}
    for at, task in enumerate(spec.tasks):
        fault = name_fault(task.name, limits.max_task_name_chars)
        if fault is not None:
            findings.add(("tasks", at, "name"), fault)
        elif task.name in positions:
            findings.add(
                ("tasks", at, "name"),
                f"{quoted(task.name)} is the name of tasks[{findings.position('tasks', positions[task.name])}] too",
            )
        positions.setdefault(task.name, at)
    return positions


def _check_task(task: TaskSpec, path: Path, limits: DagLimits, findings: Findings) -> None:
    _report(findings, (*path, "image"), image_fault(task.image, limits))
    _check_texts(task, path, limits, findings)
    if task.inputs or task.outputs:
        check_files(task, path, limits, findings)
    if task.retries is not None and not 0 <= task.retries.count <= limits.max_retries:
        findings.add((*path, "retries", "count"), f"{task.retries.count} is not within 0 to {limits.max_retries}")
    if task.timeout_seconds is not None and not 1 <= task.timeout_seconds <= limits.max_timeout_seconds:
        findings.add(
            (*path, "timeoutSeconds"), f"{task.timeout_seconds} is not within 1 to {limits.max_timeout_seconds:,}"
        )
    if task.service_account_name is not None:
        _report(findings, (*path, "serviceAccountName"), object_name_fault(task.service_account_name))
    if isinstance(task.memoize, MemoizeSpec):
        _check_memoize(task.memoize, (*path, "memoize"), limits, findings)
    if task.resources is not None:
        _check_resources(task.resources, (*path, "resources"), findings)
    for key, value in (task.node_selector or {}).items():
        here = (*path, "nodeSelector", key)
        _report(findings, here, label_key_fault(key) or label_value_fault(value))
    for at, toleration in enumerate(task.tolerations or ()):
        _check_toleration(toleration, (*path, "tolerations", at), findings)


def _check_notify(notify: Sequence[NotifySpec], limits: DagLimits, findings: Findings) -> None:
    if len(notify) > limits.max_notices:
        findings.add(("notify",), f"{len(notify):,} entries; the limit is {limits.max_notices}")
        return
    seen: dict[str, int] = {}
    for at, each in enumerate(notify):
        path = ("notify", at)
        _report(findings, (*path, "url"), url_fault(each.url))
        if each.url in seen:
            findings.add((*path, "url"), f"is the URL of notify[{seen[each.url]}] too; one entry may have several `on`")
        seen.setdefault(each.url, at)
        if not each.on:
            findings.add((*path, "on"), "is empty; leave it out for every end")
        if each.secret is not None:
            _report(findings, (*path, "secret"), name_fault(each.secret, limits.max_param_name_chars))


def _check_on_exit(task: TaskSpec, positions: Mapping[str, int], limits: DagLimits, findings: Findings) -> None:
    """What it cannot have, since it runs whatever becomes of the others."""
    path: Path = ("onExit",)
    _report(findings, (*path, "name"), name_fault(task.name, limits.max_task_name_chars))
    if task.name in positions:
        at = findings.position("tasks", positions[task.name])
        findings.add((*path, "name"), f"{quoted(task.name)} is the name of tasks[{at}] too")
    if task.depends_on:
        findings.add((*path, "depends_on"), "has no meaning here: onExit runs once all tasks have ended")
    for at, source in enumerate(task.inputs or ()):
        if source.from_task is not None:
            findings.add(
                (*path, "inputs", at, "fromTask"),
                "cannot be used here: onExit runs even where that task never made its outputs; take a uri",
            )
    if task.memoize:
        findings.add((*path, "memoize"), "has no meaning here: what onExit does is never done by an earlier run")
    if task.for_each is not None:
        findings.add((*path, "forEach"), "cannot be used here: onExit is one task")
    if task.when is not None:
        findings.add((*path, "when"), "has no meaning here: leave onExit out, or have its command look")


def _check_memoize(memoize: MemoizeSpec, path: Path, limits: DagLimits, findings: Findings) -> None:
    if memoize.max_age is not None:
        seconds = duration_seconds(memoize.max_age)
        if seconds is None:
            findings.add((*path, "maxAge"), f"{quoted(memoize.max_age)} is not a duration such as 30m, 12h or 7d")
        elif seconds > limits.max_age_seconds:
            findings.add((*path, "maxAge"), f"{memoize.max_age} is above {limits.max_age_seconds // 86_400} days")
    if not 0 <= memoize.verify <= 1:
        findings.add((*path, "verify"), f"{memoize.verify:g} is not within 0 to 1")


def _check_texts(task: TaskSpec, path: Path, limits: DagLimits, findings: Findings) -> None:
    """What the process is started with: command, args and env."""
    if not task.command:
        findings.add((*path, "command"), "is empty; Helios starts the command itself, so it needs one")
    elif not task.command[0]:
        findings.add((*path, "command", 0), "is empty; it is the program to start")
    size = 0
    for field, texts in (("command", task.command), ("args", task.args or ())):
        for at, text in enumerate(texts):
            size += utf8_bytes(text)
            fault = argument_fault(text, limits)
            if fault is not None:
                findings.add((*path, field, at), fault)
    if task.env:
        size += _check_env(task, path, limits, findings)
    if size > limits.max_task_text_bytes:
        findings.add(path, f"command, args and env have {size:,} bytes; the limit is {limits.max_task_text_bytes:,}")


def _variables(task: TaskSpec, path: Path) -> Iterator[tuple[str, Path, str | int | float | bool | SecretRef]]:
    """Each variable's name, where it is, and what it is set to."""
    if isinstance(task.env, list):
        for at, item in enumerate(task.env):
            yield item.name, (*path, "env", at), item.source()
    else:
        for name, source in (task.env or {}).items():
            yield name, (*path, "env", name), source


def _check_env(task: TaskSpec, path: Path, limits: DagLimits, findings: Findings) -> int:
    """The bytes of all variables, `NAME=value`."""
    size = 0
    seen: set[str] = set()
    for name, here, source in _variables(task, path):
        _report(findings, here, env_name_fault(name))
        if name in seen:
            findings.add(here, f"{quoted(name)} is set more than once")
        seen.add(name)
        if isinstance(source, SecretRef):
            older = isinstance(task.env, list)
            where = (*here, "valueFrom", "secretKeyRef") if older else here
            _report(findings, (*where, "name" if older else "secret"), object_name_fault(source.secret))
            _report(findings, (*where, "key"), secret_key_fault(source.key))
        else:
            text = f"{name}={plain_text(source)}"
            size += utf8_bytes(text)
            _report(findings, here, argument_fault(text, limits))
    for at, item in enumerate(task.env if isinstance(task.env, list) else ()):
        if item.value is not None and item.value_from is not None:
            findings.add((*path, "env", at), "has both value and valueFrom; one of them must go")
    return size


def _check_resources(resources: ResourcesSpec, path: Path, findings: Findings) -> None:
    requests = resources.requests or {}
    for field, quantities in (("requests", requests), ("limits", resources.limits or {})):
        for name, written in quantities.items():
            here = (*path, field, name)
            amount = quantity(plain_text(written))
            if not resource_is_known(name):
                near = findings.suggestion(name, resource_names())
                findings.add(here, f"unknown resource {quoted(name)}{near or '; extended resources are domain/name'}")
            elif amount is None:
                findings.add(here, f"{quoted(plain_text(written))} is not a quantity such as 500m, 2 or 4Gi")
            elif field == "limits" and name in requests:
                requested = quantity(plain_text(requests[name]))
                if requested is not None and requested > amount:
                    findings.add(here, f"{plain_text(written)} is below the request of {plain_text(requests[name])}")


def _check_toleration(toleration: TolerationSpec, path: Path, findings: Findings) -> None:
    if toleration.key:
        _report(findings, (*path, "key"), label_key_fault(toleration.key))
    elif toleration.operator != "Exists":
        findings.add(path, "has no key, which only operator: Exists can do without")
    if toleration.value:
        _report(findings, (*path, "value"), label_value_fault(toleration.value))
        if toleration.operator == "Exists":
            findings.add((*path, "value"), "has no meaning with operator: Exists")
    if toleration.toleration_seconds is not None and toleration.effect != "NoExecute":
        findings.add((*path, "tolerationSeconds"), "has a meaning only with effect: NoExecute")


class _References:
    """Follows depends_on and fromTask to the tasks they name."""

    def __init__(self, spec: DagSpec, positions: Mapping[str, int], findings: Findings) -> None:
        self._spec = spec
        self._positions = positions
        self._findings = findings
        self._outputs = {task.name: frozenset(task.outputs or ()) for task in reversed(spec.tasks)}
        # A task whose name could not be read may be the one that is looked for.
        self._all_named = not any(
            findings.wrong_under("tasks", at, "name") or findings.wrong_exactly("tasks", at)
            for at, task in enumerate(spec.tasks)
            if not task.name
        )

    def parents(self) -> dict[str, list[str]]:
        """Every task's known parents, itself left out."""
        parents: dict[str, list[str]] = {name: [] for name in self._positions}
        for at, task in enumerate(self._spec.tasks):
            known: list[str] = []
            for position, name in enumerate(task.depends_on or ()):
                if self._is_parent(name, task.name, ("tasks", at, "depends_on", position)):
                    known.append(name)
            for position, source in enumerate(task.inputs or ()):
                if source.from_task is None or source.uri is not None:
                    continue
                path = ("tasks", at, "inputs", position)
                if self._is_parent(source.from_task, task.name, (*path, "fromTask")):
                    known.append(source.from_task)
                    self._check_output(source, path)
            if self._positions[task.name] == at:
                parents[task.name] = known
        return parents

    def _is_parent(self, name: str, task: str, path: Path) -> bool:
        if name == task:
            self._findings.add(path, f"the task {quoted(name)} waits for itself")
            return False
        if name in self._positions:
            return True
        if self._all_named:
            near = self._findings.suggestion(name, self._positions)
            self._findings.add(path, f"no task is named {quoted(name)}{near}")
        return False

    def _check_output(self, source: InputSpec, path: Path) -> None:
        assert source.from_task is not None
        outputs = self._outputs[source.from_task]
        if source.name is None or source.name in outputs:
            return
        if self._findings.wrong_under("tasks", self._positions[source.from_task], "outputs"):
            return  # the one that is looked for may be the one that could not be read
        near = self._findings.suggestion(source.name, outputs)
        if not outputs:
            near = "; it declares none"
        self._findings.add(
            (*path, "name"), f"the task {quoted(source.from_task)} has no output {quoted(source.name)}{near}"
        )


def _check_order(
    parents: Mapping[str, list[str]], positions: Mapping[str, int], limits: DagLimits, findings: Findings
) -> None:
    found = False
    for cycle in islice(cycles(parents), limits.max_problems + 1):
        found = True
        names = [*cycle, cycle[0]]
        if len(names) > _CYCLE_NAMES:
            half = _CYCLE_NAMES // 2
            names = [*names[:half], f"… {len(names) - 2 * half:,} more …", *names[-half:]]
        findings.add(("tasks", positions[cycle[0]]), f"cycle: {' -> '.join(names)}")
    if not found:
        depth = Graph(parents).depth
        if depth > limits.max_chain_tasks:
            findings.add(("tasks",), f"the longest chain has {depth:,} tasks; the limit is {limits.max_chain_tasks:,}")
