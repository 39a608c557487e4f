"""The DAG exactly as users write it: field names, types, defaults, descriptions. No I/O happens here.

These structs are the only definition of the format: the JSON Schema for editors is generated from them, and so is the
check that names every field of the wrong type.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, field

from helios.notify import URL_CHARACTERS, Event

NAME_PATTERN = "^[a-zA-Z0-9][a-zA-Z0-9._-]*$"
ENV_NAME_PATTERN = "^[-._a-zA-Z][-._a-zA-Z0-9]*$"


def _text(description: str, **schema: Any) -> Meta:
    """Descriptions and patterns are for editors: the rules check the same with messages of their own."""
    return Meta(description=description, extra_json_schema={"minLength": 1, **schema})


class SecretRef(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A value that stays out of the DAG: one entry of a secret."""

    secret: Annotated[str, _text("The secret's name.")]
    key: Annotated[str, _text("The entry in the secret.")]


class SecretKeyRef(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """Kubernetes' form of {secret, key}."""

    name: str
    key: str


class ValueFrom(Struct, frozen=True, forbid_unknown_fields=True, rename="camel", gc=False):
    """Kubernetes' form of {secret, key}."""

    secret_key_ref: SecretKeyRef


class EnvItem(Struct, frozen=True, forbid_unknown_fields=True, rename="camel", gc=False):
    """One variable of the older form of env, a list."""

    name: Annotated[str, _text("The variable's name.", pattern=ENV_NAME_PATTERN)]
    value: str | int | float | bool | None = None
    value_from: ValueFrom | None = None

    def source(self) -> "str | int | float | bool | SecretRef":
        """What the mapping form would hold under this name."""
        if self.value_from is not None:
            return SecretRef(self.value_from.secret_key_ref.name, self.value_from.secret_key_ref.key)
        return "" if self.value is None else self.value


EnvSpec = dict[str, str | int | float | bool | SecretRef] | list[EnvItem]
Quantities = dict[str, str | int | float]


class InputSpec(Struct, frozen=True, forbid_unknown_fields=True, rename="camel", gc=False):
    """A file the task reads: an output of another task (fromTask, name) or an object (uri)."""

    from_task: (
        Annotated[
            str,
            _text(
                "The task that makes the file; of one with forEach, every instance's.",
                pattern=r"^([a-zA-Z0-9][a-zA-Z0-9._-]*$|[a-zA-Z0-9._-]*\$\{(params\.|item))",
            ),
        ]
        | None
    ) = None
    name: Annotated[str, _text("Which of that task's outputs.")] | None = None
    uri: (
        Annotated[str, _text("An object: s3://bucket/key.", pattern=r"^(s3://[^/?#]+/[^?#]+$|\$\{(params\.|item))")]
        | None
    ) = None
    as_: (
        Annotated[str, _text("Its path below /artifacts. Default: the output's name, or the last part of the uri.")]
        | None
    ) = field(default=None, name="as")
    mode: Annotated[
        Literal["link", "copy"], Meta(description="link: read-only, costs nothing; copy: private and writable.")
    ] = "link"
    verify: Annotated[
        Literal["size", "always"],
        Meta(description="What a cache hit checks: size and time of change, or the digest of every byte."),
    ] = "size"

    def path(self) -> str:
        """Where the task finds it, below /artifacts."""
        if self.as_ is not None:
            return self.as_
        if self.uri is not None:
            return self.uri.rpartition("/")[2]
        return self.name or ""


class ItemsSpec(Struct, frozen=True, forbid_unknown_fields=True, rename="camel", gc=False):
    """A list that an earlier task makes: an output of it, a JSON file."""

    from_task: Annotated[str, _text("The task that makes the list.")]
    name: Annotated[str, _text("Which of that task's outputs.")]


class RetriesSpec(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """How often a task that failed is tried again."""

    count: Annotated[
        int, Meta(description="Attempts after the first.", extra_json_schema={"minimum": 0, "maximum": 20})
    ] = 0


class MemoizeSpec(Struct, frozen=True, forbid_unknown_fields=True, rename="camel", gc=False):
    """When a task's earlier success may stand for it."""

    max_age: (
        Annotated[
            str,
            Meta(
                description="How old that success may be: 30m, 12h, 7d.",
                extra_json_schema={"pattern": "^[1-9][0-9]*(s|m|h|d)$"},
            ),
        ]
        | None
    ) = None
    verify: Annotated[
        float,
        Meta(
            description="The share of skips that run all the same, to compare their outputs: 0 to 1.",
            extra_json_schema={"minimum": 0, "maximum": 1},
        ),
    ] = 0.0


class ResourcesSpec(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """Kubernetes quantities by resource name, such as {cpu: 500m, memory: 2Gi}."""

    requests: Annotated[Quantities, Meta(description="What the task is promised.")] | None = None
    limits: Annotated[Quantities, Meta(description="What it cannot exceed.")] | None = None


class TolerationSpec(Struct, frozen=True, forbid_unknown_fields=True, rename="camel", gc=False):
    """A Kubernetes toleration."""

    key: str | None = None
    operator: Literal["Exists", "Equal"] = "Equal"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: int | None = None


InputItem = Annotated[
    InputSpec,
    Meta(extra_json_schema={"oneOf": [{"required": ["fromTask", "name"]}, {"required": ["uri"]}]}),
]


Priority = Literal["high", "normal", "low"]

ItemSpec = str | int | float | bool | dict[str, str | int | float | bool]
"""What one instance of a task is made for."""

ParamsSpec = dict[str, str | int | float | bool | None]
"""Parameters and their defaults; with None a submission has to give the value."""


class TaskSpec(Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """One container to run."""

    name: Annotated[str, _text("Unique in the DAG.", pattern=NAME_PATTERN, maxLength=253)]
    image: Annotated[str, _text("The container image; local mode runs the command without it.", maxLength=512)]
    command: Annotated[
        list[str],
        Meta(description="The program and its arguments, run in /artifacts.", extra_json_schema={"minItems": 1}),
    ]
    args: Annotated[list[str], Meta(description="Further arguments, after those of command.")] | None = None
    depends_on: (
        Annotated[list[str], Meta(description="Tasks that must succeed first. What inputs imply need not be repeated.")]
        | None
    ) = field(default=None, name="depends_on")
    inputs: Annotated[list[InputItem], Meta(description="The files the task reads.")] | None = None
    outputs: (
        Annotated[list[str], Meta(description="The files or folders it makes, as paths below /artifacts.")] | None
    ) = None
    retries: RetriesSpec | None = None
    env: (
        Annotated[
            EnvSpec, Meta(description="Environment variables: plain values or {secret, key}. As a list: an older form.")
        ]
        | None
    ) = None
    resources: ResourcesSpec | None = None
    timeout_seconds: (
        Annotated[int, Meta(description="Ends the attempt, which then failed.", extra_json_schema={"minimum": 1})]
        | None
    ) = None
    memoize: (
        Annotated[
            bool | MemoizeSpec,
            Meta(
                description="Whether an earlier success with the same image, command, env and inputs may stand for it."
            ),
        ]
        | None
    ) = None
    node_selector: (
        Annotated[dict[str, str], Meta(description="Labels of the nodes it may run on (Kubernetes).")] | None
    ) = None
    tolerations: Annotated[list[TolerationSpec], Meta(description="Taints it tolerates (Kubernetes).")] | None = None
    service_account_name: Annotated[str, _text("Overrides the DAG's (Kubernetes).")] | None = None
    priority: Annotated[Priority, Meta(description="Overrides the DAG's.")] | None = None
    for_each: (
        Annotated[
            list[ItemSpec] | str | ItemsSpec,
            Meta(
                description="Makes the task once for each item, named NAME-ITEM: a list of scalars (used as ${item}) "
                "or of flat mappings (${item.FIELD}), ${params.NAME} of a parameter that holds a JSON list, or "
                "{fromTask, name}: an output of an earlier task that holds one."
            ),
        ]
        | None
    ) = None
    when: (
        Annotated[
            bool | str,
            Meta(
                description="Leaves the task out of the run where it does not hold: ${params.x} == prod, !=, "
                "in [a, b], and, or, not, parentheses."
            ),
        ]
        | None
    ) = None
    type: Annotated[Literal["command"], Meta(description="The only kind there is; carried by older DAGs.")] = "command"


class NotifySpec(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """Whom to tell that a run ended: a webhook."""

    url: Annotated[
        str,
        _text(
            "Where the notice is sent by POST, on a host that the operator allows.",
            pattern="^https?://",
            maxLength=URL_CHARACTERS,
        ),
    ]
    on: Annotated[
        list[Event],
        Meta(description="Which ends are told; ended is any.", extra_json_schema={"minItems": 1, "uniqueItems": True}),
    ] = field(default_factory=lambda: list[Event](("ended",)))
    secret: (
        Annotated[str, _text("The name of the operator's secret that signs the notice.", pattern=NAME_PATTERN)] | None
    ) = None


class DagSpec(Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """A DAG of containers, run by Helios."""

    dag_name: Annotated[str, _text("Runs are listed by it.", pattern=NAME_PATTERN, maxLength=128)]
    use_cache: Annotated[
        bool, Meta(description="Whether inputs may come from the node's cache. A submission may override it.")
    ] = True
    params: (
        Annotated[
            ParamsSpec,
            Meta(
                description="Parameters and their defaults, used as ${params.NAME} in command, args, env, inputs, "
                "outputs and image. One without a default has to be given: helios run -p NAME=VALUE."
            ),
        ]
        | None
    ) = None
    tasks: Annotated[
        list[TaskSpec], Meta(description="In any order.", extra_json_schema={"minItems": 1, "maxItems": 10_000})
    ]
    on_exit: (
        Annotated[
            TaskSpec,
            Meta(
                description="A task that runs once all others have ended, however they did: it is told by "
                "HELIOS_RUN_STATUS. It has no depends_on, fromTask or memoize."
            ),
        ]
        | None
    ) = None
    api_version: Annotated[Literal["v1"], Meta(description="Version of this format.")] = "v1"
    artifact_repository: Annotated[Any, Meta(description="Without effect; carried by older DAGs.")] = None
    service_account_name: Annotated[str, _text("The service account of the tasks (Kubernetes).")] | None = None
    priority: Annotated[
        Priority,
        Meta(description="Which of the tasks that may run get a place first. A submission may override it."),
    ] = "normal"
    notify: (
        Annotated[
            list[NotifySpec],
            Meta(description="Webhooks that are told how the run ended.", extra_json_schema={"maxItems": 8}),
        ]
        | None
    ) = None

    def all_tasks(self) -> Iterator[tuple[tuple[str | int, ...], TaskSpec]]:
        """Every task with its path in the text: those of `tasks`, then `onExit`."""
        for at, task in enumerate(self.tasks):
            yield ("tasks", at), task
        if self.on_exit is not None:
            yield ("onExit",), self.on_exit


def dag_schema() -> bytes:
    """The JSON Schema (2020-12) of the format, for editors. `helios schema > docs/dag.schema.json` commits it."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Helios DAG",
        **msgspec.json.schema(DagSpec),
    }
    return msgspec.json.format(msgspec.json.encode(schema), indent=2) + b"\n"


def plain_text(value: str | float | bool) -> str:
    """A scalar as text: `true` and `false` for booleans. Numbers in another notation were made text before."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
