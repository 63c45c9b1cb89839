"""What a client does by scripts and functions: also such as write keys that they do not declare."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

from tests.simulation.asking import Asked, Asker
from tests.simulation.data import Fault
from tests.simulation.history import Command, Impossible, KeyHistory
from tests.simulation.library import ABSENT
from tests.simulation.scripts import APPEND_SCRIPT, LIBRARY, NO_FUNCTION, UNDECLARED_SCRIPT, code, sha_of

_MADE_UP = 3  # names that scripts of a client make up
_IN_MULTI = 0.3  # how often a script is called in a transaction
_NOT_DONE = Fault(b"EXECABORT the connection watched a key for another command")


class Scripting:
    """One client that calls scripts; a single one loads the library of functions."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker
        self._random = asker.random
        self._world = asker.world
        self._transactions = Random(f"{asker.world.seed}/transactions of {asker.name}")

    async def load(self) -> None:
        """Give every shard a newer library, or none."""
        library = self._world.judges.library
        deletes = library.last != ABSENT and self._random.random() < 0.2
        version = ABSENT if deletes else library.last + 1
        words = [b"DELETE", LIBRARY] if deletes else [b"LOAD", b"REPLACE", code(version)]
        before = library.open
        library.asked(version, self._world.now_ms())
        asked = await self._asker.ask([b"FUNCTION", *words])
        if asked.unknown:
            return
        if isinstance(asked.last, Fault):
            library.not_done(asked.end_ms, before=before)
        else:
            library.done(version, asked.end_ms, before=before)

    async def remember(self) -> None:
        """Have every router know a script by its name."""
        await self._asker.ask([b"SCRIPT", b"LOAD", APPEND_SCRIPT])

    async def append(self, history: KeyHistory) -> None:
        """Append to a key of one's own by a script or a function."""
        token = self._asker.token()
        [how] = self._random.choices(("EVAL", "EVALSHA", "FCALL"), (1, 2, 3))
        body = {"EVAL": APPEND_SCRIPT, "EVALSHA": sha_of(APPEND_SCRIPT), "FCALL": b"append"}[how]
        asked = await self._call(how.encode(), body, b"1", history.key, token)
        command = Command("APPEND", token)
        if asked.unknown:
            history.unanswered(command, asked.begin_ms, asked.end_ms)
        elif asked.refused:
            history.refused(command, asked.last.decode(), asked.end_ms)
        elif how == "FCALL":
            answer = self._of_function(asked)
            if answer is not NO_FUNCTION:
                history.answered(command, answer, asked.begin_ms, asked.end_ms)
        elif not _unknown_script(asked):
            history.answered(command, asked.last, asked.begin_ms, asked.end_ms)

    async def undeclared(self, declared: KeyHistory, other: KeyHistory) -> None:
        """Have a script write a key that it does not declare: one that nobody else uses, or one of one's own."""
        token = self._asker.token()
        judges = self._world.judges
        made_up = self._random.random() < 0.7
        key = b"made:%d:%d" % (self._asker.number, self._random.randrange(_MADE_UP)) if made_up else other.key
        if made_up:
            judges.made_up.setdefault(key, set()).add(token)
        name, body = self._random.choice(((b"EVAL", UNDECLARED_SCRIPT), (b"FCALL", b"undeclared")))
        asked = await self._call(name, body, b"1", declared.key, key, token)
        answer = asked.last
        if not (asked.unknown or asked.refused) and name == b"FCALL":
            answer = self._of_function(asked)
        written = not asked.refused and answer is not NO_FUNCTION
        if written and not made_up:
            # Where it does not belong, a repair may bring it, or the move of which that server is the target.
            other.unanswered(Command("SET", token), asked.begin_ms, asked.end_ms)
        if written and not asked.unknown and declared is not other:
            declared.answered(Command("GET"), answer, asked.begin_ms, asked.end_ms)

    async def _call(self, *words: bytes) -> Asked:
        """Call a script: alone, or as all that a transaction has."""
        if self._transactions.random() >= _IN_MULTI:
            return await self._asker.ask([*words])
        asked = await self._asker.ask([b"MULTI"], [*words], [b"EXEC"])
        if asked.last is None:
            return replace(asked, answers=[_NOT_DONE])
        return replace(asked, answers=asked.last) if isinstance(asked.last, list) else asked

    async def read(self, key: bytes) -> None:
        """Read a key that scripts have made up."""
        asked = await self._asker.ask([b"GET", key])
        if not (asked.unknown or asked.refused):
            self._world.judges.check_made_up(key, asked.last)

    def _of_function(self, asked: Asked) -> Any:
        """What the function answered beside its version."""
        library = self._world.judges.library
        if asked.last == NO_FUNCTION:
            library.called(ABSENT, asked.begin_ms, asked.end_ms)
            return NO_FUNCTION
        if not isinstance(asked.last, list):
            raise Impossible(f"a function was answered {asked.last!r}")
        library.called(int(asked.last[0]), asked.begin_ms, asked.end_ms)
        return asked.last[1]


def _unknown_script(asked: Asked) -> bool:
    """Whether nothing was done, as no server knew the script by its name."""
    return isinstance(asked.last, Fault) and asked.last.startswith(b"NOSCRIPT")
