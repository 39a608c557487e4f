"""The home: private from the start, made once, and refused with a next step when it cannot be used."""

import os
import stat
import threading
from pathlib import Path

import pytest

from cli.embedded.home import Home, HomeUnusable, home_from, prepare


def test_first_starts_at_once_agree_on_the_passwords(home: Home):
    """Whoever loses the race uses what the winner made; nobody sees half a file."""
    made = []
    together = threading.Barrier(8)

    def first_start():
        together.wait()
        made.append(prepare(home))

    threads = [threading.Thread(target=first_start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert len(set(made)) == 1
    assert prepare(home) == made[0]
    assert [path.name for path in home.run.iterdir() if path.is_file()] == ["passwords.json"]
    assert stat.S_IMODE(home.passwords_file.stat().st_mode) == 0o600
    for folder in (home.path, home.valkey, home.s3, home.node, home.cache, home.secrets, home.run, home.logs):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_an_unusable_home_says_why_and_what_to_do(tmp_path: Path):
    """A file in the way, a path too long and damaged passwords each name the remedy."""
    (tmp_path / "file").write_text("")
    with pytest.raises(HomeUnusable, match="set HELIOS_HOME to another folder"):
        prepare(Home(tmp_path / "file"))
    with pytest.raises(HomeUnusable, match="shorter"):
        prepare(Home(tmp_path / ("x" * 200) / ("y" * 200) / ("z" * 200) / ("w" * 200) / ("v" * 200)))
    damaged = Home(tmp_path / "damaged")
    prepare(damaged)
    damaged.passwords_file.write_text("{")
    with pytest.raises(HomeUnusable, match="is damaged"):
        prepare(damaged)


def test_the_environment_names_the_home(tmp_path: Path):
    """HELIOS_HOME wins over the user's data folder."""
    assert home_from({"HELIOS_HOME": str(tmp_path / "here")}).path == tmp_path / "here"
    assert home_from({"HOME": os.environ["HOME"]}).path.name == "helios"
