"""`python -m services.gathered`: the metrics of all services of local mode on one port, each with its label `replica`.

The services serve their own on sockets in one folder (HELIOS_METRICS_SOCKETS); one that does not answer is left out.
"""

import os
import re
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import structlog

from helios.settings import SettingInvalid, settings_from
from helios.worker import Stop
from services.log_lines import configure_logging
from services.process import refuse
from services.scrape import PATH, listen

log = structlog.get_logger()

ANSWER_SECONDS = 3.0
KIND = "text/plain; version=0.0.4; charset=utf-8"
_SAMPLE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{)?", re.MULTILINE)


class SocketConnection(HTTPConnection):
    """HTTP over a socket in the file system."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=ANSWER_SECONDS)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(ANSWER_SECONDS)
        self.sock.connect(str(self.path))


def merged(texts: Mapping[str, str]) -> str:
    """Expositions by replica as one: each family once, the replica a label of every sample."""
    families: dict[str, list[str]] = {}
    for replica, text in texts.items():
        label = f'replica="{replica}"'

        def labelled(found: re.Match[str], label: str = label) -> str:
            return f"{found[1]}{{{label}," if found[2] else f"{found[1]}{{{label}}}"

        for block in re.split(r"^(?=# HELP )", text, flags=re.MULTILINE):
            lines = block.splitlines(keepends=True)  # those of HELP and TYPE, then the samples
            if len(lines) > 1:
                families.setdefault("".join(lines[:2]), []).append(_SAMPLE.sub(labelled, "".join(lines[2:])))
    return "".join(head + "".join(samples) for head, samples in families.items())


def gather(folder: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in sorted(folder.glob("*.sock")):
        connection = SocketConnection(path)
        try:
            connection.request("GET", PATH)
            answer = connection.getresponse()
            if answer.status == 200:
                found[path.stem] = answer.read().decode()
        except (OSError, HTTPException, UnicodeDecodeError) as error:
            log.info("a service serves no metrics just now", replica=path.stem, error=str(error))
        finally:
            connection.close()
    return found


class Gathered:
    """WSGI, like services.scrape's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        is_metrics = environ.get("PATH_INFO") == PATH and environ.get("REQUEST_METHOD") in ("GET", "HEAD")
        body = merged(gather(self.folder)).encode() if is_metrics else b"metrics are at /metrics\n"
        status = "200 OK" if is_metrics else "404 Not Found"
        start_response(status, [("Content-Type", KIND), ("Content-Length", str(len(body)))])
        return [body]


def main() -> None:
    stop = Stop()
    stop.listen()
    settings = settings_from()
    configure_logging("metrics", settings)
    try:
        listen(Gathered(Path(os.environ["HELIOS_METRICS_SOCKETS"])), settings.metrics_bind)
    except (OSError, ValueError) as error:
        refuse(SettingInvalid(f"HELIOS_METRICS_BIND is {settings.metrics_bind!r}, which cannot be served: {error}"))
    log.info("serving metrics", bind=settings.metrics_bind)
    stop.event.wait()
    sys.exit(0)


if __name__ == "__main__":
    main()
