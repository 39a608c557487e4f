"""Settings come from the environment, once, into one frozen struct. Nothing reads the environment at import."""

import os
import socket
from collections.abc import Mapping
from typing import Annotated, Any, get_args, get_type_hints

import msgspec
from msgspec import Meta

from helios.notify import Unusable, read_hosts, read_secrets
from helios.redis_address import AddressInvalid, address_of

CHOICES: dict[str, tuple[str, ...]] = {
    "log_level": ("debug", "info", "warning", "error"),
    "log_format": ("auto", "json", "text"),
    "launcher": ("local", "kubernetes"),
    "compress": ("auto", "off"),
    "affinity": ("on", "off"),
    "cache_scope": ("shared", "namespace"),
    "job_form": ("auto", "init", "csi"),
}
"""What the settings take that are one of a few words."""

AGENT_USER = 65532
"""The owner of the nodes' cache folders, which no task may be."""

AGENT_DRIVER = "cache.helios.dev"
"""What Kubernetes knows the nodes' agents by."""


SECRETS = frozenset({"redis_url", "s3_secret_key", "token_key", "keeper_key", "http_tokens", "notify_secrets"})
"""The settings that nothing may show; `redis_url` has a password in it."""

REDIS_URL_WRONG = (
    "HELIOS_REDIS_URL cannot be read; in its user and password every character but letters, digits and -._~ is "
    "written as %XX, so / is %2F, # is %23, ? is %3F and @ is %40"
)
"""Said instead of a parser's own words, which quote what they could not read: that is a part of the password."""


class SettingInvalid(ValueError):
    """An environment variable has no usable value; the message names it and says what it takes."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One process's settings. The field `redis_url` is read from `HELIOS_REDIS_URL`, and so on."""

    redis_url: str = "redis://127.0.0.1:6379/0"
    """Where Redis or Valkey listens, with user and password if it needs them: `redis://`, `rediss://`, `unix://`, or,
    by Sentinel, `redis+sentinel://host1:26379,host2:26379/mymaster/0` (helios/redis_address.py)."""

    redis_sentinel_user: str = ""
    """User of the Sentinels themselves, if they want one."""

    redis_sentinel_password: str = ""
    """Password of the Sentinels themselves; Redis's own is in `redis_url`."""

    partitions: Annotated[int, Meta(ge=1, le=1024)] = 1
    """How many partitions (hash tags `{p0}`, `{p1}` …) runs are spread over; the same for every process."""

    replica: str = ""
    """This process's name in consumer groups and heartbeats; host name and process id unless set."""

    lease_seconds: Annotated[float, Meta(ge=0.1, le=3600)] = 15.0
    """How long an entry may sit untouched with one consumer before another takes it over."""

    deliveries_before_dead_letter: Annotated[int, Meta(ge=1, le=1000)] = 5
    """After so many failed deliveries an entry goes to the dead letters and its run fails."""

    batch_entries: Annotated[int, Meta(ge=1, le=10_000)] = 128
    """Entries read and committed at a time."""

    ready_per_run: Annotated[int, Meta(ge=1, le=10_000)] = 64
    """Attempts of one run, and of one priority, that stand in line for Jobs at once; the others wait in the run's own
    backlog, and runs take turns. Fewer are fairer; a run keeps what it was opened with."""

    runs_active: Annotated[int, Meta(ge=1, le=1_000_000)] = 2_000
    """Runs that may be open and not ended at once; above that, submissions wait in their stream. Each replica of the
    submitter looks before it reads, so there may be a few more."""

    redis_full_percent: Annotated[int, Meta(ge=1, le=100)] = 85
    """Above this share of Redis's maxmemory no run is opened, so that those that are open have room to end; 100: never
    mind."""

    runs_kept_per_dag: Annotated[int, Meta(ge=1, le=1_000_000)] = 100
    """Finished runs of one DAG name that stay readable; older ones are deleted."""

    runs_kept_in_all: Annotated[int, Meta(ge=1, le=10_000_000)] = 10_000
    """Finished runs that stay readable over all DAG names."""

    gc_hours: Annotated[float, Meta(ge=0, le=8760)] = 24.0
    """How often the collector deletes the artifacts of forgotten runs that nothing refers to; 0: never."""

    inventory_blobs: Annotated[int, Meta(ge=1000, le=10**9)] = 1_000_000
    """Blobs that are known of all nodes' caches together, the largest of each node first; a million take
    some 100 MB of Redis."""

    memo_days: Annotated[int, Meta(ge=1, le=3650)] = 90
    """How long a memoized task's success is remembered after it was made, or a task was last skipped by it."""

    log_bytes: Annotated[int, Meta(ge=1024**2, le=2**40)] = 128 * 1024**2
    """What the logs of all stored runs may take in Redis together; above that the oldest runs lose theirs."""

    log_level: str = "info"
    """debug, info, warning or error."""

    log_format: str = "auto"
    """json: each message is one JSON object; text: one line for people; auto: json where Jobs run in Kubernetes."""

    s3_endpoint: str = "http://127.0.0.1:9000"
    """The object store, as a URL."""

    s3_access_key: str = ""
    """Access key of the object store; only the collector and the command line hold it."""

    s3_secret_key: str = ""
    """Secret key of the object store."""

    s3_region: str = "us-east-1"
    """Region that requests to the object store are signed for."""

    s3_bucket: str = "helios"
    """Bucket of the artifacts that tasks publish."""

    presigned_url_seconds: Annotated[int, Meta(ge=60, le=7 * 24 * 3600)] = 3600
    """How long a URL in a plan stays valid; agents ask for fresh ones. S3 signs for a week at most."""

    single_put_limit_bytes: Annotated[int, Meta(ge=5 * 1024**2, le=5 * 1024**3)] = 5 * 1024**3
    """Outputs above this size are stored in parts; S3 takes at most 5 GiB in one PUT, and
    no parts below 5 MiB."""

    compress: str = "auto"
    """Whether outputs that shrink lie compressed in the object store: auto or off. What is compressed already is
    unpacked in either case."""

    token_key: str = ""
    """Secret that signs attempt tokens; the jobrunner mints with it, the collector checks with it."""

    keeper_key: str = ""
    """Secret that the nodes' keepers and the collector share; without it nodes do not fetch from each other."""

    pod_endpoint_bind: str = "127.0.0.1:8414"
    """Where the collector serves plans and takes results: host:port."""

    pod_endpoint_url: str = "http://127.0.0.1:8414"
    """Where pods reach that endpoint."""

    metrics_bind: str = ""
    """Where this process serves Prometheus metrics: host:port, or unix: and the path of a socket; nowhere unless set.
    """

    otlp_endpoint: str = ""
    """Where the collector sends traces of ended runs: the URL of an OTLP/HTTP receiver, without /v1/traces; nowhere
    unless set. Needs the extra `otel`. `OTEL_EXPORTER_OTLP_HEADERS` and the like count as usual."""

    notify_hosts: str = ""
    """Where notices of ended runs may go (docs/notifications.md): host, host:port or http://host:port, separated by
    spaces or commas; nowhere unless set. Without http:// only https is spoken."""

    notify_secrets: str = ""
    """What notices are signed with, as NAME=SECRET separated by spaces or commas; a DAG names one. For the collector
    alone."""

    http_bind: str = "127.0.0.1:8416"
    """Where the HTTP API serves: host:port."""

    http_tokens: str = ""
    """Who may use the HTTP API, as NAME:SCOPES:SHA256 separated by spaces or commas; SCOPES is read, submit or
    read+submit. `helios token NAME` makes a token and its entry."""

    http_requests_per_second: Annotated[float, Meta(ge=0.1, le=100_000)] = 100.0
    """Requests that one token may make of one replica of the HTTP API; twice as many at once."""

    s3_public_endpoint: str = ""
    """Where users of the HTTP API reach the object store, as a URL; s3_endpoint unless set."""

    trigger_streams: str = "events:*"
    """The streams that triggers may read, as patterns separated by spaces or commas; those of Helios itself never. The
    submitter's Redis user must be given them as well (k8s/users.acl)."""

    launcher: str = "local"
    """Where Jobs run: local (processes on this machine) or kubernetes."""

    jobs_alive: Annotated[int, Meta(ge=1, le=1_000_000)] = 200
    """Jobs that may exist at once; above that, ready tasks wait in their stream. The jobrunner looks before it reads a
    batch, so there may be up to one batch (`batch_entries`) more."""

    local_dir: str = ""
    """The folder that stands for the API server in local mode: Jobs in, pod statuses and logs out."""

    local_slots: Annotated[int, Meta(ge=0, le=100_000)] = 0
    """Pods that run at once in local mode; 0 means twice the number of processors."""

    namespace: str = "helios-tasks"
    """The Kubernetes namespace of Jobs and their pods; one Helios each."""

    job_form: str = "auto"
    """init: each pod has its own fetch and publish; csi: the node's agent does their work; auto: csi where every node
    that takes tasks has the agent's driver, else init."""

    task_user: Annotated[int, Meta(ge=1, le=2**31 - 1)] = 1000
    """User and group that tasks of the csi form run as, whatever their images say."""

    agent_image: str = ""
    """Image of fetch and publish in every Job of the init form."""

    image_pull_secrets: str = ""
    """Names of the pull secrets of every Job's images, separated by commas."""

    cache_host_path: str = "/var/helios/cache"
    """Where the cache folder is on the nodes' own file systems."""

    cache_scope: str = "shared"
    """shared: every Helios of a cluster has the same cache on a node; namespace: the tasks' namespace has one of its
    own below that folder."""

    job_create_threads: Annotated[int, Meta(ge=1, le=1000)] = 16
    """Jobs that are created at the same time."""

    affinity: str = "on"
    """on or off: whether Jobs prefer the nodes that hold most of their inputs' bytes."""

    job_ttl_seconds: Annotated[int, Meta(ge=0, le=30 * 24 * 3600)] = 3600
    """How long a finished Job stays in Kubernetes when nothing else removes it."""

    job_deadline_margin_seconds: Annotated[int, Meta(ge=0, le=30 * 24 * 3600)] = 3600
    """What a pod may take beyond its task's timeoutSeconds, for images, inputs and outputs, before it is ended."""

    image_pull_seconds: Annotated[int, Meta(ge=0, le=24 * 3600)] = 60
    """A pod whose image cannot be pulled fails after this."""

    unschedulable_seconds: Annotated[int, Meta(ge=0, le=30 * 24 * 3600)] = 300
    """A pod that no node takes, or a Job that stays suspended, fails after this."""

    pod_start_seconds: Annotated[int, Meta(ge=0, le=24 * 3600)] = 600
    """A pod whose next container has not started, though it has a node, fails after this."""

    pod_refused_seconds: Annotated[int, Meta(ge=0, le=24 * 3600)] = 30
    """A Job whose pod Kubernetes refuses to create, as for a quota, fails after this."""

    node_lost_seconds: Annotated[int, Meta(ge=0, le=24 * 3600)] = 30
    """A node that is not ready for so long is lost, and its attempts are repeated elsewhere."""

    unknown_job_seconds: Annotated[int, Meta(ge=0, le=7 * 24 * 3600)] = 900
    """A Job of a run that Redis does not know is left alone for so long, so that the run may be rebuilt around it, and
    until the second look at least."""

    cache_dir: str = "/var/helios/cache"
    """The node's cache folder."""

    node_name: str = ""
    """This node's name, as it appears in runs; the host name unless set."""

    def __repr__(self) -> str:
        """Fit for any log or traceback: secrets are left out."""
        shown = (f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"Settings({', '.join(shown)})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """What tracebacks that show variables go by."""
        values = ((name, getattr(self, name)) for name in self.__struct_fields__)
        return [(name, "…" if name in SECRETS and value else value) for name, value in values]


def settings_from(environ: Mapping[str, str] = os.environ) -> Settings:
    """Read every `HELIOS_*` setting; raises SettingInvalid, naming the variable, at the first bad one."""
    values: dict[str, Any] = {}
    for field, kind in get_type_hints(Settings, include_extras=True).items():
        variable = f"HELIOS_{field.upper()}"
        text = environ.get(variable)
        if text is None or text == "":
            continue
        if field in CHOICES:
            text = text.lower()
        try:
            values[field] = msgspec.convert(text, kind, strict=False)
        except msgspec.ValidationError:
            raise SettingInvalid(f"{variable} is {text!r}, but it takes {_wanted(kind)}") from None
        if field in CHOICES and text not in CHOICES[field]:
            raise SettingInvalid(f"{variable} is {text!r}, but it takes {' or '.join(CHOICES[field])}")
    settings = Settings(**values)
    if not settings.cache_host_path.startswith("/") or ".." in settings.cache_host_path.split("/"):
        raise SettingInvalid(f"HELIOS_CACHE_HOST_PATH is {settings.cache_host_path!r}, but it takes an absolute path")
    if settings.task_user == AGENT_USER:
        raise SettingInvalid(f"HELIOS_TASK_USER is {AGENT_USER}, but that is the agent's own user; it takes any other")
    if settings.otlp_endpoint and not settings.otlp_endpoint.startswith(("http://", "https://")):
        raise SettingInvalid(f"HELIOS_OTLP_ENDPOINT is {settings.otlp_endpoint!r}, but it takes http://… or https://…")
    for variable, text, read in (
        ("HELIOS_NOTIFY_HOSTS", settings.notify_hosts, read_hosts),
        ("HELIOS_NOTIFY_SECRETS", settings.notify_secrets, read_secrets),
    ):
        try:
            read(text)
        except Unusable as error:
            raise SettingInvalid(f"{variable} {error}") from None
    try:
        address_of(settings.redis_url)
    except AddressInvalid as error:
        raise SettingInvalid(f"HELIOS_REDIS_URL {error}") from None
    host = socket.gethostname()
    return msgspec.structs.replace(
        settings,
        replica=settings.replica or f"{host}-{os.getpid()}",
        node_name=settings.node_name or host,
    )


def _wanted(kind: Any) -> str:
    """What a number's type takes, in words."""
    number, bounds = get_args(kind)
    word = "a whole number" if number is int else "a number"
    return f"{word} from {bounds.ge:,} to {bounds.le:,}"
