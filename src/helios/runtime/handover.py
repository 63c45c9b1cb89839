"""Settings on their way from a process to those it starts, so that all of them agree."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic import ValidationError

from helios.errors import SettingsError
from helios.model.settings import Settings
from helios.node.files import write_private


def hand_over(settings: Settings, path: Path) -> None:
    """Write the settings where a child will read them; what was set explicitly stays known as such."""
    write_private(path, settings.model_dump_json(exclude_unset=True, indent=2) + "\n")


def take_over(path: Path) -> Settings:
    """The settings that a parent has written; raises SettingsError."""
    try:
        return Settings.model_validate_json(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise SettingsError(f"{path}: was written by another version of Helios ({error})") from error


def likeness(*parts: str) -> str:
    """A short name for what a process was started with: equal parts, equal names."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
