"""What a user has settled for all dashboards: a theme, and keys other than ours. Read from `tui.yaml` of the folder for
settings (`~/.config/helios` on Linux); the theme chosen last is kept in the folder for state.

    theme: nord
    ascii: false
    keys:
      runs.cancel: ctrl+x
      runs.rerun: r,f8
"""

import contextlib
import os
import tempfile
from pathlib import Path

import msgspec
from platformdirs import user_config_path, user_state_path


class PreferencesInvalid(ValueError):
    """The file cannot be used; the message names it and the fault."""


class Preferences(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    theme: str = ""
    ascii: bool = False
    keys: dict[str, str] = {}
    """Keys by the id of a binding, several separated by commas; the help lists the ids."""


def preferences_file() -> Path:
    return user_config_path("helios") / "tui.yaml"


def state_folder() -> Path:
    return user_state_path("helios")


def read_preferences(file: Path) -> Preferences:
    """Raises PreferencesInvalid. No file means no preferences."""
    try:
        text = file.read_bytes()
    except FileNotFoundError:
        return Preferences()
    except OSError as error:
        raise PreferencesInvalid(f"{file} cannot be read: {error.strerror}") from None
    import yaml

    try:
        return msgspec.convert(yaml.safe_load(text) or {}, Preferences)
    except (yaml.YAMLError, msgspec.ValidationError) as error:
        raise PreferencesInvalid(f"{file}: {' '.join(str(error).split())}") from None


def theme_chosen(folder: Path) -> str:
    """The theme that was chosen last; empty if none was."""
    try:
        return (folder / "theme").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def keep_theme(folder: Path, theme: str) -> None:
    """Remember the theme; where that is not possible it is chosen anew next time."""
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(theme)
        Path(name).replace(folder / "theme")
