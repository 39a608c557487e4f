"""What the top line says."""

import pytest

from tui.model.connection import Connection
from tui.model.status import connection_part, mode_parts


def test_a_live_connection_says_so_with_a_sign_and_a_word() -> None:
    assert connection_part(Connection("live"), 0).text == "● live"
    assert connection_part(Connection("live"), 0, ascii_only=True).text == "* live"


def test_loading_tells_how_far_it_is() -> None:
    assert connection_part(Connection("loading"), 0).text == "… loading"
    assert connection_part(Connection("loading", loaded=500, total=10_000), 0).text == "… loading 500 of 10,000 runs"


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (1_000, "data 0 ms old, reconnecting in 4 s"),
        (4_900, "data 3.9 s old, reconnecting in 1 s"),
        (5_000, "data 4.0 s old, reconnecting"),
        (500, "data 0 ms old, reconnecting in 5 s"),
    ],
)
def test_a_lost_connection_tells_the_age_of_what_is_shown_and_when_it_is_tried_again(now: int, words: str) -> None:
    part = connection_part(Connection("lost", since_ms=1_000, retry_at_ms=5_000), now)
    assert part.text == f"✘ disconnected, {words}"
    assert part.style == "error"


def test_what_the_user_chose_is_said() -> None:
    assert mode_parts(paused=False, read_only=False, recording="") == []
    assert [part.text for part in mode_parts(paused=True, read_only=True, recording="")] == ["paused", "read-only"]
    shown = [part.text for part in mode_parts(paused=False, read_only=True, recording="may.jsonl.gz")]
    assert shown == ["recording may.jsonl.gz"]
