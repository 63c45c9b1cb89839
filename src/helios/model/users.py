"""Who may use a cluster: names, roles, hashes of passwords, and the keys that a user is limited to."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from helios.errors import InvalidInput
from helios.model.passwords import check_hash

DEFAULT_USER = "default"
"""Who a connection is before it says who it is, where this user exists and has no password."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}\Z")
_FIELDS = frozenset(("role", "password_hash", "keys", "read_from"))
_MAX_USERS = 10_000
_MAX_PATTERNS = 100


class Role(StrEnum):
    """What a user is for. The table of docs/USERS_AND_TLS.md says what each may do."""

    ADMIN = "admin"
    OPERATOR = "operator"
    METRICS = "metrics"
    READ_WRITE = "read-write"
    READ_ONLY = "read-only"

    @property
    def has_keys(self) -> bool:
        """Whether the role is about data, so that patterns can narrow it."""
        return self in (Role.READ_WRITE, Role.READ_ONLY)


class ReadFrom(StrEnum):
    """Who answers what a user reads. A connection can say otherwise, by READONLY and READWRITE."""

    LEADER = "leader"
    REPLICA = "replica"


@dataclass(frozen=True, slots=True)
class User:
    """One user. `password_hash` is empty only for a `default` user that everybody is; no `keys` means every key."""

    name: str
    role: Role
    password_hash: str = field(default="", repr=False)
    keys: tuple[str, ...] = ()
    read_from: ReadFrom = ReadFrom.LEADER

    def still_may(self, before: User) -> bool:
        """Whether this user has the same password as `before` and may do everything that `before` could.

        Patterns are compared as texts: what is narrowed only in appearance counts as narrowed.
        """
        grows = before.role is Role.READ_ONLY and self.role is Role.READ_WRITE
        wider = self.role in (before.role, Role.ADMIN) or grows
        covers = not self.keys or (bool(before.keys) and set(before.keys) <= set(self.keys))
        return self.name == before.name and self.password_hash == before.password_hash and wider and covers


def parse_users(value: object) -> tuple[User, ...]:
    """The users that a settings file (a mapping by name) or a text (the same as JSON) describes, by name.

    Raises InvalidInput, which names the user and never repeats a password or its hash.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value or "{}")
        except ValueError:
            raise InvalidInput("security.users is not JSON: write it in a settings file, or as a JSON object") from None
    if isinstance(value, list | tuple):
        value = _by_name(value)
    if not isinstance(value, Mapping):
        raise InvalidInput("security.users must hold users by name, each with role and password_hash")
    if len(value) > _MAX_USERS:
        raise InvalidInput(f"security.users holds more than {_MAX_USERS} users")
    return tuple(_user(str(name), value[name]) for name in sorted(value, key=str))


def _by_name(users: Iterable[object]) -> dict[str, object]:
    """Users as they were once parsed, or as they were written by a program."""
    found: dict[str, object] = {}
    for each in users:
        if isinstance(each, User):
            found[each.name] = {
                "role": each.role,
                "password_hash": each.password_hash,
                "keys": each.keys or None,
                "read_from": each.read_from,
            }
        elif isinstance(each, Mapping) and isinstance(each.get("name"), str):
            found[each["name"]] = {key: each[key] or None for key in each if key != "name"}
        else:
            raise InvalidInput("security.users must hold users by name, each with role and password_hash")
    return found


def _user(name: str, fields: object) -> User:
    where = f"security.users.{name}"
    if not _NAME.match(name):
        raise InvalidInput(
            f"{where[:90]!r} cannot be: a user's name is up to 64 letters, digits and _ . @ -, and begins with a "
            "letter or digit"
        )
    if not isinstance(fields, Mapping):
        raise InvalidInput(f"{where} needs role and password_hash, indented below the name")
    unknown = sorted(map(str, fields.keys() - _FIELDS))
    if unknown:
        raise InvalidInput(f"{where} has no {unknown[0]!r}: a user has role, password_hash, keys and read_from")
    choices = ", ".join(Role)
    try:
        role = Role(str(fields.get("role", "")))
    except ValueError:
        raise InvalidInput(f"{where}.role must be one of {choices}") from None
    stored = _hash(where, name, fields.get("password_hash") or "")
    return User(name, role, stored, _keys(where, role, fields), _read_from(where, role, fields))


def _hash(where: str, name: str, stored: object) -> str:
    if not stored:
        if name != DEFAULT_USER:
            raise InvalidInput(f"{where} has no password_hash: only {DEFAULT_USER!r} can be without a password")
        return ""
    try:
        check_hash(str(stored))
    except ValueError as error:
        raise InvalidInput(f"{where}.password_hash {error}") from None
    return str(stored)


def _read_from(where: str, role: Role, fields: Mapping[str, object]) -> ReadFrom:
    try:
        chosen = ReadFrom(str(fields.get("read_from") or ReadFrom.LEADER))
    except ValueError:
        raise InvalidInput(f"{where}.read_from must be one of {', '.join(ReadFrom)}") from None
    if chosen is ReadFrom.REPLICA and role in (Role.OPERATOR, Role.METRICS):
        raise InvalidInput(f"{where}.read_from: the role {role} reads no keys")
    return chosen


def _keys(where: str, role: Role, fields: Mapping[str, object]) -> tuple[str, ...]:
    keys = fields.get("keys")
    if keys is None:
        return ()
    patterns = (keys,) if isinstance(keys, str) else keys
    if not isinstance(patterns, list | tuple) or not all(isinstance(each, str) and each for each in patterns):
        raise InvalidInput(f"{where}.keys must be a pattern such as app:* or a list of them")
    if len(patterns) > _MAX_PATTERNS:
        raise InvalidInput(f"{where}.keys has more than {_MAX_PATTERNS} patterns")
    if not patterns:
        raise InvalidInput(f"{where}.keys holds no pattern: leave it out for every key")
    if not role.has_keys:
        raise InvalidInput(f"{where}.keys: keys limit the roles {Role.READ_WRITE} and {Role.READ_ONLY} only")
    return tuple(patterns)
