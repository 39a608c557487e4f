"""The environment of the verbs, read once into frozen structs. A value that is missing or wrong is an error that names
its variable.
"""

import math
from collections.abc import Mapping

from agent.frozen import Frozen

FREE_SHARE = 0.17
"""kubelet deletes images and evicts pods when less than 15 % of the disk is free: the cache gives way before that."""


class SettingsError(ValueError):
    """A variable is missing or has a wrong value; the message begins with its name."""


class Attempt(Frozen):
    """Whose work this is, and where its report goes."""

    endpoint: str
    """Base URL of the collector's pod endpoint, http://host:port, without a slash at the end."""
    token: str
    """Bearer token of this attempt; never printed."""
    run_id: str
    task: str
    attempt: int
    pod_uid: str
    node: str
    plan_patience_seconds: float
    """How long an endpoint that is down is waited for."""

    def __repr__(self) -> str:
        return f"Attempt({self.run_id!r}, {self.task!r}, {self.attempt}, token=***)"


class WrapperPlace(Frozen):
    """The wrapper of containers, agent/exec.c, in our image and where the task's container will find it."""

    source: str
    control_dir: str


class CsiForm(Frozen):
    """What is different where the task has a CSI volume, for which the node's agent does both steps itself."""

    user: int
    """The task's uid and gid: what is made in its folder for it to write to becomes its own."""
    view_link: str
    """Where the task sees its view, relative to the artifacts folder."""
    inputs: int
    """How many the task declared; without any, fetch asks for no plan."""
    outputs: int
    """The same of publish."""
    limit_bytes: int
    """No output may have more; 0: no limit."""


class FetchSettings(Frozen):
    """Everything `fetch` is told from outside; paths are absolute."""

    attempt: Attempt
    cache_enabled: bool
    cache_dir: str
    job: str
    artifacts: str
    state_dir: str
    termination_log: str | None
    parallel: int
    """How many inputs are brought at the same time."""
    wrapper: WrapperPlace | None
    """None where the task is not run by agent/exec.c."""
    gate_dir: str | None
    """See agent/gate.py; None where the task is started after fetch has ended."""
    lib_dir: str | None
    """The folder of packages that holds zstd; None where Python has it itself."""
    volume: CsiForm | None


class PublishSettings(Frozen):
    """Everything `publish` is told from outside; paths are absolute."""

    attempt: Attempt
    cache_dir: str | None
    """None when this step does not see the cache; then inputs are not checked after the task."""
    job: str
    artifacts: str
    control_dir: str
    state_dir: str
    termination_log: str | None
    parallel: int
    gate_dir: str | None
    """See agent/gate.py; None where this step is started after fetch has ended."""
    start_patience_seconds: float | None
    """How long the task's start is waited for; None means for ever."""
    compress: bool
    """Whether outputs that shrink are compressed."""
    lib_dir: str | None
    """The folder of packages that holds zstd; None where Python has it itself."""
    volume: CsiForm | None


class ExecSettings(Frozen):
    """Everything `exec` is told from outside; paths are absolute."""

    artifacts: str
    control_dir: str
    timeout_seconds: float | None
    lifeline_fd: int | None
    """An inherited pipe whose end of file means that the node's process died."""


class KeepSettings(Frozen):
    """Everything `keep` is told from outside; paths are absolute."""

    cache_dir: str
    node: str
    period_seconds: float
    """From one look at the cache to the next."""
    report_seconds: float
    """From one inventory to the next."""
    view_hours: float | None
    """How long a view stays that no task was seen to use; longer than a pod may take to start (publish waits 900 s).
    None where views are removed by somebody else."""
    limit_bytes: int
    """All blobs together; 0: no limit but the floor of free disk."""
    high: float
    """Share of the limit above which blobs are evicted."""
    low: float
    """Share of the limit that is then kept."""
    free_bytes: int | None
    """Floor of free disk, below which blobs are evicted; None: FREE_SHARE of the disk."""
    scrub_bytes_per_second: float
    """How fast blobs are read again to check them; 0: not at all."""


class SyncSettings(Frozen, secret=("key",)):
    """How the keeper speaks with the collector and listens for other nodes."""

    cache_dir: str
    node: str
    endpoint: str
    """Base URL of the collector's pod endpoint, without a slash at the end."""
    key: str
    """What keepers and the collector share; never printed."""
    url: str
    """Where other nodes reach this keeper, http://host:port; empty when they do not."""
    bind: tuple[str, int] | None
    """Host and port to listen at."""
    seed_bytes: int
    """What a node that joins brings at most, before work asks for it."""
    free_bytes: int | None
    """The floor of free disk; None: the share that eviction keeps by itself."""
    lib_dir: str | None
    """Where agent/zstd.py finds its library."""


class NodeSettings(Frozen):
    """What `node` is told beside what `keep` is; paths are absolute."""

    kubelet_dir: str
    """kubelet's own folder, in the host's and in the agent's file system at the same path."""
    namespace: str
    """Volumes of other namespaces' pods are refused."""
    volume_bytes: int
    """What a task's folder may take of the disk; 0: no limit."""
    wrapper: str
    """agent/exec.c, compiled."""
    cache_dir: str
    node: str
    endpoint: str
    """Base URL of the collector's pod endpoint, without a slash at the end."""
    plan_patience_seconds: float
    """How long an endpoint that is down is waited for, before a fetch has failed."""
    parallel: int
    """How many inputs, or outputs, of one task are moved at the same time."""
    compress: bool
    """Whether outputs that shrink are compressed."""
    lib_dir: str | None
    """The folder of packages that holds grpcio, protobuf and zstd; None: they are found where imports come from."""


def fetch_settings(env: Mapping[str, str]) -> FetchSettings:
    return FetchSettings(
        attempt=_attempt(env),
        cache_enabled=_boolean(env, "HELIOS_CACHE_ENABLED"),
        cache_dir=_path(env, "HELIOS_CACHE_DIR"),
        job=_text(env, "HELIOS_JOB"),
        artifacts=_path(env, "HELIOS_ARTIFACTS"),
        state_dir=_path(env, "HELIOS_STATE_DIR"),
        termination_log=env.get("HELIOS_TERMINATION_LOG") or None,
        parallel=_count(env, "HELIOS_FETCH_PARALLEL", 4),
        wrapper=_wrapper(env),
        gate_dir=_optional_path(env, "HELIOS_GATE_DIR"),
        lib_dir=_optional_path(env, "HELIOS_AGENT_LIB"),
        volume=None,
    )


def publish_settings(env: Mapping[str, str]) -> PublishSettings:
    return PublishSettings(
        attempt=_attempt(env),
        cache_dir=_optional_path(env, "HELIOS_CACHE_DIR"),
        job=_text(env, "HELIOS_JOB"),
        artifacts=_path(env, "HELIOS_ARTIFACTS"),
        control_dir=_path(env, "HELIOS_CONTROL_DIR"),
        state_dir=_path(env, "HELIOS_STATE_DIR"),
        termination_log=env.get("HELIOS_TERMINATION_LOG") or None,
        parallel=_count(env, "HELIOS_FETCH_PARALLEL", 4),
        gate_dir=_optional_path(env, "HELIOS_GATE_DIR"),
        start_patience_seconds=_seconds(env, "HELIOS_START_PATIENCE_SECONDS", None),
        compress=_choice(env, "HELIOS_COMPRESS", ("auto", "off")) == "auto",
        lib_dir=_optional_path(env, "HELIOS_AGENT_LIB"),
        volume=None,
    )


def exec_settings(env: Mapping[str, str]) -> ExecSettings:
    lifeline = env.get("HELIOS_LIFELINE_FD")
    return ExecSettings(
        artifacts=_path(env, "HELIOS_ARTIFACTS"),
        control_dir=_path(env, "HELIOS_CONTROL_DIR"),
        timeout_seconds=_seconds(env, "HELIOS_TIMEOUT_SECONDS", None),
        lifeline_fd=_integer("HELIOS_LIFELINE_FD", lifeline, 0) if lifeline else None,
    )


def keep_settings(env: Mapping[str, str]) -> KeepSettings:
    high, low = _share(env, "HELIOS_CACHE_HIGH", 0.95), _share(env, "HELIOS_CACHE_LOW", 0.85)
    if low > high:
        raise SettingsError(f"HELIOS_CACHE_LOW must not be above HELIOS_CACHE_HIGH, {high:g}, but is {low:g}")
    return KeepSettings(
        cache_dir=_path(env, "HELIOS_CACHE_DIR"),
        node=_text(env, "HELIOS_NODE"),
        period_seconds=_seconds(env, "HELIOS_KEEP_SECONDS", 15.0) or 1.0,
        report_seconds=_seconds(env, "HELIOS_REPORT_SECONDS", 60.0) or 0.0,
        view_hours=None if env.get("HELIOS_VIEW_HOURS") == "never" else _seconds(env, "HELIOS_VIEW_HOURS", 1.0),
        limit_bytes=_bytes(env, "HELIOS_CACHE_LIMIT_BYTES") or 0,
        high=high,
        low=low,
        free_bytes=_bytes(env, "HELIOS_CACHE_FREE_BYTES"),
        scrub_bytes_per_second=1e6 * _number(env, "HELIOS_SCRUB_MB_PER_S", 2.0, 0.0, 1e6, "megabytes"),
    )


def sync_settings(env: Mapping[str, str]) -> SyncSettings | None:
    """None where there is no key: then the keeper looks after its cache alone."""
    key = env.get("HELIOS_KEEPER_KEY", "")
    if not key:
        return None
    return SyncSettings(
        cache_dir=_path(env, "HELIOS_CACHE_DIR"),
        node=_text(env, "HELIOS_NODE"),
        endpoint=_endpoint(env),
        key=key,
        url=_keeper_url(env.get("HELIOS_KEEPER_URL", "")),
        bind=_host_and_port(env, "HELIOS_KEEPER_BIND"),
        seed_bytes=10 * 1024**3 if (seeds := _bytes(env, "HELIOS_SEED_BYTES")) is None else seeds,
        free_bytes=_bytes(env, "HELIOS_CACHE_FREE_BYTES"),
        lib_dir=_optional_path(env, "HELIOS_AGENT_LIB"),
    )


def node_settings(env: Mapping[str, str]) -> NodeSettings:
    return NodeSettings(
        kubelet_dir=_path({"HELIOS_KUBELET_DIR": "/var/lib/kubelet", **env}, "HELIOS_KUBELET_DIR"),
        namespace=_text(env, "HELIOS_NAMESPACE"),
        volume_bytes=_bytes(env, "HELIOS_VOLUME_BYTES") or 0,
        wrapper=_path(env, "HELIOS_WRAPPER"),
        cache_dir=_path(env, "HELIOS_CACHE_DIR"),
        node=_text(env, "HELIOS_NODE"),
        endpoint=_endpoint(env),
        plan_patience_seconds=_seconds(env, "HELIOS_PLAN_PATIENCE_SECONDS", 600.0) or 0.0,
        parallel=_count(env, "HELIOS_FETCH_PARALLEL", 4),
        compress=_choice(env, "HELIOS_COMPRESS", ("auto", "off")) == "auto",
        lib_dir=_optional_path(env, "HELIOS_AGENT_LIB"),
    )


def _keeper_url(url: str) -> str:
    """With the brackets of an IPv6 address, which Kubernetes gives without them."""
    if not url:
        return ""
    host, _, port = url.removeprefix("http://").rstrip("/").rpartition(":")
    if not url.startswith("http://") or not host or not port.isascii() or not port.isdigit():
        raise SettingsError(f"HELIOS_KEEPER_URL must be http://host:port, not {url!r}")
    return f"http://[{host}]:{port}" if ":" in host and not host.startswith("[") else f"http://{host}:{port}"


def _host_and_port(env: Mapping[str, str], name: str) -> tuple[str, int] | None:
    value = env.get(name, "")
    if not value:
        return None
    host, _, port = value.rpartition(":")
    if not host:
        raise SettingsError(f"{name} must be host:port, not {value!r}")
    return host.strip("[]"), _integer(name, port, 0)


def _bytes(env: Mapping[str, str], name: str) -> int | None:
    value = env.get(name, "")
    if not value:
        return None
    if not value.isascii() or not value.isdigit() or len(value) > 18:
        raise SettingsError(f"{name} must be a whole number of bytes, not {value!r}")
    return int(value)


def _share(env: Mapping[str, str], name: str, default: float) -> float:
    return _number(env, name, default, 0.0, 1.0, "a share, 1 being all")


def _number(env: Mapping[str, str], name: str, default: float, least: float, most: float, unit: str) -> float:
    value = env.get(name, "")
    if not value:
        return default
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not least <= number <= most:
        raise SettingsError(f"{name} must be a number from {least:g} to {most:g} ({unit}), not {value!r}")
    return number


def _wrapper(env: Mapping[str, str]) -> WrapperPlace | None:
    if not env.get("HELIOS_WRAPPER"):
        return None
    return WrapperPlace(_path(env, "HELIOS_WRAPPER"), _path(env, "HELIOS_CONTROL_DIR"))


def _attempt(env: Mapping[str, str]) -> Attempt:
    endpoint = _endpoint(env)
    token = _text(env, "HELIOS_TOKEN")
    if not token.isascii() or not token.isprintable():
        raise SettingsError("HELIOS_TOKEN cannot be sent as a header")
    return Attempt(
        endpoint=endpoint,
        token=token,
        run_id=_text(env, "HELIOS_RUN_ID"),
        task=_text(env, "HELIOS_TASK_NAME"),
        attempt=_integer("HELIOS_ATTEMPT", _text(env, "HELIOS_ATTEMPT"), 0),
        pod_uid=_text(env, "HELIOS_POD_UID"),
        node=_text(env, "HELIOS_NODE"),
        plan_patience_seconds=_seconds(env, "HELIOS_PLAN_PATIENCE_SECONDS", 600.0) or 0.0,
    )


def _endpoint(env: Mapping[str, str]) -> str:
    endpoint = _text(env, "HELIOS_ENDPOINT").rstrip("/")
    if not endpoint.startswith(("http://", "https://")):
        raise SettingsError("HELIOS_ENDPOINT must be http://host:port")
    return endpoint


def _text(env: Mapping[str, str], name: str) -> str:
    value = env.get(name, "")
    if not value:
        raise SettingsError(f"{name} is not set")
    return value


def _path(env: Mapping[str, str], name: str) -> str:
    value = _text(env, name)
    if not value.startswith("/"):
        raise SettingsError(f"{name} must be an absolute path, not {value!r}")
    return value.rstrip("/") or "/"


def _optional_path(env: Mapping[str, str], name: str) -> str | None:
    return _path(env, name) if env.get(name) else None


def _boolean(env: Mapping[str, str], name: str) -> bool:
    value = _text(env, name)
    if value not in ("true", "false"):
        raise SettingsError(f"{name} must be true or false, not {value!r}")
    return value == "true"


def _choice(env: Mapping[str, str], name: str, words: tuple[str, ...]) -> str:
    """The first word is what holds when the variable is not set."""
    value = env.get(name) or words[0]
    if value not in words:
        raise SettingsError(f"{name} must be {' or '.join(words)}, not {value!r}")
    return value


def _count(env: Mapping[str, str], name: str, default: int) -> int:
    value = env.get(name, "")
    return _integer(name, value, 1) if value else default


def _integer(name: str, value: str, least: int) -> int:
    if not value.isascii() or not value.isdigit() or len(value) > 9 or int(value) < least:
        raise SettingsError(f"{name} must be a whole number of at least {least}, not {value!r}")
    return int(value)


def _seconds(env: Mapping[str, str], name: str, default: float | None) -> float | None:
    value = env.get(name, "")
    if not value:
        return default
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e9:
        raise SettingsError(f"{name} must be a number of seconds, not {value!r}")
    return seconds
