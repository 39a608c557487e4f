"""The draft of a DAG as a file of the user's own, and DAGs opened from and saved to files."""

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

from cli.failure import CommandFailed
from helios.dag_problem import LIMITS
from tui.model.draft import Draft
from tui.source.saving import save

_NAME = "draft.yaml"
_KEEPING = threading.Lock()


def kept_draft(folder: Path) -> Draft:
    """What was being written when the dashboard was last left, or the template."""
    try:
        text = (folder / _NAME).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return Draft()
    return Draft(text) if text.strip() else Draft()


def keep_draft(folder: Path, text: str) -> None:
    """For nobody else to read: a DAG may say more than it should. Where that fails, the draft is not kept."""
    with contextlib.suppress(OSError, UnicodeEncodeError):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        new = folder / f"{_NAME}.{os.getpid()}.new"
        handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        new.replace(folder / _NAME)


def keep_newest(folder: Path, text_now: Callable[[], str]) -> None:
    """Keep what the editor holds when it is this caller's turn, so that a slow one never brings back an older text."""
    with _KEEPING:
        keep_draft(folder, text_now())


def open_file(name: str) -> Draft:
    """A DAG from a file. Raises CommandFailed."""
    path = Path(name).expanduser()
    try:
        with path.open("rb") as file:
            stamp = os.fstat(file.fileno()).st_mtime_ns
            content = file.read(LIMITS.max_payload_bytes + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise CommandFailed(f"cannot read {path}: {why}", hint="name a file with a DAG") from None
    if len(content) > LIMITS.max_payload_bytes:
        raise CommandFailed(
            f"{path} has more than {LIMITS.max_payload_bytes:,} bytes, the limit of a DAG", hint="name another file"
        )
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CommandFailed(f"{path} is not UTF-8: byte {error.start}", hint="name a file with text") from None
    return Draft(text, str(path), text, stamp)


def changed_meanwhile(draft: Draft) -> bool:
    """Whether the draft's file is another than the one that was read or written last."""
    try:
        return bool(draft.path) and Path(draft.path).stat().st_mtime_ns != draft.stamp
    except OSError:
        return False


def save_file(text: str, name: str, *, replace: bool) -> Draft:
    """Raises FileExistsError unless `replace`, and CommandFailed where nothing can be written."""
    path = Path(name).expanduser()
    save(path, text.encode("utf-8", "surrogateescape"), replace=replace)
    return Draft(text, str(path), text, path.stat().st_mtime_ns)
