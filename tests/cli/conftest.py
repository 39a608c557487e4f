"""What the tests of the command share."""

from pathlib import Path

import pytest
import redis

from cli.connection import Link
from helios.settings import Settings
from tests.cli.command import Helios


@pytest.fixture
def helios(tmp_path: Path) -> Helios:
    """The command where no server is: whatever needs one cannot connect."""
    return Helios(tmp_path, {"HELIOS_REDIS_URL": "redis://127.0.0.1:1/0"})


@pytest.fixture
def link(client: redis.Redis) -> Link:
    """An open way to an empty Redis."""
    return Link(client, Settings())
