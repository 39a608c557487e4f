"""The services as they run in a cluster, each under its own Redis user, with unique secrets and everything going wrong
around them: what they log, what they leave in Redis and what they send to Kubernetes is searched for the secrets.
"""

import http.client
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import pytest
import redis

from helios.heartbeat import live_services
from helios.keys import SUBMISSIONS, Keys
from tests.k8s.conftest import ROOT, GuardedRedis, env_file, make_secrets
from tests.redis_servers import free_port
from tests.services.job_server import ApiServer, kubeconfig
from tests.services.kube_server import KubeServer
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(180)

SERVICES = ("submitter", "jobrunner", "collector")
SIGNATURE = re.compile(r"X-Amz-(?:Signature|Credential)=|[?&]grant=")
DAG = {
    "dagName": "trial",
    "tasks": [
        {
            "name": "a",
            "image": "i",
            "command": ["true"],
            "env": {"KEY": {"secret": "vault", "key": "api"}},
            "inputs": [{"uri": "s3://corpora/object"}],
            "outputs": ["o"],
        }
    ],
}


class BadStore(ThreadingHTTPServer):
    """An object store that breaks off, or answers an error with the request in it, as it is told."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), StoreHandler)
        self.breaks_off = True
        self.asked: list[str] = []


class StoreHandler(BaseHTTPRequestHandler):
    server: BadStore

    def _answer(self) -> None:
        self.server.asked.append(self.path)
        if self.server.breaks_off:
            self.close_connection = True
            return
        body = f"<Error><Code>InternalError</Code><Resource>{self.path}</Resource></Error>".encode()
        self.send_response(500)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answer

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


class Seen(NamedTuple):
    """`logs` by service, Redis's keys with all that is in them, the Job, and answers of the pod endpoint."""

    secrets: dict[str, str]
    token: str
    logs: dict[str, str]
    stored: dict[str, str]
    job: dict[str, Any]
    answers: list[tuple[int, str]]
    store: BadStore


def serve(server: ThreadingHTTPServer, stack: ExitStack) -> None:
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    stack.callback(server.server_close)
    stack.callback(server.shutdown)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    folder = tmp_path_factory.mktemp("services")
    assert make_secrets(folder / "made").returncode == 0
    with ExitStack() as stack:
        guarded = GuardedRedis(folder, folder / "made")
        stack.callback(guarded.stop)
        api, kube, store = ApiServer(), KubeServer(), BadStore()
        serve(api, stack)
        serve(store, stack)
        stack.callback(kube.close)
        port = free_port()
        values = {
            f"{name} {each}": text for name in SERVICES for each, text in env_file(folder / f"made/{name}.env").items()
        }
        planted = {
            **{name: text.partition("@")[0].rpartition(":")[2] for name, text in values.items() if "REDIS_URL" in name},
            "token key": values["jobrunner HELIOS_TOKEN_KEY"],
            "S3 key": values["collector HELIOS_S3_SECRET_KEY"],
            "keeper key": env_file(folder / "made/keeper.env")["HELIOS_KEEPER_KEY"],
            "account token": "planted-account-token",
        }
        processes: list[subprocess.Popen[bytes]] = []
        for name in SERVICES:
            place = folder / name
            place.mkdir()
            server = api.url if name == "jobrunner" else f"http://127.0.0.1:{kube.http.server_port}"
            config = kubeconfig(place, server)
            config.write_text(config.read_text().replace("opaque", planted["account token"]))
            environ = {
                **env_file(folder / f"made/{name}.env"),
                "HELIOS_REDIS_URL": guarded.url(name),
                "HELIOS_REPLICA": f"{name}-0",
                "HELIOS_LOG_LEVEL": "debug",
                "HELIOS_LAUNCHER": "kubernetes",
                "HELIOS_AGENT_IMAGE": "helios:1",
                "HELIOS_LEASE_SECONDS": "2",
                "HELIOS_S3_ENDPOINT": f"http://127.0.0.1:{store.server_address[1]}",
                "HELIOS_POD_ENDPOINT_BIND": f"127.0.0.1:{port}",
                "KUBECONFIG": str(config),
                **({"HELIOS_KEEPER_KEY": planted["keeper key"]} if name == "collector" else {}),
            }
            with (folder / f"{name}.log").open("wb") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", f"services.{name}"],
                    env={**os.environ, **environ},
                    cwd=ROOT,
                    stdout=log,
                    stderr=log,
                )
            processes.append(process)
            stack.callback(process.wait)
            stack.callback(process.kill)
        client = guarded.client("client")
        wait_until("the services beat", lambda: len(live_services(client)) == 3, 60)
        guarded.client("submit").xadd(SUBMISSIONS, {"dag": json.dumps(DAG)})
        job: Any = wait_until("a Job is created", lambda: next(iter(api.jobs.values()), None), 60)
        (fetch, *_) = job["spec"]["template"]["spec"]["containers"]
        token = next(each["value"] for each in fetch["env"] if each["name"] == "HELIOS_TOKEN")
        answers = calls(port, token, store)
        stored = everything(client)
        kube.away = True
        kube.cut()
        api.answers = [(500, {"message": "down"})] * 3
        guarded.client("submit").xadd(SUBMISSIONS, {"dag": json.dumps(DAG)})
        wait_until("the jobrunner meets the fault", lambda: not api.answers, 60)
        stored |= everything(client)
        logs = {name: folder / f"{name}.log" for name in SERVICES}
        before = {name: len(log.read_text()) for name, log in logs.items()}
        guarded.process.kill()
        for name, log in logs.items():
            wait_until(
                f"{name} says that Redis is away",
                lambda log=log, before=before[name]: "Error" in log.read_text()[before:],
                60,
            )
        for process in processes:
            process.kill()
            process.wait()
        yield Seen(planted, token, {name: log.read_text() for name, log in logs.items()}, stored, job, answers, store)


def calls(port: int, token: str, store: BadStore) -> list[tuple[int, str]]:
    """What a pod may ask for, while the store does not work."""
    answers: list[tuple[int, str]] = []
    for state in ("breaks off", "errors", "gone"):
        store.breaks_off = state == "breaks off"
        if state == "gone":
            store.shutdown()
            store.server_close()
        for method, path, body in (
            ("GET", "/v1/plan", None),
            ("POST", "/v1/multipart", {"name": "o", "bytes": 10**10}),
            ("POST", "/v1/multipart", {"name": "o", "bytes": "many"}),
            ("POST", "/v1/lines", {"step": "fetch", "after": 0, "lines": ["x"]}),
            ("POST", "/v1/result", {"run": "other"}),
            ("GET", f"/v1/plan?token={token}", None),
        ):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            headers = {"Authorization": f"Bearer {token}", "Helios-Pod": "p", "Helios-Node": "n"}
            connection.request(method, path, json.dumps(body) if body else None, headers)
            answer = connection.getresponse()
            answers.append((answer.status, answer.read().decode()))
            connection.close()
    return answers


def everything(client: redis.Redis) -> dict[str, str]:
    """All keys that the client may read, as it may read them."""
    found: dict[str, str] = {}
    for key in client.scan_iter("helios:*"):
        match client.type(key):
            case "hash":
                found[key] = str(client.hgetall(key))
            case "stream":
                found[key] = str(client.xrange(key))
            case "string":
                found[key] = str(client.get(key))
            case "list":
                found[key] = str(client.lrange(key, 0, -1))
            case "zset":
                found[key] = str(client.zrange(key, 0, -1))
            case "none":
                continue  # it has gone since it was listed
            case other:
                raise AssertionError(f"{key} is a {other}")
    return found


def leaks(text: str, seen: Seen) -> list[str]:
    found = [name for name, secret in seen.secrets.items() if secret in text]
    found += ["token"] if seen.token in text or seen.token.partition(".")[2] in text else []
    return found + (["signed URL"] if SIGNATURE.search(text) else [])


def test_services_log_no_secret_and_no_signed_url_whatever_goes_wrong(seen: Seen) -> None:
    assert any("X-Amz-Signature" in path for path in seen.store.asked), "no signed URL was used at all"
    assert {name: found for name, log in seen.logs.items() if (found := leaks(log, seen))} == {}


def test_every_line_of_a_services_log_is_an_object_of_its_own(seen: Seen) -> None:
    """So that nothing which it quotes makes a line that it did not write."""
    for name, log in seen.logs.items():
        assert log.strip()
        whole = log[: log.rfind("\n")]  # its end may be in the middle of a line, since it was killed
        for line in whole.splitlines():
            assert isinstance(json.loads(line), dict), f"{name}: {line}"


def test_nothing_that_clients_read_in_redis_is_a_secret(seen: Seen) -> None:
    assert any(key.startswith(Keys(0).events) for key in seen.stored)
    assert len(seen.stored) > 10
    assert {key: found for key, text in seen.stored.items() if (found := leaks(text, seen))} == {}


def test_a_job_holds_its_attempts_token_for_the_agents_steps_and_no_other_secret(seen: Seen) -> None:
    pod = seen.job["spec"]["template"]["spec"]
    for container in pod["containers"]:
        wanted = [] if container["name"] == "task" else ["token"]
        assert leaks(json.dumps(container), seen) == wanted, container["name"]
    task = next(each for each in pod["containers"] if each["name"] == "task")
    assert {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "vault", "key": "api"}}} in task["env"]
    pod = {**pod, "containers": []}
    seen.job["spec"]["template"]["spec"] = pod
    assert leaks(json.dumps(seen.job), seen) == []


def test_the_endpoint_signs_for_who_has_the_token_and_quotes_nothing_in_its_errors(seen: Seen) -> None:
    (plan, *_) = seen.answers
    assert plan[0] == 200 and SIGNATURE.search(plan[1])
    errors = [answer for status, answer in seen.answers if status >= 400]
    assert {status for status, _ in seen.answers} >= {200, 400, 503}
    assert {answer for answer in errors if leaks(answer, seen)} == set()
