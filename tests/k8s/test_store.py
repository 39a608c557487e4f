"""The step that prepares MinIO, against a real one. It runs inside a cluster's network (`cluster exec`) only, where the
server that `cluster build` compiled may listen.
"""

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3
from minio import Minio
from minio.deleteobjects import DeleteObject
from minio.error import S3Error

from tests.k8s.conftest import K8S
from tests.redis_servers import free_port
from tests.waiting import wait_until

USERS = {
    "COLLECTOR_ACCESS_KEY": "helios-collector",
    "COLLECTOR_SECRET_KEY": "collector-secret",
    "CLIENT_ACCESS_KEY": "helios-client",
    "CLIENT_SECRET_KEY": "client-secret",
    "API_ACCESS_KEY": "helios-api",
    "API_SECRET_KEY": "api-secret",
}


class Server:
    def __init__(self, program: Path, folder: Path) -> None:
        self.place = f"127.0.0.1:{free_port()}"
        self.root = {"MINIO_ROOT_USER": "root-user", "MINIO_ROOT_PASSWORD": "root-password"}
        self.process = subprocess.Popen(
            [program, "server", folder / "data", "--address", self.place],
            env={**os.environ, **self.root, "MINIO_BROWSER": "off", "HOME": str(folder)},
            stdout=subprocess.DEVNULL,
        )

    def client(self, user: str) -> Minio:
        return Minio(
            self.place,
            USERS[f"{user}_ACCESS_KEY"],
            USERS[f"{user}_SECRET_KEY"],
            secure=False,
            region="us-east-1",
            http_client=urllib3.PoolManager(retries=False),
        )

    def prepare(self) -> "subprocess.CompletedProcess[str]":
        settings = {
            "HELIOS_S3_ENDPOINT": f"http://{self.place}",
            "HELIOS_S3_BUCKET": "artifacts",
            "HELIOS_S3_REGION": "us-east-1",
        }
        return subprocess.run(
            [sys.executable, str(K8S / "base" / "prepare_store.py")],
            env={**os.environ, **self.root, **USERS, **settings},
            capture_output=True,
            text=True,
            timeout=100,
        )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    program = Path(os.environ.get("CLUSTER_HOME", "/nowhere")) / "bin" / "minio"
    if not os.environ.get("CLUSTER_INSIDE") or not program.exists():
        pytest.skip("needs to run inside `cluster exec`, with the MinIO that `cluster build` compiles")
    made = Server(program, tmp_path_factory.mktemp("minio"))
    try:
        done = made.prepare()  # while the server starts: waiting for it is the step's own business
        assert done.returncode == 0, done.stderr
        yield made
    finally:
        made.process.kill()
        made.process.wait()


def refused(attempt: Any) -> str:
    with pytest.raises(S3Error) as caught:
        attempt()
    return str(caught.value.code)


def test_repeating_it_changes_nothing(server: Server) -> None:
    for _ in range(2):
        assert server.prepare().returncode == 0


def test_the_collector_reads_everywhere_and_writes_artifacts_only(server: Server) -> None:
    client, collector = server.client("CLIENT"), server.client("COLLECTOR")
    client.make_bucket("corpora")
    client.put_object("corpora", "moby.txt", io.BytesIO(b"whale"), 5)
    wait_until("the collector reads inputs", lambda: collector.stat_object("corpora", "moby.txt"))
    collector.put_object("artifacts", "runs/1/n", io.BytesIO(b"1"), 1)
    assert refused(lambda: collector.stat_object("corpora", "missing")) == "NoSuchKey"
    assert refused(lambda: collector.put_object("corpora", "x", io.BytesIO(b"1"), 1)) == "AccessDenied"
    client.put_object("artifacts", "doctor/x", io.BytesIO(b"1"), 1)
    assert refused(lambda: collector.remove_object("artifacts", "doctor/x")) == "AccessDenied"
    assert refused(lambda: collector.remove_object("corpora", "moby.txt")) == "AccessDenied"
    assert refused(lambda: collector.make_bucket("other")) == "AccessDenied"


@pytest.mark.parametrize("user", ["COLLECTOR", "CLIENT"])
def test_whoever_deletes_artifacts_of_forgotten_runs_may_do_all_it_takes(server: Server, user: str) -> None:
    store: Any = server.client(user)
    store.put_object("artifacts", "runs/1-0/t/1/p/n", io.BytesIO(b"1"), 1)
    (folder,) = store.list_objects("artifacts", prefix="runs/1-0/")
    assert folder.object_name == "runs/1-0/t/"
    assert list(store.remove_objects("artifacts", [DeleteObject("runs/1-0/t/1/p/n")])) == []
    assert list(store.list_objects("artifacts", prefix="runs/1-0/")) == []
    upload = store._create_multipart_upload("artifacts", "runs/1-0/t/1/p/n", {})
    assert store._list_multipart_uploads("artifacts", prefix="runs/") is not None
    store._abort_multipart_upload("artifacts", "runs/1-0/t/1/p/n", upload)


def test_the_client_puts_gets_and_deletes(server: Server) -> None:
    client = server.client("CLIENT")
    assert client.bucket_exists("artifacts")
    client.put_object("artifacts", "doctor/x", io.BytesIO(b"1"), 1)
    client.remove_object("artifacts", "doctor/x")


def test_the_http_api_reads_what_runs_have_stored_and_nothing_else(server: Server) -> None:
    client, api = server.client("CLIENT"), server.client("API")
    client.put_object("artifacts", "runs/2-0/t/1/p/n", io.BytesIO(b"1"), 1)
    client.put_object("artifacts", "doctor/y", io.BytesIO(b"1"), 1)
    assert api.get_object("artifacts", "runs/2-0/t/1/p/n").read() == b"1"
    assert refused(lambda: api.get_object("artifacts", "doctor/y")) == "AccessDenied"
    assert refused(lambda: api.put_object("artifacts", "runs/2-0/x", io.BytesIO(b"1"), 1)) == "AccessDenied"
    assert refused(lambda: api.remove_object("artifacts", "runs/2-0/t/1/p/n")) == "AccessDenied"
    assert refused(lambda: list(api.list_objects("artifacts"))) == "AccessDenied"
