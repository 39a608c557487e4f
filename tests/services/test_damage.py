"""What a raw XADD can do to the ingress: other streams are unharmed, the damage is reported, and what to do is said."""

import pytest
import redis

from cli.checkup import check_losses, check_streams
from cli.connection import Link
from helios.keys import CONTROLS, LOSSES, SUBMISSIONS, SUBMITTER_GROUP, Keys
from helios.losses import LAST_ID, losses_since
from helios.settings import Settings
from helios.streams import Inbox
from helios.transitions import commit_one, ingress_state, reopen_ingress
from services.submitter.damage import IngressWatch
from services.submitter.ingress import STREAMS, Ingress
from tests.stage import dag_text

GOOD = dag_text({"a": []})
KEYS = Keys(0)


class Ingress0:
    """A submitter's ingress, one turn at a time, as its loop has it."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.watch = IngressWatch(client, STREAMS)
        self.inbox = Inbox(
            client, group=SUBMITTER_GROUP, consumer="one", streams=STREAMS, batch_entries=4, lease_seconds=600
        )
        self.ingress = Ingress(client, self.inbox, 1)

    def turn(self) -> None:
        self.watch.look()
        self.ingress.handle(self.inbox.read(1))


@pytest.fixture
def submitter(valkey: redis.Redis) -> Ingress0:
    made = Ingress0(valkey)
    made.turn()
    return made


def doctor(client: redis.Redis) -> dict[str, tuple[bool, str, str]]:
    link = Link(client, Settings())
    return {each.check: (each.ok, each.detail, each.fix) for each in (*check_streams(link), *check_losses(link))}


def test_submissions_that_maxlen_trimmed_away_are_counted_and_reported_once(submitter: Ingress0) -> None:
    client = submitter.client
    for _ in range(6):
        client.xadd(SUBMISSIONS, {"dag": GOOD})
    submitter.turn()
    assert client.xlen(KEYS.ready) == 4
    client.xadd(CONTROLS, {"run": "1-1", "action": "cancel"})
    for _ in range(3):
        client.xadd(SUBMISSIONS, {"dag": GOOD})
    last = client.xadd(SUBMISSIONS, {"dag": GOOD}, maxlen=1, approximate=False)
    for _ in range(3):
        try:
            submitter.turn()
        except Exception:  # noqa: BLE001 -- the control makes no sense, and is not what this is about
            continue
    assert [(each.stream, each.entries) for each in losses_since(client, 0)] == [(SUBMISSIONS, 5)]
    assert client.hget(KEYS.run(str(last)), "status") == "RUNNING"
    assert client.xlen(KEYS.ready) == 5, "no other stream is touched"
    ok, detail, fix = doctor(client)["redis losses"]
    assert (ok, detail) == (False, f"{SUBMISSIONS}: 5 of its entries trimmed away before anybody read them")
    assert "MAXLEN" in fix


def test_nothing_is_reported_of_an_ingress_that_is_merely_busy(submitter: Ingress0) -> None:
    """Also not when another replica has entries in hand, when the stream is emptied, or its group is made anew."""
    client = submitter.client
    for _ in range(20):
        client.xadd(SUBMISSIONS, {"dag": GOOD})
    client.xreadgroup(SUBMITTER_GROUP, "two", {SUBMISSIONS: ">"}, count=3)
    for _ in range(6):
        submitter.turn()
    client.xgroup_destroy(SUBMISSIONS, SUBMITTER_GROUP)
    client.xadd(SUBMISSIONS, {"dag": GOOD})
    for _ in range(4):
        submitter.turn()
    assert not client.exists(LOSSES)
    assert client.xlen(SUBMISSIONS) == 0
    client.delete(SUBMISSIONS)
    assert commit_one(client, ingress_state(SUBMISSIONS, group=SUBMITTER_GROUP)) is None


def test_the_highest_id_stops_one_stream_until_it_is_empty_and_is_said(submitter: Ingress0) -> None:
    client = submitter.client
    client.xadd(SUBMISSIONS, {"dag": GOOD}, id=LAST_ID)
    with pytest.raises(redis.ResponseError, match=r"exhausted|smaller"):
        client.xadd(SUBMISSIONS, {"dag": GOOD})
    ok, detail, fix = doctor(client)[SUBMISSIONS]
    assert not ok
    assert "takes no more entries" in detail
    assert "makes it anew" in fix
    assert doctor(client)[CONTROLS][0]
    submitter.watch.look()
    assert submitter.watch.full == {SUBMISSIONS}
    assert client.exists(SUBMISSIONS), "its entry is not handled yet"
    submitter.turn()
    assert client.hget(KEYS.run(LAST_ID), "status") == "RUNNING", "what was added is a run like any other"
    submitter.turn()
    run = client.xadd(SUBMISSIONS, {"dag": GOOD})
    submitter.turn()
    submitter.turn()
    assert client.hget(KEYS.run(str(run)), "status") == "RUNNING"
    assert doctor(client)[SUBMISSIONS][0]
    assert not client.exists(LOSSES), "that it begins anew is no loss"
    assert commit_one(client, reopen_ingress(SUBMISSIONS, last=LAST_ID)) == 0
