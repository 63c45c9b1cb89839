"""What a client has asked for by CLIENT TRACKING, and where it stands. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from helios.errors import InvalidInput
from helios.resp.numbers import integer_of

MAX_PREFIXES = 256  # of one client: each is compared with all others, and with keys that change
_ANEW = "before disabling tracking for this client, and then re-enabling it with a different mode."


@dataclass(frozen=True, slots=True)
class Wish:
    """The options of CLIENT TRACKING ON: by default a client hears of the keys that it has read."""

    redirect: int = 0  # the id of the client that is told in its place; 0: it is told itself
    bcast: bool = False  # it hears of every key that begins with one of `prefixes`, read or not
    optin: bool = False  # a key that it reads counts only where CLIENT CACHING YES came before
    optout: bool = False  # or unless CLIENT CACHING NO did
    noloop: bool = False  # it does not hear of what it changes itself
    prefixes: tuple[bytes, ...] = ()

    @classmethod
    def parse(cls, words: Sequence[bytes]) -> Wish:
        """What the options ask for. Raises InvalidInput, in a server's words."""
        wish = cls()
        modes: dict[str, bool] = {}
        i = 0
        while i < len(words):
            option = words[i].upper()
            if option == b"REDIRECT" and i + 1 < len(words):
                if wish.redirect:
                    raise InvalidInput("A client can only redirect to a single other client")
                number = integer_of(words[i + 1])
                if number is None:
                    raise InvalidInput("value is not an integer or out of range")
                wish = replace(wish, redirect=number)
                i += 1
            elif option == b"PREFIX" and i + 1 < len(words):
                wish = replace(wish, prefixes=(*wish.prefixes, words[i + 1]))
                i += 1
                if len(wish.prefixes) > MAX_PREFIXES:
                    raise InvalidInput(f"a client may have {MAX_PREFIXES} prefixes")
            elif option in (b"BCAST", b"OPTIN", b"OPTOUT", b"NOLOOP"):
                modes[option.decode().lower()] = True
            else:
                raise InvalidInput("syntax error")
            i += 1
        return cls(wish.redirect, prefixes=wish.prefixes, **modes)

    def after(self, before: Wish | None) -> Wish:
        """What a client that has wished `before` gets now. Raises InvalidInput, in a server's words."""
        if self.prefixes and not self.bcast:
            raise InvalidInput("PREFIX option requires BCAST mode to be enabled")
        if before is not None and before.bcast is not self.bcast:
            raise InvalidInput(f"You can't switch BCAST mode on/off {_ANEW}")
        if self.bcast and (self.optin or self.optout):
            raise InvalidInput("OPTIN and OPTOUT are not compatible with BCAST")
        if self.optin and self.optout:
            raise InvalidInput("You can't specify both OPTIN mode and OPTOUT mode")
        if before is not None and ((self.optin and before.optout) or (self.optout and before.optin)):
            raise InvalidInput(f"You can't switch OPTIN/OPTOUT mode {_ANEW}")
        if not self.bcast:
            return self
        return replace(self, prefixes=self._together(() if before is None else before.prefixes))

    def _together(self, existing: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """The earlier prefixes and those that come now, of which none may begin another."""
        for i, prefix in enumerate(self.prefixes):
            for known, whose in ((existing, "an existing"), (self.prefixes[i + 1 :], "another provided")):
                for other in known:
                    if prefix.startswith(other) or other.startswith(prefix):
                        raise InvalidInput(
                            f"Prefix '{_shown(prefix)}' overlaps with {whose} prefix '{_shown(other)}'. "
                            "Prefixes for a single client must not overlap."
                        )
        together = tuple(dict.fromkeys((*existing, *(self.prefixes or (b"",)))))
        if len(together) > MAX_PREFIXES:
            raise InvalidInput(f"a client may have {MAX_PREFIXES} prefixes")
        return together


def _shown(prefix: bytes) -> str:
    return prefix[:128].decode("utf-8", "backslashreplace")


class OwnWrites:
    """A client's own changes that it is not to hear of, from when they are sent until their servers have named them.

    Servers name keys, not clients. While a change of the client's is on its way, one naming of the key may be of that;
    if it turns out that the client has changed nothing, it was of another's, and the client must be told after all.
    """

    def __init__(self) -> None:
        self._sent: Counter[bytes] = Counter()
        self._heard: Counter[bytes] = Counter()

    def __len__(self) -> int:
        return len(self._sent)

    def sent(self, key: bytes) -> None:
        """The client's change of a key is on its way."""
        self._sent[key] += 1

    def heard(self, key: bytes) -> bool:
        """A server has named the key: whether that may be of the client's own change, of which it is not told."""
        if self._heard.get(key, 0) >= self._sent.get(key, 0):
            return False
        self._heard[key] += 1
        return True

    def settled(self, key: bytes, *, changed: bool) -> bool:
        """What the server says of the change has been read: whether the client must be told of another's after all."""
        left = self._sent[key] - 1
        heard = self._heard[key]
        owed = not changed and heard > left
        self._keep(self._sent, key, left)
        self._keep(self._heard, key, max(heard - 1, 0) if changed else min(heard, left))
        return owed

    @staticmethod
    def _keep(counts: Counter[bytes], key: bytes, count: int) -> None:
        if count:
            counts[key] = count
        else:
            counts.pop(key, None)


class Tracking:
    """A client that caches what it reads."""

    def __init__(self, wish: Wish) -> None:
        self.wish = wish
        self.caching = False  # by CLIENT CACHING: the next command is the exception that OPTIN and OPTOUT speak of
        self.broken = False  # who is to be told in its place has gone
        self.empty = True  # it has read nothing since it began, or since it was told that anything may have changed
        self.own = OwnWrites()  # of a client that does not want to hear of them
        # Of the commands in its transaction, the keys, and whether they are written.
        self.queued: list[tuple[Sequence[bytes], bool]] = []

    @property
    def remembers(self) -> bool:
        """Whether what its next command reads counts as cached."""
        wish = self.wish
        if wish.bcast:
            return False
        return self.caching if wish.optin else not (wish.optout and self.caching)

    @property
    def letters(self) -> str:
        """Its flags in CLIENT LIST."""
        return "t" + "R" * self.broken + "B" * self.wish.bcast

    def flags(self) -> Iterator[str]:
        """Its flags in CLIENT TRACKINGINFO."""
        wish = self.wish
        yield "on"
        if wish.bcast:
            yield "bcast"
        if wish.optin:
            yield "optin"
            if self.caching:
                yield "caching-yes"
        if wish.optout:
            yield "optout"
            if self.caching:
                yield "caching-no"
        if wish.noloop:
            yield "noloop"
        if self.broken:
            yield "broken_redirect"
