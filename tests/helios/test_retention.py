"""Which artifacts go, decided without any server."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helios.retention import Account, Artifact, Tally, run_of, verdict
from services.collector.outcome import manifest_key, output_prefix

RUN = "1764027260123-0"


def test_every_key_that_a_pod_may_store_belongs_to_its_run() -> None:
    prefix = output_prefix(RUN, "a/b", 1)
    assert run_of(f"{prefix}pod-1/deep/name") == RUN
    assert run_of(manifest_key(prefix, "pod-1")) == RUN


@pytest.mark.parametrize(
    "key",
    ["doctor/x", "runs/", "runs/x", f"runs/{RUN}", "runs/-/x", "runs/1764027260123/x", "runs/²-0/x", "runs//1-0/x"],
)
def test_nothing_else_in_the_bucket_is_an_artifact(key: str) -> None:
    assert run_of(key) == ""


@given(
    st.text(max_size=40), st.integers(0, 2**50), st.floats(0, 1e10), st.floats(0, 1e10), st.sets(st.text(), max_size=3)
)
def test_only_what_is_old_and_nothing_refers_to_goes(
    key: str, size: int, modified: float, before: float, referred: set[str]
) -> None:
    decided = verdict(Artifact(key, size, modified), referred=referred, before=before)
    assert (decided == "goes") == (key not in referred and modified < before)
    assert verdict(Artifact(key, size, modified), referred=referred | {key}, before=before) == "referred"


def test_an_account_adds_up() -> None:
    account = Account(by_dag={"a": Tally(1, 2, 30), "b": Tally(1, 1, 4)}, young=Tally(0, 1, 9))
    assert account.total == Tally(2, 3, 34)
