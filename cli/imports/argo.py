"""Argo Workflows to a DAG of Helios: the entry point's DAG or steps, and all they call, laid out flat. No I/O happens
here.

A template that is called several times becomes a task for each call, with the parameters put in and the loops laid out;
names are the way through the calls, `build.test.1`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, cast

from cli.imports.argo_task import Source, TaskMaker
from cli.imports.argo_text import dependencies, has_tag, holds, sequence, substituted
from cli.imports.document import Unreadable, Value, documents
from cli.imports.losses import Imported, Losses

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

SPEC = frozenset({"entrypoint", "arguments", "templates", "serviceAccountName", "nodeSelector", "tolerations"})
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
    "volumes": "tasks of Helios have no volumes: data goes through inputs and outputs",
    "volumeClaimTemplates": "tasks of Helios have no volumes: data goes through inputs and outputs",
    "synchronization": "Helios has no mutexes and semaphores",
    "activeDeadlineSeconds": "Helios limits the time of tasks (timeoutSeconds), not of runs",
    "workflowTemplateRef": "the templates are in another object; import that one's file",
    "imagePullSecrets": "pull secrets are a setting of Helios (HELIOS_IMAGE_PULL_SECRETS), not of a DAG",
    "securityContext": "whom tasks run as is a setting of Helios, not of a DAG",
    "podSpecPatch": "the pods are Helios' own",
    "templateDefaults": "defaults of templates are not carried over; write the fields into each",
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
    }
)
CALL_REASONS = {
    "templateRef": "the template is in another object, which is not in this file",
    "continueOn": "a task of Helios that fails ends what depends on it",
    "onExit": "Helios has no exit handlers of single tasks",
    "hooks": "Helios has no lifecycle hooks",
}


class Arguments(NamedTuple):
    """What a call passes."""

    parameters: Mapping[str, str]
    artifacts: Mapping[str, Source]


class Outcome(NamedTuple):
    """What a call left: the tasks after which it is over, and its artifacts."""

    leaves: Sequence[str]
    artifacts: Mapping[str, Source]


def import_argo(text: str, parameters: Mapping[str, str] | None = None) -> list[Imported]:
    """A DAG for each workflow in the text, with `parameters` in place of the workflow's own. Raises Unreadable."""
    found = [each for each in documents(text) if (each.get("kind").text or "") in KINDS]
    if not found:
        kinds = ", ".join(KINDS)
        raise Unreadable(f"no document is of a kind that has tasks: {kinds}")
    return [_Importer(each, parameters or {}).imported() for each in found]


@dataclass(slots=True)
class _Importer:
    document: Value
    overrides: Mapping[str, str]
    losses: Losses = field(default_factory=Losses)
    tasks: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    calls: list[str] = field(default_factory=list[str])

    def imported(self) -> Imported:
        kind = self.document.get("kind").text or ""
        spec = self.document.get(*KINDS[kind])
        if kind == "CronWorkflow":
            own = self.document.get("spec")
            reasons = dict.fromkeys(own.fields or {}, "when it is run is not a DAG's affair: helios schedule add")
            self.losses.unknown(own, {"workflowSpec"}, {}, reasons)
        self.losses.unknown(spec, SPEC, SPEC_REASONS, SPEC_HARMLESS)
        for name in ("labels", "annotations"):
            told = self.document.get("metadata", name)
            if not told.is_empty:
                self.losses.note(told, f"metadata.{name}", "Helios keeps none of a DAG")
        maker = TaskMaker(spec, self.losses)
        variables = self._workflow_parameters(spec)
        artifacts = {
            each.get("name").text or "": maker.source_of(each, variables) for each in spec.get("arguments", "artifacts")
        }
        entry = spec.get("entrypoint")
        templates = {each.get("name").text or "": each for each in spec.get("templates")}
        if entry.text is None:
            self.losses.lost(spec, "entrypoint", "the workflow names none, so there is nothing to run")
        else:
            passed = {name.rpartition(".")[2]: value for name, value in variables.items()}
            self._call(
                entry.text,
                templates,
                entry,
                Arguments(passed, {n: s for n, s in artifacts.items() if s}),
                (),
                "",
                variables,
                maker,
            )
        metadata = self.document.get("metadata")
        name = metadata.get("name").text or (metadata.get("generateName").text or "imported").rstrip("-")
        dag: dict[str, Any] = {"dagName": re.sub(r"[^a-zA-Z0-9._-]", "-", name).lstrip("._-")[:128] or "imported"}
        account = spec.get("serviceAccountName").text
        if account and not has_tag(account):
            dag["serviceAccountName"] = account
        if not self.tasks:
            self.losses.lost(spec, "tasks", "nothing of the workflow could be carried over")
        return Imported({**dag, "tasks": self.tasks}, self.losses.sorted())

    def _workflow_parameters(self, spec: Value) -> dict[str, str]:
        values: dict[str, str] = {}
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
        values |= {
            f"workflow.parameters.{name}": value
            for name, value in self.overrides.items()
            if f"workflow.parameters.{name}" not in values
        }
        return values

    def _call(
        self,
        name: str,
        templates: Mapping[str, Value],
        at: Value,
        passed: Arguments,
        after: Sequence[str],
        prefix: str,
        variables: Mapping[str, str],
        maker: TaskMaker,
    ) -> Outcome:
        template = templates.get(name)
        if template is None:
            self.losses.lost(at, f"template {name}", "there is no such template in this file")
            return Outcome(after, {})
        if name in self.calls or len(self.calls) >= MAX_CALLS:
            self.losses.lost(at, f"template {name}", "it calls itself, and a DAG has an end")
            return Outcome(after, {})
        self.calls.append(name)
        try:
            return self._template(
                template,
                templates,
                passed,
                after,
                prefix or _safe(name),
                prefix,
                # A template sees what it is passed, and nothing else of its caller's.
                {name: value for name, value in variables.items() if name.startswith("workflow.")},
                maker,
            )
        finally:
            self.calls.pop()

    def _template(
        self,
        template: Value,
        templates: Mapping[str, Value],
        passed: Arguments,
        after: Sequence[str],
        task_name: str,
        prefix: str,
        variables: Mapping[str, str],
        maker: TaskMaker,
    ) -> Outcome:
        known = dict(variables)
        for each in template.get("inputs", "parameters"):
            name = each.get("name").text or ""
            value = passed.parameters.get(name)
            if value is None:
                given = each.get("value") if not each.get("value").is_empty else each.get("default")
                value = given.text
            if value is None and not (each.get("value").fields is None and "default" in (each.fields or {})):
                why = (
                    RUN_TIME
                    if not each.get("valueFrom").is_empty
                    else "the call gives it no value, and it has no default"
                )
                self.losses.lost(each, f"parameter {name}", why)
                continue
            known[f"inputs.parameters.{name}"] = value or ""
        if not template.get("dag").is_empty:
            return self._dag(template, templates, passed, after, prefix, known, maker)
        if not template.get("steps").is_empty:
            return self._steps(template, templates, passed, after, prefix, known, maker)
        if len(self.tasks) >= MAX_TASKS:
            self.losses.lost(template, "tasks", f"there are more than {MAX_TASKS:,} of them, the limit of a DAG")
            return Outcome(after, {})
        made = maker.task(template, task_name, known, passed.artifacts, after)
        if made is None:
            return Outcome(after, {})
        self.tasks.append(made.document)
        return Outcome([task_name], made.artifacts)

    def _dag(
        self,
        template: Value,
        templates: Mapping[str, Value],
        passed: Arguments,
        after: Sequence[str],
        prefix: str,
        known: dict[str, str],
        maker: TaskMaker,
    ) -> Outcome:
        dag = template.get("dag")
        self._look_at_caller(template, "dag")
        self.losses.unknown(
            dag, {"tasks", "target"}, {}, {"failFast": "Helios goes on with what does not depend on a failure"}
        )
        calls = {each.get("name").text or "": each for each in dag.get("tasks")}
        parents: dict[str, list[str]] = {}
        for name, call in calls.items():
            parents[name] = [each for each in self._parents(call, known) if each in calls or self._no_task(call, each)]
        wanted = self._targets(dag.get("target"), parents, known)
        outcomes: dict[str, Outcome] = {}
        for name in _in_order(parents):
            if name is None:
                self.losses.lost(dag, "tasks", "their dependencies form a cycle")
                break
            if name not in wanted:
                self.losses.note(calls[name], f"task {name}", "no target needs it, so Argo does not run it either")
                continue
            before = [leaf for each in parents[name] for leaf in outcomes[each].leaves] if parents[name] else after
            outcomes[name] = self._calls(
                calls[name],
                templates,
                passed,
                before,
                f"{prefix}.{name}" if prefix else name,
                known,
                outcomes,
                "tasks",
                maker,
            )
        inner = {each for name in outcomes for each in parents[name]}
        leaves = [leaf for name, outcome in outcomes.items() if name not in inner for leaf in outcome.leaves]
        return Outcome(
            list(dict.fromkeys(leaves)) or after, self._outputs(template, outcomes, passed, known, "tasks", maker)
        )

    def _steps(
        self,
        template: Value,
        templates: Mapping[str, Value],
        passed: Arguments,
        after: Sequence[str],
        prefix: str,
        known: dict[str, str],
        maker: TaskMaker,
    ) -> Outcome:
        self._look_at_caller(template, "steps")
        outcomes: dict[str, Outcome] = {}
        for group in template.get("steps"):
            leaves: list[str] = []
            for call in group.items if group.items is not None else [group]:
                name = call.get("name").text or ""
                if not name:
                    self.losses.lost(call, "step", "it has no name")
                    continue
                outcomes[name] = self._calls(
                    call,
                    templates,
                    passed,
                    after,
                    f"{prefix}.{name}" if prefix else name,
                    known,
                    outcomes,
                    "steps",
                    maker,
                )
                leaves += outcomes[name].leaves
            after = list(dict.fromkeys(leaves)) or after
        return Outcome(after, self._outputs(template, outcomes, passed, known, "steps", maker))

    def _look_at_caller(self, template: Value, kind: str) -> None:
        reasons = {
            "retryStrategy": "Helios tries tasks again, not whole graphs; give it to what this one calls",
            "activeDeadlineSeconds": "Helios limits the time of tasks, not of graphs",
            "timeout": "Helios limits the time of tasks, not of graphs",
            "memoize": "Helios skips tasks, not graphs; say memoize: true of each task",
            "synchronization": "Helios has no mutexes and semaphores",
        }
        harmless = {"metadata": "Helios labels its own pods", "parallelism": SPEC_HARMLESS["parallelism"]}
        self.losses.unknown(template, {"name", "inputs", "outputs", kind}, reasons, harmless)

    def _parents(self, call: Value, known: Mapping[str, str]) -> list[str]:
        depends = call.get("depends")
        if depends.text is None:
            return [each.text for each in call.get("dependencies") if each.text]
        found = dependencies(substituted(depends.text, known, lambda _: None))
        if not found.plain:
            self.losses.lost(
                depends,
                "depends",
                f"{depends.text!r} asks for more than success; Helios waits for all of its tasks to succeed",
            )
        return found.tasks

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

    def _calls(
        self,
        call: Value,
        templates: Mapping[str, Value],
        passed: Arguments,
        after: Sequence[str],
        prefix: str,
        known: Mapping[str, str],
        outcomes: Mapping[str, Outcome],
        word: Literal["tasks", "steps"],
        maker: TaskMaker,
    ) -> Outcome:
        """One call, or, of a loop, all of its calls."""
        self.losses.unknown(call, CALL, CALL_REASONS, {})
        prefix = _safe(prefix)
        items = self._items(call, known)
        if items is None:
            return self._one_call(call, templates, passed, after, prefix, known, outcomes, word, maker)
        leaves: list[str] = []
        for at, item in enumerate(items):
            named = {**known, **_item_names(item)}
            one = self._one_call(call, templates, passed, after, f"{prefix}.{at}", named, outcomes, word, maker)
            leaves += one.leaves
        # What a loop's calls made cannot be read as one.
        return Outcome(list(dict.fromkeys(leaves)) or after, {})

    def _items(self, call: Value, known: Mapping[str, str]) -> list[object] | None:
        items, numbers, param = call.get("withItems"), call.get("withSequence"), call.get("withParam")
        if items.items is not None:
            return [_filled(each.plain(), known) for each in items]
        text = param.text if param.text is not None else items.text
        if text is not None:
            at = param if param.text is not None else items
            unknown: list[str] = []
            value = substituted(text, known, unknown.append)
            try:
                found = None if unknown else json.loads(value)
            except json.JSONDecodeError:
                found = None
            if isinstance(found, list):
                return cast("list[object]", found)
            self.losses.lost(
                at, "withParam", f"{RUN_TIME if unknown else 'it is no JSON list'}; one call is made of the loop"
            )
            return None
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
        made = sequence(ends["count"], ends["start"], ends["end"], numbers.get("format").text or "")
        if made is None:
            self.losses.lost(numbers.get("format"), "withSequence", "its format is none of printf's for whole numbers")
            return None
        return list(made)

    def _one_call(
        self,
        call: Value,
        templates: Mapping[str, Value],
        passed: Arguments,
        after: Sequence[str],
        prefix: str,
        known: Mapping[str, str],
        outcomes: Mapping[str, Outcome],
        word: Literal["tasks", "steps"],
        maker: TaskMaker,
    ) -> Outcome:
        when = call.get("when")
        if when.text is not None:
            unknown: list[str] = []
            condition = substituted(when.text, known, unknown.append)
            verdict = None if unknown else holds(condition)
            if verdict is None:
                why = RUN_TIME if unknown else "it is more than a comparison of two texts"
                self.losses.lost(when, "when", f"{when.text!r}: {why}; the task is always run")
            elif not verdict:
                self.losses.note(when, "when", f"{condition!r} does not hold, so {prefix} is not run")
                return Outcome(after, {})
        parameters: dict[str, str] = {}
        for each in call.get("arguments", "parameters"):
            name, value = each.get("name").text or "", each.get("value")
            if (
                value.text is None
                and value.fields is None
                and value.items is None
                and "value" not in (each.fields or {})
            ):
                continue  # its template has a default, or says that it lacks
            text = value.text if value.text is not None else _json(value.plain()) if not value.is_empty else ""
            told: list[str] = []
            filled = substituted(text, known, told.append)
            for tag in told:
                self.losses.lost(value, tag, RUN_TIME)
            parameters[name] = filled
        artifacts: dict[str, Source] = {}
        for each in call.get("arguments", "artifacts"):
            source = maker.passed_on(each, known, passed.artifacts, {n: o.artifacts for n, o in outcomes.items()}, word)
            if source is not None:
                artifacts[each.get("name").text or ""] = source
        inline = call.get("inline")
        name = call.get("template").text
        if inline.fields is not None:
            return self._template(
                inline, templates, Arguments(parameters, artifacts), after, prefix, prefix, known, maker
            )
        if name is None:
            if call.get("templateRef").is_empty:
                self.losses.lost(call, "template", "the call names none")
            return Outcome(after, {})
        name = substituted(name, known, lambda tag: self.losses.lost(call.get("template"), tag, RUN_TIME))
        return self._call(
            name, templates, call.get("template"), Arguments(parameters, artifacts), after, prefix, known, maker
        )

    def _outputs(
        self,
        template: Value,
        outcomes: Mapping[str, Outcome],
        passed: Arguments,
        known: Mapping[str, str],
        word: Literal["tasks", "steps"],
        maker: TaskMaker,
    ) -> dict[str, Source]:
        """What a graph passes out of what it called. A value is lost where it is used, not here."""
        found: dict[str, Source] = {}
        for each in template.get("outputs", "artifacts"):
            made = {name: outcome.artifacts for name, outcome in outcomes.items()}
            source = maker.passed_on(each, known, passed.artifacts, made, word)
            if source is not None:
                found[each.get("name").text or ""] = source
        for each in template.get("outputs", "parameters"):
            self.losses.lost(each, f"outputs.parameters {each.get('name').text}", RUN_TIME)
        return found


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
    """`{{item}}` and, of a mapping, `{{item.name}}`."""
    whole = item if isinstance(item, str) else "" if item is None else _json(item)
    names = {"item": whole}
    if isinstance(item, dict):
        for name, value in cast("dict[str, object]", item).items():
            names[f"item.{name}"] = value if isinstance(value, str) else _json(value)
    return names


def _filled(item: object, known: Mapping[str, str]) -> object:
    if isinstance(item, str):
        return substituted(item, known, lambda _: None)
    if isinstance(item, dict):
        return {name: _filled(each, known) for name, each in cast("dict[str, object]", item).items()}
    return [_filled(each, known) for each in cast("list[object]", item)] if isinstance(item, list) else item
