"""What a user may do: one decision for every command, from the table of commands. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from itertools import filterfalse

from helios.errors import InvalidInput
from helios.model.users import Role, User
from helios.placement.glob import globs_of
from helios.resp.commands import TABLE, Command, How, find, find_subcommand, key_positions
from helios.resp.keys import Malformed

NOAUTH = "Authentication required."
HIDDEN = "(hidden)"


class Need(StrEnum):
    """What a command needs of who gives it."""

    LOGIN = "login"  # nothing: these come before it
    ANY = "any"  # any user
    READ = "read"
    WRITE = "write"
    METRICS = "metrics"  # to read figures of the cluster
    CLUSTER = "cluster"  # to see or change how the cluster is
    ALL = "all"  # everything: what nobody has thought about


# The matrix. Who may do ALL may do whatever there is.
GRANTS: dict[Role, frozenset[Need]] = {
    Role.ADMIN: frozenset(Need),
    Role.OPERATOR: frozenset((Need.LOGIN, Need.ANY, Need.METRICS, Need.CLUSTER)),
    Role.METRICS: frozenset((Need.LOGIN, Need.ANY, Need.METRICS)),
    Role.READ_WRITE: frozenset((Need.LOGIN, Need.ANY, Need.READ, Need.WRITE)),
    Role.READ_ONLY: frozenset((Need.LOGIN, Need.ANY, Need.READ)),
}


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Commands with keys are told apart by the servers' own flag; all others, and a few with keys, by name.
_BY_NAME: dict[Need, frozenset[str]] = {
    Need.LOGIN: _names("auth hello quit reset"),
    Need.ANY: _names("""acl|cat acl|genpass acl|whoami client|caching client|capa client|getname client|getredir
        client|id client|info client|maint_notifications
        client|no-evict client|no-touch client|reply client|setinfo client|setname client|trackinginfo
        discard echo exec info lolwut readonly readwrite
        module|list multi ping punsubscribe role select sunsubscribe time unsubscribe unwatch wait waitaof
        client command command|count command|docs command|getkeys command|getkeysandflags command|info command|list
        config function latency memory object pubsub script slowlog commandlog xgroup xinfo"""),
    Need.READ: _names("""client|tracking dbsize function|dump function|list function|stats keys psubscribe
        pubsub|channels pubsub|numpat pubsub|numsub pubsub|shardchannels pubsub|shardnumsub randomkey scan
        script|exists script|load script|show ssubscribe subscribe watch"""),
    Need.WRITE: _names("""flushall flushdb function|delete function|flush function|kill function|load function|restore
        publish script|debug script|flush script|kill"""),
    Need.CLUSTER: _names("""acl|users client|kill client|list client|unblock commandlog|get commandlog|len
        commandlog|reset config|get config|resetstat config|set lastsave latency|doctor
        latency|graph latency|histogram latency|history latency|latest latency|reset
        memory|doctor memory|malloc-stats memory|purge memory|stats slowlog|get slowlog|len
        slowlog|reset"""),
}
_NEED_OF_NAME = {name: need for need, names in _BY_NAME.items() for name in names}

# Those whose effect or answer no pattern can narrow: a script, for one, can touch keys that it does not declare.
_WHOLE = _names("""flushall flushdb pubsub|channels pubsub|shardchannels randomkey
    eval eval_ro evalsha evalsha_ro fcall fcall_ro
    function|delete function|dump function|flush function|kill function|list function|load function|restore
    function|stats script|debug script|flush script|kill script|load script|show""")

# Channels are matched against the patterns as keys are. The table of commands has no positions for these.
_CHANNELS = {"subscribe": slice(1, None), "publish": slice(1, 2)}
_CHANNELS |= dict.fromkeys(("pubsub|numsub", "pubsub|shardnumsub"), slice(2, None))
_LONGEST_SHOWN = 128


def need_of(command: Command) -> Need:
    """What a row of the table needs."""
    named = _NEED_OF_NAME.get(command.name)
    if named is not None:
        return named
    if command.how is How.REFUSED or command.name.endswith("|help"):
        return Need.ANY  # nobody carries it out, or it says what everybody may know
    if command.how is How.VERB:
        return Need.CLUSTER
    if not command.notation:
        return Need.ALL
    return Need.WRITE if command.writes else Need.READ


_NEEDS = {command.name: need_of(command) for command in TABLE.values()}


class Rights:
    """What one user may do. Unlimited users have none of these: they are not asked at all."""

    def __init__(self, user: User) -> None:
        self.user = user
        self._granted = GRANTS[user.role]
        self._globs = globs_of(user.keys)
        self._shown = f"user {user.name!r}"

    @property
    def by_fast_path(self) -> bool:
        """Whether every well-formed command with one key may be sent without a look at it."""
        return not self._globs and self._granted >= {Need.READ, Need.WRITE}

    @property
    def sees_all(self) -> bool:
        """Whether there are no patterns, so that lists of keys need no filter."""
        return not self._globs

    def has(self, need: Need) -> bool:
        """Whether the role grants this, whatever the keys."""
        return need in self._granted

    def sees(self, key: bytes) -> bool:
        """Whether a key is the user's."""
        return not self._globs or any(glob.match(key) for glob in self._globs)

    def refusal(self, argv: Sequence[bytes]) -> str | None:
        """The error that a command is answered with; None where the user may give it.

        None as well for what no command is: that has an error of its own.
        """
        command = _named(argv)
        if command is None:
            return None
        if _NEEDS[command.name] not in self._granted:
            return f"NOPERM {self._shown} with the role {self.user.role} may not run '{_spelt(command)}'"
        return self._of_keys(command, argv) if self._globs else None

    def _of_keys(self, command: Command, argv: Sequence[bytes]) -> str | None:
        if command.name in _WHOLE or _looks_elsewhere(command, argv):
            return f"NOPERM {self._shown} has keys by pattern only, and '{_spelt(command)}' may concern others"
        if command.how is How.REFUSED or _NEEDS[command.name] not in (Need.READ, Need.WRITE):
            return None
        if command.name == "psubscribe":
            denied = next((word for word in argv[1:] if word.decode("utf-8", "replace") not in self.user.keys), None)
            return None if denied is None else f"NOPERM {self._shown} may subscribe to the patterns of its keys alone"
        if not command.fits(len(argv)):
            return f"ERR wrong number of arguments for '{command.name}' command"
        try:
            positions = key_positions(command, argv)
        except Malformed:
            return None  # no server carries it out
        except InvalidInput as error:
            return f"ERR {error}"
        keys = [argv[position] for position in positions] or argv[_CHANNELS.get(command.name, slice(0, 0))]
        # Glob by glob, not key by key: a million keys are looked at without a step in Python for each.
        unseen: Iterable[bytes] = keys
        for glob in self._globs:
            unseen = filterfalse(glob.match, unseen)
        denied = next(iter(unseen), None)
        if denied is None:
            return None
        what = "channel" if command.name in _CHANNELS or "pubsub" in command.flags else "key"
        return f"NOPERM {self._shown} may not use the {what} '{_printable(denied)}' in '{_spelt(command)}'"


class Nobody(Rights):
    """A connection that has not said who it is."""

    def __init__(self, reason: str = NOAUTH) -> None:
        super().__init__(User("", Role.READ_ONLY))
        self.reason = reason
        self._granted = frozenset((Need.LOGIN,))

    def refusal(self, argv: Sequence[bytes]) -> str | None:
        """The same for all commands but those that come before a login."""
        command = _named(argv)
        return None if command is None or _NEEDS[command.name] is Need.LOGIN else f"NOAUTH {self.reason}"


def without_arguments(argv: Sequence[bytes]) -> list[bytes]:
    """The name of a command alone, for who may not read keys and values."""
    command = find(argv[0])
    if command is None:
        return [HIDDEN.encode()]
    shown = 2 if command.container and len(argv) > 1 and find_subcommand(command, argv[1]) else 1
    return [*argv[:shown], HIDDEN.encode()]


def _named(argv: Sequence[bytes]) -> Command | None:
    """The row of the table that the arguments name, a subcommand's where there is one."""
    command = find(argv[0])
    if command is not None and command.container and len(argv) > 1:
        return find_subcommand(command, argv[1]) or command
    return command


def _looks_elsewhere(command: Command, argv: Sequence[bytes]) -> bool:
    """Whether a SORT reads keys that are made of the elements."""
    if command.name not in ("sort", "sort_ro"):
        return False
    return any(argv[i].upper() in (b"BY", b"GET") and b"*" in argv[i + 1] for i in range(2, len(argv) - 1))


def _spelt(command: Command) -> str:
    return command.name.replace("|", " ").upper()


def _printable(key: bytes) -> str:
    text = key[:_LONGEST_SHOWN].decode("utf-8", "backslashreplace")
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return shown + ("…" if len(key) > _LONGEST_SHOWN else "")
