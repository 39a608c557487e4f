"""Names that become paths stay inside; names that become log lines stay on their line."""

import json
import os.path
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent import logs
from agent.manifest import MESSAGE_BYTES, InputOutcome, fetch_manifest, fetch_message, fitted
from agent.names import NameRefused, check_digest, check_disjoint, check_view, escape, parts_of
from agent.settings import SettingsError, exec_settings, fetch_settings

# Texts that are made of what paths are made of, more often than chance would make them.
pathlike = st.lists(st.sampled_from(["..", ".", "/", "a", "\0", "\n", "'", "\\", "é", "\u202e", "\ud800"])).map("".join)
texts = st.one_of(st.text(), pathlike)


@given(texts)
def test_an_accepted_name_is_a_path_strictly_inside(name: str) -> None:
    try:
        parts = parts_of(name)
    except NameRefused as refusal:
        assert "\n" not in str(refusal)
        return
    assert os.path.normpath(f"/root/{name}") == "/root/" + "/".join(parts)
    assert "/".join(parts) == name
    assert all(part not in ("", ".", "..") and "\0" not in part for part in parts)


@given(st.lists(st.sampled_from(["a", "b", "a/b", "a/b/c", "b/c", "a-b", "ab"]), max_size=4))
def test_accepted_names_can_exist_side_by_side(names: list[str]) -> None:
    clash = any(
        left == right or right.startswith(left + "/")
        for position, left in enumerate(names)
        for other, right in enumerate(names)
        if position != other
    )
    if clash:
        with pytest.raises(NameRefused):
            check_disjoint(names)
    else:
        check_disjoint(names)


@given(texts)
@example("x\n[HELIOS] Init container completed.")
def test_an_escaped_name_is_one_line_and_reads_back(name: str) -> None:
    quoted = escape(name)
    assert quoted.isprintable()
    assert re.fullmatch(r"'(?:[^'\\]|\\.)*'", quoted)


@given(texts, st.booleans(), st.sampled_from(["cached", "never-here", "cache-fault"]), st.integers(0, 10**15 - 1))
def test_an_input_line_reads_back_as_it_was_written(name: str, hit: bool, cause: str, size: int) -> None:
    written: list[bytes] = []
    log = logs.Log(written.append)
    for line in (logs.starting("t"), logs.planned(1, True), logs.outcome(name, hit, cause, size), logs.COMPLETED):
        log.line(line)
    read = logs.read_fetch_log([data.decode() for data in written])
    assert read == logs.LoggedFetch(True, (logs.LoggedInput(escape(name)[1:-1], hit, cause, size),), True)


def test_a_log_without_its_end_is_not_complete() -> None:
    lines = [logs.PREFIX + logs.planned(2, True), logs.PREFIX + logs.outcome("a", True, "cached", 1)]
    read = logs.read_fetch_log(lines)
    assert read is not None
    assert not read.complete
    assert logs.read_fetch_log(["noise", lines[1]]) is None


def test_a_number_without_end_is_no_line_of_ours() -> None:
    digits = "9" * 5_000
    assert logs.read_fetch_log([f"[HELIOS] Plan: {digits} inputs, cache on"]) is None
    lines = ["[HELIOS] Plan: 1 inputs, cache on", f"[HELIOS] Input 'a': hit cached, {digits} bytes"]
    found = logs.read_fetch_log([*lines, "[HELIOS] Init container completed."])
    assert found is not None and found.inputs == () and not found.complete


def test_a_log_whose_reader_went_away_does_not_stop_the_step() -> None:
    def broken(data: bytes) -> None:
        raise BrokenPipeError

    log = logs.Log(broken)
    log.line("x")
    log.line("y")


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "a" * 254, "a b", "-x", "ä"])
def test_a_view_name_is_one_plain_component(name: str) -> None:
    with pytest.raises(NameRefused):
        check_view(name)


@pytest.mark.parametrize("digest", ["", "0" * 63, "G" * 64, "A" * 64, "../" + "0" * 61])
def test_a_digest_is_lower_case_hexadecimal(digest: str) -> None:
    with pytest.raises(NameRefused):
        check_digest(digest)


@given(st.lists(st.tuples(st.text(max_size=40), st.integers(0, 2**50)), max_size=30), st.one_of(st.none(), st.text()))
def test_a_fetch_message_always_fits_and_parses(inputs: list[tuple[str, int]], error: str | None) -> None:
    outcomes = [
        InputOutcome(name, size, False, "never-here", "0" * 64, "store", 12, 0, 'etag "1"', "") for name, size in inputs
    ]
    manifest = fetch_manifest(outcomes, cache_enabled=True, error=error, elapsed_ms=1, ended_at=1)
    message = fetch_message(manifest)
    assert len(message) <= MESSAGE_BYTES
    assert json.loads(message)["misses"] == len(inputs)


@given(st.text(max_size=3000))
def test_a_long_reason_is_shortened_until_it_fits(reason: str) -> None:
    message = fitted({"v": 1, "ok": False, "reason": reason}, "reason")
    assert len(message) <= MESSAGE_BYTES
    assert json.loads(message)["reason"][:20].rstrip(".") == reason[:20].rstrip(".")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HELIOS_ENDPOINT", "ftp://x"),
        ("HELIOS_ATTEMPT", "-1"),
        ("HELIOS_CACHE_ENABLED", "yes"),
        ("HELIOS_CACHE_DIR", "relative"),
        ("HELIOS_FETCH_PARALLEL", "0"),
        ("HELIOS_PLAN_PATIENCE_SECONDS", "nan"),
        ("HELIOS_TOKEN", ""),
    ],
)
def test_a_wrong_variable_is_named(name: str, value: str) -> None:
    good = {
        "HELIOS_ENDPOINT": "http://x:1/",
        "HELIOS_TOKEN": "s",
        "HELIOS_RUN_ID": "r",
        "HELIOS_TASK_NAME": "t",
        "HELIOS_ATTEMPT": "1",
        "HELIOS_CACHE_ENABLED": "true",
        "HELIOS_CACHE_DIR": "/c",
        "HELIOS_JOB": "j",
        "HELIOS_POD_UID": "u",
        "HELIOS_NODE": "n",
        "HELIOS_ARTIFACTS": "/a",
        "HELIOS_STATE_DIR": "/s",
    }
    assert fetch_settings(good).parallel == 4
    assert "token" not in repr(fetch_settings(good)).replace("token=***", "")
    with pytest.raises(SettingsError, match=f"^{name} "):
        fetch_settings({**good, name: value})


def test_the_wrappers_timeout_is_checked() -> None:
    with pytest.raises(SettingsError, match="HELIOS_TIMEOUT_SECONDS"):
        exec_settings({"HELIOS_ARTIFACTS": "/a", "HELIOS_CONTROL_DIR": "/c", "HELIOS_TIMEOUT_SECONDS": "soon"})


@pytest.mark.parametrize("beginning", ["", "\0", "\ud800", "/", "a/../"])
def test_a_name_without_end_is_refused_in_few_words_whatever_else_is_wrong_with_it(beginning: str) -> None:
    with pytest.raises(NameRefused, match="is longer than") as refused:
        parts_of(beginning + "x" * 1_000_000)
    assert len(str(refused.value)) < 200
