"""Settings on their way from a process to those it starts, so that all of them agree."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from helios.errors import SettingsError
from helios.model.settings import Settings
from helios.node.files import write_private
from helios.runtime.security import with_absolute_files
from helios.runtime.settings import SettingsRead


def hand_over(settings: Settings, path: Path, origins: Mapping[str, str] | None = None) -> None:
    """Write the settings where a child will read them; what was set explicitly stays known as such, and from where.

    The users are not among them: they are in the store.
    """
    handed = with_absolute_files(settings)
    written = {"settings": handed.written(given_only=True), "origins": dict(origins or {})}
    write_private(path, json.dumps(written, indent=2) + "\n")


def take_over(path: Path) -> SettingsRead:
    """The settings that a parent has written; raises SettingsError."""
    try:
        written = json.loads(path.read_bytes())
        return SettingsRead(Settings.of(written["settings"]), dict(written["origins"]))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"{path}: was written by another version of Helios ({error})") from error


def fingerprint(*parts: str) -> str:
    """A short name for what a process was started with: equal parts, equal names."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
