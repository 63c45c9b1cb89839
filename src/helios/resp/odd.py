"""Replies of a kind that the command never has: what comes of reading them as if they were right."""

from __future__ import annotations

from typing import Final

from helios.errors import ProtocolError

ODD_REPLY: Final = (TypeError, ValueError, LookupError, AttributeError, ProtocolError)
"""What reading a nil, a list, a number or no RESP at all raises where something else was to come.

Whoever reads replies turns these into an error that names the server, where the reply has come in.
"""
