"""Whether one server can read what another has written, found out without leaving anything behind."""

from __future__ import annotations

from helios.engines.valkey.connection import Command, Connection, ErrorReply, Reply

_MARK = b"\0helios-payload-mark"  # a key that exists inside one MULTI only
# The first byte of a payload is its type. Those above are of servers to come, and may be anything.
_STREAM_TYPES = frozenset((15, 19, 21))
_LAST_KNOWN_TYPE = 25


def is_payload_error(text: str) -> bool:
    """Whether an error reply says that a payload cannot be read."""
    return "payload version or checksum" in text or "Bad data format" in text


def may_be_stream(payload: bytes) -> bool:
    """Whether a payload is a stream's, as far as is known."""
    return payload[0] in _STREAM_TYPES or payload[0] > _LAST_KNOWN_TYPE


async def sample_payload(connection: Connection, timeout_s: float) -> bytes:
    """What DUMP gives for a small value: every payload carries the version of its writer."""
    replies = await _in_one(connection, [("SET", _MARK, b""), ("DUMP", _MARK), ("DEL", _MARK)], timeout_s)
    payload: bytes = replies[1]
    return payload


async def accepts(connection: Connection, payload: bytes, timeout_s: float) -> bool:
    """Whether the server can read a payload."""
    restored, _ = await _in_one(connection, [("RESTORE", _MARK, 0, payload, "REPLACE"), ("DEL", _MARK)], timeout_s)
    if isinstance(restored, ErrorReply) and not is_payload_error(str(restored)):
        raise connection.failure(restored, "RESTORE of a mark")
    return not isinstance(restored, ErrorReply)


async def _in_one(connection: Connection, commands: list[Command], timeout_s: float) -> list[Reply]:
    """The replies to commands that nobody sees one by one."""
    *queued, replies = await connection.execute_many([("MULTI",), *commands, ("EXEC",)], timeout_s=timeout_s)
    for reply in (*queued, replies):
        if isinstance(reply, ErrorReply):
            raise connection.failure(reply, "a trial of its payloads")
    results: list[Reply] = replies
    return results
