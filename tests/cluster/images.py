"""The image under test: built from this checkout as the Dockerfile says, without Docker, network or registry, and put
on every node. Its tag is a digest of what it is made of, so that a node never runs an old one under a new name.
"""

import hashlib
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOOL = Path(__file__).parent / "tool"
REGISTRY = "helios.test"


def tag_of_checkout() -> str:
    """Changes whenever the image would."""
    digest = hashlib.sha256()
    folders = [ROOT / name for name in ("agent", "helios", "services")]
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix in (".py", ".lua", ".c")]
    files += [ROOT / name for name in ("Dockerfile", "requirements-image.lock")]
    for path in sorted(files):
        digest.update(f"{path.relative_to(ROOT)}\n{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:12]


def built_archive(home: Path) -> tuple[str, Path]:
    """The image's name and its OCI archive, built unless the last one built was the same."""
    tag = tag_of_checkout()
    name = f"{REGISTRY}/helios:{tag}"
    folder = home / "images"
    archive = folder / f"helios-{tag}.tar"
    if not archive.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("helios-*.tar"):
            old.unlink()
        _build(home, tag, name, archive)
    return name, archive


def _build(home: Path, tag: str, name: str, archive: Path) -> None:
    buildah = ["buildah", f"--root={home}/buildah", f"--runroot={home}/buildah-run"]
    base = _base(home, buildah)
    flags = "--isolation chroot --network host"
    variables = [f"BUILDER={' '.join(buildah)}", f"BUILD_FLAGS={flags}", f"BASE={base}", f"TAG={tag}", "MANIFESTS="]
    _run(["make", "images", f"REGISTRY={REGISTRY}", *variables])
    unfinished = archive.with_suffix(".new")
    _run([*buildah, "push", name, f"oci-archive:{unfinished}:{name}"])
    _run([*buildah, "rmi", name])
    unfinished.rename(archive)


def _base(home: Path, buildah: list[str]) -> str:
    """The id of the base image, imported once."""
    known = home / "base.id"
    if not known.exists():
        archive = home / "base-image.tar"
        _run(["python3", str(TOOL / "oci_image.py"), str(archive), "helios.test/base:1", str(home / "base.tar")])
        known.write_text(_run([*buildah, "pull", "--quiet", f"oci-archive:{archive}"]).strip())
        archive.unlink()
    return known.read_text()


def _run(command: list[str]) -> str:
    """Standard output; what the command said is in the error when it fails."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, env=env)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout
