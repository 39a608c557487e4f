"""What is stored of runs that go on goes when they have ended, also where Redis was lost meanwhile."""

from collections.abc import Iterator

import msgspec
import pytest
import redis

from helios.messages import Control
from helios.recovery import OBJECT_BYTES, RECOVERY, StoredRun, run_key
from services.collector.recovery import Recorder
from services.submitter.accept import recover
from tests.real_s3 import RealS3
from tests.services.test_memo import BUCKET, Town, dag


@pytest.fixture
def town(valkey: redis.Redis, real_s3: RealS3) -> Iterator[Town]:
    made = Town(valkey, real_s3.endpoint)
    for name in stored(made):  # by other tests, whose runs have the same ids
        made.store.client.remove_object(BUCKET, name)
    yield made
    made.skipper.close()


def stored(town: Town) -> list[str]:
    return [str(each.object_name) for each in town.store.client.list_objects(BUCKET, prefix=RECOVERY, recursive=True)]


@pytest.mark.parametrize("looks_at_a_loss", [0, 1])
def test_a_run_that_was_rebuilt_and_ended_between_two_looks_leaves_nothing(town: Town, looks_at_a_loss: int) -> None:
    recorder = Recorder(town.client, town.store, town.settings)
    run = town.submit(dag(memoize=False))
    recorder.look()
    assert stored(town) == [run_key(run)]
    kept = msgspec.json.decode(town.store.read(run_key(run), OBJECT_BYTES), type=StoredRun)
    town.client.flushall()
    for _ in range(looks_at_a_loss):
        recorder.look()
    assert stored(town) == [run_key(run)], "what Redis lost may be rebuilt"
    recover(town.client, Control(run=run, action="recover", dag=kept.dag), 1)
    town.pump()  # finds that the consumer groups are gone, and makes them
    town.pump()
    town.finish(run)
    assert town.run(run)["status"] == "SUCCEEDED"
    recorder.look()
    assert stored(town) == []
