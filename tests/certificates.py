"""Certificates for tests, made by openssl: two authorities, and what they signed."""

import shutil
import subprocess
from pathlib import Path

import pytest


class Authority:
    """A CA of the test's own, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("no openssl on PATH to make certificates with")
        folder.mkdir()
        self.folder = folder
        self.file = folder / "ca.crt"
        self.key = folder / "ca.key"
        _openssl(
            *("req", "-x509", *NEW_KEY, "-keyout", self.key, "-out", self.file),
            *("-subj", f"/CN={folder.name}", "-days", "2"),
        )

    def sign(self, name: str, *hosts: str) -> tuple[Path, Path]:
        """Certificate and key, valid for these host names and addresses; for a client where there are none."""
        certificate, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        request, extensions = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        _openssl("req", *NEW_KEY, "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        names = ",".join(f"{'IP' if host[0].isdigit() else 'DNS'}:{host}" for host in hosts)
        extensions.write_text(f"subjectAltName={names}\n" if names else "extendedKeyUsage=clientAuth\n")
        _openssl(
            *("x509", "-req", "-in", request, "-CA", self.file, "-CAkey", self.key, "-CAcreateserial"),
            *("-out", certificate, "-days", "2", "-extfile", extensions),
        )
        return certificate, key


NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def _openssl(*words: "str | Path") -> None:
    done = subprocess.run(["openssl", *words], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
