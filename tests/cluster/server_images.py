"""Images of Redis and MinIO for the manifests of k8s/, made of programs that this machine already has: the Valkey of
the tests and the MinIO that `cluster build` compiled. Each holds its program, the libraries that it is linked with,
and nothing else.
"""

import re
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.cluster.tool.oci_image import write_image
from tests.redis_servers import server_program

REDIS = "helios.test/redis:1"
MINIO = "helios.test/minio:1"


def server_archives(home: Path) -> list[Path]:
    """OCI archives of both, made once."""
    return [
        program_archive(home, REDIS, server_program()),
        program_archive(home, MINIO, home / "bin" / "minio"),
    ]


def program_archive(home: Path, name: str, program: Path) -> Path:
    """An OCI archive that runs a program of this machine, made unless it is there and younger than the program."""
    archive = home / "images" / f"{name.rpartition('/')[2].replace(':', '-')}.tar"
    if archive.exists() and archive.stat().st_mtime > program.stat().st_mtime:
        return archive
    archive.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as scratch:
        root = Path(scratch) / "root"
        for file in (program, *_libraries(program)):
            inside = root / "bin" / program.name if file == program else root / file.relative_to("/")
            inside.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, inside)
        (root / "tmp").mkdir()
        layer = Path(scratch) / "layer.tar"
        owner = ["--owner=0", "--group=0", "--numeric-owner", "--sort=name", "--mtime=@0"]
        subprocess.run(["tar", "-C", str(root), *owner, "-cf", str(layer), "."], check=True)
        unfinished = archive.with_suffix(".new")
        write_image(str(unfinished), name, [str(layer)], [], entrypoint=(f"/bin/{program.name}",))
        unfinished.rename(archive)
    return archive


def _libraries(program: Path) -> list[Path]:
    """What the dynamic linker loads with it; nothing for a static program."""
    listed = subprocess.run(["ldd", str(program)], capture_output=True, text=True).stdout
    return [Path(path) for path in re.findall(r"(/\S+) \(0x", listed)]
