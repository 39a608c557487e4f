"""A real S3 for tests: a weed server on loopback, with a bucket `corpora`."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import urllib3
from minio import Minio

from tests.redis_servers import free_port
from tests.waiting import wait_until


class RealS3:
    """A weed server of this test session, with a bucket `corpora`."""

    def __init__(self, port: int) -> None:
        self.endpoint = f"127.0.0.1:{port}"
        self.client = self.connect()

    def connect(self, **options: Any) -> Minio:
        return Minio(self.endpoint, access_key="helios", secret_key="helios-secret", secure=False, **options)

    def sign(self, method: str, key: str) -> str:
        bucket, _, name = key.partition("/")
        return self.client.get_presigned_url(method, bucket, name)


def free_ports(count: int) -> list[int]:
    """Free ports whose neighbours 10,000 above, where weed puts its gRPC servers, are free too."""
    found: list[int] = []
    while len(found) < count:
        port = free_port()
        with socket.socket() as high, suppress(OSError):
            high.bind(("127.0.0.1", port + 10_000))
            found.append(port)
    return found


@contextmanager
def running_s3(folder: Path) -> Iterator[RealS3]:
    identity = {
        "name": "helios",
        "credentials": [{"accessKey": "helios", "secretKey": "helios-secret"}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    master, volume, filer, s3 = free_ports(4)
    command = [
        str(Path(sys.executable).with_name("weed")),
        "server",
        f"-dir={folder}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-master.port={master}",
        f"-volume.port={volume}",
        "-filer",
        f"-filer.port={filer}",
        "-s3",
        f"-s3.port={s3}",
        f"-s3.config={folder / 's3.json'}",
        "-master.volumeSizeLimitMB=64",
        "-volume.max=0",
        "-master.telemetry=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-volume.preStopSeconds=0",
        "-filer.localSocket=filer.sock",
        "-s3.localSocket=s3.sock",
    ]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, start_new_session=True)
    try:
        real = RealS3(s3)
        # By itself a client tries what fails again for six seconds, with growing pauses.
        at_once = urllib3.PoolManager(timeout=5, retries=False)
        first = real.connect(http_client=at_once)

        def ready() -> bool:
            assert server.poll() is None, (folder / "log").read_text()[-2000:]
            with suppress(Exception):
                if not first.bucket_exists("corpora"):
                    first.make_bucket("corpora")
                first.put_object("corpora", "probe", io.BytesIO(b"x"), 1)
                return True
            return False

        wait_until("weed answers", ready, 100)
        yield real
    finally:
        # On SIGTERM it takes its time; nothing of it is worth keeping.
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        # Sockets whose names weed does not let one choose.
        for kind, port in (("master", master), ("volume", volume), ("filer", filer), ("s3", s3)):
            Path(f"/tmp/seaweedfs-{kind}-grpc-{port + 10000}.sock").unlink(missing_ok=True)
