"""Programs that a few tests drive: without them such a test fails as root and in CI, and is skipped elsewhere."""

import os
import shutil

import pytest


def program(name: str) -> str:
    found = shutil.which(name)
    if found is not None:
        return found
    words = f"there is no {name}; on Debian: apt-get install --no-install-recommends {name}"
    if os.environ.get("CI") or os.geteuid() == 0:
        pytest.fail(words)
    pytest.skip(words)
