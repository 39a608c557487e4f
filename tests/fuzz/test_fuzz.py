"""The corpus, and a moment of each target with inputs that nobody has seen: `make fuzz` is the long form."""

import json
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.fuzz.cases import body_bytes, changed, smaller, to_bytes, to_text
from tests.fuzz.engine import CORPUS, Outcome, Stuck, Target, TooMuch, corpus_of, fuzz, pure
from tests.fuzz.targets import TARGETS

SECONDS = 0.7
CORPUS_BYTES = 256 * 1024


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_and_a_moment_of_each_target_are_clean(name: str) -> None:
    """Whatever comes is taken or refused in words; nothing else is raised, and neither time nor memory runs away."""
    outcome = fuzz(TARGETS[name], SECONDS, 8)
    assert outcome.failures == []
    assert outcome.inputs > len(TARGETS[name].seeds)


def test_the_corpus_is_small_and_every_folder_of_it_has_a_target() -> None:
    folders = {path.name for path in CORPUS.iterdir()}
    assert folders <= set(TARGETS)
    files = list(CORPUS.rglob("*.json"))
    assert sum(file.stat().st_size for file in files) < CORPUS_BYTES
    assert all(corpus_of(folder) for folder in folders)


# The fuzzer itself: what it could not find, nobody would know.


def _found(target: Target, seconds: float = 2) -> Outcome:
    return fuzz(target, seconds, 1)


def test_an_exception_is_found_and_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz.engine.SHRINK_SECONDS", 100)

    def check(case: object) -> str:
        if isinstance(case, dict) and case.get("b") == "":
            raise KeyError("b is empty")
        return "fine"

    outcome = _found(Target("own", [{"a": "x" * 50, "b": "y", "c": [1, 2, 3]}], pure(check)))
    said, case = outcome.failures[0]
    assert said.startswith("KeyError: 'b is empty' (tests/fuzz/test_fuzz.py:")
    assert case == {"b": ""}


def test_what_takes_too_long_or_too_much_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz.engine.SHRINK_SECONDS", 0.2)

    def slow(case: object) -> str:
        return str(sum(1 for _ in range(100_000 if case != {"a": 1} else 1)))

    def large(case: object) -> str:
        return str(len(bytearray(5_000_000 if case != {"a": 1} else 1)))

    found = _found(Target("own", [{"a": 1}], pure(slow), cpu_seconds=0.0005))
    assert found.failures[0][0].startswith(TooMuch.__name__)
    found = _found(Target("own", [{"a": 1}], pure(large), peak_bytes=1_000_000))
    assert found.failures[0][0].startswith(TooMuch.__name__)


def test_what_never_ends_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz.engine.STUCK_SECONDS", 0.2)

    def check(case: object) -> str:
        while case != {"a": 1}:
            pass
        return "fine"

    assert _found(Target("own", [{"a": 1}], pure(check)), 3).failures[0][0].startswith(Stuck.__name__)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(st.randoms(use_true_random=False), st.binary(max_size=40))
def test_every_case_can_be_kept_and_bytes_are_themselves(random: Random, content: bytes) -> None:
    assert to_bytes(to_text(content)) == content
    case = changed(random, [{"a": ["x", {"b": 1}], "c": "dé"}, "text", [1]])
    kept = json.loads(json.dumps(case))
    assert json.dumps(kept) == json.dumps(case)
    body_bytes(kept)
    for each in smaller(kept):
        assert len(json.dumps(each)) <= len(json.dumps(kept))
