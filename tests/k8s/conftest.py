"""The manifests, rendered once, and a real server that knows Redis's users by them alone."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest
import redis
import yaml

from helios.streams import CLIENT_OPTIONS
from tests.redis_servers import free_port, server_program
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
OVERLAYS = (
    *(".", "overlays/isolated", "overlays/kind", "overlays/autoscale", "overlays/autoscale/hpa", "overlays/csi"),
    *("overlays/monitoring", "overlays/http"),
)

Document = dict[str, Any]


def make_secrets(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(K8S / "make-secrets"), str(folder)], capture_output=True, text=True, timeout=30
    )


def env_file(path: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in path.read_text().splitlines())


@pytest.fixture(scope="session")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as make-secrets makes it."""
    folder = tmp_path_factory.mktemp("secrets")
    done = make_secrets(folder)
    assert done.returncode == 0, done.stderr
    return folder


def find_kubectl() -> str | None:
    built = Path(os.environ.get("CLUSTER_HOME") or Path.home() / ".cache" / "helios-cluster") / "bin" / "kubectl"
    return str(built) if built.exists() else shutil.which("kubectl")


class Manifests:
    """Every kustomization below k8s/ as kubectl renders it, with credentials of its own."""

    def __init__(self, kubectl: str, folder: Path, credentials: Path) -> None:
        self.kubectl = kubectl
        self.folder = folder / "k8s"
        shutil.copytree(K8S, self.folder, ignore=shutil.ignore_patterns("*.env", "users.acl", "__pycache__"))
        shutil.copy(K8S / "users.acl", self.folder)
        for made in credentials.iterdir():
            shutil.copy(made, self.folder / "secrets")
        self.rendered: dict[str, list[Document]] = {}

    def render(self, overlay: str = ".") -> list[Document]:
        if overlay not in self.rendered:
            done = subprocess.run(
                [self.kubectl, "kustomize", str(self.folder / overlay)], capture_output=True, text=True, timeout=60
            )
            assert done.returncode == 0, done.stderr
            self.rendered[overlay] = [each for each in yaml.safe_load_all(done.stdout) if each]
        return self.rendered[overlay]


@pytest.fixture(scope="session")
def manifests(tmp_path_factory: pytest.TempPathFactory, credentials: Path) -> Manifests:
    kubectl = find_kubectl()
    if kubectl is None:
        pytest.skip("no kubectl: neither on PATH nor in ~/.cache/helios-cluster/bin")
    return Manifests(kubectl, tmp_path_factory.mktemp("manifests"), credentials)


class GuardedRedis:
    """A Valkey with the users of users.acl, and one more, `test`, who sees what the others were refused."""

    def __init__(self, folder: Path, credentials: Path) -> None:
        self.port = free_port()
        self.credentials = credentials
        users = folder / "users.acl"
        users.write_text((credentials / "users.acl").read_text() + "user test on nopass ~* &* +@all\n")
        settings = (K8S / "base" / "redis.conf").read_text()
        for inside, outside in (
            ("port 6379", f"port {self.port}"),
            ("bind * -::*", "bind 127.0.0.1"),
            ("dir /data", f"dir {folder}"),
            ("/etc/helios/acl/users.acl", str(users)),
        ):
            assert inside in settings
            settings = settings.replace(inside, outside)
        (folder / "redis.conf").write_text(settings + f"logfile {folder}/valkey.log\n")
        self.process = subprocess.Popen([server_program(), folder / "redis.conf"], stdin=subprocess.DEVNULL)
        self.admin = redis.Redis(port=self.port, username="test", password="any", **CLIENT_OPTIONS)
        wait_until("the server answers", self._answers)

    def url(self, user: str) -> str:
        """What the user's Secret says, but for the place."""
        values = env_file(self.credentials / f"{user}.env")
        if "HELIOS_REDIS_URL" not in values:
            return f"redis://{values['username']}:{values['password']}@127.0.0.1:{self.port}/0"
        parts = urlsplit(values["HELIOS_REDIS_URL"])
        return urlunsplit(parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{self.port}"))

    def client(self, user: str) -> redis.Redis:
        return redis.Redis.from_url(self.url(user), **CLIENT_OPTIONS)

    def refused(self) -> list[str]:
        """Who was refused what, since the last reset of the log."""
        entries: Any = self.admin.acl_log(1000)
        return [f"{entry['username']}: {entry['reason']} {entry['object']} ({entry['context']})" for entry in entries]

    def stop(self) -> None:
        self.admin.close()
        self.process.kill()
        self.process.wait()

    def _answers(self) -> bool:
        assert self.process.poll() is None, "the server does not start with this ACL file"
        try:
            return bool(self.admin.ping())
        except redis.RedisError:
            return False


@pytest.fixture
def guarded(tmp_path: Path, credentials: Path) -> Iterator[GuardedRedis]:
    server = GuardedRedis(tmp_path, credentials)
    yield server
    server.stop()
