"""The stack as those who use it see it: how to reach each part, and the environment that tells others."""

import hmac
from collections.abc import Iterable

import msgspec

from cli.embedded.home import Home, Passwords
from cli.embedded.s3 import BUCKET
from cli.embedded.state import ComponentState, State
from cli.embedded.valkey import redis_url

NEEDS: dict[str, tuple[str, ...]] = {
    "redis": ("valkey",),
    "s3": ("s3",),
    "node": ("node",),
    "services": ("submitter", "jobrunner", "collector", "api"),
}
EVERYTHING = frozenset(NEEDS)


class Stack(msgspec.Struct, frozen=True, kw_only=True):
    """A running stack: addresses, credentials, and what runs."""

    home: Home
    redis_url: str
    redis_port: int
    s3_endpoint: str
    s3_access_key: str
    s3_secret_key: str
    pod_endpoint: str
    token_key: str
    versions: dict[str, str]
    supervisor_pid: int
    phase: str
    components: dict[str, ComponentState]
    http_port: int = 0
    """Where the HTTP API serves; 0: it does not run."""

    @property
    def environ(self) -> dict[str, str]:
        """The settings of a process that works with this stack, as HELIOS_* variables."""
        return {
            "HELIOS_HOME": str(self.home.path),
            "HELIOS_REDIS_URL": self.redis_url,
            "HELIOS_S3_ENDPOINT": self.s3_endpoint,
            "HELIOS_S3_ACCESS_KEY": self.s3_access_key,
            "HELIOS_S3_SECRET_KEY": self.s3_secret_key,
            "HELIOS_S3_REGION": "us-east-1",
            "HELIOS_S3_BUCKET": BUCKET,
            "HELIOS_TOKEN_KEY": self.token_key,
            "HELIOS_KEEPER_KEY": hmac.new(self.token_key.encode(), b"keeper", "sha256").hexdigest(),
            "HELIOS_POD_ENDPOINT_BIND": self.pod_endpoint.removeprefix("http://"),
            "HELIOS_POD_ENDPOINT_URL": self.pod_endpoint,
            "HELIOS_LAUNCHER": "local",
            "HELIOS_LOCAL_DIR": str(self.home.node),
            "HELIOS_CACHE_DIR": str(self.home.cache),
            "HELIOS_NODE_NAME": "local",
        }

    @property
    def pids(self) -> dict[str, list[int]]:
        """Process ids by component."""
        return {name: [process.pid for process in each.processes] for name, each in self.components.items()}

    @property
    def troubles(self) -> dict[str, str]:
        """Components that are not well, and why."""
        return {
            name: f"{each.phase}: {each.error}"
            for name, each in self.components.items()
            if each.phase in ("restarting", "failing")
        }


def stack_of(home: Home, passwords: Passwords, state: State) -> Stack:
    """The stack that a state describes."""
    port = state.ports
    return Stack(
        home=home,
        redis_url=redis_url(port.get("redis", 0), passwords),
        redis_port=port.get("redis", 0),
        s3_endpoint=f"http://127.0.0.1:{port.get('s3', 0)}",
        s3_access_key=passwords.s3_access_key,
        s3_secret_key=passwords.s3_secret_key,
        pod_endpoint=f"http://127.0.0.1:{port.get('pods', 0)}",
        token_key=passwords.token_key,
        versions=state.versions,
        supervisor_pid=state.supervisor.pid,
        phase=state.phase,
        components=state.components,
        http_port=port.get("http", 0),
    )


def waited_for(state: State, need: Iterable[str]) -> dict[str, ComponentState]:
    """The components that have to be ready for what is needed."""
    kinds = {kind for each in need for kind in NEEDS[each]}
    return {name: each for name, each in state.components.items() if name.partition("-")[0] in kinds}
