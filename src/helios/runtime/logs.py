"""Logs of the processes: everything that a process logs, in one file, at one level."""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import re
import sys
import time
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path

from helios.model.sections import LogFormat, LoggingSettings
from helios.node.files import open_log

_PLACES = re.compile(r"(?:(?P<name>[a-z][a-z0-9_]*)=)?%[-+ #0]*[0-9]*(?:\.[0-9]+)?[a-zA-Z]")
_BYTES = 32 << 20
_BACKUPS = 3


class Lines(logging.Formatter):
    """Lines for people: time (UTC), level, logger, message; a traceback below it."""

    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s %(message)s")

    @staticmethod
    def converter(seconds: float | None) -> time.struct_time:
        """UTC, so that lines of several machines can be read side by side."""
        return time.gmtime(seconds)


class Objects(Lines):
    """One JSON object a line, tracebacks included. What a message says as name=value are fields of their own, too."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        fields: dict[str, object] = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name, value in _named(record):
            fields.setdefault(name, value)
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)


def _named(record: logging.LogRecord) -> Iterator[tuple[str, object]]:
    """The arguments of a message that stand behind a name and an equals sign."""
    if not isinstance(record.msg, str) or not isinstance(record.args, tuple):
        return
    for place, value in zip(_PLACES.finditer(record.msg.replace("%%", "")), record.args, strict=False):
        if place["name"]:
            yield place["name"], value if isinstance(value, int | float) else str(value)


class _OwnFile(logging.handlers.RotatingFileHandler):
    """A rotated file that is never written through a link, and that no other user reads."""

    def _open(self) -> TextIOWrapper:
        return os.fdopen(open_log(self.baseFilename), "a", encoding=self.encoding)


def start_logging(settings: LoggingSettings, path: Path | None) -> None:
    """Send everything that this process logs to `path` (rotated at 32 MiB, three kept), or to stderr without one."""
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if path is not None:
        handler = _OwnFile(path, maxBytes=_BYTES, backupCount=_BACKUPS, encoding="utf-8")
    root = logging.getLogger()
    root.handlers[:] = [handler]
    adjust_logging(settings)


def adjust_logging(settings: LoggingSettings) -> None:
    """Log at this level and in this form from now on."""
    root = logging.getLogger()
    for handler in root.handlers:
        handler.setFormatter(Objects() if settings.format is LogFormat.JSON else Lines())
    root.setLevel(settings.level.value.upper())
    for chatty in ("uvicorn", "asyncio", "watchfiles"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))
