"""Which names, paths, addresses and quantities are fit for use, and why one is not. No I/O happens here.

Each function gives None for what is fit, else the reason, to be read after the value's path.
"""

import re
import unicodedata
from decimal import Decimal

from helios.dag_problem import DagLimits, quoted

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]*")
_NAME_CHAR = re.compile(r"[a-zA-Z0-9._-]")
_SIMPLE_PATH = re.compile(r"[a-zA-Z0-9_-][a-zA-Z0-9._-]*")
_ENV_NAME = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
_IMAGE = re.compile(r"[!-~]+")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_RESERVED_STARTS = ("xn--", "sthree-")
_RESERVED_ENDS = ("-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3")
_IP_ADDRESS = re.compile(r"[0-9]+(\.[0-9]+){3}")
_OBJECT_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_SECRET_KEY = re.compile(r"[-._a-zA-Z0-9]+")
_LABEL = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:([KMGTPE]i|[numkMGTPE])|[eE]([+-]?[0-9]{1,2}))?")
_DECIMAL_UNITS = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY_UNITS = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_DURATION = re.compile(r"([1-9][0-9]{0,9})([smhd])")
_DURATION_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_PINNED = re.compile(r"[!-~]+@(sha256:[0-9a-f]{64})")
_RESOURCES = frozenset({"cpu", "memory", "ephemeral-storage"})


def name_fault(name: str, max_chars: int) -> str | None:
    """For the names of DAGs and tasks: they become parts of keys, folders and addresses."""
    if len(name) <= max_chars and _NAME.fullmatch(name):
        return None
    if not name:
        return "is empty"
    for position, char in enumerate(name[:max_chars]):
        if not _NAME_CHAR.match(char):
            return (
                f"{_described(char)} at position {position + 1} of {quoted(name)} is not allowed; "
                "use ASCII letters, digits, '.', '_' and '-'"
            )
    if len(name) > max_chars:
        return f"has {len(name):,} characters; the limit is {max_chars}"
    return f"{quoted(name)} begins with {name[0]!r}; begin with an ASCII letter or digit"


def path_fault(path: str, limits: DagLimits) -> str | None:
    """For the paths of inputs and outputs, which lie below /artifacts and must stay there."""
    if len(path) <= limits.max_path_part_bytes and _SIMPLE_PATH.fullmatch(path):
        return None
    if not path:
        return "is empty"
    if path.startswith("/"):
        return f"{quoted(path)} is absolute; write it relative to /artifacts"
    if path.partition("/")[0] == ".helios":
        return f"{quoted(path)} is in .helios, where Helios has files of its own; give it another name"
    if path.count("/") >= limits.max_path_parts:
        return f"{quoted(path)} has more than {limits.max_path_parts} parts"
    fault = _parts_fault(path, limits.max_path_bytes, limits.max_path_part_bytes)
    if fault is not None or path.isascii():
        return fault
    if not unicodedata.is_normalized("NFC", path):
        return (
            f"{quoted(path)} has decomposed characters, which some file systems change; write it in Unicode's NFC form"
        )
    for char in path:
        if not char.isascii() and any(plain in "/\\." for plain in unicodedata.normalize("NFKC", char)):
            return f"{_described(char)} in {quoted(path)} only looks like a part of a path"
    return None


def uri_fault(uri: str, limits: DagLimits) -> str | None:
    """For external inputs: `s3://bucket/key`, by S3's rules, and nothing a client would rewrite on its way."""
    if not uri.startswith("s3://"):
        return f"{quoted(uri)} is not of the form s3://bucket/key"
    bucket, _, key = uri[5:].partition("/")
    if not _BUCKET.fullmatch(bucket) or ".." in bucket or _IP_ADDRESS.fullmatch(bucket):
        return (
            f"{quoted(bucket)} is not a bucket name: 3 to 63 lower-case letters, digits, '-' and '.', "
            "with a letter or digit at both ends, and no IP address"
        )
    if any(pair in bucket for pair in (".-", "-.")):
        return f"{quoted(bucket)} is not a bucket name: it has '.' and '-' side by side"
    if bucket.startswith(_RESERVED_STARTS) or bucket.endswith(_RESERVED_ENDS):
        return f"{quoted(bucket)} is not a bucket name: names like it are reserved by S3 (xn--…, …-s3alias and others)"
    if not key.strip():
        return f"{quoted(uri)} names no object; write s3://bucket/key"
    if key.endswith("/"):
        return f"{quoted(uri)} names a folder; an input is one object"
    if "?" in key or "#" in key:
        return f"{quoted(uri)} has a query or a fragment; write s3://bucket/key only"
    return _parts_fault(key, limits.max_key_bytes, limits.max_key_bytes)


def _parts_fault(path: str, max_bytes: int, max_part_bytes: int) -> str | None:
    size = utf8_bytes(path)
    if size > max_bytes:
        return f"has {size:,} bytes; the limit is {max_bytes}"
    for char in path:
        # Control, format (invisible and text-reversing) and line-separating characters; half characters.
        if char == "\\" or unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
            return f"{_described(char)} in {quoted(path)} is not allowed"
    for part in path.split("/"):
        if not part:
            return f"{quoted(path)} has an empty part: '//' or a '/' at its end"
        if part in (".", ".."):
            return f"{quoted(path)} has the part {part!r}, which could lead elsewhere"
        if utf8_bytes(part) > max_part_bytes:
            return f"{quoted(path)} has a part of more than {max_part_bytes} bytes"
    return None


def argument_fault(text: str, limits: DagLimits) -> str | None:
    """For what is handed to a process: arguments and values of variables."""
    if "\0" in text:
        return "holds a NUL character, which no process can be given"
    if len(text) * 4 > limits.max_argument_bytes and utf8_bytes(text) > limits.max_argument_bytes:
        return f"has {utf8_bytes(text):,} bytes; the limit is {limits.max_argument_bytes:,}"
    return None


def utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def image_fault(image: str, limits: DagLimits) -> str | None:
    if not image:
        return "is empty"
    if len(image) > limits.max_image_chars:
        return f"has {len(image):,} characters; the limit is {limits.max_image_chars}"
    return None if _IMAGE.fullmatch(image) else f"{quoted(image)} holds a space or another character no image has"


def image_digest(image: str) -> str | None:
    """The digest, `sha256:…`, that a reference pins; None for a tag."""
    match = _PINNED.fullmatch(image)
    return match[1] if match else None


def duration_seconds(text: str) -> int | None:
    """How long `90s`, `30m`, `12h` or `7d` is; None for anything else."""
    match = _DURATION.fullmatch(text)
    return int(match[1]) * _DURATION_UNITS[match[2]] if match else None


def env_name_fault(name: str) -> str | None:
    if len(name) <= 1024 and _ENV_NAME.fullmatch(name):
        return None
    return f"{quoted(name)} is not a variable's name: letters, digits, '_', '-' and '.', not beginning with a digit"


def object_name_fault(name: str) -> str | None:
    """For the names of Kubernetes secrets and service accounts."""
    if len(name) <= 253 and _OBJECT_NAME.fullmatch(name):
        return None
    return f"{quoted(name)} is not a name Kubernetes takes: lower-case letters, digits, '-' and '.', at most 253"


def secret_key_fault(key: str) -> str | None:
    if len(key) <= 253 and _SECRET_KEY.fullmatch(key):
        return None
    return f"{quoted(key)} is not a key of a secret: letters, digits, '-', '_' and '.', at most 253"


def label_key_fault(key: str) -> str | None:
    prefix, slash, name = key.rpartition("/")
    if len(name) <= 63 and _LABEL.fullmatch(name) and (not slash or object_name_fault(prefix) is None):
        return None
    return f"{quoted(key)} is not a label's key"


def label_value_fault(value: str) -> str | None:
    if not value or (len(value) <= 63 and _LABEL.fullmatch(value)):
        return None
    return f"{quoted(value)} is not a label's value: at most 63 letters, digits, '-', '_' and '.'"


def resource_is_known(name: str) -> bool:
    """cpu, memory, ephemeral-storage, hugepages-*, or an extended resource such as nvidia.com/gpu."""
    return name in _RESOURCES or name.startswith("hugepages-") or ("/" in name and label_key_fault(name) is None)


def resource_names() -> frozenset[str]:
    return _RESOURCES


def quantity(text: str) -> Decimal | None:
    """The number a Kubernetes quantity stands for (`500m`, `2Gi`, `1e3`); None when it is none."""
    match = _QUANTITY.fullmatch(text) if len(text) <= 32 else None
    if match is None:
        return None
    number, unit, exponent = match.groups()
    if unit in _BINARY_UNITS:
        return Decimal(number) * 2 ** _BINARY_UNITS[unit]
    return Decimal(number).scaleb(_DECIMAL_UNITS[unit] if unit else int(exponent or 0))


def _described(char: str) -> str:
    """`'а' (CYRILLIC SMALL LETTER A)`, `U+0000`."""
    if char.isascii() and char.isprintable():
        return "a space" if char == " " else repr(char)
    name = unicodedata.name(char, "")
    shown = repr(char) if char.isprintable() else f"U+{ord(char):04X}"
    return f"{shown} ({name})" if name else shown
