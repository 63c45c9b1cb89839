"""The verbs of administration, each described once: its words, its arguments, and whether asking twice does harm.

The table of commands takes their arity from here, a router parses them by it, a client knows from it which of them it
may repeat, and docs/COMMANDS.md shows their usage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from helios.errors import InvalidInput

LONGEST_WAIT_S = 30.0
"""For so long a node keeps a reply back until there is news."""


@dataclass(frozen=True, slots=True)
class Option:
    """A word that may follow a verb's arguments; with `shown`, a value follows it."""

    word: str
    parameter: str
    shown: str = ""

    @property
    def usage(self) -> str:
        """As a usage text has it."""
        return f"{self.word} {self.shown}".rstrip()


@dataclass(frozen=True, slots=True)
class Verb:
    """One verb: `method` is the AdminService's, `arguments` are shown as a usage text has them, those in [] optional.

    Of `options`, those in one group exclude each other. `repeatable` says that asking twice does no harm.
    """

    name: str
    method: str
    arguments: str = ""
    options: tuple[tuple[Option, ...], ...] = ()
    repeatable: bool = False
    noted: bool = False  # remembered together with who has sent it

    @property
    def usage(self) -> str:
        """How it is written."""
        groups = " ".join(f"[{' | '.join(option.usage for option in group)}]" for group in self.options)
        arguments = f"{self.arguments} {groups}".strip()
        if groups and self.arguments.endswith("]"):  # no option without the argument before it
            arguments = f"{self.arguments[:-1]} {groups}]"
        return f"{self.name.upper()} {arguments}".rstrip()

    @property
    def arity(self) -> int:
        """How many words it has, itself included; negative where more may follow."""
        least = 1 + self._required
        return least if not self.options and "[" not in self.arguments else -least

    @property
    def _required(self) -> int:
        return sum(not shown.startswith("[") for shown in self.arguments.split())

    def parse(self, words: Sequence[str]) -> tuple[list[Any], dict[str, Any]]:
        """The method's arguments from the words behind the verb: by position, and by name. Raises InvalidInput."""
        if len(words) < self._required:
            raise InvalidInput(f"write {self.usage}")
        shown = self.arguments.split()
        given = [self._value(name.strip("[]"), word) for name, word in zip(shown, words, strict=False)]
        options = {option.word: option for group in self.options for option in group}
        named: dict[str, Any] = {}
        rest = list(words[len(given) :])
        while rest:
            word = rest.pop(0)
            option = options.get(word.upper())
            if option is None:
                raise InvalidInput(f"{word!r} is no option of {self.name.upper()}: {self.usage}")
            if option.shown and not rest:
                raise InvalidInput(f"{option.word} needs a value: {self.usage}")
            named[option.parameter] = self._value(option.word, rest.pop(0)) if option.shown else True
        return given, named

    def _value(self, name: str, text: str) -> Any:
        read = _READERS.get(name)
        try:
            return text if read is None else read(text)
        except ValueError:
            raise InvalidInput(f"{text!r} is not a number: {self.usage}") from None


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidInput(f"{text!r} is not a weight: use a number such as 1 or 0.5") from None


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds <= LONGEST_WAIT_S:
        raise InvalidInput(f"{text!r} is no time to wait: use a number of seconds from 0 to {LONGEST_WAIT_S:g}")
    return seconds


def _count(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(text)
    return int(text)


_READERS: dict[str, Callable[[str], object]] = {
    "WEIGHT": _weight,
    "WAIT": _seconds,
    "COUNT": _count,
    "OFFSET": _count,
    "NUMBER": _count,
}

_WEIGHT = (Option("WEIGHT", "weight", "w"),)
_ZONE = (Option("ZONE", "zone", "z"),)
_IMPORT, _FLUSH, _ADOPT = Option("IMPORT", "import_keys"), Option("FLUSH", "flush"), Option("ADOPT", "adopt")
_HOW = (
    (Option("STRATEGY", "strategy", "minimize_movement|uniform"),),
    (Option("BY", "by", "keys|bytes|ops"),),
)
_WAIT = ((Option("WAIT", "wait_s", "seconds"),),)
_REPAIR = ((Option("REPAIR", "repair"),),)
_LOSS = ((Option("ACCEPT-LOSS", "accept_loss"),),)
_VERIFY = ((Option("VERIFY", "verify"),),)

_VERBS = (
    Verb("addnode", "add_node", "ID ADDRESS", (_WEIGHT, _ZONE, (_IMPORT, _FLUSH, _ADOPT))),
    Verb("removenode", "remove_node", "ID"),
    Verb("listnodes", "list_nodes", repeatable=True),
    Verb("listshards", "list_shards", repeatable=True),
    Verb("nodeforkey", "node_for_key", "KEY", repeatable=True),
    Verb("migrate", "migrate", "SOURCE TARGET [PATTERN]", _VERIFY),
    Verb("migrationstatus", "migration", "ID", repeatable=True),
    Verb("clusterstats", "stats", repeatable=True),
    Verb("rebalance", "rebalance", options=_HOW),
    Verb("balance", "balance", options=_HOW, repeatable=True),
    Verb("history", "history", "[COUNT]", repeatable=True),
    Verb("reweight", "reweight", "ID WEIGHT"),
    Verb("drain", "drain", "ID"),
    Verb("undrain", "undrain", "ID"),
    Verb("promote", "promote", "SHARD NODE", _LOSS),
    Verb("activemigrations", "active_migrations", repeatable=True),
    Verb("allmigrations", "migrations", repeatable=True),
    Verb("cancelmigration", "cancel_migration", "ID"),
    Verb("cleanupmigrations", "cleanup_migrations"),
    Verb("pausemigration", "pause_migration", "ID", repeatable=True),
    Verb("resumemigration", "resume_migration", "ID", repeatable=True),
    Verb("changestatus", "change", "ID", _WAIT, repeatable=True),
    Verb("listrules", "rules", repeatable=True),
    Verb("placement", "placement", repeatable=True),
    Verb("routers", "routers", repeatable=True),
    Verb("slowcommands", "slow_commands", "[COUNT]", repeatable=True),
    Verb("check", "check", options=_REPAIR, repeatable=True),
    Verb("backup", "backup"),
    Verb("backupread", "read_backup", "ID SHARD OFFSET", repeatable=True),
    Verb("backupend", "end_backup", "ID", repeatable=True),
    Verb("restoreusers", "restore_users", "USERS", repeatable=True),
    Verb("settings", "settings", repeatable=True),
    Verb("setting", "setting", "NAME [VALUE]", repeatable=True),
    Verb("settinghistory", "setting_history", repeatable=True),
    Verb("settingrollback", "roll_back_settings", "[NUMBER]", noted=True),
    Verb("preview", "preview", "VERB [ARGUMENTS]", repeatable=True),
)
VERBS = {verb.name: verb for verb in _VERBS}

_PREVIEWS = (
    Verb("preview addnode", "preview_add_node", "ID ADDRESS", (_WEIGHT, (_IMPORT, _FLUSH))),
    Verb("preview removenode", "preview_remove_node", "ID"),
    Verb("preview migrate", "preview_migrate", "SOURCE TARGET [PATTERN]"),
    Verb("preview rebalance", "preview_rebalance", options=_HOW),
    Verb("preview reweight", "preview_reweight", "ID WEIGHT"),
    Verb("preview drain", "preview_drain", "ID"),
    Verb("preview undrain", "preview_undrain", "ID"),
)
_PREVIEW_OF = {verb.name.removeprefix("preview "): verb for verb in _PREVIEWS}


def preview_of(name: str) -> Verb:
    """What PREVIEW carries out for the verb that follows it. Raises InvalidInput."""
    try:
        return _PREVIEW_OF[name.lower()]
    except KeyError:
        raise InvalidInput(f"write {', '.join(verb.usage for verb in _PREVIEWS)}") from None
