"""One template of Argo that runs a container, as a task of Helios. No I/O happens here.

Argo's files are anywhere, Helios' in `/artifacts`: where a command names the path of an artifact, it is given the new
one, by the artifact's file name. A command that never names it cannot be moved, which is said.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cli.imports.argo_late import OF_THE_TASK, Around, Late, LateValues, takes_items
from cli.imports.argo_text import has_tag, renamed_paths, substituted
from cli.imports.document import Value
from cli.imports.losses import Losses

ROOT = "/artifacts"
MAX_RETRIES = 20
_SPAN = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_EXPANSION = re.compile(r"\$\$|\$\(([^()]*)\)")
_INTERPRETERS = {
    **dict.fromkeys(("sh", "bash", "ash", "dash", "zsh", "python", "python2", "python3"), "-c"),
    **dict.fromkeys(("node", "perl", "ruby"), "-e"),
}
"""What runs a text that is an argument, by the option that says so."""

TEMPLATE = frozenset(
    {
        "name",
        "inputs",
        "outputs",
        "container",
        "script",
        "retryStrategy",
        "activeDeadlineSeconds",
        "timeout",
        "nodeSelector",
        "tolerations",
        "serviceAccountName",
        "volumes",
    }
)
TEMPLATE_REASONS = {
    "resource": "Helios runs containers; it makes no other objects of Kubernetes",
    "suspend": "Helios has no task that waits for a person",
    "http": "Helios runs containers; call the address from one",
    "plugin": "Helios runs containers, not plugins of Argo",
    "data": "Helios runs containers; list the objects in one",
    "containerSet": "a task of Helios is one container; make a task of each",
    "daemon": "a task of Helios ends; one that serves others cannot be a task",
    "sidecars": "a task of Helios is one container",
    "initContainers": "a task of Helios is one container",
    "affinity": "only nodeSelector and tolerations are carried over",
    "synchronization": "Helios has no mutexes and semaphores",
    "memoize": "Argo's key of a cache is not Helios': say memoize: true, and it goes by command, image and inputs",
    "securityContext": "whom tasks run as is a setting of Helios, not of a DAG",
    "podSpecPatch": "the pods are Helios' own",
    "priorityClassName": "say priority: high, normal or low",
    "hostAliases": "the pods are Helios' own",
    "metrics": "Helios' own metrics are those of runs and tasks",
    "archiveLocation": "Helios keeps artifacts in the store it is set up with",
}
HARMLESS = {
    "metadata": "Helios labels its own pods",
    "failFast": "it is a single task",
    "displayName": "Helios shows tasks by the way to them",
    "annotations": "a template's are how Argo shows it; Helios shows tasks by the way to them",
}
NO_VOLUMES = "tasks of Helios have no volumes: data goes through inputs and outputs"
STORES = ("s3", "gcs", "oss", "azure", "hdfs", "artifactory", "plugin")
RUNNERS = ("resource", "suspend", "http", "plugin", "data", "containerSet")
CONTAINER = frozenset({"name", "image", "command", "args", "env", "resources", "source", "volumeMounts"})
CONTAINER_REASONS = {
    "workingDir": "a task of Helios works in /artifacts; let its command change the folder",
    "envFrom": "variables are named one by one in Helios: env: {NAME: {secret, key}}",
    "securityContext": "whom tasks run as is a setting of Helios, not of a DAG",
    "ports": "nothing connects to a task of Helios",
}
CONTAINER_HARMLESS = {
    "imagePullPolicy": "Kubernetes' own rule holds: by the tag",
    "readinessProbe": "nothing connects to a task of Helios",
    "livenessProbe": "nothing connects to a task of Helios",
}


def _are_options(words: Sequence[str]) -> bool:
    """Whether each begins with a dash, or is what `-o` before it sets."""
    before = ["", *words]
    return all(
        word.startswith("-") or re.fullmatch(r"-[a-zA-Z]*o", last) is not None
        for last, word in zip(before, words, strict=False)
    )


class Source(NamedTuple):
    """Where an artifact is from: a task's output, or an object."""

    task: str = ""
    name: str = ""
    uri: str = ""
    within: str = ""
    """The part of it that is meant, where it is a folder."""


class Made(NamedTuple):
    """A task as YAML has it, and its artifacts by the names Argo knows them by."""

    document: dict[str, Any]
    artifacts: Mapping[str, Source]
    values: Mapping[str, str]
    """What later tasks may ask of it, by Argo's words: `outputs.result`, `outputs.parameters.x`, `status`."""
    exported: Mapping[str, str]
    """The parameters that are for the whole workflow, by their names there."""


@dataclass(slots=True)
class TaskMaker:
    spec: Value
    losses: Losses
    late: LateValues
    shared: dict[str, Source] = field(default_factory=dict[str, Source])
    """Artifacts that are for the whole workflow, by their names there (`globalName`)."""

    def task(
        self,
        template: Value,
        name: str,
        known: Mapping[str, str],
        artifacts: Mapping[str, Source],
        after: Sequence[str],
        around: Around,
    ) -> Made | None:
        """None when it runs no container. `artifacts` are what the call passes; `after` the tasks that come before;
        what its files need besides the command is put into `around`."""
        self.losses.unknown(template, TEMPLATE, TEMPLATE_REASONS, HARMLESS)
        body = template.get("container") if not template.get("container").is_empty else template.get("script")
        if body.is_empty:
            self._no_container(template)
            return None
        self.losses.unknown(body, CONTAINER, CONTAINER_REASONS, CONTAINER_HARMLESS)
        attempt = Late("{{retries}}", expression="$((HELIOS_ATTEMPT - 1))")
        files = _Files(self, template, {**known, "retries": self.late.mark(attempt)}, artifacts, around)
        image = self.varied(body.get("image"), body.get("image").text or "", files.known)
        if not image:
            self.losses.lost(body, "image", "there is none")
        document: dict[str, Any] = {"name": name}
        loop, implied = around.loop, {source.task for source in files.sources}
        if loop is not None:
            document["forEach"] = {"fromTask": loop.items.task, "name": loop.items.path}
            implied.add(loop.items.task)
            if loop.when:
                document["when"] = loop.when
        document["image"] = image
        env = self._env(body.get("env"), files)
        command, args = self._command(template, body, files, env)
        document["command"] = command
        if args:
            document["args"] = args
        before = [each for each in dict.fromkeys(after) if each not in implied]
        if before:
            document["depends_on"] = before
        if files.inputs:
            document["inputs"] = files.inputs
        files.tell_unseen()
        self._volumes(template, body, files)
        outputs = list(dict.fromkeys([*files.outputs.values(), *files.parameters]))
        if outputs:
            document["outputs"] = outputs
        retries = self._retries(template.get("retryStrategy"))
        if retries and around.may_fail:
            self.losses.lost(
                template.get("retryStrategy"), "retryStrategy", "a task that may fail (continueOn) is not tried again"
            )
        elif retries:
            document["retries"] = {"count": retries}
        if env:
            document["env"] = env
        resources = self._resources(body.get("resources"), files.known)
        if resources:
            document["resources"] = resources
        seconds = self._seconds(template, files.known)
        if seconds is not None:
            document["timeoutSeconds"] = seconds
            if around.may_fail:
                self.losses.lost(template, "continueOn", "a task that reaches its limit of time fails all the same")
        document |= self._placement(template, files.known)
        values, exported = self._values(name, template, files, around)
        for each in template.get("outputs", "artifacts"):
            place = files.outputs.get(each.get("name").text or "")
            shared = self._shared_name(each, around)
            if shared and place:
                self.shared[shared] = Source(name, place)
        return Made(document, {each: Source(name, place) for each, place in files.outputs.items()}, values, exported)

    def _no_container(self, template: Value) -> None:
        known = [each for each in RUNNERS if each in (template.fields or {})]
        for each in known:
            if template.get(each).is_empty:  # told already where it is not
                self.losses.lost(template.get(each), each, TEMPLATE_REASONS[each])
        if not known:
            self.losses.lost(template, "template", "it has no container, script, dag or steps")

    def _values(
        self, name: str, template: Value, files: "_Files", around: Around
    ) -> tuple[dict[str, str], dict[str, str]]:
        def mark(word: str, path: str) -> str:
            return self.late.mark(Late(f"{{{{{name}.{word}}}}}", name, path))

        values = {"outputs.result": mark("outputs.result", OF_THE_TASK["result"])}
        if around.may_fail:
            values["exitCode"] = mark("exitCode", OF_THE_TASK["exitCode"])
            values["status"] = mark("status", OF_THE_TASK["status"])
        elif not around.guards:  # else nobody would come to ask
            values |= {"exitCode": "0", "status": "Succeeded"}
        exported: dict[str, str] = {}
        for each in template.get("outputs", "parameters"):
            parameter = each.get("name").text or ""
            place = files.values.get(parameter)
            if place is None:
                continue
            word = f"outputs.parameters.{parameter}"
            values[word] = place.text if place.path == "" else mark(word, place.path)
            shared = self._shared_name(each, around)
            if shared:
                exported[shared] = values[word]
        return values, exported

    def _shared_name(self, output: Value, around: Around) -> str | None:
        name = output.get("globalName").text
        if name and around.loop is not None:
            self.losses.lost(
                output, f"globalName {name}", "each task of a loop gives it, and which is last nobody knows"
            )
            return None
        return name

    def _volumes(self, template: Value, body: Value, files: "_Files") -> None:
        """A volume that is empty at first and of one pod only is a folder; one that no command names is nothing."""
        own = {
            each.get("name").text
            for each in (*self.spec.get("volumes"), *template.get("volumes"))
            if "emptyDir" in (each.fields or {})
        }
        for each in body.get("volumeMounts"):
            path = (each.get("mountPath").text or "").rstrip("/")
            if each.get("name").text not in own or files.names(path):
                self.losses.lost(body.get("volumeMounts"), "volumeMounts", NO_VOLUMES)
            else:
                self.losses.note(each, "volumeMounts", f"an empty folder of the pod, and no command names {path}")

    def source_of(self, artifact: Value, known: Mapping[str, str]) -> Source | None:
        """An artifact that names its own place: an object in S3."""
        bucket, key = artifact.get("s3", "bucket").text, artifact.get("s3", "key").text
        name = artifact.get("name").text
        if key and bucket:
            uri = self.varied(artifact, f"s3://{bucket}/{key}", known)
            endpoint = artifact.get("s3", "endpoint")
            if not endpoint.is_empty:
                self.losses.note(endpoint, f"artifact {name}", "Helios reads objects from the store it is set up with")
            return Source(uri=uri)
        if key:
            self.losses.lost(
                artifact, f"artifact {name}", "its bucket is that of Argo's own settings; name it: s3://bucket/key"
            )
            return None
        places = [
            each
            for each in artifact.fields or {}
            if each not in ("name", "path", "mode", "optional", "archive", "from")
        ]
        kind = f"an input from {places[0]}" if places else "what it is from is not said"
        self.losses.lost(
            artifact, f"artifact {name}", f"{kind}; Helios reads objects of S3: helios put FILE s3://bucket/key"
        )
        return None

    def passed_on(
        self,
        artifact: Value,
        known: Mapping[str, str],
        inputs: Mapping[str, Source],
        made: Mapping[str, Mapping[str, Source]],
        word: str,
    ) -> Source | None:
        """What `from: "{{tasks.A.outputs.artifacts.x}}"` names; None, with a loss, where it cannot be said."""
        name = artifact.get("name").text
        for each in ("subPath", "fromExpression"):
            if not artifact.get(each).is_empty:
                self.losses.lost(
                    artifact.get(each), each, "an artifact of Helios is passed on whole, and by its own task"
                )
        source = artifact.get("from")
        if source.text is None:
            if not artifact.get("fromExpression").is_empty:
                return None
            return self.source_of(artifact, known)
        text = source.text.strip()
        reference = re.fullmatch(r"\{\{\s*=?\s*([^{}]*?)\s*\}\}((?:/[^/{}]+)*)/?", text)
        path = (reference[1] if reference else text).split(".")
        within = reference[2].strip("/") if reference else ""
        found = self._named(path, inputs, made, word)
        if found is not None:
            return found._replace(within="/".join(each for each in (found.within, within) if each))
        self.losses.lost(source, f"artifact {name}", f"{text} is nothing that was carried over")
        return None

    def _named(
        self, path: Sequence[str], inputs: Mapping[str, Source], made: Mapping[str, Mapping[str, Source]], word: str
    ) -> Source | None:
        match path:
            case ["workflow", "outputs", "artifacts", *rest]:
                return self.shared.get(".".join(rest))
            case ["inputs", "artifacts", *rest]:
                return inputs.get(".".join(rest))
            case [group, task, "outputs", "artifacts", *rest] if group == word and task in made:
                return made[task].get(".".join(rest))
            case _:
                return None

    def _run_time(self, at: Value, tag: str) -> None:
        self.losses.lost(at, tag, "its value is known only while the workflow runs")

    def filled(self, value: Value, known: Mapping[str, str], *, late: bool = False) -> str:
        """The text with its parameters put in; `late`: also with values that only a running task has."""
        return substituted(value.text or "", known, lambda tag: self._run_time(value, tag), late=late)

    def varied(self, at: Value, text: str, known: Mapping[str, str]) -> str:
        """A text where no shell is, with its parameters put in, also with items."""
        found = substituted(text, self.late.of_items(known), lambda tag: self._run_time(at, tag), late=True)
        if not takes_items(found):
            self.losses.lost(at, "$", "right behind a dollar Helios puts no item in")
        return found

    def _command(
        self, template: Value, body: Value, files: "_Files", env: Mapping[str, Any]
    ) -> tuple[list[str], list[str]]:
        command = [self._expanded(each, files.moved(each), env) for each in body.get("command")]
        args = [self._expanded(each, files.moved(each), env) for each in body.get("args")]
        if not template.get("script").is_empty and template.get("container").is_empty:
            source = files.moved(body.get("source"))
            program = command[0].rpartition("/")[2] if command else ""
            if program not in _INTERPRETERS:
                what = f"{program!r} does not run" if command else "no command is named that runs"
                self.losses.lost(
                    body.get("source"), "source", f"{what} a text that is an argument; put it into the image"
                )
            else:
                # Argo puts the file of the script after the arguments, so they are the interpreter's own.
                options, args = [*command[1:], *args], []
                if not _are_options(options):
                    self.losses.lost(
                        body.get("args"), "args", f"{program} would take them for what to run, and not the source"
                    )
                command = [command[0], *options, _INTERPRETERS[program], source]
        if not command:
            self.losses.lost(
                body, "command", "there is none: Helios does not know the image's own entrypoint; write it"
            )
        return command, args

    def _env(self, env: Value, files: "_Files") -> dict[str, Any]:
        variables: dict[str, Any] = {}
        for each in env:
            name, source = each.get("name").text or "", each.get("valueFrom")
            secret = source.get("secretKeyRef")
            if source.is_empty:
                variables[name] = self._expanded(each, files.moved(each.get("value")), variables)
            elif not secret.is_empty:
                variables[name] = {
                    "secret": self.filled(secret.get("name"), files.known),
                    "key": self.filled(secret.get("key"), files.known),
                }
            else:
                kind = next(iter(source.fields or {}), "")
                self.losses.lost(each, f"env {name}", f"a value from {kind}; Helios takes values and secrets")
        return variables

    def _expanded(self, at: Value, text: str, env: Mapping[str, Any]) -> str:
        """The text as Kubernetes hands it on: `$(NAME)` of a variable that is declared is its value, `$$` is `$`."""

        def one(match: "re.Match[str]") -> str:
            if match[0] == "$$":
                return "$"
            value = env.get(match[1])
            if isinstance(value, str):
                return value
            if value is not None:
                self.losses.lost(at, match[0], "it is a secret; let a shell read the variable")
            return match[0]

        return _EXPANSION.sub(one, text)

    def _retries(self, strategy: Value) -> int:
        if strategy.fields is None:
            return 0
        reasons = {
            "backoff": "Helios tries again at once",
            "affinity": "Helios chooses the node anew in its own way",
        }
        asked = {"expression": "whether to try again is not asked; it is tried after every failure"}
        self.losses.unknown(strategy, {"limit", "retryPolicy"}, asked, reasons)
        policy, limit = strategy.get("retryPolicy"), strategy.get("limit")
        if policy.text == "OnError":
            self.losses.note(policy, "retryPolicy", "what is not the task's own failure, Helios repeats in any case")
            return 0
        if limit.text is None:
            self.losses.note(strategy, "retryStrategy", f"it has no limit; {MAX_RETRIES} is Helios'")
            return MAX_RETRIES
        number = limit.number()
        if number is None:
            self._run_time(limit, limit.text)
            return 0
        if number > MAX_RETRIES:
            self.losses.lost(limit, "limit", f"{number} tries; {MAX_RETRIES} is Helios' limit")
        return max(0, min(MAX_RETRIES, number))

    def _resources(self, resources: Value, known: Mapping[str, str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for kind in ("requests", "limits"):
            quantities = {name: self.filled(each, known) for name, each in (resources.get(kind).fields or {}).items()}
            if quantities:
                found[kind] = quantities
        self.losses.unknown(resources, {"requests", "limits"}, {}, {})
        return found

    def _seconds(self, template: Value, known: Mapping[str, str]) -> int | None:
        for name in ("activeDeadlineSeconds", "timeout"):
            written = template.get(name)
            if written.text is None:
                continue
            text = self.filled(written, known)
            span = _SPAN.fullmatch(text)
            seconds = int(text) if text.isdecimal() else 0
            if not seconds and span is not None:
                hours, minutes, rest = (int(each or 0) for each in span.groups())
                seconds = hours * 3600 + minutes * 60 + rest
            if seconds > 0:
                return seconds
            if not has_tag(text):
                self.losses.lost(written, name, f"{text!r} is no whole number of seconds")
        return None

    def _placement(self, template: Value, known: Mapping[str, str]) -> dict[str, Any]:
        placed: dict[str, Any] = {}
        selector = {**(self.spec.get("nodeSelector").fields or {}), **(template.get("nodeSelector").fields or {})}
        if selector:
            placed["nodeSelector"] = {name: self.filled(each, known) for name, each in selector.items()}
        tolerations = [*self.spec.get("tolerations"), *template.get("tolerations")]
        if tolerations:
            placed["tolerations"] = [self._toleration(each, known) for each in tolerations]
        account = self.filled(template.get("serviceAccountName"), known)
        if account:
            placed["serviceAccountName"] = account
        return placed

    def _toleration(self, value: Value, known: Mapping[str, str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, each in (value.fields or {}).items():
            if each.text is None:
                continue
            text = self.filled(each, known)
            number = Value(each.line, text).number() if name == "tolerationSeconds" else None
            found[name] = text if number is None else number
        return found


class _Files:
    """The artifacts of one task: where they were, where they are now, and whether its command says so."""

    def __init__(
        self,
        maker: TaskMaker,
        template: Value,
        known: Mapping[str, str],
        artifacts: Mapping[str, Source],
        around: Around,
    ) -> None:
        self.maker = maker
        self.around = around
        self.values: dict[str, _Written] = {}
        """The template's output parameters."""
        self.inputs: list[dict[str, str]] = []
        self.sources: list[Source] = []
        self.outputs: dict[str, str] = {}
        self.parameters: list[str] = []
        self.known = dict(known)
        self._places: dict[str, str] = {}
        """The new path of each path."""
        self._at: dict[str, tuple[Value, str, str]] = {}
        self._written = ""
        self._seen: set[str] = set()
        for each in template.get("inputs", "artifacts"):
            self._input(each, artifacts)
        for each in template.get("outputs", "artifacts"):
            self._output(each)
        for each in template.get("outputs", "parameters"):
            self._parameter(each)

    def _parameter(self, parameter: Value) -> None:
        """A value that the command writes into a file: an output like others."""
        losses, name = self.maker.losses, parameter.get("name").text or ""
        what, source = f"outputs.parameters {name}", parameter.get("valueFrom")
        losses.unknown(parameter, {"name", "value", "valueFrom", "globalName"}, {}, {"description": "for people"})
        if parameter.get("value").text is not None:
            self.values[name] = _Written("", self.maker.filled(parameter.get("value"), self.known, late=True))
            return
        path = self.maker.filled(source.get("path"), self.known)
        if not path:
            kind = next(iter(source.fields or {}), "nothing")
            losses.note(parameter, what, f"a value from {kind} is not carried over; what reads it is listed there")
            return
        place = self._place(parameter, name, path, what)
        if place in self._inputs():
            losses.lost(parameter, what, "it is an input that the task changes; write to another path")
            return
        self.parameters.append(place)
        self.values[name] = _Written(place, "")
        self.known[f"outputs.parameters.{name}.path"] = f"{ROOT}/{place}"
        if source.get("default").text is not None:
            self.around.defaults[place] = self.maker.filled(source.get("default"), self.known, late=True)

    def _inputs(self) -> set[str]:
        return {entry.get("as") or entry.get("name") or "" for entry in self.inputs}

    def _input(self, artifact: Value, artifacts: Mapping[str, Source]) -> None:
        losses, name = self.maker.losses, artifact.get("name").text or ""
        harmless = {"archive": "Helios packs and unpacks by itself"}
        reasons = {
            "mode": "Helios gives files the rights they were stored with",
            "subPath": "artifacts are taken whole",
        }
        places = {
            "name",
            "path",
            "optional",
            "from",
            "s3",
            "http",
            "git",
            "raw",
            "gcs",
            "oss",
            "hdfs",
            "azure",
            "artifactory",
            "plugin",
        }
        losses.unknown(artifact, places, reasons, harmless)
        source, path = artifacts.get(name), self.maker.filled(artifact.get("path"), self.known)
        raw = artifact.get("raw", "data")
        if source is None and raw.text is not None:
            place = self._place(artifact, name, path)
            self.around.files[place] = self.maker.filled(raw, self.known, late=True)
            self.known[f"inputs.artifacts.{name}.path"] = f"{ROOT}/{place}"
            return
        if source is None:
            own = set(artifact.fields or {}) - {"name", "path", "optional", "mode", "archive"}
            if own and "from" not in own:
                source = self.maker.source_of(artifact, self.known)
            elif artifact.get("optional").text != "true":
                losses.lost(artifact, f"artifact {name}", "nothing that was carried over gives it")
        if source is None:
            return
        place = self._place(artifact, name, path)
        entry = {"uri": source.uri} if source.uri else {"fromTask": source.task, "name": source.name}
        if place != (source.uri.rpartition("/")[2] if source.uri else source.name):
            entry["as"] = place
        if source.within:
            self._places[path.rstrip("/")] = f"{ROOT}/{place}/{source.within}"
        self.inputs.append(entry)
        self.sources.append(source)
        self.known[f"inputs.artifacts.{name}.path"] = "/".join(each for each in (ROOT, place, source.within) if each)

    def _output(self, artifact: Value) -> None:
        losses, name = self.maker.losses, artifact.get("name").text or ""
        harmless = {
            "archive": "Helios packs and unpacks by itself",
            "artifactGC": "Helios deletes what no kept run refers to",
            **dict.fromkeys(STORES, "Helios keeps artifacts in the store it is set up with"),
        }
        reasons = {"optional": "an output of Helios has to be there"}
        losses.unknown(artifact, {"name", "path", "globalName"}, reasons, harmless)
        path = self.maker.filled(artifact.get("path"), self.known)
        if not path:
            losses.lost(artifact, f"artifact {name}", "it has no path")
            return
        place = self._place(artifact, name, path)
        if place in self._inputs():
            losses.lost(artifact, f"artifact {name}", "it is an input that the task changes; write to another path")
            return
        self.outputs[name] = place
        self.known[f"outputs.artifacts.{name}.path"] = f"{ROOT}/{place}"

    def _place(self, at: Value, name: str, path: str, what: str = "") -> str:
        """The path below /artifacts: the file's own name, with the artifact's before it where that is taken."""
        path = path.rstrip("/")
        if path in self._places:
            return self._places[path].removeprefix(f"{ROOT}/")
        place = re.sub(r"[^\w.-]", "-", path.rpartition("/")[2] or name).lstrip(".") or name
        # In argo/ are the files of the values that tasks look up.
        if place == "argo" or f"{ROOT}/{place}" in self._places.values():
            place = f"{name}-{place}"
        self._places[path] = f"{ROOT}/{place}"
        if path:
            self._at[path] = (at, name, what or f"artifact {name}")
        return place

    def moved(self, value: Value) -> str:
        """A text with its parameters put in and its paths renamed."""
        text = value.text or ""
        for path, (_, name, _) in self._at.items():
            if any(f"{kind}.{name}.path" in text for kind in ("artifacts", "parameters")):
                self._seen.add(path)
        filled = self.maker.filled(value, self.known, late=True)
        self._written += f"\n{filled}"
        found, seen = renamed_paths(filled, {p: q for p, q in self._places.items() if p})
        self._seen |= seen
        return found

    def names(self, path: str) -> bool:
        """Whether the command, its arguments or its variables name the path or one below it."""
        return bool(path) and renamed_paths(self._written, {path: path})[1] != set()

    def tell_unseen(self) -> None:
        """Say of which artifacts the command does not name the path; it may find them all the same, by the folder.

        A file in / that it names without the /, it finds: it works in / there and in /artifacts here. A folder that it
        only writes into is made before, if it does not make it itself: there it was part of the image.
        """
        for path, (at, _, what) in self._at.items():
            name = path.removeprefix("/")
            if path in self._seen:
                place = self._places[path].removeprefix(f"{ROOT}/")
                within = re.search(rf"(?<![\w./-]){re.escape(path)}/", self._written)
                if place in self._made() and within and "mkdir" not in self._written:
                    self.around.folders.append(place)
            elif "/" not in name and self._places[path] == f"{ROOT}/{name}" and self._relative(name):
                self.maker.losses.note(at, what, f"the command names it {name}, from the folder that it works in")
            elif path.startswith("/") and self._places[path].removeprefix(f"{ROOT}/") in self._made():
                self.around.copies[self._places[path].removeprefix(f"{ROOT}/")] = path
                self.maker.losses.note(at, what, f"the command does not name it: it is copied from {path} afterwards")
            else:
                self.maker.losses.lost(
                    at, what, f"the command does not name {path}; in Helios it is {self._places[path]}"
                )

    def _made(self) -> set[str]:
        return {*self.outputs.values(), *self.parameters}

    def _relative(self, name: str) -> bool:
        return re.search(rf"(?<![\w./-]){re.escape(name)}(?![\w-]|\.\w)", self._written) is not None


class _Written(NamedTuple):
    """An output parameter: the file it is in, or, with no path, what it is."""

    path: str
    text: str
