"""What each service's process sets up."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.redis_servers import Valkey, free_port

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_under_the_log_ends_no_service() -> None:
    """Lines are lost, the service is not."""
    program = (
        "import structlog; from helios.settings import Settings; from services.log_lines import configure_logging;"
        "configure_logging('trial', Settings());"
        "structlog.get_logger().info('lost'); print('alive')"
    )
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=full, check=False)
    assert (done.stdout, done.returncode) == (b"alive\n", 0)


BROKEN_ENDPOINT = """
from services.collector import __main__ as collector

def run(server):
    raise OSError("no descriptors are left")

create = collector.create_server
def broken(*arguments, **options):
    server = create(*arguments, **options)
    server.run = lambda: run(server)
    return server

collector.create_server = broken
collector.main()
"""


def test_a_collector_whose_pod_endpoint_ends_does_not_go_on_without_it(own_valkey: Valkey, tmp_path: Path) -> None:
    """It would be unready for ever; its exit code makes Kubernetes start it anew."""
    environment = {
        **os.environ,
        "HELIOS_REDIS_URL": own_valkey.url,
        "HELIOS_TOKEN_KEY": "k",
        "HELIOS_LOCAL_DIR": str(tmp_path),
        "HELIOS_POD_ENDPOINT_BIND": f"127.0.0.1:{free_port()}",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-c", BROKEN_ENDPOINT], env=environment, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert b"no descriptors are left" in done.stderr
    assert b"the pod endpoint has ended" in done.stderr


PROGRAM = """
import logging, threading, warnings, structlog
from helios.logged import about, about_entry
from helios.settings import settings_from
from services.log_lines import configure_logging

configure_logging("trial", settings_from())
log = structlog.get_logger()
with about_entry("helios:{p0}:tasks:ready", "5-0", {"run": "1-0", "task": "a", "attempt": "2", "other": "x"}):
    log.info("bound", url="http://s/b/k?X-Amz-Credential=planted-c&X-Amz-Signature=planted-s&a=1")
    try:
        raise ValueError("two\\nlines with planted-redis and Bearer planted.token-x")
    except ValueError:
        log.exception("it failed")
log.info("not bound")
def work():
    log.info("in a thread")
    raise RuntimeError("of the thread\\nwith planted-key")
thread = threading.Thread(target=work)
thread.start()
thread.join()
logging.getLogger("some.library").warning("its\\nwords %s", "planted-secret")
try:
    raise ValueError("a head cut off")
except ValueError:
    logging.getLogger("some.library").warning("a library carries on", exc_info=True)
    logging.getLogger("some.library").error("a library gives up", exc_info=True)
warnings.warn("planted-keeper is old")
raise OSError("the end\\nof it")
"""


def test_a_line_is_one_object_whoever_says_it_and_holds_no_secret() -> None:
    """Our messages from any thread, those of libraries, warnings, and what ends a thread or the process."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HELIOS_REDIS_URL": "redis://me:planted-redis@127.0.0.1:1/0",
        "HELIOS_REPLICA": "trial-0",
        "HELIOS_TOKEN_KEY": "planted-key",
        "HELIOS_KEEPER_KEY": "planted-keeper",
        "HELIOS_S3_SECRET_KEY": "planted-secret",
        "HELIOS_LAUNCHER": "kubernetes",
    }
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "planted" not in done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    by_words = {line["message"]: line for line in lines}
    subject = {"run": "1-0", "task": "a", "attempt": 2, "entry": "5-0"}
    for words in ("bound", "it failed"):
        assert {name: by_words[words][name] for name in subject} == subject
    assert by_words["it failed"]["error"].startswith("ValueError: two\nlines")
    assert "Traceback" in by_words["it failed"]["exception"]
    assert not subject.keys() & by_words["not bound"].keys()
    assert "of the thread" in by_words["a thread ends by an error"]["error"]
    assert by_words["its\nwords ***"]["logger"] == "some.library"
    assert by_words["a library carries on"]["error"] == "ValueError: a head cut off"
    assert "exception" not in by_words["a library carries on"]
    assert "Traceback" in by_words["a library gives up"]["exception"]
    assert "the end" in by_words["the process ends by an error"]["exception"]
    for line in lines:
        assert list(line)[:5] == ["time", "level", "service", "replica", "message"]
        assert (line["service"], line["replica"]) == ("trial", "trial-0")


def test_locally_a_line_is_text_and_a_setting_that_is_wrong_is_said_in_the_form_that_was_asked_for() -> None:
    def ended(**variables: str) -> str:
        program = "from services.process import begin; from helios.worker import Stop; begin('trial', Stop())"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HELIOS_PARTITIONS": "none", **variables}
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
        assert done.returncode == 1
        return done.stderr

    assert " error a setting is of no use error=" in ended()
    said = json.loads(ended(HELIOS_LOG_FORMAT="json"))
    assert "HELIOS_PARTITIONS is 'none'" in said["error"]
