"""What each service's process sets up."""

import os
import subprocess
import sys

import pytest


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_under_the_log_ends_no_service() -> None:
    """Lines are lost, the service is not."""
    program = (
        "import structlog; from services.process import configure_logging; configure_logging('trial', 'info');"
        "structlog.get_logger().info('lost'); print('alive')"
    )
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=full, check=False)
    assert (done.stdout, done.returncode) == (b"alive\n", 0)
