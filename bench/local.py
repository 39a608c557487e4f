"""Local mode for a benchmark: a stack in a folder of its own, removed afterwards, and runs through it."""

import io
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import redis
from minio import Minio

from cli.embedded.home import Home
from cli.embedded.lease import embedded_stack, stop_stack
from cli.embedded.stack import Stack
from helios.keys import SUBMISSIONS, keys_of_run
from helios.records import ENDED, TaskView, read_tasks, run_numbers
from helios.streams import CLIENT_OPTIONS

RUN_SECONDS = 1800


class Local:
    """A running stack with clients for both of its servers."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.redis: redis.Redis = redis.Redis.from_url(stack.redis_url, **CLIENT_OPTIONS)
        self.store = Minio(
            stack.s3_endpoint.removeprefix("http://"),
            access_key=stack.s3_access_key,
            secret_key=stack.s3_secret_key,
            secure=False,
            region="us-east-1",
        )

    def put(self, bucket: str, key: str, content: bytes | BinaryIO, length: int) -> None:
        if not self.store.bucket_exists(bucket):
            self.store.make_bucket(bucket)
        self.store.put_object(bucket, key, io.BytesIO(content) if isinstance(content, bytes) else content, length)

    def run(self, dag: dict[str, Any], *, use_cache: bool = True) -> tuple[dict[str, Any], list[TaskView]]:
        """Submit a DAG and wait for its end: the run hash, and its tasks."""
        run: Any = self.redis.xadd(SUBMISSIONS, {"dag": json.dumps(dag), "useCache": "true" if use_cache else "false"})
        keys = keys_of_run(run, 1)
        deadline = time.monotonic() + RUN_SECONDS
        while (status := self.redis.hget(keys.run(run), "status")) not in ENDED:
            if time.monotonic() > deadline:
                raise TimeoutError(f"run {run} is {status} after {RUN_SECONDS} s")
            time.sleep(0.02)
        fields: Any = self.redis.hgetall(keys.run(run))
        names: Any = self.redis.lrange(keys.task_names(run), 0, -1)
        return run_numbers(fields), read_tasks(self.redis, keys, run, names)


@contextmanager
def local() -> Iterator[Local]:
    with tempfile.TemporaryDirectory(prefix="helios-bench-") as folder:
        home = Home(Path(folder))
        with embedded_stack(home) as stack:
            yield Local(stack)
        stop_stack(home)


def succeeded(run: dict[str, Any], tasks: list[TaskView]) -> None:
    """Raises with every failed task's reason unless the run succeeded."""
    if run["status"] != "SUCCEEDED":
        reasons = {task.name: task.reason for task in tasks if task.reason}
        raise RuntimeError(f"run {run['dagId']} is {run['status']}: {msgspec.json.encode(reasons or run).decode()}")
