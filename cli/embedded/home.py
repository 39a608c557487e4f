"""HELIOS_HOME: where everything embedded lives, and the secrets made there once.

Rule: every folder is 0700 and every file with a secret 0600 from the moment it exists.

    <home>/valkey/    Valkey's append-only file        <home>/node/     Jobs in, pods out (HELIOS_LOCAL_DIR)
    <home>/s3/        SeaweedFS                        <home>/cache/    the node's cache
    <home>/secrets/   <secret>/<key>, put there by the user for `env: {secret, key}`
    <home>/run/       state.json, locks, generated passwords, logs/
"""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

import msgspec

HOME_BYTES = 900
"""Longer paths leave no room for what is put below the home (PATH_MAX is 1,024 on some systems)."""


class HomeUnusable(Exception):
    """The home cannot be used; the message says why and what to do."""


class Passwords(msgspec.Struct, frozen=True):
    """Generated once for each home."""

    valkey: str
    s3_access_key: str
    s3_secret_key: str
    token_key: str


class Home(msgspec.Struct, frozen=True):
    """The places below one HELIOS_HOME."""

    path: Path

    @property
    def valkey(self) -> Path:
        return self.path / "valkey"

    @property
    def s3(self) -> Path:
        return self.path / "s3"

    @property
    def node(self) -> Path:
        return self.path / "node"

    @property
    def cache(self) -> Path:
        return self.path / "cache"

    @property
    def secrets(self) -> Path:
        return self.path / "secrets"

    @property
    def run(self) -> Path:
        return self.path / "run"

    @property
    def logs(self) -> Path:
        return self.run / "logs"

    @property
    def state_file(self) -> Path:
        return self.run / "state.json"

    @property
    def passwords_file(self) -> Path:
        return self.run / "passwords.json"

    @property
    def http_token_file(self) -> Path:
        return self.run / "http-token"

    def log(self, component: str) -> Path:
        return self.logs / f"{component}.log"


def home_from(environ: Mapping[str, str] = os.environ) -> Home:
    """The home that HELIOS_HOME names; the user's data folder unless set. Makes nothing."""
    named = environ.get("HELIOS_HOME")
    if named:
        return Home(Path(named).expanduser().absolute())
    import platformdirs

    return Home(Path(platformdirs.user_data_dir("helios")))


def prepare(home: Home) -> Passwords:
    """Make the folders and the passwords where they are missing; raises HomeUnusable."""
    if len(os.fsencode(home.path)) > HOME_BYTES:
        raise HomeUnusable(
            f"the path of HELIOS_HOME is longer than {HOME_BYTES} bytes: {home.path}\nset HELIOS_HOME to a shorter one"
        )
    folders = (home.valkey, home.s3, home.node, home.cache, home.secrets, home.run, home.logs)
    try:
        home.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (home.path, *folders):
            folder.mkdir(mode=0o700, exist_ok=True)
            if folder.stat().st_mode & 0o077:
                folder.chmod(0o700)
        return _passwords(home.passwords_file)
    except OSError as error:
        raise HomeUnusable(
            f"HELIOS_HOME cannot be used: {error.strerror}: {error.filename or home.path}\n"
            "make it writable, free some disk space, or set HELIOS_HOME to another folder"
        ) from error
    except msgspec.DecodeError as error:
        raise HomeUnusable(
            f"{home.passwords_file} is damaged: {error}\n"
            "restore it from a backup, or remove the whole home to start from nothing"
        ) from error


def _passwords(file: Path) -> Passwords:
    """Read the passwords, or make them: of several first starts at once, the first link wins."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Passwords)
    except FileNotFoundError:
        pass
    made = Passwords(
        valkey=secrets.token_urlsafe(24),
        s3_access_key=secrets.token_hex(10),
        s3_secret_key=secrets.token_urlsafe(30),
        token_key=secrets.token_urlsafe(32),
    )
    partial = file.with_name(f".{file.name}.{os.getpid()}.{secrets.token_hex(4)}")
    write_private(partial, msgspec.json.encode(made))
    try:
        os.link(partial, file)
    except FileExistsError:
        return msgspec.json.decode(file.read_bytes(), type=Passwords)
    finally:
        partial.unlink()
    return made


def http_token(home: Home) -> str:
    """The token of this home's HTTP API, made at first use; raises OSError."""
    file = home.http_token_file
    try:
        return file.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        partial = file.with_name(f".{file.name}.{os.getpid()}.{secrets.token_hex(4)}")
        write_private(partial, f"{secrets.token_urlsafe(32)}\n".encode())
        try:
            os.link(partial, file)
        except FileExistsError:
            pass  # of two first starts at once, the first link wins
        finally:
            partial.unlink()
        return file.read_text(encoding="ascii").strip()


def write_private(file: Path, content: bytes) -> None:
    """Write a whole file that only its owner can read."""
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "wb") as out:
        os.fchmod(fd, 0o600)
        out.write(content)
        out.flush()
        os.fsync(fd)
