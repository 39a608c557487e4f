"""Wrap root file systems as an OCI image archive that `ctr images import` takes.

    python3 oci_image.py OUT.tar NAME:TAG LAYER.tar[,LAYER.tar...] [CMD...]

Layers are uncompressed tars, lowest first. There is no registry here, so this
is how an image reaches the nodes; where Docker runs, use the Dockerfile instead.
"""

import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path


def descriptor(kind: str, blob: bytes) -> dict:
    return {
        "mediaType": f"application/vnd.oci.image.{kind}",
        "digest": "sha256:" + hashlib.sha256(blob).hexdigest(),
        "size": len(blob),
    }


def write_image(out: str, name: str, layer_files: list[str], cmd: list[str], entrypoint: tuple[str, ...] = ()) -> None:
    """An image whose containers run `entrypoint` followed by `cmd`, or by their own arguments."""
    layers = [Path(file).read_bytes() for file in layer_files]
    layer_descriptors = [descriptor("layer.v1.tar", layer) for layer in layers]
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {
                "Entrypoint": list(entrypoint),
                "Cmd": cmd or ([] if entrypoint else ["/bin/sh"]),
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            },
            "rootfs": {"type": "layers", "diff_ids": [d["digest"] for d in layer_descriptors]},
        }
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("config.v1+json", config),
            "layers": layer_descriptors,
        }
    ).encode()
    index = json.dumps(
        {
            "schemaVersion": 2,
            "manifests": [
                descriptor("manifest.v1+json", manifest)
                | {
                    "annotations": {
                        "io.containerd.image.name": name,
                        "org.opencontainers.image.ref.name": name.rsplit(":", 1)[1],
                    },
                    "platform": {"architecture": "amd64", "os": "linux"},
                }
            ],
        }
    ).encode()
    with tarfile.open(out, "w") as archive:

        def add(path: str, blob: bytes) -> None:
            info = tarfile.TarInfo(path)
            info.size = len(blob)
            archive.addfile(info, io.BytesIO(blob))

        add("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        add("index.json", index)
        for blob in (manifest, config, *layers):
            add("blobs/sha256/" + hashlib.sha256(blob).hexdigest(), blob)


if __name__ == "__main__":
    out, name, layers, *cmd = sys.argv[1:]
    write_image(out, name, layers.split(","), cmd)
