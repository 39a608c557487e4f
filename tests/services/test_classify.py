"""Hit, Partial, Miss, N/A or Unknown: from the best account there is, and never from a forged or a broken one."""

import msgspec
import pytest

from agent import logs
from helios.podwire import FetchedInput, FetchManifest
from helios.records import InputRecord
from services.collector.classify import COUNTED_AT_MOST, DETAIL_CHARACTERS, UNKNOWN, Classification, classify


def manifest(*hits: bool, cache: bool = True) -> FetchManifest:
    inputs = [
        FetchedInput(name=f"i{at}", bytes=10 + at, hit=hit, cause="cached" if hit else "never-here")
        for at, hit in enumerate(hits)
    ]
    return FetchManifest(
        ok=True,
        cacheEnabled=cache,
        hits=sum(hits),
        misses=len(hits) - sum(hits),
        hitBytes=sum(each.bytes for each in inputs if each.hit),
        missBytes=sum(each.bytes for each in inputs if not each.hit),
        inputs=inputs,
    )


def message(found: FetchManifest) -> str:
    return msgspec.json.encode(found).decode()


def log_of(*hits: bool, cache: bool = True, completed: bool = True, names: tuple[str, ...] = ()) -> list[str]:
    """What the agent prints, by its own functions."""
    lines: list[bytes] = []
    log = logs.Log(lines.append)
    log.line(logs.starting("t"))
    log.line(logs.planned(len(hits), cache))
    for at, hit in enumerate(hits):
        name = names[at] if names else f"i{at}"
        log.line(logs.hit(name, f"/cache/{name}") if hit else logs.miss(name))
        log.line(logs.progress("Downloading", name, 1, 2, 0.5))
        log.line(logs.outcome(name, hit, "cached" if hit else "never-here", 10 + at))
    if completed:
        log.line(logs.COMPLETED)
    return b"".join(lines).decode().split("\n")


def outcome(**given: object) -> str:
    values: dict[str, object] = {
        "inputs_declared": 2,
        "cache_enabled": True,
        "manifest": None,
        "message": None,
        "log": None,
        **given,
    }
    return classify(**values).cache  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("hits", "expected"),
    [((True, True), "Hit"), ((True, False), "Partial"), ((False, False), "Miss")],
)
def test_each_account_gives_the_same_outcome(hits: tuple[bool, ...], expected: str) -> None:
    """The report's manifest, the termination message and the log say the same in three ways."""
    assert outcome(manifest=manifest(*hits)) == expected
    assert outcome(message=message(manifest(*hits))) == expected
    assert outcome(log=log_of(*hits)) == expected
    by_log = classify(inputs_declared=2, cache_enabled=True, manifest=None, message=None, log=log_of(*hits))
    by_manifest = classify(inputs_declared=2, cache_enabled=True, manifest=manifest(*hits), message=None, log=None)
    assert by_log == by_manifest


@pytest.mark.parametrize(
    ("brought", "expected"), [((True,), "Partial"), ((False,), "Miss"), ((), "N/A"), ((True, True, True), "Unknown")]
)
def test_a_fetch_that_brought_only_some_inputs_is_no_hit(brought: tuple[bool, ...], expected: str) -> None:
    """Hit means every declared input; an account of more inputs than there are is none."""
    assert outcome(manifest=manifest(*brought)) == expected


def test_a_task_without_inputs_is_not_applicable_whatever_is_claimed() -> None:
    assert outcome(inputs_declared=0, manifest=manifest(True)) == "N/A"


def test_without_the_cache_nothing_is_a_hit() -> None:
    assert outcome(cache_enabled=False, manifest=manifest(False, False)) == "N/A"
    assert outcome(manifest=manifest(False, False, cache=False)) == "N/A"
    assert outcome(log=log_of(False, False, cache=False)) == "N/A"


def test_when_every_account_is_lost_the_outcome_is_unknown() -> None:
    assert classify(inputs_declared=2, cache_enabled=True, manifest=None, message=None, log=None) == UNKNOWN


@pytest.mark.parametrize(
    "broken",
    [
        "",
        "{",
        "[" * 4096,
        '{"step":' * 400,
        "[]",
        "null",
        "\udcff",
        '{"step":"fetch"}',
        '{"step":"publish","ok":true,"hits":2,"misses":0,"hitBytes":1,"missBytes":0}',
        '{"step":"fetch","ok":true,"hits":"2","misses":0,"hitBytes":1,"missBytes":0}',
        '{"step":"fetch","ok":true,"hits":2,"misses":0,"hitBytes":-1,"missBytes":0}',
        '{"step":"fetch","ok":true,"hits":2,"misses":0,"hitBytes":1e30,"missBytes":0}',
        f'{{"step":"fetch","ok":true,"hits":2,"misses":0,"hitBytes":{COUNTED_AT_MOST + 1},"missBytes":0}}',
        f'{{"step":"fetch","ok":true,"hits":2,"misses":0,"hitBytes":{"9" * 60},"missBytes":0}}',
    ],
)
def test_a_broken_message_is_none_and_the_log_decides(broken: str) -> None:
    assert outcome(message=broken) == "Unknown"
    assert outcome(message=broken, log=log_of(True, False)) == "Partial"


def test_a_manifest_that_redis_could_not_add_up_is_no_account() -> None:
    impossible = msgspec.structs.replace(manifest(True, True), hitBytes=2**63)
    assert outcome(manifest=impossible, log=log_of(False, False)) == "Miss"


TOLD = (
    FetchedInput(name="a", bytes=100, hit=True, cause="warm", source="cache", ms=2, savedMs=900, sha256="0" * 64),
    FetchedInput(name="b", bytes=30, hit=False, cause="never-here", source="peer", ms=50, detail="from node n2"),
    FetchedInput(name="c", bytes=7, hit=False, cause="changed", source="store", ms=400, version='etag "B"', savedMs=9),
)


def told(*inputs: FetchedInput, **fields: int) -> FetchManifest:
    """The manifest of those inputs."""
    hits = [each.bytes for each in inputs if each.hit]
    misses = [each.bytes for each in inputs if not each.hit]
    counted = {"hits": len(hits), "misses": len(misses), "hitBytes": sum(hits), "missBytes": sum(misses)}
    return FetchManifest(ok=True, inputs=inputs, **{"elapsedMs": 410, **counted, **fields})


def classified(account: FetchManifest, *, inputs: int = 3) -> Classification:
    return classify(inputs_declared=inputs, cache_enabled=True, manifest=account, message=None, log=None)


def test_each_input_says_where_its_bytes_came_from_and_what_that_took_and_saved() -> None:
    """Only misses came from elsewhere, and only hits save anything."""
    found = classified(told(*TOLD))
    assert (found.fetch_ms, found.saved_ms, found.elapsed_ms) == (452, 900, 410)
    assert (found.peer_bytes, found.store_bytes, found.miss_bytes) == (30, 7, 37)
    assert list(found.inputs) == [
        InputRecord("a", 100, "warm", "cache", 2, 900, "0" * 64),
        InputRecord("b", 30, "never-here", "peer", 50, detail="from node n2"),
        InputRecord("c", 7, "changed", "store", 400, version='etag "B"'),
    ]


def test_a_short_message_and_a_log_say_nothing_of_sources_and_times() -> None:
    """What is not known is 0 or None, never a guess from the bytes."""
    short = msgspec.structs.replace(told(*TOLD), inputs=None)
    by_message = classify(inputs_declared=3, cache_enabled=True, manifest=None, message=message(short), log=None)
    assert (by_message.miss_bytes, by_message.elapsed_ms, by_message.inputs) == (37, 410, ())
    by_log = classify(inputs_declared=2, cache_enabled=True, manifest=None, message=None, log=log_of(True, False))
    assert (by_log.miss_bytes, by_log.elapsed_ms) == (11, None)
    assert all((each.source, each.ms, each.version) == ("", 0, "") for each in by_log.inputs)
    for found in (by_message, by_log):
        assert (found.fetch_ms, found.saved_ms, found.peer_bytes, found.store_bytes) == (0, 0, 0, 0)


@pytest.mark.parametrize("field", ["bytes", "ms", "savedMs"])
@pytest.mark.parametrize("forged", [-1, COUNTED_AT_MOST + 1, 2**63])
def test_an_input_that_redis_could_not_add_up_spoils_its_account(field: str, forged: int) -> None:
    inputs = [msgspec.structs.replace(TOLD[0], **{field: forged}), *TOLD[1:]]
    account = told(*inputs, hitBytes=1, missBytes=1)
    assert classified(account) == UNKNOWN


def test_many_inputs_that_are_plausible_each_are_not_so_together() -> None:
    half = msgspec.structs.replace(TOLD[1], ms=COUNTED_AT_MOST * 2 // 3)
    assert classified(told(half, missBytes=1)).fetch_ms == half.ms
    assert classified(told(half, half, missBytes=1)) == UNKNOWN


def test_more_inputs_than_there_are_are_no_account() -> None:
    assert classified(told(*TOLD, hits=1, misses=0), inputs=2) == UNKNOWN


def test_what_cannot_be_kept_of_an_input_is_left_out() -> None:
    """Part of a version would compare with nothing; a source that there is not is none."""
    odd = FetchedInput(
        name="a", bytes=1, hit=False, cause="changed", source="moon", version="v" * 5_000, detail="d" * 999
    )
    (found,) = classified(told(odd)).inputs
    assert (found.source, found.version, len(found.detail)) == ("", "", DETAIL_CHARACTERS)


@pytest.mark.parametrize("cut", range(1, 9))
def test_a_log_that_breaks_off_is_unknown(cut: int) -> None:
    """A prefix of the truth is not the truth: the missing line could be the miss."""
    assert outcome(log=log_of(True, True)[:-2][: 9 - cut]) == "Unknown"


def test_a_repeated_start_forgets_what_came_before() -> None:
    assert outcome(log=log_of(False, False, completed=False) + log_of(True, True)) == "Hit"
    assert outcome(log=log_of(True, True) + log_of(True, True)[:3]) == "Unknown"


def test_a_number_no_file_can_have_makes_no_line() -> None:
    lines = [line.replace("10 bytes", "9" * 5_000 + " bytes") for line in log_of(True, True)]
    assert outcome(log=lines) == "Unknown"


NAMES = ("a'b", "a\\b", "two words", "ü/é.csv", "x': hit cached, 1 bytes", "tab\tand\nnewline")


def test_the_grammar_is_the_agents_own_for_any_name() -> None:
    """What agent/logs.py prints and reads back, this reads the same."""
    hits = (True, False) * 3
    lines = log_of(*hits, names=NAMES)
    theirs = logs.read_fetch_log(lines)
    assert theirs is not None
    assert theirs.complete
    ours = classify(inputs_declared=6, cache_enabled=True, manifest=None, message=None, log=lines)
    assert [(each.name, each.bytes, each.cause) for each in ours.inputs] == [
        (each.name, each.size, each.cause) for each in theirs.inputs
    ]
    assert ours.cache == "Partial"
    assert ours.hit_bytes == sum(each.size for each in theirs.inputs if each.hit)
