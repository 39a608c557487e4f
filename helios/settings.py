"""Settings come from the environment, once, into one frozen struct. Nothing reads the environment at import."""

import math
import os
import socket
from collections.abc import Mapping
from typing import Any, get_type_hints

import msgspec

LAUNCHERS = ("local", "kubernetes")


class SettingInvalid(ValueError):
    """An environment variable has no usable value; the message names it and says what it takes."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One process's settings. The field `redis_url` is read from `HELIOS_REDIS_URL`, and so on."""

    redis_url: str = "redis://127.0.0.1:6379/0"
    """Where Redis or Valkey listens: `redis://`, `rediss://` or `unix://`, with user and password if it needs them."""

    partitions: int = 1
    """How many partitions (hash tags `{p0}`, `{p1}` …) runs are spread over; the same for every process."""

    replica: str = ""
    """This process's name in consumer groups and heartbeats; host name and process id unless set."""

    lease_seconds: float = 15.0
    """How long an entry may sit untouched with one consumer before another takes it over."""

    deliveries_before_dead_letter: int = 5
    """After so many failed deliveries an entry goes to the dead letters and its run fails."""

    batch_entries: int = 128
    """Entries read and committed at a time."""

    runs_kept_per_dag: int = 100
    """Finished runs of one DAG name that stay readable; older ones are deleted."""

    runs_kept_in_all: int = 10_000
    """Finished runs that stay readable over all DAG names."""

    log_level: str = "info"
    """debug, info, warning or error."""

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

    presigned_url_seconds: int = 3600
    """How long a URL in a plan stays valid; agents ask for fresh ones."""

    single_put_limit_bytes: int = 5 * 1024**3
    """Outputs above this size are stored in parts; S3 takes at most 5 GiB in one PUT."""

    token_key: str = ""
    """Secret that signs attempt tokens; the jobrunner mints with it, the collector checks with it."""

    pod_endpoint_bind: str = "127.0.0.1:8414"
    """Where the collector serves plans and takes results: host:port."""

    pod_endpoint_url: str = "http://127.0.0.1:8414"
    """Where pods reach that endpoint."""

    launcher: str = "local"
    """Where Jobs run: local (processes on this machine) or kubernetes."""

    jobs_alive: int = 200
    """Jobs that may exist at once; above that, ready tasks wait in their stream."""

    local_dir: str = ""
    """The folder that stands for the API server in local mode: Jobs in, pod statuses and logs out."""

    local_slots: int = 0
    """Pods that run at once in local mode; 0 means twice the number of processors."""

    namespace: str = "helios-tasks"
    """The Kubernetes namespace of Jobs and their pods; one Helios each."""

    agent_image: str = ""
    """Image of fetch and publish in every Job."""

    image_pull_secrets: str = ""
    """Names of the pull secrets of every Job's images, separated by commas."""

    cache_host_path: str = "/var/helios/cache"
    """Where the cache folder is on the nodes' own file systems."""

    job_create_threads: int = 16
    """Jobs that are created at the same time."""

    job_ttl_seconds: int = 3600
    """How long a finished Job stays in Kubernetes when nothing else removes it."""

    job_deadline_margin_seconds: int = 3600
    """What a pod may take beyond its task's timeoutSeconds, for images, inputs and outputs, before it is ended."""

    image_pull_seconds: int = 60
    """A pod whose image cannot be pulled fails after this."""

    unschedulable_seconds: int = 300
    """A pod that no node takes, or a Job that stays suspended, fails after this."""

    pod_start_seconds: int = 600
    """A pod whose next container has not started, though it has a node, fails after this."""

    pod_refused_seconds: int = 30
    """A Job whose pod Kubernetes refuses to create, as for a quota, fails after this."""

    node_lost_seconds: int = 30
    """A node that is not ready for so long is lost, and its attempts are repeated elsewhere."""

    cache_dir: str = "/var/helios/cache"
    """The node's cache folder."""

    node_name: str = ""
    """This node's name, as it appears in runs; the host name unless set."""


def settings_from(environ: Mapping[str, str] = os.environ) -> Settings:
    """Read every `HELIOS_*` setting; raises SettingInvalid, naming the variable, at the first bad one."""
    values: dict[str, Any] = {}
    for field, kind in get_type_hints(Settings).items():
        variable = f"HELIOS_{field.upper()}"
        text = environ.get(variable)
        if text is None or text == "":
            continue
        try:
            values[field] = msgspec.convert(text, kind, strict=False)
        except msgspec.ValidationError:
            wanted = {int: "a whole number", float: "a number"}.get(kind, "text")
            raise SettingInvalid(f"{variable} is {text!r}, but it takes {wanted}") from None
    settings = Settings(**values)
    for field in (
        "partitions",
        "deliveries_before_dead_letter",
        "batch_entries",
        "runs_kept_per_dag",
        "lease_seconds",
        "jobs_alive",
        "job_create_threads",
    ):
        if not 0 < getattr(settings, field) < math.inf:
            raise SettingInvalid(f"HELIOS_{field.upper()} must be a number above zero")
    for field in (
        "job_ttl_seconds",
        "job_deadline_margin_seconds",
        "image_pull_seconds",
        "unschedulable_seconds",
        "pod_start_seconds",
        "pod_refused_seconds",
        "node_lost_seconds",
    ):
        if getattr(settings, field) < 0:
            raise SettingInvalid(f"HELIOS_{field.upper()} must not be below zero")
    if settings.launcher not in LAUNCHERS:
        raise SettingInvalid(f"HELIOS_LAUNCHER is {settings.launcher!r}, but it takes {' or '.join(LAUNCHERS)}")
    if not settings.cache_host_path.startswith("/") or ".." in settings.cache_host_path.split("/"):
        raise SettingInvalid(f"HELIOS_CACHE_HOST_PATH is {settings.cache_host_path!r}, but it takes an absolute path")
    host = socket.gethostname()
    return msgspec.structs.replace(
        settings,
        replica=settings.replica or f"{host}-{os.getpid()}",
        node_name=settings.node_name or host,
    )
