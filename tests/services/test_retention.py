"""What becomes of stored outputs when their runs are forgotten: on a real Valkey and a real S3."""

import io
import itertools
import time
from typing import Any

import msgspec
import pytest
import redis

from helios.keys import RETENTION, memo
from helios.leftovers import Leftovers, NothingStored
from helios.records import AttemptRecord, OutputRecord
from helios.settings import Settings
from helios.worker import Stop
from services.collector import retention
from services.collector.retention import tidy_store
from tests.real_s3 import RealS3
from tests.stage import Stage

NUMBERS = itertools.count()


class Ground:
    """A bucket of the test's own, and runs whose tasks have stored outputs in it."""

    def __init__(self, client: redis.Redis, s3: RealS3) -> None:
        self.client = client
        self.stage = Stage(client)
        self.store: Any = s3.client
        self.bucket = f"artifacts-{next(NUMBERS)}"
        self.store.make_bucket(self.bucket)
        self.settings = Settings(
            s3_endpoint=f"http://{s3.endpoint}",
            s3_access_key="helios",
            s3_secret_key="helios-secret",
            s3_bucket=self.bucket,
            replica="a",
        )

    def put(self, key: str, size: int = 10) -> str:
        self.store.put_object(self.bucket, key, io.BytesIO(b"x" * size), size)
        return key

    def run(self, number: int, *, name: str = "trial", kept: int = 100, outputs: tuple[str, ...] | None = None) -> str:
        """A run that ended; it has stored an output, or its record names others'. Returns its output's key."""
        run = f"{1764027260000 + number}-0"
        key = f"runs/{run}/a/1/pod/out"
        self.stage.open({"a": []}, run=run, name=name)
        self.stage.launch("a", run=run)
        self.stage.end("a", run=run)
        stored = outputs if outputs is not None else (self.put(key),)
        record = AttemptRecord(exitCode=0, outputs=[OutputRecord("out", 10, "ab" * 32, each) for each in stored])
        self.client.hset(self.stage.keys.task(run, "a"), "record", msgspec.json.encode(record))
        self.stage.settle("a", run=run)
        assert self.stage.finalise(run, kept=kept) == 1
        if stored != (key,):
            self.client.hset(self.stage.keys.run(run), "taskSkipped", "1")
        return key

    def left(self) -> set[str]:
        return {each.object_name for each in self.store.list_objects(self.bucket, prefix="runs/", recursive=True)}

    def leftovers(self, *, age: float = -60, unknown: bool = True) -> Leftovers:
        """Objects are seconds old in a test: those younger than `age` seconds are left alone."""
        return Leftovers(self.client, self.store, self.bucket, before=time.time() - age, unknown=unknown)

    def collect(self, **options: Any) -> Leftovers:
        leftovers = self.leftovers(**options)
        for batch in leftovers.batches():
            assert leftovers.delete(batch) == []
        return leftovers


@pytest.fixture
def ground(valkey: redis.Redis, real_s3: RealS3) -> Ground:
    return Ground(valkey, real_s3)


def test_outputs_of_forgotten_runs_go_and_those_of_stored_ones_stay(ground: Ground) -> None:
    first, second = ground.run(0), ground.run(1, name="other", kept=1)
    other, third = ground.run(2, name="other", kept=1), ground.run(3, kept=1)
    manifest = ground.put(first.replace("pod/out", "pod.manifest.json"), 5)
    elsewhere = ground.put("doctor/x")
    account = ground.collect().account
    assert ground.left() == {other, third}
    assert {name: (tally.runs, tally.objects, tally.bytes) for name, tally in account.by_dag.items()} == {
        "trial": (1, 2, 15),
        "other": (1, 1, 10),
    }
    assert ground.store.stat_object(ground.bucket, elsewhere)
    assert not ground.left() & {first, second, manifest}
    assert ground.collect().account.total.objects == 0, "a second time finds nothing"


def test_what_a_stored_run_took_over_from_a_forgotten_one_stays(ground: Ground) -> None:
    """A skipped task's record names outputs whose keys belong to an older run."""
    old = ground.run(0)
    beside = ground.put(f"{old}-2")
    ground.run(1, kept=1, outputs=(old,))
    account = ground.collect().account
    assert ground.left() == {old}
    assert (account.referred.objects, account.total.objects) == (1, 1), f"{beside} alone goes"
    ground.run(2, kept=1, outputs=())
    ground.collect()
    assert ground.left() == set()


def test_what_a_memo_names_stays_until_the_memo_goes(ground: Ground) -> None:
    old = ground.run(0)
    new = ground.run(1, kept=1)
    ground.client.hset(memo("k"), "outputs", msgspec.json.encode([{"name": "out", "key": old, "bytes": 10}]))
    ground.client.hset(memo("damaged"), "outputs", "{")
    ground.client.set(memo("of another type"), "x")
    ground.collect()
    assert ground.left() == {old, new}
    ground.client.delete(memo("k"))
    ground.collect()
    assert ground.left() == {new}


def test_what_is_young_stays(ground: Ground) -> None:
    """Its run's records may be about to exist, as after a restore of Redis."""
    ground.run(1)
    young = ground.put("runs/1764027269999-0/a/1/pod/out")
    leftovers = ground.collect(age=3600)
    assert young in ground.left()
    assert leftovers.account.young.objects == 1


def test_an_empty_redis_deletes_nothing_unless_forced(ground: Ground) -> None:
    key = ground.put("runs/1764027269999-0/a/1/pod/out")
    with pytest.raises(NothingStored):
        ground.collect()
    assert ground.left() == {key}
    forced = ground.leftovers()
    assert [artifact.key for batch in forced.batches(force=True) for artifact in batch] == [key]


def test_a_wrong_number_of_partitions_deletes_nothing(ground: Ground) -> None:
    """What HELIOS_PARTITIONS says is not asked: runs of every partition that holds any are stored runs."""
    ground.run(0)
    ground.stage = Stage(ground.client, partition=5)
    ground.run(1)
    assert ground.collect().account.total.objects == 0
    assert len(ground.left()) == 2


def test_an_output_that_appears_after_the_listing_is_not_touched(ground: Ground) -> None:
    """A run that starts while the others are looked at is neither listed nor stored at that time."""
    ground.run(0)
    ground.run(1, kept=1)
    leftovers = ground.leftovers()
    batches = leftovers.batches()
    first = next(batches)
    late = ground.run(2)
    leftovers.delete(first)
    for batch in batches:
        leftovers.delete(batch)
    assert late in ground.left()


def test_more_than_one_batch_and_broken_off_in_between(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("helios.leftovers.BATCH", 2)
    ground.run(0)
    for number in range(4):
        ground.put(f"runs/1764027260000-0/a/1/pod/more-{number}")
    kept = ground.run(1, kept=1)
    broken = ground.leftovers()
    broken.delete(next(broken.batches()))
    assert len(ground.left()) == 4
    assert ground.collect().account.total.objects == 3
    assert ground.left() == {kept}


def test_unfinished_uploads_of_any_run_end_when_nobody_can_complete_them(ground: Ground) -> None:
    ground.run(0)
    keys = [f"runs/1764027260000-0/a/1/pod/{name}" for name in ("big 1", "big2")]
    for key in [*keys, "elsewhere/x"]:
        ground.store._create_multipart_upload(ground.bucket, key, {})
    leftovers = ground.leftovers()
    assert list(leftovers.uploads(before=time.time() - 3600)) == []
    found = list(leftovers.uploads(before=time.time() + 60))
    assert sorted(upload.key for upload in found) == sorted(keys)
    for upload in found * 2:
        leftovers.abort(upload)
    assert list(leftovers.uploads(before=time.time() + 60)) == []


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "GRACE_SECONDS", -60.0)


@pytest.mark.usefixtures("at_once")
def test_the_duty_deletes_once_a_day_whichever_replica_looks(ground: Ground) -> None:
    ground.run(0)
    new = ground.run(1, kept=1)
    tidy_store(ground.client, ground.settings, Stop())
    assert ground.left() == {new}
    assert 0 < ground.client.ttl(RETENTION) <= 24 * 3600
    newer = ground.run(2, kept=1)
    tidy_store(ground.client, msgspec.structs.replace(ground.settings, replica="b"), Stop())
    assert ground.left() == {new, newer}, "a day has not passed"
    ground.client.delete(RETENTION)
    tidy_store(ground.client, msgspec.structs.replace(ground.settings, gc_hours=0), Stop())
    assert ground.left() == {new, newer}, "it is off"


@pytest.mark.usefixtures("at_once")
def test_the_duty_leaves_alone_what_this_redis_never_knew(ground: Ground) -> None:
    """After Redis was emptied and a first run has come, the older is unknown: people have to say that it goes."""
    unknown = ground.put("runs/1664027260000-0/a/1/pod/out")
    new = ground.run(1)
    tidy_store(ground.client, ground.settings, Stop())
    assert ground.left() == {unknown, new}
    leftovers = ground.leftovers(unknown=False)
    assert list(leftovers.batches()) == []
    assert leftovers.account.left.objects == 1


@pytest.mark.usefixtures("at_once")
def test_a_duty_that_fails_or_is_stopped_lets_another_replica_go_on(ground: Ground) -> None:
    ground.run(0)
    ground.run(1, kept=1)
    away = msgspec.structs.replace(ground.settings, s3_bucket="not-there")
    tidy_store(ground.client, away, Stop())
    assert not ground.client.exists(RETENTION)
    stop = Stop()
    stop.event.set()
    tidy_store(ground.client, ground.settings, stop)
    assert not ground.client.exists(RETENTION)
