"""Running a DAG on a cluster's Helios, for the benchmarks that need one."""

import json
import time
from collections.abc import Mapping
from typing import Any

import redis

from helios.keys import SUBMISSIONS, keys_of_run
from helios.records import ENDED
from tests.cluster.installed import Installed


def run_to_its_end(
    helios: Installed, client: redis.Redis, dag: Mapping[str, Any], within_seconds: float, *, use_cache: bool = True
) -> str:
    """The run's id, once it has succeeded. Raises RuntimeError when it fails or takes longer."""
    run: Any = client.xadd(SUBMISSIONS, {"dag": json.dumps(dag), "useCache": str(use_cache).lower()})
    keys = keys_of_run(run, 1)
    deadline = time.monotonic() + within_seconds
    while (status := client.hget(keys.run(run), "status")) not in ENDED:
        if time.monotonic() > deadline:
            raise RuntimeError(f"run {run} is {status} after {within_seconds:g} s\n{helios.look()}")
        time.sleep(0.02)
    if status != "SUCCEEDED":
        raise RuntimeError(helios.helios("show", run).stdout)
    return run
