"""RESP on the wire: request frames and the bounds of replies. Pure; any chunking gives the same.

Neither the parser nor the splitter decodes values: they find where frames and replies begin and end. What is fed
costs time linear in its length, however it is cut. Both are compiled (`_wire.pyx`); slow and obvious ones, which they
are held against, are in the tests.
"""

from __future__ import annotations

from helios.resp._wire import Buffer, ReplySplitter, RequestParser, encode_command
from helios.resp.inline import split_inline
from helios.resp.limits import Frame, Limits

__all__ = ["Buffer", "Frame", "Limits", "ReplySplitter", "RequestParser", "elements", "encode_command", "split_inline"]


def elements(reply: bytes) -> list[bytes]:
    """The elements of an array, set or push reply, each as it came."""
    line = reply.index(b"\r\n")
    return ReplySplitter().feed(reply[line + 2 :])
