"""`helios gc` against a real Redis and a real S3 of one's own."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from cli.figures import bytes_of, seconds_of
from tests.cli.command import Helios
from tests.real_s3 import RealS3
from tests.redis_servers import Valkey
from tests.stage import Stage

GONE, GONE_TOO, STORED = (f"{1764027260000 + number}-0" for number in range(3))


class Ground:
    def __init__(self, helios: Helios, client: redis.Redis, store: Any, bucket: str) -> None:
        self.helios, self.client, self.store, self.bucket = helios, client, store, bucket

    def left(self) -> list[str]:
        return [each.object_name for each in self.store.list_objects(self.bucket, prefix="runs/", recursive=True)]


@pytest.fixture
def ground(valkey: redis.Redis, shared_valkey: Valkey, real_s3: RealS3, tmp_path: Path) -> Iterator[Ground]:
    """Two forgotten runs of the DAG `trial` with 30 bytes, one that never was with 1,000, one that is stored with 7."""
    store: Any = real_s3.client
    bucket = f"gc-{tmp_path.name.replace('_', '-')}"[:60].lower().rstrip("-")
    store.make_bucket(bucket)
    stage = Stage(valkey)
    for run, size in ((GONE, 10), (GONE_TOO, 20), (STORED, 7), ("1664027260000-0", 1000)):
        store.put_object(bucket, f"runs/{run}/a/1/pod/out", io.BytesIO(b"x" * size), size)
        if size < 1000:
            stage.open({"a": []}, run=run)
            stage.launch("a", run=run)
            stage.end("a", run=run)
            stage.settle("a", run=run)
            assert stage.finalise(run, kept=1) == 1
    variables = {
        "HELIOS_REDIS_URL": shared_valkey.url,
        "HELIOS_S3_ENDPOINT": f"http://{real_s3.endpoint}",
        "HELIOS_S3_ACCESS_KEY": "helios",
        "HELIOS_S3_SECRET_KEY": "helios-secret",
        "HELIOS_S3_BUCKET": bucket,
    }
    yield Ground(Helios(tmp_path, variables), valkey, store, bucket)


def test_a_dry_run_says_what_would_go_by_dag_and_deletes_nothing(ground: Ground) -> None:
    done = ground.helios("gc", "--dry-run", "--older-than", "0s")
    assert done.code == 0, done.err
    assert [line.split() for line in done.out.splitlines()] == [
        ["DAG", "RUNS", "OBJECTS", "BYTES"],
        ["(unknown)", "1", "1", "1", "KB"],
        ["trial", "2", "2", "30", "B"],
    ]
    assert "would go: 3 objects, 1.03 KB of 3 runs that are no longer kept" in done.err
    assert len(ground.left()) == 4


def test_it_deletes_once_and_finds_nothing_the_second_time(ground: Ground) -> None:
    done = ground.helios("gc", "--older-than", "0s", "-o", "json")
    assert done.code == 0, done.err
    found = done.json()
    assert (found["objects"], found["deletedObjects"], found["deletedBytes"]) == (3, 3, 1030)
    assert found["dags"] == [
        {"dag": "(unknown)", "runs": 1, "objects": 1, "bytes": 1000},
        {"dag": "trial", "runs": 2, "objects": 2, "bytes": 30},
    ]
    assert ground.left() == [f"runs/{STORED}/a/1/pod/out"]
    again = ground.helios("gc", "--older-than", "0s")
    assert (again.code, again.out, again.err) == (0, "", "nothing to delete\n")


def test_what_is_younger_than_a_day_stays_unless_told_otherwise(ground: Ground) -> None:
    done = ground.helios("gc")
    assert done.code == 0, done.err
    assert "left: 3 objects, 1.03 KB younger than 24h" in done.err
    assert len(ground.left()) == 4


def test_an_empty_redis_is_refused_without_force(ground: Ground) -> None:
    ground.client.flushall()
    done = ground.helios("gc", "--older-than", "0s")
    assert done.code == 2
    assert "Redis holds no run at all" in done.err
    assert "--force" in done.err
    assert len(ground.left()) == 4
    assert ground.helios("gc", "--older-than", "0s", "--force").code == 0
    assert ground.left() == []


def test_a_user_of_the_store_without_the_right_is_told_what_to_do(ground: Ground) -> None:
    ground.helios.environ["HELIOS_S3_SECRET_KEY"] = "wrong"
    done = ground.helios("gc", "--older-than", "0s")
    assert done.code == 3
    assert "HELIOS_S3_SECRET_KEY" in done.err
    assert len(ground.left()) == 4


def test_a_span_that_is_none_is_explained(ground: Ground) -> None:
    done = ground.helios("gc", "--older-than", "soon")
    assert done.code == 2
    assert "90s, 5m, 1h30m or 7d" in done.err


@pytest.mark.parametrize(
    ("text", "seconds"), [("0s", 0), ("90s", 90), ("5m", 300), ("1h30m", 5400), ("7d", 604_800), ("1.5h", 5400)]
)
def test_spans_of_time(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "m", "5 m", "-5m", "5m ", "1h-5m", "٣m"])
def test_what_is_no_span(text: str) -> None:
    with pytest.raises(ValueError, match="span"):
        seconds_of(text)


@pytest.mark.parametrize(
    ("text", "count"), [("0", 0), ("512", 512), ("10GB", 10**10), ("1.5 MiB", 1_572_864), ("2k", 2000), ("1Gi", 2**30)]
)
def test_sizes(text: str, count: int) -> None:
    assert bytes_of(text) == count


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "1 XB", "1e9", "1GBit"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="size"):
        bytes_of(text)
