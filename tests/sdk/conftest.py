"""One home of local mode for the tests of Helios at its users' places; whoever needs servers first starts them."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.embedded.home import Home
from cli.embedded.lease import stop_stack


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("home") / "helios"
    yield path
    stop_stack(Home(path))


@pytest.fixture(scope="module")
def at_home(home: Path) -> Iterator[Path]:
    """Whatever is started finds that home, and nothing else of the caller's."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [*os.environ]:
            if name.startswith(("HELIOS_", "KUBE")):
                patch.delenv(name)
        patch.setenv("HELIOS_HOME", str(home))
        yield home
