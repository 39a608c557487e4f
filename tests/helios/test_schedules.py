"""When a schedule's times are, over changes of clocks and long pauses."""

from datetime import datetime
from itertools import islice
from zoneinfo import ZoneInfo

import pytest

from helios.schedules import (
    Schedule,
    ScheduleInvalid,
    check_schedule,
    latest_due,
    schedule_of,
    times_after,
    times_to_come,
)

BERLIN = "Europe/Berlin"


def at(text: str, zone: str = "UTC", fold: int = 0) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()) * 1000


def some(cron: str, zone: str, after: int, count: int = 3) -> list[int]:
    return list(islice(times_after(cron, zone, after), count))


def test_times_are_those_of_the_schedules_own_time_zone() -> None:
    assert some("0 3 * * *", BERLIN, at("2026-07-01T00:30"), 2) == [at("2026-07-01T01:00"), at("2026-07-02T01:00")]
    assert some("@daily", "Asia/Kolkata", at("2026-07-01T00:00"), 1) == [at("2026-07-01T18:30")]
    assert some("0 3 * * *", "UTC", at("2026-07-01T03:00"), 1) == [at("2026-07-02T03:00")], "later than, not at"


def test_in_the_hour_that_is_skipped_a_fixed_time_comes_at_its_end_and_once() -> None:
    """Clocks in Berlin go from 2:00 to 3:00 on 29 March 2026."""
    found = some("30 2 * * *", BERLIN, at("2026-03-28T12:00", BERLIN))
    assert found == [at("2026-03-29T03:00", BERLIN), at("2026-03-30T02:30", BERLIN), at("2026-03-31T02:30", BERLIN)]


def test_in_the_hour_that_comes_twice_a_fixed_time_comes_the_first_time_and_once_wherever_one_begins() -> None:
    """Clocks in Berlin go from 3:00 to 2:00 on 25 October 2026."""
    first, next_day = at("2026-10-25T02:30", BERLIN), at("2026-10-26T02:30", BERLIN)
    assert some("30 2 * * *", BERLIN, at("2026-10-25T01:00", BERLIN), 2) == [first, next_day]
    assert some("30 2 * * *", BERLIN, first, 1) == [next_day]
    assert some("30 2 * * *", BERLIN, at("2026-10-25T02:10", BERLIN, fold=1), 1) == [next_day]


def test_what_comes_every_few_minutes_goes_on_through_both_changes() -> None:
    for begin in ("2026-03-29T01:00", "2026-10-25T01:00"):
        start = at(begin, BERLIN)
        assert some("*/15 * * * *", BERLIN, start, 16) == [start + 900_000 * (i + 1) for i in range(16)]


@pytest.mark.parametrize("cron", ["* * * * *", "0 3 * * *", "0 0 1 * *", "0 0 29 2 *", "30 2 * * SUN"])
def test_the_latest_time_is_found_however_long_ago_the_first_was(cron: str) -> None:
    """As counting through all of them finds it, and in no more than a moment."""
    first = next(times_after(cron, BERLIN, at("2015-01-01T00:00")))
    now = at("2026-05-05T05:05")
    latest = latest_due(Schedule(id="1-1", cron=cron, timezone=BERLIN, next=first), now)
    assert latest is not None
    assert latest <= now
    following = next(times_after(cron, BERLIN, latest))
    assert following > now
    assert latest in some(cron, BERLIN, latest - 86_400_000, 1441)


def test_nothing_is_due_before_its_time_and_of_what_is_due_only_what_nobody_has_dealt_with() -> None:
    schedule = Schedule(id="1-1", cron="0 * * * *", next=at("2026-05-05T05:00"))
    assert latest_due(schedule, at("2026-05-05T04:59")) is None
    assert latest_due(schedule, at("2026-05-05T05:00")) == at("2026-05-05T05:00")
    assert latest_due(schedule, at("2026-05-05T07:30")) == at("2026-05-05T07:00")
    assert times_to_come(schedule, 1, at("2026-05-05T07:30")) == [at("2026-05-05T08:00")]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "a b"}, "no name of a schedule"),
        ({"name": "a" * 101}, "no name of a schedule"),
        ({"cron": "* * * *"}, "five fields"),
        ({"cron": "0 * * * * *"}, "five fields"),
        ({"cron": "61 * * * *"}, "bad minute"),
        ({"cron": "*/0 * * * *"}, "no cron expression"),
        ({"cron": "L/2/3 * L/2-4 * *"}, "no cron expression"),
        ({"cron": "0 0 30 2 *"}, "bad day-of-month"),
        ({"cron": "@reboot"}, "five fields"),
        ({"cron": "1," * 200 + "1 * * * *"}, "five fields"),
        ({"timezone": "Europe/Nowhere"}, "no time zone"),
        ({"timezone": "../../etc/passwd"}, "no time zone"),
        ({"timezone": ""}, "no time zone"),
        ({"concurrency": "never"}, "allow, forbid or replace"),
        ({"deadline_seconds": 1}, "starting deadline"),
    ],
)
def test_what_can_be_no_schedule_is_refused_in_words(change: dict[str, str], words: str) -> None:
    sound = {"name": "a", "cron": "* * * * *", "timezone": "UTC", "concurrency": "allow", "deadline_seconds": None}
    check_schedule(**sound)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ScheduleInvalid, match=words):
        check_schedule(**{**sound, **change})  # pyright: ignore[reportArgumentType]


def test_a_record_is_read_as_redis_has_it() -> None:
    assert schedule_of({}) is None
    found = schedule_of({"id": "1-1", "cron": "* * * * *", "next": "5", "paused": "true", "firing": "", "later": "x"})
    assert found == Schedule(id="1-1", cron="* * * * *", next=5, paused=True)
