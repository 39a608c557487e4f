"""The HTTP API against its own description: schemathesis makes requests of it, and looks at the answers."""

import os
import subprocess
import sys
from pathlib import Path

import redis

from tests.redis_servers import Valkey
from tests.services.http_api import TOKENS, serving
from tests.stage import RUN, Stage

PROGRAM = Path(sys.executable).with_name("schemathesis")
EXAMPLES = os.environ.get("HELIOS_HTTP_EXAMPLES", "10")
"""For each operation; more in a longer run."""
SECONDS = os.environ.get("HELIOS_HTTP_SECONDS", "8")


def test_whatever_the_description_allows_is_answered_as_it_says(
    shared_valkey: Valkey, valkey: redis.Redis, tmp_path: Path
) -> None:
    """The feed has no end, so it is left out; its refusals are among the tests of the API."""
    stage = Stage(valkey)
    stage.open({"a": []})
    with serving(shared_valkey.url, http_requests_per_second=100_000) as api:
        assert api.ask("GET", f"/api/v1/dags/{RUN}").status == 200
        done = subprocess.run(
            [
                *(str(PROGRAM), "run", f"http://127.0.0.1:{api.port}/api/v1/openapi.json"),
                *("-H", f"Authorization: Bearer {TOKENS['both']}", "--checks", "all", "--max-examples", EXAMPLES),
                *("--exclude-operation-id", "events", "--phases", "examples,coverage,fuzzing", "--no-color"),
                # What is valid by JSON Schema can still be a DAG with a cycle, and some YAML is no mapping.
                *("--exclude-checks", "positive_data_acceptance,negative_data_rejection"),
                *("--max-time", SECONDS),
                *("--suppress-health-check", "all", "--seed", "1"),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=110,
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
