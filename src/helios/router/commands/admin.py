"""The cluster's administration as commands: ADDNODE, MIGRATE, CLUSTERSTATS and the rest.

Replies are maps of the fields that the views have (RESP2: fields and values in turn); errors carry the code of
the HeliosError.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from helios.access.request_context import asked_by, noted
from helios.admin.service import AdminService
from helios.errors import InvalidInput
from helios.model.verbs import VERBS, preview_of
from helios.resp.encoding import encode, error_reply
from helios.router.context import RouterContext
from helios.router.frontend.caller import DONE, WAIT_REPLY, Caller


def run(router: RouterContext, caller: Caller, verb: str, argv: list[bytes]) -> int:
    """Carry out a verb; the caller waits for its reply."""
    if verb == "migrate" and (len(argv) > 5 or (len(argv) == 5 and argv[4].upper() != b"VERIFY")):
        caller.answer(
            error_reply(
                "ERR 'MIGRATE host port key ...' of the servers is refused: it blocks servers and can bring deleted "
                "keys back; use MIGRATE SOURCE TARGET [PATTERN [VERIFY]] to move keys between shards"
            )
        )
        return DONE
    router.spawn(caller, _as_its_user(router.admin, caller, verb, argv))
    return WAIT_REPLY


async def _as_its_user(admin: AdminService, caller: Caller, verb: str, argv: list[bytes]) -> bytes:
    with asked_by(caller.identity):
        host = caller.address.rpartition(":")[0]  # its port says nothing of who it is
        by = noted(verb.upper(), host or "this process")
        return await _reply(admin, caller.protocol, verb, argv, by)


async def _reply(admin: AdminService, protocol: int, name: str, argv: list[bytes], by: str) -> bytes:
    if name == "nodeforkey":
        return encode(_plain(await admin.node_for_key(argv[1])), protocol)
    try:
        words = [word.decode() for word in argv[1:]]
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the arguments of {name.upper()} must be UTF-8: {error}") from error
    verb = VERBS[name]
    if name == "preview":
        verb = preview_of(words.pop(0))
    given, named = verb.parse(words)
    if name == "setting" and len(given) == 2:
        return encode(_plain(await admin.change_setting(*given, by=by)), protocol)
    if verb.noted:
        named["by"] = by
    return encode(_plain(await getattr(admin, verb.method)(*given, **named)), protocol)


def _plain(value: Any) -> Any:
    """Views as mappings, in lists too."""
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return value
