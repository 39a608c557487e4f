"""How local mode's keeper is set."""

from pathlib import Path

import pytest

from cli.embedded.keeper import keeper_settings
from cli.embedded.pod import Place


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [({}, 3.0), ({"HELIOS_KEEP_SECONDS": ""}, 3.0), ({"HELIOS_KEEP_SECONDS": "15"}, 15.0)],
)
def test_a_look_at_the_cache_is_three_seconds_old_at_most_unless_told_otherwise(
    tmp_path: Path, environ: dict[str, str], seconds: float
) -> None:
    place = Place(
        directory=tmp_path,
        cache=tmp_path / "cache",
        secrets=tmp_path / "secrets",
        agent=tmp_path / "agent",
        node="local",
        environ=environ,
        lifeline_fd=-1,
        reserve_bytes=0,
    )
    assert keeper_settings(place, environ).period_seconds == seconds
