"""Argo Workflows to a DAG of Helios: the entry point's DAG or steps, and all they call, laid out flat. No I/O happens
here.

A template that is called several times becomes a task for each call, with the parameters put in and the loops laid out;
names are the way through the calls, `build.test.1`.
"""

import json
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, cast

from cli.imports.argo_late import MARK, Around, Late, LateValues, Loop, put_around
from cli.imports.argo_task import HARMLESS, Source, TaskMaker
from cli.imports.argo_text import (
    Depends,
    dependencies,
    has_tag,
    item_names,
    sequence,
    substituted,
    without_expression,
)
from cli.imports.argo_when import Condition, condition, decided, item_test
from cli.imports.document import Unreadable, Value, documents
from cli.imports.losses import Imported, Losses
from helios.dag_names import name_fault
from helios.dag_problem import LIMITS

KINDS: dict[str, tuple[str, ...]] = {
    "Workflow": ("spec",),
    "WorkflowTemplate": ("spec",),
    "ClusterWorkflowTemplate": ("spec",),
    "CronWorkflow": ("spec", "workflowSpec"),
}
MAX_TASKS = 10_000
MAX_CALLS = 40
"""Calls within one another."""
RUN_TIME = "its value is known only while the workflow runs"

SPEC = frozenset(
    {
        "entrypoint",
        "arguments",
        "templates",
        "templateDefaults",
        "serviceAccountName",
        "nodeSelector",
        "tolerations",
        "volumes",
    }
)
_AFTERWARDS = "about what happens to the workflow's objects afterwards, which Helios keeps in its own way"
SPEC_HARMLESS = {
    **dict.fromkeys(
        ("podGC", "ttlStrategy", "artifactGC", "archiveLogs", "workflowMetadata", "podMetadata"), _AFTERWARDS
    ),
    "parallelism": "Helios limits Jobs over all runs (HELIOS_JOBS_ALIVE), and runs take turns",
    "artifactRepositoryRef": "Helios keeps artifacts in the store it is set up with",
    "podDisruptionBudget": "Helios repeats what a disruption ends",
}
SPEC_REASONS = {
    "onExit": "an exit handler is a template of its own in Argo; write it as the DAG's onExit",
    "hooks": "Helios has no lifecycle hooks",
    "volumeClaimTemplates": "tasks of Helios have no volumes: data goes through inputs and outputs",
    "synchronization": "Helios has no mutexes and semaphores",
    "activeDeadlineSeconds": "Helios limits the time of tasks (timeoutSeconds), not of runs",
    "workflowTemplateRef": "the templates are in another object; import that one's file",
    "imagePullSecrets": "pull secrets are a setting of Helios (HELIOS_IMAGE_PULL_SECRETS), not of a DAG",
    "securityContext": "whom tasks run as is a setting of Helios, not of a DAG",
    "podSpecPatch": "the pods are Helios' own",
    "retryStrategy": "a retryStrategy of the whole workflow is not carried over; give it to the templates",
}
CALL = frozenset(
    {
        "name",
        "template",
        "inline",
        "arguments",
        "depends",
        "dependencies",
        "when",
        "withItems",
        "withSequence",
        "withParam",
        "templateRef",
        "continueOn",
    }
)
_JSON_MARK = json.dumps(MARK)[1:-1]
LOOPS = ("withItems", "withSequence", "withParam")
CALL_REASONS = {
    "onExit": "Helios has no exit handlers of single tasks",
    "hooks": "Helios has no lifecycle hooks",
}


class Arguments(NamedTuple):
    """What a call passes."""

    parameters: Mapping[str, str]
    artifacts: Mapping[str, Source]


class Outcome(NamedTuple):
    """What a call left: the tasks after which it is over, its artifacts, and its values by Argo's words for them
    (`outputs.result`, `outputs.parameters.x`, `status`)."""

    leaves: Sequence[str]
    artifacts: Mapping[str, Source]
    values: Mapping[str, str]


class Place(NamedTuple):
    """Where in the DAG what is called comes."""

    path: str
    """The way to it through the calls, of which its tasks' names are made."""
    after: Sequence[str]
    """The tasks that come before it."""
    guards: tuple[Condition, ...] = ()
    """What has to hold for it to be run, as far as that is not known yet."""
    may_fail: bool = False
    loop: Loop | None = None
    """What it is made for each item of."""


@dataclass(frozen=True, slots=True)
class Graph:
    """What the calls of one `dag` or `steps` share. `outcomes` are those of its calls so far, by name."""

    word: Literal["tasks", "steps"]
    template: Value
    templates: Mapping[str, Value]
    passed: Arguments
    known: Mapping[str, str]
    place: Place
    outcomes: dict[str, Outcome] = field(default_factory=dict[str, Outcome])
    whens: dict[str, tuple[Condition, ...]] = field(default_factory=dict[str, "tuple[Condition, ...]"])
    """What the `when` of each call asks, as far as it is not known to hold: a call for which it does not is skipped."""
    needs: dict[str, tuple[Condition, ...]] = field(default_factory=dict[str, "tuple[Condition, ...]"])
    """What has to hold for what each call depends on; where it does not, Argo omits the call and what waits for it."""
    loops: set[str] = field(default_factory=set[str])
    """Those of its calls that are loops."""

    def named(self, name: str) -> str:
        return _safe(f"{self.place.path}.{name}" if self.place.path else name)

    def values(self) -> dict[str, str]:
        """What is known within it by now, with what its calls made."""
        made = {
            f"{self.word}.{name}.{word}": value
            for name, outcome in self.outcomes.items()
            for word, value in outcome.values.items()
        }
        return {**self.known, **made}

    def artifacts(self) -> dict[str, Mapping[str, Source]]:
        return {name: outcome.artifacts for name, outcome in self.outcomes.items()}


def import_argo(
    text: str, parameters: Mapping[str, str] | None = None, others: Sequence[str | Sequence[Value]] = ()
) -> list[Imported]:
    """A DAG for each workflow in the text, with `parameters` in place of the workflow's own. Raises Unreadable.

    What has no entry point holds templates for the others; where all are like that, all are tried. `others` are texts
    with further templates that may be called, or what `workflows` reads from such.
    """
    found = workflows(text)
    if not found:
        kinds = ", ".join(KINDS)
        raise Unreadable(f"no document is of a kind that has tasks: {kinds}")
    at_hand = [*found, *(each for other in others for each in (workflows(other) if isinstance(other, str) else other))]
    library = {
        each.get("metadata", "name").text or "": each.get("spec")
        for each in reversed(at_hand)
        if (each.get("kind").text or "").endswith("WorkflowTemplate")
    }
    entered = [each for each in found if _is_entered(each)] or found
    return [_Importer(each, parameters or {}, library).imported() for each in entered]


def workflows(text: str) -> list[Value]:
    """The documents of a text that have templates. Raises Unreadable."""
    if MARK in text:
        raise Unreadable("it holds a NUL character")
    return [each for each in documents(text) if (each.get("kind").text or "") in KINDS]


def _is_entered(document: Value) -> bool:
    spec = document.get(*KINDS[document.get("kind").text or ""])
    return spec.get("entrypoint").text is not None or not spec.get("workflowTemplateRef").is_empty


@dataclass(slots=True)
class _Importer:
    document: Value
    overrides: Mapping[str, str]
    library: Mapping[str, Value]
    """The specs of the templates at hand, by the name of their object."""
    losses: Losses = field(default_factory=Losses)
    tasks: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    calls: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    """The templates that are being laid out, each within the one before: by their object's number and their name."""
    held: dict[str, Mapping[str, Value]] = field(default_factory=dict[str, Mapping[str, Value]])
    """The templates of each object at hand that was asked for."""
    late: LateValues = field(default_factory=LateValues)
    around: dict[str, Around] = field(default_factory=dict[str, Around])
    made_by: dict[str, Value] = field(default_factory=dict[str, Value])
    """The template of each task."""
    exported: dict[str, str] = field(default_factory=dict[str, str])
    """`workflow.outputs.parameters.x`, by `globalName`."""
    maker: TaskMaker = field(init=False)

    def imported(self) -> Imported:
        kind = self.document.get("kind").text or ""
        spec = self.document.get(*KINDS[kind])
        if kind == "CronWorkflow":
            own = self.document.get("spec")
            reasons = dict.fromkeys(own.fields or {}, "when it is run is not a DAG's affair: helios schedule add")
            self.losses.unknown(own, {"workflowSpec"}, {}, reasons)
        spec = self._with_template(spec)
        self.losses.unknown(spec, SPEC, SPEC_REASONS, SPEC_HARMLESS)
        for name in ("labels", "annotations"):
            told = self.document.get("metadata", name)
            if not told.is_empty:
                self.losses.note(told, f"metadata.{name}", "Helios keeps none of a DAG")
        self.maker = TaskMaker(spec, self.losses, self.late)
        variables = self._workflow_parameters(spec)
        entry = spec.get("entrypoint")
        if entry.text is None:
            self.losses.lost(spec, "entrypoint", "the workflow names none, so there is nothing to run")
        else:
            passed = {
                name.removeprefix("workflow.parameters."): value
                for name, value in variables.items()
                if name.startswith("workflow.parameters.")
            }
            artifacts = {
                each.get("name").text or "": self.maker.source_of(each, variables)
                for each in spec.get("arguments", "artifacts")
            }
            arguments = Arguments(passed, {n: s for n, s in artifacts.items() if s})
            self._call(entry.text, _by_name(spec), entry, arguments, variables, Place("", ()))
        self._keep_apart()
        self._put_around()
        return Imported(self._dag_of(spec, variables), self.losses.sorted())

    def _dag_of(self, spec: Value, variables: Mapping[str, str]) -> dict[str, Any]:
        metadata = self.document.get("metadata")
        name = metadata.get("name").text or (metadata.get("generateName").text or "imported").rstrip("-")
        dag: dict[str, Any] = {"dagName": re.sub(r"[^a-zA-Z0-9._-]", "-", name).lstrip("._-")[:128] or "imported"}
        account = self.maker.filled(spec.get("serviceAccountName"), variables)
        if account and not has_tag(account):
            dag["serviceAccountName"] = account
        if not self.tasks:
            self.losses.lost(spec, "tasks", "nothing of the workflow could be carried over")
        return {**dag, "tasks": self.tasks}

    def _with_template(self, spec: Value) -> Value:
        """A workflow that names the template it is made of, put into that template's place."""
        reference = spec.get("workflowTemplateRef")
        found = self.library.get(reference.get("name").text or "")
        if found is None:
            return spec
        own, theirs = spec.fields or {}, found.fields or {}
        given = {each.get("name").text: each for each in spec.get("arguments", "parameters")}
        declared = {each.get("name").text: each for each in found.get("arguments", "parameters")}
        arguments = Value(
            spec.get("arguments").line,
            fields={
                **(found.get("arguments").fields or {}),
                **(spec.get("arguments").fields or {}),
                "parameters": Value(spec.line, items=list({**declared, **given}.values())),
            },
        )
        fields = {**theirs, **own, "arguments": arguments}
        del fields["workflowTemplateRef"]
        return Value(spec.line, fields=fields)

    def _keep_apart(self) -> None:
        """Who waits for a task that is named as if it were of a `forEach` would wait for all of that."""
        for task in [each for each in self.tasks if "forEach" in each]:
            name: str = task["name"]
            if not any(each["name"].startswith(f"{name}-") for each in self.tasks):
                continue
            other = f"{name}.each"
            while any(each["name"] == other or each["name"].startswith(f"{other}-") for each in self.tasks):
                other += ".each"
            task["name"] = other
            self.around[other], self.made_by[other] = self.around.pop(name), self.made_by.pop(name)
            for each in self.tasks:
                if "depends_on" in each:
                    each["depends_on"] = [other if before == name else before for before in each["depends_on"]]

    def _put_around(self) -> None:
        for name in put_around(self.tasks, self.around, self.late):
            self.losses.note(
                self.made_by[name],
                f"task {name}",
                "a shell (sh) starts it, which its image has to have: it has something to look up or to keep",
            )

    def _workflow_parameters(self, spec: Value) -> dict[str, str]:
        run = Late("{{workflow.uid}}", expression='"$HELIOS_RUN_ID"')
        values = {
            "workflow.uid": self.late.mark(run),
            "workflow.name": self.late.mark(run._replace(label="{{workflow.name}}")),
        }
        for each in spec.get("arguments", "parameters"):
            name = each.get("name").text or ""
            value = each.get("value").text if not each.get("value").is_empty else each.get("default").text
            if name in self.overrides:
                value = self.overrides[name]
            if value is None and not each.get("valueFrom").is_empty:
                self.losses.lost(each.get("valueFrom"), f"parameter {name}", f"{RUN_TIME}; give it with -p {name}=…")
            elif value is None and each.get("value").text is None and "value" not in (each.fields or {}):
                self.losses.lost(each, f"parameter {name}", f"it has no value; give one with -p {name}=…")
            else:
                values[f"workflow.parameters.{name}"] = value or ""
        for name, value in self.overrides.items():
            values.setdefault(f"workflow.parameters.{name}", value)
        return values

    def _call(
        self,
        name: str,
        templates: Mapping[str, Value],
        at: Value,
        passed: Arguments,
        variables: Mapping[str, str],
        place: Place,
    ) -> Outcome:
        template = templates.get(name)
        if template is None:
            self.losses.lost(at, f"template {name}", "there is no such template")
            return Outcome(place.after, {}, {})
        called = (id(templates), name)
        if called in self.calls or len(self.calls) >= MAX_CALLS:
            self.losses.lost(at, f"template {name}", "it calls itself, and a DAG has an end")
            return Outcome(place.after, {}, {})
        self.calls.append(called)
        try:
            # A template sees what it is passed, and nothing else of its caller's.
            variables = {each: value for each, value in variables.items() if each.startswith("workflow.")}
            return self._template(template, templates, passed, variables, place, place.path or _safe(name))
        finally:
            self.calls.pop()

    def _template(
        self,
        template: Value,
        templates: Mapping[str, Value],
        passed: Arguments,
        variables: Mapping[str, str],
        place: Place,
        task_name: str,
    ) -> Outcome:
        known = {**variables, **self.exported}
        known |= self._inputs(template, passed, known)
        for kind, word in (("dag", "tasks"), ("steps", "steps")):
            if not template.get(kind).is_empty:
                if place.may_fail:
                    self.losses.lost(template, "continueOn", "Helios goes on after a task that may fail, not a graph")
                    place = place._replace(may_fail=False)
                graph = Graph(cast("Literal['tasks', 'steps']", word), template, templates, passed, known, place)
                return self._dag(graph) if kind == "dag" else self._steps(graph)
        if len(self.tasks) >= MAX_TASKS:
            self.losses.lost(template, "tasks", f"there are more than {MAX_TASKS:,} of them, the limit of a DAG")
            return Outcome(place.after, {}, {})
        around = Around(loop=place.loop, guards=place.guards, may_fail=place.may_fail)
        made = self.maker.task(template, task_name, known, passed.artifacts, place.after, around)
        if made is None:
            return Outcome(place.after, {}, {})
        self.tasks.append(made.document)
        self.around[task_name] = around
        self.made_by[task_name] = template
        for name, value in made.exported.items():
            self._export(template, name, value)
        return Outcome([task_name], made.artifacts, made.values)

    def _inputs(self, template: Value, passed: Arguments, known: Mapping[str, str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for each in template.get("inputs", "parameters"):
            name = each.get("name").text or ""
            value = passed.parameters.get(name)
            if value is None:
                given = each.get("value") if not each.get("value").is_empty else each.get("default")
                if given.text is not None:
                    value = self._filled(given, given.text, known)
            if value is None and not (each.get("value").fields is None and "default" in (each.fields or {})):
                why = (
                    RUN_TIME
                    if not each.get("valueFrom").is_empty
                    else "the call gives it no value, and it has no default"
                )
                self.losses.lost(each, f"parameter {name}", why)
                continue
            found[f"inputs.parameters.{name}"] = value or ""
        return found

    def _filled(self, at: Value, text: str, known: Mapping[str, str]) -> str:
        """The text with what is known put in, also what is known only later; the rest is told."""
        return substituted(text, known, lambda tag: self.losses.lost(at, tag, RUN_TIME), late=True)

    def _dag(self, graph: Graph) -> Outcome:
        dag = graph.template.get("dag")
        self._look_at_caller(graph.template, "dag")
        self.losses.unknown(
            dag, {"tasks", "target"}, {}, {"failFast": "Helios goes on with what does not depend on a failure"}
        )
        calls = {each.get("name").text or "": each for each in dag.get("tasks")}
        parents: dict[str, list[str]] = {}
        succeeded: dict[str, frozenset[str]] = {}
        for name, call in calls.items():
            asked = self._parents(call, graph.known)
            parents[name] = [each for each in asked.tasks if each in calls or self._no_task(call, each)]
            succeeded[name] = asked.succeeded
        wanted = self._targets(dag.get("target"), parents, graph.known)
        for name in _in_order(parents):
            if name is None:
                self.losses.lost(dag, "tasks", "their dependencies form a cycle")
                break
            if name not in wanted:
                self.losses.note(calls[name], f"task {name}", "no target needs it, so Argo does not run it either")
                continue
            before = [leaf for each in parents[name] for leaf in graph.outcomes[each].leaves]
            after = before if parents[name] else graph.place.after
            graph.needs[name] = self._needed(name, calls, parents[name], succeeded[name], graph)
            if any(decided(each) is False for each in graph.needs[name]):
                self.losses.note(calls[name], f"task {name}", "what it depends on is not run, so Argo omits it")
                graph.outcomes[name] = Outcome(after, {}, {})
            else:
                graph.outcomes[name] = self._calls(calls[name], graph, after, graph.needs[name])
        inner = {each for name in graph.outcomes for each in parents[name]}
        leaves = [leaf for name, outcome in graph.outcomes.items() if name not in inner for leaf in outcome.leaves]
        return self._left(graph, list(dict.fromkeys(leaves)) or graph.place.after)

    def _needed(
        self, name: str, calls: Mapping[str, Value], parents: Sequence[str], succeeded: Set[str], graph: Graph
    ) -> tuple[Condition, ...]:
        """What has to hold for a call to be more than omitted: that those it depends on are, and that none of those
        that it wants to have succeeded is skipped."""
        found = [one for each in parents for one in graph.needs[each]]
        for each in parents:
            whens = graph.whens.get(each, ()) if each in succeeded else ()
            if whens and _is_loop(calls[each]):
                self.losses.lost(
                    calls[name].get("depends"),
                    "depends",
                    f"{each} is a loop with `when`; {name} runs here whichever of its calls are skipped",
                )
            else:
                found += whens
        return tuple(dict.fromkeys(found))

    def _steps(self, graph: Graph) -> Outcome:
        self._look_at_caller(graph.template, "steps")
        after = graph.place.after
        for group in graph.template.get("steps"):
            leaves: list[str] = []
            for call in group.items if group.items is not None else [group]:
                name = call.get("name").text or ""
                if not name:
                    self.losses.lost(call, "step", "it has no name")
                    continue
                graph.outcomes[name] = self._calls(call, graph, after)
                leaves += graph.outcomes[name].leaves
            after = list(dict.fromkeys(leaves)) or after
        return self._left(graph, after)

    def _left(self, graph: Graph, leaves: Sequence[str]) -> Outcome:
        """What a graph passes out of what it called. A value that cannot be said is lost where it is used."""
        found: dict[str, Source] = {}
        outermost = len(self.calls) == 1
        for each in graph.template.get("outputs", "artifacts"):
            name = each.get("name").text or ""
            if outermost and not each.get("fromExpression").is_empty:
                self.losses.note(each, f"outputs.artifacts {name}", "nothing reads it: it is of the whole workflow")
                continue
            source = self.maker.passed_on(each, graph.known, graph.passed.artifacts, graph.artifacts(), graph.word)
            if source is not None:
                found[name] = source
                self.maker.shared |= {shared: source for shared in [each.get("globalName").text] if shared}
        values: dict[str, str] = {}
        for each in graph.template.get("outputs", "parameters"):
            name, value = each.get("name").text or "", each.get("valueFrom", "parameter")
            if value.text is None:
                self.losses.note(each, f"outputs.parameters {name}", "computed; what reads it is listed there")
                continue
            default = each.get("valueFrom", "default")
            if default.text is not None:
                self.losses.lost(
                    default, "default", "where the value's task is skipped it is empty here, and this in Argo"
                )
            values[f"outputs.parameters.{name}"] = made = self._filled(value, value.text, graph.values())
            shared = each.get("globalName").text
            if shared:
                self._export(each, shared, made)
        return Outcome(leaves, found, values)

    def _export(self, at: Value, name: str, value: str) -> None:
        """A value for the whole workflow. Argo's is that of whoever ended last, which a DAG cannot say."""
        word = f"workflow.outputs.parameters.{name}"
        if word in self.exported:
            self.losses.lost(
                at, f"globalName {name}", "several calls give it; here it is what the last in the file gives"
            )
        self.exported[word] = value

    def _look_at_caller(self, template: Value, kind: str) -> None:
        reasons = {
            "retryStrategy": "Helios tries tasks again, not whole graphs; give it to what this one calls",
            "activeDeadlineSeconds": "Helios limits the time of tasks, not of graphs",
            "timeout": "Helios limits the time of tasks, not of graphs",
            "memoize": "Helios skips tasks, not graphs; say memoize: true of each task",
            "synchronization": "Helios has no mutexes and semaphores",
            "metrics": "Helios' own metrics are those of runs and tasks",
        }
        harmless = {
            "metadata": "Helios labels its own pods",
            "displayName": HARMLESS["displayName"],
            "annotations": HARMLESS["annotations"],
            "parallelism": SPEC_HARMLESS["parallelism"],
        }
        self.losses.unknown(template, {"name", "inputs", "outputs", kind}, reasons, harmless)

    def _parents(self, call: Value, known: Mapping[str, str]) -> Depends:
        depends = call.get("depends")
        if depends.text is None:
            return Depends([each.text for each in call.get("dependencies") if each.text], plain=True)
        found = dependencies(substituted(depends.text, known, lambda _: None))
        if not found.plain:
            self.losses.lost(
                depends,
                "depends",
                f"{depends.text!r} asks for more than success; Helios waits for all of its tasks to succeed",
            )
        return found

    def _no_task(self, call: Value, name: str) -> bool:
        self.losses.lost(call, "depends", f"there is no task {name}")
        return False

    def _targets(self, target: Value, parents: Mapping[str, list[str]], known: Mapping[str, str]) -> set[str]:
        if target.text is None:
            return set(parents)
        text = substituted(target.text, known, lambda tag: self.losses.lost(target, tag, RUN_TIME))
        wanted = {each for each in text.split() if each in parents}
        to_visit = list(wanted)
        while to_visit:
            for each in parents[to_visit.pop()]:
                if each not in wanted:
                    wanted.add(each)
                    to_visit.append(each)
        return wanted or set(parents)

    def _calls(self, call: Value, graph: Graph, after: Sequence[str], needs: tuple[Condition, ...] = ()) -> Outcome:
        """One call, or, of a loop, all of its calls; `needs` has to hold for them."""
        self.losses.unknown(call, CALL, CALL_REASONS, {})
        known = {**graph.values(), **self.exported}
        place = graph.place._replace(path=graph.named(call.get("name").text or ""), after=after, may_fail=False)
        place = place._replace(may_fail=self._may_fail(call), guards=tuple(dict.fromkeys((*place.guards, *needs))))
        items = self._items(call, graph, known)
        if items is None and not _is_loop(call):
            return self._one_call(call, graph, known, place)
        graph.loops.add(call.get("name").text or "")
        leaves: list[str] = []
        if items is None:
            leaves += self._one_call(call, graph, known, place).leaves
        elif isinstance(items, Late):
            leaves += self._for_each(call, items, graph, known, place).leaves
        else:
            for at, item in enumerate(items):
                names, path = {**known, **_item_names(item)}, f"{place.path}.{at}"
                leaves += self._one_call(call, graph, names, place._replace(path=path)).leaves
        # What a loop's calls made cannot be read as one.
        return Outcome(list(dict.fromkeys(leaves)) or after, {}, {})

    def _may_fail(self, call: Value) -> bool:
        asked = call.get("continueOn")
        if asked.is_empty:
            return False
        if asked.get("failed").text != "true":
            self.losses.lost(asked, "continueOn", "Helios goes on after a command that failed, and after nothing else")
            return False
        self.losses.note(
            asked,
            "continueOn",
            "the task succeeds where its command fails; where it is ended from outside (by its limit of memory, say), "
            "the run fails",
        )
        return True

    def _for_each(self, call: Value, items: Late, graph: Graph, known: Mapping[str, str], place: Place) -> Outcome:
        """A loop over a list that a task makes."""
        at = call.get("withParam") if not call.get("withParam").is_empty else call.get("withItems")
        asked = {name for text in call.texts() for name in item_names(text)}
        fields = {name.removeprefix("item.") for name in asked} - {"item"}
        why = self._not_each(self._called(call, graph, known), "item" in asked, fields)
        if why is not None:
            self.losses.lost(at, "withParam", f"{why}; one call is made of the loop")
            return self._one_call(call, graph, known, place)
        mappings = "flat mappings (a field that is called key has to be able to end a task's name)"
        kind = mappings if fields else "texts, numbers or truths" + ("" if asked else f", or {mappings}")
        self.losses.note(
            at,
            "withParam",
            f"its items have to be {kind}, no two that name the same task: a list with others fails the run",
        )
        marks = {name: self.late.mark(Late(f"{{{{{name}}}}}", item=f"${{{name}}}")) for name in asked}
        return self._one_call(call, graph, {**known, **marks}, place._replace(loop=Loop(items)))

    def _not_each(self, called: Value, whole: bool, fields: Set[str]) -> str | None:
        """Why Helios cannot make a task for each item."""
        if not called.get("dag").is_empty or not called.get("steps").is_empty:
            return "what it calls is a graph, and Helios makes one task for each item"
        if whole and fields:
            return "it asks for the item whole and for a field of it, and Helios has either"
        for name in sorted(fields):
            fault = name_fault(name, LIMITS.max_param_name_chars)
            if fault is not None:
                return f"Helios does not take the name of a field of its items: {fault}"
        if sum(each.loop is not None for each in self.around.values()) >= LIMITS.max_later_fans:
            return f"there are more than {LIMITS.max_later_fans} such loops, the limit of a DAG"
        return None

    def _items(self, call: Value, graph: Graph, known: Mapping[str, str]) -> list[object] | Late | None:
        """Its items, or the file that has them; None for a call that is no loop, or for one that is lost."""
        items, param = call.get("withItems"), call.get("withParam")
        # As in Argo, a list without items that is written out makes no loop.
        if items.items:
            return [self._item(items, each.plain(), known) for each in items]
        text = param.text if param.text is not None else items.text
        if text is None:
            if call.get("withSequence").fields is None and _is_loop(call):
                self.losses.lost(call, "loop", "what it goes over is not as Argo has it; one call is made of the loop")
            return self._sequence(call.get("withSequence"), known)
        at = param if param.text is not None else items
        unknown: list[str] = []
        value = substituted(text, known, unknown.append, late=True)
        lates = self.late.within(value)
        if lates and lates[0].task and value.strip() == self.late.mark(lates[0]):
            return lates[0]
        try:
            found = None if unknown or lates else json.loads(value)
        except json.JSONDecodeError:
            found = None
        if isinstance(found, list):
            return cast("list[object]", found)
        if any(f"{{{{{graph.word}.{name}.outputs" in tag.replace(" ", "") for tag in unknown for name in graph.loops):
            why = "what the calls of a loop made together is in no single file"
        elif unknown:
            why = RUN_TIME
        else:
            why = "it is more than the one file that a task makes" if lates else "it is no JSON list"
        self.losses.lost(at, "withParam", f"{why}; one call is made of the loop")
        return None

    def _sequence(self, numbers: Value, known: Mapping[str, str]) -> list[object] | None:
        if numbers.fields is None:
            return None
        ends: dict[str, int | None] = {}
        for name in ("count", "start", "end"):
            written = numbers.get(name)
            if written.text is None:
                ends[name] = None
                continue
            number = Value(written.line, substituted(written.text, known, lambda _: None)).number()
            if number is None:
                self.losses.lost(written, "withSequence", f"{RUN_TIME}; one call is made of the loop")
                return None
            ends[name] = number
        if max(abs(each or 0) for each in ends.values()) > MAX_TASKS:
            self.losses.lost(
                numbers, "withSequence", f"it has more than {MAX_TASKS:,} items; one call is made of the loop"
            )
            return None
        made = sequence(ends["count"], ends["start"], ends["end"], self.maker.filled(numbers.get("format"), known))
        if made is None:
            self.losses.lost(numbers.get("format"), "withSequence", "its format is none of printf's for whole numbers")
            return None
        return list(made)

    def _item(self, at: Value, item: object, known: Mapping[str, str]) -> object:
        if isinstance(item, str):
            return self._filled(at, item, known)
        if isinstance(item, dict):
            return {name: self._item(at, each, known) for name, each in cast("dict[str, object]", item).items()}
        return [self._item(at, each, known) for each in cast("list[object]", item)] if isinstance(item, list) else item

    def _one_call(self, call: Value, graph: Graph, known: Mapping[str, str], place: Place) -> Outcome:
        guarded = self._guarded(call, graph, known, place)
        if guarded is None:
            return Outcome(place.after, {}, {})
        arguments = self._arguments(call, graph, known)
        inline = call.get("inline")
        if inline.fields is not None:
            return self._template(inline, graph.templates, arguments, known, guarded, place.path)
        reference = call.get("templateRef")
        if not reference.is_empty:
            return self._elsewhere(reference, arguments, known, guarded)
        written = call.get("template")
        if written.text is None:
            self.losses.lost(call, "template", "the call names none")
            return Outcome(place.after, {}, {})
        name = substituted(written.text, known, lambda tag: self.losses.lost(written, tag, RUN_TIME))
        return self._call(name, graph.templates, written, arguments, known, guarded)

    def _elsewhere(self, reference: Value, arguments: Arguments, known: Mapping[str, str], place: Place) -> Outcome:
        holder = reference.get("name").text or ""
        if holder not in self.library:
            self.losses.lost(
                reference, "templateRef", f"the template is in {holder}, which is not in this file: --templates FILE"
            )
            return Outcome(place.after, {}, {})
        return self._call(reference.get("template").text or "", self._held(holder), reference, arguments, known, place)

    def _held(self, holder: str) -> Mapping[str, Value]:
        if holder not in self.held:
            self.held[holder] = _by_name(self.library[holder]) if holder in self.library else {}
        return self.held[holder]

    def _called(self, call: Value, graph: Graph, known: Mapping[str, str]) -> Value:
        """The template that a call runs; nothing where it is not found."""
        inline, reference = call.get("inline"), call.get("templateRef")
        if inline.fields is not None:
            return inline
        if not reference.is_empty:
            templates, name = self._held(reference.get("name").text or ""), reference.get("template").text or ""
        else:
            templates, name = graph.templates, substituted(call.get("template").text or "", known, lambda _: None)
        return templates.get(name) or Value(call.line)

    def _guarded(self, call: Value, graph: Graph, known: Mapping[str, str], place: Place) -> Place | None:
        """The place with what has to hold there; None where the call is not made at all."""
        when = call.get("when")
        if when.text is None:
            return place
        unknown: list[str] = []
        text = substituted(without_expression(when.text), known, unknown.append, late=True)
        asked = None if unknown else condition(text)
        if asked is None:
            why = RUN_TIME if unknown else "it is more than comparisons that a shell makes in the same way"
            self.losses.lost(when, "when", f"{when.text!r}: {why}; the task is always run")
            return place
        verdict = decided(asked)
        name = call.get("name").text or ""
        if verdict is not True:
            graph.whens[name] = (*graph.whens.get(name, ()), asked)
        if verdict is False:
            self.losses.note(when, "when", f"{self.late.as_argo(text)!r} does not hold, so {place.path} is not run")
            return None
        if verdict is True:
            return place
        test = item_test(asked, self.late.in_when) if place.loop is not None else None
        if place.loop is not None and test is not None:
            return place._replace(loop=place.loop._replace(when=test))
        self.losses.note(
            when,
            "when",
            "the task itself looks, and ends at once where it does not hold: SUCCEEDED, and its outputs are empty",
        )
        return place._replace(guards=(*place.guards, asked))

    def _arguments(self, call: Value, graph: Graph, known: Mapping[str, str]) -> Arguments:
        parameters: dict[str, str] = {}
        for each in call.get("arguments", "parameters"):
            name, value = each.get("name").text or "", each.get("value")
            if value.is_empty and value.items is None and value.fields is None and "value" not in (each.fields or {}):
                continue  # its template has a default, or says that it lacks
            text = value.text if value.text is not None else _json(value.plain()) if not value.is_empty else ""
            parameters[name] = self._filled(value, text, known)
        artifacts: dict[str, Source] = {}
        for each in call.get("arguments", "artifacts"):
            source = self.maker.passed_on(each, known, graph.passed.artifacts, graph.artifacts(), graph.word)
            if source is not None:
                artifacts[each.get("name").text or ""] = source
        return Arguments(parameters, artifacts)


def _is_loop(call: Value) -> bool:
    return any(not call.get(each).is_empty for each in LOOPS)


def _by_name(spec: Value) -> dict[str, Value]:
    """A spec's templates, with what its templateDefaults add to those that run a container."""
    defaults = spec.get("templateDefaults").fields or {}
    templates = {each.get("name").text or "": each for each in spec.get("templates")}
    if not defaults:
        return templates
    return {
        name: each
        if not each.get("dag").is_empty or not each.get("steps").is_empty
        else Value(each.line, fields={**defaults, **(each.fields or {})})
        for name, each in templates.items()
    }


def _in_order(parents: Mapping[str, list[str]]) -> list[str | None]:
    """Each after its parents, else as written; None at the end for a cycle."""
    done: dict[str | None, None] = {}
    left = dict(parents)
    while left:
        free = [name for name, before in left.items() if all(each in done for each in before)]
        if not free:
            done[None] = None
            break
        for name in free:
            done[name] = None
            del left[name]
    return list(done)


def _safe(name: str) -> str:
    return re.sub(r"[^a-zA-Z0-9._-]", "-", name).lstrip("._-")[:253] or "task"


def _json(value: object) -> str:
    """As Argo writes it into a text."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _item_names(item: object) -> dict[str, str]:
    """`{{item}}` and, of a mapping, `{{item.name}}`. Not those in whose JSON a value would be that only a running task
    has: a file's text cannot be put in there as JSON."""
    names = {"item": "" if item is None else item}
    if isinstance(item, dict):
        names |= {f"item.{name}": value for name, value in cast("dict[str, object]", item).items()}
    texts = {name: value if isinstance(value, str) else _json(value) for name, value in names.items()}
    return {name: text for name, text in texts.items() if _JSON_MARK not in text}
