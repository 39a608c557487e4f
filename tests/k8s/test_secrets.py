"""make-secrets makes each credential once, for its owner's eyes only."""

import hashlib
from pathlib import Path
from urllib.parse import urlsplit

from tests.k8s.conftest import env_file, make_secrets


def files(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_a_second_time_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    assert make_secrets(folder).returncode == 0
    before = files(folder)
    again = make_secrets(folder)
    assert (again.returncode, again.stdout) == (0, "")
    assert files(folder) == before
    assert {path.stat().st_mode & 0o077 for path in folder.iterdir()} == {0}


def test_a_password_whose_file_was_deleted_is_made_anew_and_the_acl_follows(tmp_path: Path) -> None:
    make_secrets(tmp_path)
    before = files(tmp_path)
    (tmp_path / "jobrunner.env").unlink()
    assert make_secrets(tmp_path).returncode == 0
    after = files(tmp_path)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"jobrunner.env", "users.acl"}
    collector, jobrunner = env_file(tmp_path / "collector.env"), env_file(tmp_path / "jobrunner.env")
    assert jobrunner["HELIOS_TOKEN_KEY"] == collector["HELIOS_TOKEN_KEY"]


def test_the_acl_file_holds_digests_only(tmp_path: Path) -> None:
    make_secrets(tmp_path)
    acl = (tmp_path / "users.acl").read_text()
    assert "PASSWORD" not in acl
    password = urlsplit(env_file(tmp_path / "submit.env")["HELIOS_REDIS_URL"]).password
    assert password
    assert password not in acl
    assert "#" + hashlib.sha256(password.encode()).hexdigest() in acl
    assert acl.startswith("user default off\n")


def test_a_file_without_a_password_is_named(tmp_path: Path) -> None:
    make_secrets(tmp_path)
    (tmp_path / "submit.env").write_text("HELIOS_REDIS_URL=redis://elsewhere:6379/0\n")
    done = make_secrets(tmp_path)
    assert done.returncode == 1
    assert "submit.env has no HELIOS_REDIS_URL with a password" in done.stderr
