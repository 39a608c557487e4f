"""What each service's process sets up."""

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
