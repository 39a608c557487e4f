"""What the collector signs is what a keeper takes, and nothing else."""

from urllib.parse import parse_qsl, urlsplit

import pytest

from agent import grants as keepers
from helios.grants import blob_url, keeper_token, output_url

KEY = "k" * 32
DIGEST = "ab" * 32
NOW = 1_764_000_000


def fields(url: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(url).query))


def blob_fields(url: str) -> dict[str, str]:
    return {**fields(url), "digest": urlsplit(url).path.rpartition("/")[2]}


def test_a_signed_get_opens_its_blob_until_it_expires() -> None:
    asked = blob_fields(blob_url("http://127.0.0.1:8415", KEY, DIGEST, NOW + 10))
    assert keepers.granted(KEY, "GET", asked, NOW)
    assert keepers.granted(KEY, "HEAD", asked, NOW + 10)
    assert not keepers.granted(KEY, "GET", asked, NOW + 11)


@pytest.mark.parametrize("change", [{"digest": "cd" * 32}, {"expires": str(NOW + 99)}, {"grant": ""}, {"grant": "é"}, {"expires": "²"}])
def test_a_signed_get_opens_nothing_else(change: dict[str, str]) -> None:
    asked = blob_fields(blob_url("http://127.0.0.1:8415", KEY, DIGEST, NOW + 10))
    assert not keepers.granted(KEY, "GET", {**asked, **change}, NOW)
    assert not keepers.granted(KEY, "PUT", asked, NOW)
    assert not keepers.granted("another key", "GET", asked, NOW)
    assert not keepers.granted("", "GET", asked, NOW)


def test_a_signed_put_is_for_one_attempt() -> None:
    asked = fields(output_url("http://127.0.0.1:8415", KEY, "1764-0", "a task & more", 2, NOW + 10))
    assert keepers.granted(KEY, "PUT", asked, NOW)
    assert not keepers.granted(KEY, "PUT", {**asked, "attempt": "3"}, NOW)
    assert not keepers.granted(KEY, "GET", asked, NOW)


def test_a_keepers_token_is_of_its_node() -> None:
    assert keeper_token(KEY, "n1") == keepers.keeper_token(KEY, "n1")
    assert keeper_token(KEY, "n1") != keeper_token(KEY, "n2")
