"""What `helios up` is asked for beside the services counts also right after another command."""

import http.client
from pathlib import Path

import pytest

from tests.cli.command import Helios
from tests.redis_servers import free_port
from tests.waiting import wait_until


@pytest.mark.timeout(120)
def test_the_http_api_is_there_although_another_command_has_left_a_stack_behind(tmp_path: Path) -> None:
    helios = Helios(tmp_path, {"HELIOS_HOME": str(tmp_path / "home"), "HELIOS_LINGER_SECONDS": "3"})
    assert helios("runs").code == 0
    port = free_port()
    up = helios.start("up", "--http", str(port))
    try:

        def answers() -> bool:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            try:
                connection.request("GET", "/healthz")
                return connection.getresponse().status == 200
            except OSError:
                return False
            finally:
                connection.close()

        wait_until("the HTTP API answers", answers, 60)
    finally:
        up.terminate()
        up.wait(60)
        helios.end_started()
