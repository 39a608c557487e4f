"""`/artifacts` in a task's words, on a machine that has no such folder. Pure.

In a container a task works in /artifacts, and DAGs name that path. A process of this machine works in its pod's folder,
so where its command, arguments or plain variables say /artifacts, that folder is put in. Paths that a program composes
itself are out of reach, and nothing is put in where the pod's folder has characters that a shell would take apart;
relative paths work everywhere.
"""

import re

ARTIFACTS = re.compile(r"(?<![\w./~$}-])/artifacts(?![\w.-])")
"""The path itself or the start of one below it, not a part of another path such as /data/artifacts or /artifacts2."""
_PLAIN = re.compile(r"[\w./+@:,-]+")


def localised(text: str, folder: str) -> str:
    """The text with the pod's folder in place of /artifacts."""
    if not _PLAIN.fullmatch(folder):
        return text
    return ARTIFACTS.sub(lambda _: folder, text)
