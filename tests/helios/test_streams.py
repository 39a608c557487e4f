"""The inbox: new entries, one's own unfinished ones, and those of the dead, each in its turn."""

import time

import redis

from helios.keys import LOSSES
from helios.losses import Loss, losses_since
from helios.streams import HANDED_BACK, READ_BLOCK_MS, Inbox
from helios.transitions import commit_one, renew
from tests.redis_servers import commands_sent
from tests.waiting import wait_until

STREAM = "work"
GROUP = "group"


def inbox(
    client: redis.Redis,
    consumer: str = "one",
    *,
    batch: int = 256,
    lease_seconds: float = 600,
    put_off_at_most: int | None = None,
) -> Inbox:
    return Inbox(
        client,
        group=GROUP,
        consumer=consumer,
        streams=[STREAM],
        batch_entries=batch,
        lease_seconds=lease_seconds,
        put_off_at_most=put_off_at_most,
    )


def add(client: redis.Redis, count: int) -> list[str]:
    return [client.xadd(STREAM, {"n": str(number)}) for number in range(count)]


def read_all(box: Inbox) -> list[tuple[str, int]]:
    """Entries and deliveries, until there is none."""
    found: list[tuple[str, int]] = []
    while entries := box.read(1):
        found += [(entry.fields["n"], entry.deliveries) for entry in entries]
    return found


def deliveries(client: redis.Redis) -> dict[str, int]:
    rows = client.xpending_range(STREAM, GROUP, "-", "+", 100_000)
    return {row["message_id"]: row["times_delivered"] for row in rows}


def owners(client: redis.Redis) -> dict[str, str]:
    rows = client.xpending_range(STREAM, GROUP, "-", "+", 100_000)
    return {row["message_id"]: row["consumer"] for row in rows}


def finish(client: redis.Redis, *entries: str) -> None:
    client.xack(STREAM, GROUP, *entries)
    client.xdel(STREAM, *entries)


def test_new_entries_come_in_batches_and_in_order(client: redis.Redis) -> None:
    add(client, 5)
    box = inbox(client, batch=3)
    assert [[entry.fields["n"] for entry in box.read(1)] for _ in range(2)] == [["0", "1", "2"], ["3", "4"]]
    assert box.read(1) == []


def test_entries_from_before_the_group_was_made_are_read(client: redis.Redis) -> None:
    """Groups begin at 0: what was submitted before the first start is not lost."""
    add(client, 1)
    assert read_all(inbox(client)) == [("0", 1)]


def test_a_restart_finds_its_own_unfinished_entries_one_by_one(client: redis.Redis) -> None:
    add(client, 3)
    first = inbox(client)
    assert len(first.read(1)) == 3
    again = inbox(client)
    assert [len(again.read(1)) for _ in range(3)] == [1, 1, 1]
    assert again.read(1) == []


def test_only_the_entry_whose_turn_has_come_counts_as_delivered_again(client: redis.Redis) -> None:
    """An entry that kills its consumer takes nothing else to the dead letters with it.

    Reading the whole history would raise the count of all that wait behind it, each time the consumer starts.
    """
    ids = add(client, 50)
    inbox(client).read(1)
    for _ in range(4):
        entry = inbox(client).read(1)[0]
        assert entry.deliveries == 2 or entry.id != ids[0]
    counts = deliveries(client)
    assert sum(counts.values()) == 50 + 4
    assert max(counts.values()) == 2


def test_the_least_delivered_come_first(client: redis.Redis) -> None:
    """So the entry that kills its consumer is met last, and the others flow."""
    ids = add(client, 3)
    inbox(client).read(1)
    client.xclaim(STREAM, GROUP, "one", 0, [ids[0]], retrycount=4, justid=True)
    assert read_all(inbox(client)) == [("1", 2), ("2", 2), ("0", 5)]


def test_entries_of_a_dead_consumer_are_taken_over_after_the_lease(client: redis.Redis) -> None:
    add(client, 3)
    assert len(inbox(client, "dead").read(1)) == 3
    assert read_all(inbox(client, "patient")) == []
    client.xclaim(STREAM, GROUP, "dead", 0, list(owners(client)), idle=10_000_000, justid=True)
    assert read_all(inbox(client, "heir")) == [("0", 2), ("1", 2), ("2", 2)]
    assert set(owners(client).values()) == {"heir"}


def test_what_the_dead_held_is_looked_for_often_enough_to_be_moving_soon_after_the_lease(client: redis.Redis) -> None:
    """Within 5 s of the end of a lease of 15 s: the pause between looks, a read that blocks, and the work itself."""
    box = inbox(client, lease_seconds=15)
    box.read(1)
    pause = box.next_reclaim - time.monotonic()
    assert pause + READ_BLOCK_MS / 1000 < 5 * 0.75


def test_an_entry_that_was_finished_meanwhile_is_not_handed_out(client: redis.Redis) -> None:
    ids = add(client, 2)
    inbox(client).read(1)
    box = inbox(client)
    assert box.read(1)[0].id == ids[0]
    finish(client, ids[1])
    assert box.read(1) == []


def test_two_heirs_do_not_both_take_an_entry(client: redis.Redis) -> None:
    """Whoever comes second finds it touched within the lease."""
    ids = add(client, 1)
    inbox(client, "dead").read(1)
    client.xclaim(STREAM, GROUP, "dead", 0, ids, idle=10_000_000, justid=True)
    left, right = (inbox(client, name, lease_seconds=600) for name in ("left", "right"))
    for heir in (left, right):
        heir.again = heir._abandoned()
        heir.next_reclaim = float("inf")
    assert len(left.read(1)) == 1
    assert right.read(1) == []


def test_an_entry_deleted_while_pending_leaves_the_pending_list(client: redis.Redis) -> None:
    ids = add(client, 2)
    inbox(client).read(1)
    client.xdel(STREAM, ids[0])
    assert read_all(inbox(client)) == [("1", 2)]
    assert list(deliveries(client)) == [ids[1]]


def test_renewing_keeps_an_entry_and_starts_its_count_anew(client: redis.Redis) -> None:
    """Whoever lives to renew an entry was not killed by it: a Job of many hours survives many restarts."""
    ids = add(client, 1)
    inbox(client).read(1)
    box = inbox(client)
    assert box.read(1)[0].deliveries == 2
    assert box.renew(STREAM, ids) == set(ids)
    assert deliveries(client) == {ids[0]: 1}
    assert box.renew(STREAM, []) == set()


def test_a_consumer_that_slept_does_not_renew_what_another_took(client: redis.Redis) -> None:
    """A blind renewal would steal the entry back from the one that works on it."""
    ids = add(client, 2)
    sleeper = inbox(client, "sleeper")
    sleeper.read(1)
    client.xclaim(STREAM, GROUP, "sleeper", 0, ids, idle=10_000_000, justid=True)
    heir = inbox(client, "heir")
    assert heir.read(1)[0].id == ids[0]
    assert sleeper.renew(STREAM, ids) == {ids[1]}
    assert owners(client)[ids[0]] == "heir"


def test_a_renewal_after_the_group_was_deleted_loses_everything_and_heals(client: redis.Redis, only_real: None) -> None:
    ids = add(client, 1)
    box = inbox(client)
    box.read(1)
    client.xgroup_destroy(STREAM, GROUP)
    assert box.renew(STREAM, ids) == set()
    assert read_all(box) == [("0", 1)]


def test_a_deleted_group_is_made_again(client: redis.Redis, only_real: None) -> None:
    box = inbox(client)
    box.read(1)
    client.xgroup_destroy(STREAM, GROUP)
    add(client, 2)
    assert box.read(1) == []
    assert read_all(box) == [("0", 1), ("1", 1)]


def test_flushall_is_survived(client: redis.Redis, only_real: None) -> None:
    box = inbox(client)
    box.read(1)
    client.flushall()
    assert box.read(1) == []
    add(client, 1)
    assert read_all(box) == [("0", 1)]


def test_a_lost_reply_is_made_good_by_reading_the_own_history(client: redis.Redis) -> None:
    """The server handed the entry out and the reply went missing."""
    box = inbox(client)
    box.read(1)
    add(client, 1)
    inbox(client, box.consumer)._new(1)  # the reply nobody sees
    assert box.read(1) == []
    box.history_unread = True
    assert read_all(box) == [("0", 2)]


def test_what_the_handler_holds_is_not_handed_out_again(client: redis.Redis) -> None:
    """A Job is in the collector's hands for hours; neither a lost connection nor the lease brings it anew."""
    ids = add(client, 2)
    box = inbox(client)
    box.read(1)
    client.xclaim(STREAM, GROUP, "one", 0, ids, idle=10_000_000, justid=True)
    box.held = {(STREAM, ids[0])}
    box.history_unread = True
    box.next_reclaim = 0
    assert [entry for entry, _ in read_all(box)] == ["1"]
    assert deliveries(client)[ids[0]] == 1


def test_an_entry_put_off_comes_again_and_others_pass_it(client: redis.Redis) -> None:
    add(client, 1)
    box = inbox(client, batch=2)
    first = box.read(1)[0]
    box.put_off(first)
    ((due, _),) = box.later
    box.later = [(due + 3600, first)]
    client.xadd(STREAM, {"n": "1"})
    assert box.read(1)[0].fields["n"] == "1"
    box.later = [(due, first)]
    assert wait_until("it is due", lambda: box.read(1_000)) == [first]
    assert (first.tries, first.deliveries) == (1, 1)


def test_many_that_are_put_off_come_together_and_hold_up_nothing_new(client: redis.Redis) -> None:
    """Such as memoized tasks that wait for hours for one that does the same work."""
    add(client, 6)
    box = inbox(client, batch=3, put_off_at_most=100)
    for entry in (*box.read(1), *box.read(1)):
        box.later.append((0.0, entry))
    client.xadd(STREAM, {"n": "new"})
    seen: list[list[str]] = []
    for _ in range(3):
        entries = box.read(1)
        seen.append([entry.fields["n"] for entry in entries])
        box.later += [(0.0, entry) for entry in entries if entry.fields["n"] != "new"]
    assert ["new"] in seen
    assert [len(each) for each in seen if each != ["new"]] == [3, 3]


def test_an_entry_put_off_stays_with_its_consumer_and_counts_once(client: redis.Redis) -> None:
    """Otherwise six replicas would count six deliveries of it in one outage."""
    ids = add(client, 1)
    box = inbox(client, "one")
    entry = box.read(1)[0]
    box.put_off(entry)
    box.later = [(1e12, entry)]
    client.xclaim(STREAM, GROUP, "one", 0, ids, idle=10_000_000, justid=True)
    box.next_reclaim = 0
    box.history_unread = True
    box.batch_entries = 2
    assert box.read(1) == []
    assert read_all(inbox(client, "other", lease_seconds=600)) == []
    assert (owners(client), deliveries(client)) == ({ids[0]: "one"}, {ids[0]: 1})


def test_an_entry_put_off_that_another_took_is_dropped(client: redis.Redis) -> None:
    ids = add(client, 1)
    box = inbox(client)
    entry = box.read(1)[0]
    box.later = [(1e12, entry)]
    client.xclaim(STREAM, GROUP, "other", 0, ids)
    box.next_reclaim = 0
    box.read(1)
    assert box.later == []


def test_no_more_is_taken_in_hand_while_much_is_put_off(client: redis.Redis) -> None:
    """Memory stays bounded while nothing can be done."""
    add(client, 10)
    box = inbox(client, batch=3)
    for entry in box.read(1):
        box.later.append((1e12, entry))
    assert box.read(1) == []
    assert len(deliveries(client)) == 3
    inbox(client).read(1)
    box.history_unread = True
    assert box.read(1) == []


def test_a_long_history_is_read_in_pages(client: redis.Redis) -> None:
    with client.pipeline(transaction=False) as pipeline:
        for number in range(2_300):
            pipeline.xadd(STREAM, {"n": str(number)})
        pipeline.execute()
    inbox(client, batch=5_000).read(1)
    box = inbox(client)
    box.read(1)
    assert len(box.again) == 2_299


def test_renew_asks_the_server_once_for_many_entries(valkey: redis.Redis) -> None:
    ids = add(valkey, 300)
    box = inbox(valkey, batch=300)
    box.read(1)
    before = commands_sent(valkey, "evalsha")
    assert commit_one(valkey, renew(STREAM, group=GROUP, consumer="one", entries=ids)) == ids
    assert commands_sent(valkey, "evalsha") - before <= 2


def consumers(client: redis.Redis, stream: str) -> set[str]:
    return {each["name"] for each in client.xinfo_consumers(stream, GROUP)}


def test_a_consumer_that_leaves_is_forgotten_and_what_it_holds_is_handed_back(client: redis.Redis) -> None:
    """Restarts do not pile up names, nothing pending is dropped with one, and nobody waits for its lease."""
    first, second, third = inbox(client, "one"), inbox(client, "two"), inbox(client, "three")
    first.read(1)
    second.read(1)
    (entry,) = add(client, 1)
    assert second.read(1)
    assert first.leave() == 0
    assert second.leave() == 1
    assert consumers(client, STREAM) == {HANDED_BACK}
    assert client.xpending(STREAM, GROUP)["pending"] == 1
    (taken,) = third.read(1)
    assert (taken.id, taken.deliveries) == (entry, 1), "a delivery that ended in good order does not count"


def test_entries_that_redis_lost_are_noticed_and_noted(client: redis.Redis) -> None:
    """The stream is as it was before its last entry was added and read: a lost second, or a replica that lagged."""
    box = inbox(client)
    client.xadd(STREAM, {"n": "1"}, id="1000-0")
    assert read_all(box) == [("1", 1)]
    kept = client.xrange(STREAM)
    client.xadd(STREAM, {"n": "2"}, id="2000-0")
    assert read_all(box) == [("2", 1)]
    client.delete(STREAM)
    client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
    for entry, fields in kept:
        client.xadd(STREAM, fields, id=entry)
    for _ in range(2):
        box.history_unread = True  # as after every lost connection
        box.read(1)
    assert [each[:3] for each in losses_since(client, 0)] == [Loss(STREAM, "1000-0", "2000-0")[:3]], "and said once"
    assert 0 < client.ttl(LOSSES) <= 7 * 86_400


def test_an_emptied_redis_is_a_loss_and_an_id_of_nobodys_clock_is_none(valkey: redis.Redis) -> None:
    client, box = valkey, inbox(valkey)
    client.xadd(STREAM, {"n": "1"}, id="1000-0")
    box.read(1)
    client.flushall()
    box.read(1)
    box.read(1)
    assert [each[:3] for each in losses_since(client, 0)] == [(STREAM, "0-0", "1000-0")]
    client.delete(LOSSES)
    client.xadd(STREAM, {"n": "1"}, id=f"{2**64 - 1}-{2**64 - 1}")
    box.read(1)
    client.delete(STREAM)
    box.read(1)
    box.read(1)
    assert losses_since(client, 0) == []


def test_handing_back_again_or_what_is_deleted_changes_nothing(client: redis.Redis) -> None:
    box = inbox(client, "one")
    entries = add(client, 1500)
    while box.read(1):
        pass
    client.xdel(STREAM, entries[0])
    assert box.leave() >= 1499
    assert box.leave() == 0
    assert set(owners(client).values()) == {HANDED_BACK}


def test_what_failed_or_hangs_is_counted_though_it_is_handed_back(client: redis.Redis) -> None:
    """Else restarts would keep a poison entry alive for ever."""
    entries = add(client, 2)
    box = inbox(client)
    assert len(box.read(1)) == 2
    box.failed.add((STREAM, entries[0]))
    box.leave()
    box = inbox(client, "next")
    found = dict([read_one(box), read_one(box)])
    assert found == {entries[0]: 2, entries[1]: 1}
    box.leave(unfinished=True)
    box = inbox(client, "last")
    found = dict([read_one(box), read_one(box)])
    assert found == {entries[0]: 3, entries[1]: 2}


def read_one(box: Inbox) -> tuple[str, int]:
    (entry,) = box.read(1)
    return entry.id, entry.deliveries
