"""Somebody between Helios and a server that speaks TLS gets nothing: no request reaches who has no certificate."""

import http.server
import json
import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.web import Web
from cli.object_store import store_client
from helios.settings import Settings
from services.collector import kube_api
from services.collector.store import Store
from services.jobrunner.kubernetes import connect_api
from tests.services.job_server import kubeconfig


class Impostor(http.server.ThreadingHTTPServer):
    """Answers everything, behind a certificate that nobody has signed."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.heard: list[str] = []
        certificate, key = folder / "impostor.crt", folder / "impostor.key"
        assert shutil.which("openssl"), "there is no openssl; on Debian: apt-get install openssl"
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
                *("-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=127.0.0.1"),
                *("-addext", "subjectAltName=IP:127.0.0.1"),
            ],
            check=True,
            capture_output=True,
            timeout=30,
        )
        self.certificate = certificate
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate, key)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.server_address[1]}"

    def get_request(self) -> tuple[Any, Any]:
        connection, address = super().get_request()
        return self.context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever finds out hangs up."""


class Answering(http.server.BaseHTTPRequestHandler):
    server: Impostor

    def _answer(self) -> None:
        self.server.heard.append(f"{self.command} {self.path} {self.headers.get('Authorization')}")
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answer

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def impostor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Impostor]:
    server = Impostor(tmp_path_factory.mktemp("impostor"))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def as_agent(url: str, folder: Path) -> None:
    Web().request("GET", f"{url}/bucket/key?X-Amz-Signature=1", {"Authorization": "Bearer token"})


def as_collector_in_the_store(url: str, folder: Path) -> None:
    Store(Settings(s3_endpoint=url, s3_access_key="a", s3_secret_key="s")).head("bucket", "key")


def as_command_in_the_store(url: str, folder: Path) -> None:
    store_client(Settings(s3_endpoint=url, s3_access_key="a", s3_secret_key="s")).bucket_exists("bucket")


def as_jobrunner_at_the_api_server(url: str, folder: Path) -> None:
    connect_api(Settings()).request("GET", "/apis/batch/v1/jobs")


def as_collector_at_the_api_server(url: str, folder: Path) -> None:
    kube_api.api_from_environment().get("/api/v1/nodes")


@pytest.mark.parametrize(
    "call",
    [
        as_agent,
        as_collector_in_the_store,
        as_command_in_the_store,
        as_jobrunner_at_the_api_server,
        as_collector_at_the_api_server,
    ],
)
def test_nothing_is_said_to_a_server_whose_certificate_nobody_has_signed(
    call: Callable[[str, Path], None], impostor: Impostor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = str(kubeconfig(tmp_path, impostor.url))
    monkeypatch.setenv("KUBECONFIG", file)
    # The client has read the variable when it was imported.
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", file)
    with pytest.raises(Exception) as refused:
        call(impostor.url, tmp_path)
    assert impostor.heard == []
    assert "ertificate" in str(refused.value) or "SSL" in str(refused.value) or "MaxRetryError" in str(refused.value)


def test_the_same_server_is_spoken_to_once_its_certificate_is_believed(
    impostor: Impostor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the refusals above are about the certificate and nothing else."""
    file = kubeconfig(tmp_path, impostor.url)
    document = json.loads(file.read_text())
    document["clusters"][0]["cluster"]["certificate-authority"] = str(impostor.certificate)
    file.write_text(json.dumps(document))
    monkeypatch.setenv("KUBECONFIG", str(file))
    connect_api(Settings()).request("GET", "/apis/batch/v1/jobs")
    assert impostor.heard == ["GET /apis/batch/v1/jobs Bearer opaque"]
    impostor.heard.clear()
