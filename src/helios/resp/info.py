"""What a server says of itself in INFO."""

from __future__ import annotations


def info_fields(text: bytes) -> dict[str, str]:
    """The fields of all sections by name."""
    return dict(line.split(":", 1) for line in text.decode(errors="replace").splitlines() if ":" in line)
