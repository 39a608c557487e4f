"""rediss://: the server is known by its CA and name, the client by its certificate, and whatever is wrong is said."""

import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest
import redis

from cli.checkup import check_server
from cli.connection import Link, reaching
from cli.failure import CommandFailed
from helios.heartbeat import Heartbeat
from helios.keys import SUBMISSIONS, Keys
from helios.redis_client import client_of
from helios.settings import Settings
from tests.certificates import Authority
from tests.redis_servers import Valkey, free_port, server_program
from tests.services.test_processes import COMMANDS, Replicas
from tests.stage import dag_text
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]


class Secured:
    """A Redis that speaks TLS only and wants a certificate of its clients."""

    def __init__(self, authority: Authority, port: int) -> None:
        self.authority = authority
        self.port = port
        self.certificate, self.key = authority.sign("client")

    def url(self, host: str = "localhost", *, ca: Path | None = None, certificate: bool = True) -> str:
        options = f"ssl_ca_certs={ca or self.authority.file}"
        if certificate:
            options += f"&ssl_certfile={self.certificate}&ssl_keyfile={self.key}"
        return f"rediss://{host}:{self.port}/0?{options}"


class Front:
    """What ends TLS before a server that has none, as a managed Redis or stunnel does."""

    def __init__(self, upstream: int, context: ssl.SSLContext) -> None:
        self.upstream = upstream
        self.context = context
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        try:
            client = self.context.wrap_socket(plain, server_side=True)
            server = socket.create_connection(("127.0.0.1", self.upstream), 2)
            server.settimeout(None)
        except OSError:
            plain.close()
            return
        back = threading.Thread(target=self._carry, args=(server, client), daemon=True)
        back.start()
        self._carry(client, server)
        back.join()
        client.close()
        server.close()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while piece := source.recv(65536):
                sink.sendall(piece)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue


def tls_server() -> str | None:
    """A server with TLS of its own: the embedded one has none, Debian's redis-server and most others do."""
    for program in (str(server_program()), shutil.which("valkey-server"), shutil.which("redis-server")):
        if program is None:
            continue
        tried = subprocess.run(
            [program, "--port", "0", "--tls-port", str(free_port()), "--bind", "127.0.0.1", "--save", ""],
            capture_output=True,
            text=True,
            timeout=30,
        )
        # It ends in either case, since no certificate is named; only the reason differs.
        if "Failed finding TLS support" not in tried.stdout and "Bad directive" not in tried.stdout:
            return program
    return None


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "right")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "wrong")


@pytest.fixture(params=["a front", "a server with TLS"])
def secured(request: pytest.FixtureRequest, authority: Authority, tmp_path: Path) -> Iterator[Secured]:
    certificate, key = authority.sign("server", "localhost")
    with ExitStack() as stack:
        if request.param == "a front":
            valkey = Valkey(tmp_path)
            valkey.start()
            stack.callback(valkey.kill)
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.file))
            context.load_cert_chain(certificate, key)
            context.verify_mode = ssl.CERT_REQUIRED
            front = Front(valkey.port, context)
            stack.callback(front.listener.close)
            yield Secured(authority, front.port)
            return
        program = tls_server()
        if program is None:
            pytest.skip("neither the embedded server nor one on PATH is built with TLS")
        port = free_port()
        process = subprocess.Popen(
            [
                *(program, "--port", "0", "--tls-port", str(port), "--bind", "127.0.0.1", "--save", ""),
                *("--tls-cert-file", certificate, "--tls-key-file", key, "--tls-ca-cert-file", authority.file),
                *("--dir", tmp_path, "--logfile", "redis.log"),
            ],
            stdin=subprocess.DEVNULL,
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        found = Secured(authority, port)
        client = client_of(Settings(redis_url=found.url()))
        wait_until("the server answers", lambda: _answers(client))
        client.close()
        yield found


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


def test_services_the_doctor_and_the_probe_speak_tls(secured: Secured, tmp_path: Path) -> None:
    settings = Settings(redis_url=secured.url())
    client = client_of(settings)
    services = Replicas(_Somewhere(secured.url()), tmp_path, 1)  # pyright: ignore[reportArgumentType] -- it asks for the URL only
    for service in COMMANDS:
        services.start(service, 0)
    try:
        run = client.xadd(SUBMISSIONS, {"dag": dag_text({"a": [], "b": ["a"]})})
        wait_until("the run ends well", lambda: client.hget(Keys(0).run(str(run)), "status") == "SUCCEEDED", 60)
        assert set(services.stop().values()) == {0}
    finally:
        for process in services.processes.values():
            process.kill()
            process.wait()
    assert next(check_server(Link(client, settings))).detail.endswith(f"at localhost:{secured.port}")
    Heartbeat(client, "submitter", "a").beat()
    assert probe(secured.url(), "a") == (0, "")
    assert probe(secured.url(), "b") == (1, "no heartbeat in Redis\n")
    client.close()


class _Somewhere(msgspec.Struct):
    url: str


def probe(url: str, replica: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(ROOT / "k8s" / "base" / "heartbeat.py"), "ready", "submitter"],
        env={"HELIOS_REDIS_URL": url, "HELIOS_REPLICA": replica},
        capture_output=True,
        text=True,
        timeout=30,
    )
    return done.returncode, done.stderr


def trouble(url: str) -> CommandFailed:
    """What a command of ours says to a Redis that it does not get on with."""
    settings = Settings(redis_url=url)
    with (
        client_of(settings) as client,
        pytest.raises(CommandFailed) as failed,
        reaching(settings, embedded=False),
    ):
        client.ping()
    return failed.value


def test_another_ca_another_name_and_no_certificate_are_refused_in_words(secured: Secured, stranger: Authority) -> None:
    """By commands, and by the probe; and the services' log holds the same error."""
    wrong_ca = trouble(secured.url(ca=stranger.file))
    assert f"localhost:{secured.port} shows a certificate that is not trusted" in wrong_ca.message
    assert "ssl_ca_certs" in str(wrong_ca.hint)
    wrong_name = trouble(secured.url("127.0.0.1"))
    assert f"127.0.0.1:{secured.port} shows a certificate for another host name" in wrong_name.message
    nobody = trouble(secured.url(certificate=False))
    assert "ssl_certfile" in str(nobody.hint)
    code, said = probe(secured.url(ca=stranger.file), "a")
    assert code == 1
    assert "certificate verify failed" in said
    code, said = probe(secured.url("127.0.0.1"), "a")
    assert code == 1
    assert "mismatch" in said


def test_a_clients_certificate_of_another_ca_is_refused(secured: Secured, stranger: Authority) -> None:
    secured.certificate, secured.key = stranger.sign("client")
    assert "ssl_certfile" in str(trouble(secured.url()).hint)


def test_a_server_without_tls_is_said(authority: Authority) -> None:
    """One that answers something else, and one that waits for the end of what it takes for a command, as Redis does."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            connection.recv(4096)
            connection.sendall(b"-ERR unknown command\r\n")
            connection.close()

        threading.Thread(target=answer, daemon=True).start()
        url = f"rediss://127.0.0.1:{listener.getsockname()[1]}/0?ssl_ca_certs={authority.file}"
        assert "does not speak TLS on that port" in trouble(url).message
    with pytest.raises(CommandFailed) as failed, reaching(Settings(redis_url=url), embedded=False):
        raise redis.TimeoutError("Timeout connecting to server")
    assert "see that it speaks TLS on that port" in str(failed.value.hint)


def test_nobody_reads_along(secured: Secured) -> None:
    """Without TLS nothing is answered, so nothing is sent in the clear by mistake."""
    with (
        client_of(Settings(redis_url=f"redis://localhost:{secured.port}/0")) as client,
        pytest.raises(redis.ConnectionError),
    ):
        client.ping()
