"""By what CLIENT LIST and CLIENT KILL choose connections: parsed once, then held against the fields of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from helios.errors import InvalidInput
from helios.resp.numbers import integer_of

Fields: TypeAlias = Mapping[str, object]
_Test: TypeAlias = Callable[[Fields], bool]
_TYPES = frozenset(("normal", "pubsub", "replica", "slave", "master", "primary"))
_FLAGS = frozenset("OSMPxbtRBdcuAUreTNIi")
_CAPABILITIES = frozenset("r")
_DATABASES = 16  # of a server that nobody has configured
# Options whose value a field must be equal to.
_EQUAL = {"ADDR": "addr", "LADDR": "laddr", "USER": "user", "NAME": "name", "DB": "db"}
_EQUAL |= {"LIB-NAME": "lib-name", "LIB-VER": "lib-ver"}
_AGES = {"MAXAGE": "age", "IDLE": "idle"}
_NEGATED = frozenset((*_EQUAL, "ID", "TYPE", "IP", "FLAGS", "CAPA"))


@dataclass(frozen=True, slots=True)
class ClientFilter:
    """The connections that hold every test, without the caller's own where `skip_me` says so."""

    tests: tuple[_Test, ...]
    skip_me: bool

    def chooses(self, fields: Fields, me: int) -> bool:
        """Whether the connection is one of them."""
        return not (self.skip_me and fields["id"] == me) and all(test(fields) for test in self.tests)


def parse(words: Sequence[str], is_user: Callable[[str], bool], *, skip_me: bool) -> ClientFilter:
    """What the options choose. Raises InvalidInput, in a server's words."""
    tests: list[_Test] = []
    i = 0
    while i < len(words):
        option = words[i].upper()
        name = option.removeprefix("NOT-")
        negated = name != option
        if i + 1 == len(words) or (negated and name not in _NEGATED):
            raise InvalidInput("syntax error")
        if name == "ID":
            ids = _ids(words[i + 1 :])
            tests.append(_holds(_is_one_of(ids), negated=negated))
            i += 1 + len(ids)
            continue
        value = words[i + 1]
        if name == "SKIPME":
            if value.lower() not in ("yes", "no"):
                raise InvalidInput("syntax error")
            skip_me = value.lower() == "yes"
        else:
            tests.append(_holds(_test(name, value, option, is_user), negated=negated))
        i += 2
    return ClientFilter(tuple(tests), skip_me)


def _holds(test: _Test, *, negated: bool) -> _Test:
    return (lambda fields: not test(fields)) if negated else test


def _is_one_of(ids: Sequence[int]) -> _Test:
    return lambda fields: fields["id"] in ids


def _ids(words: Sequence[str]) -> list[int]:
    """The numbers at the beginning, one at least."""
    ids: list[int] = []
    for word in words:
        number = integer_of(word.encode())
        if number is None:
            break
        if number <= 0:
            raise InvalidInput("client-id should be greater than 0")
        ids.append(number)
    if not ids:
        raise InvalidInput("syntax error")
    return ids


def _test(name: str, value: str, option: str, is_user: Callable[[str], bool]) -> _Test:
    if name in _AGES:
        least = _number(value, name.lower())
        if least <= 0:
            raise InvalidInput(f"{name.lower()} should be greater than 0")
        return lambda fields: int(str(fields[_AGES[name]])) >= least
    if name in ("FLAGS", "CAPA"):
        known = _FLAGS if name == "FLAGS" else _CAPABILITIES
        unknown = "".join(letter for letter in value if letter not in known)
        if unknown:
            shown = "provided" if option == name else option
            raise InvalidInput(f"Unknown {name.lower()} found in the {shown} filter: {unknown}")
        return lambda fields: set(value) <= set(str(fields[name.lower()]))
    if name == "TYPE":
        if value.lower() not in _TYPES:
            raise InvalidInput(f"Unknown client type '{value}'")
        return lambda fields: value.lower() == ("pubsub" if "P" in str(fields["flags"]) else "normal")
    if name == "IP":
        return lambda fields: str(fields["addr"]).rpartition(":")[0].strip("[]") == value
    if name not in _EQUAL:
        raise InvalidInput("syntax error")
    if name == "USER" and not is_user(value):
        raise InvalidInput(f"No such user '{value}'")
    if name == "DB" and not 0 <= _number(value, name) < _DATABASES:
        raise InvalidInput(f"DB number should be between 0 and {_DATABASES - 1}")
    return lambda fields: str(fields[_EQUAL[name]]) == value


def _number(text: str, what: str) -> int:
    number = integer_of(text.encode())
    if number is None:
        raise InvalidInput(f"{what} is not an integer or out of range")
    return number
