"""What a trivial task does not pay for: modules it has no use for, and questions whose answers are known."""

import re
import shutil
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from agent.download import Wanted
from agent.endpoint import Parts
from agent.plan import PlannedOutput
from agent.store import Absent, Linked
from tests.agent.conftest import AGENT, QuietServer

HEAVY = {
    *("dataclasses", "inspect", "typing", "pathlib", "subprocess"),
    *("tarfile", "shutil", "ssl", "encodings.idna", "agent.store", "agent.upload", "agent.zstd"),
}


def test_the_steps_of_a_task_without_files_import_nothing_heavy(endpoint: Any, node: Any) -> None:
    """Each step is a process of its own, so every import is paid three times a task."""
    for verb in (["fetch"], ["exec", "--", "true"], ["publish"]):
        command = [sys.executable, "-I", "-S", "-X", "importtime", str(AGENT), *verb]
        done = subprocess.run(command, env=node.env(), check=True, capture_output=True, text=True)
        imported = set(re.findall(r"^import time: +[0-9]+ \| +[0-9]+ \| +([\w.]+)$", done.stderr, re.M))
        assert "agent.settings" in imported
        # A name that was hidden is listed too, so ssl is judged by what it would bring.
        assert imported & (HEAVY - {"ssl"} | {"_ssl"}) == set()


def test_publish_does_not_ask_for_the_plan_when_fetch_saw_that_it_has_no_outputs(endpoint: Any, node: Any) -> None:
    node.fetch()
    node.task_ended()
    assert node.publish().good
    assert endpoint.asked == ["/v1/plan", "/v1/result"]


def test_publish_asks_for_the_plan_once_even_when_the_task_is_long_over(store: Any, endpoint: Any, node: Any) -> None:
    endpoint.add_output("n")
    (node.artifacts / "n").write_bytes(b"done")
    node.task_ended()
    assert node.publish().good
    assert endpoint.asked == ["/v1/plan", "/v1/result"]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
@pytest.mark.parametrize("trusted", [True, False])
def test_an_https_endpoint_is_spoken_to_and_its_certificate_is_checked(
    endpoint: Any, node: Any, tmp_path: Path, trusted: bool
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    request += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(request, check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    server = QuietServer(("127.0.0.1", 0), endpoint.handler())
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        env = node.env() | {"HELIOS_ENDPOINT": f"https://127.0.0.1:{server.server_address[1]}"}
        env |= {"HELIOS_PLAN_PATIENCE_SECONDS": "20" if trusted else "0"}
        if trusted:
            env["SSL_CERT_FILE"] = str(certificate)
        process = node.start("fetch", env=env)
        output = process.communicate(timeout=60)[0].decode()
    finally:
        server.shutdown()
        server.server_close()
    assert (process.returncode == 0) is trusted, output
    assert (endpoint.asked == ["/v1/plan"]) is trusted
    assert trusted or "certificate verify failed" in output.lower()


def test_a_frozen_struct_takes_exactly_its_fields_and_cannot_be_changed() -> None:
    wanted = Wanted("n", 1, etag=None, sha256="00", stored=None)
    assert wanted == Wanted(name="n", size=1, etag=None, sha256="00", stored=None)
    assert hash(wanted) == hash(Wanted(stored=None, sha256="00", etag=None, size=1, name="n"))
    assert Linked("never-here") != Absent("never-here", "")
    for values, named in [(("n", 1, None), {}), (("n", 1, None, None, None, 2), {}), (("n", 1, None), {"name": "m"})]:
        with pytest.raises(TypeError, match="takes exactly name, size, etag, sha256, stored"):
            Wanted(*values, **named)  # type: ignore[arg-type]
    with pytest.raises(AttributeError, match="frozen"):
        wanted.size = 2  # type: ignore[misc]
    with pytest.raises(AttributeError, match="frozen"):
        del wanted.size


def test_signed_urls_stay_out_of_the_repr() -> None:
    assert repr(PlannedOutput("n", "bucket/n", "http://s3/n?X-Amz-Signature=secret")) == (
        "PlannedOutput(name='n', key='bucket/n')"
    )
    assert "secret" not in repr(Parts(5, ("http://s3/1?secret",), "http://s3/?secret"))
