"""The table of commands: arity, key positions, flags, and how Helios treats each of them.

What the servers say is in facts.py; what Helios makes of it is decided here. A command with keys is
forwarded unless it is named below; one without keys has to be named (a test sees to that).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

from helios.errors import InvalidInput
from helios.model.verbs import VERBS
from helios.resp.facts import FACTS
from helios.resp.keys import KeyPositions, compile_keys, key_range, one_position


class How(StrEnum):
    """Who carries a command out."""

    FORWARD = "forward"  # the shard that owns all its keys
    SPLIT = "split"  # each owner its part; the replies are put together
    BLOCKING = "blocking"  # the same shard, over a connection of its own, since it may wait
    ANYWHERE = "anywhere"  # any shard: it touches no key
    ROUTER = "router"  # the router itself, which may ask the shards
    VERB = "verb"  # the cluster's administration
    REFUSED = "refused"  # nobody: it would harm the cluster or cannot mean anything here


@dataclass(frozen=True, slots=True)
class Command:
    """One row of the table. `name` is in lower case, a subcommand's as `object|encoding`.

    `reason` is the sentence that a refused command is answered with.
    `one_key` is the position of the only key (0: none or several); `keys` finds all of them.
    `key_range` is the first key, the last one and the step between, as COMMAND gives them. `arity` counts
    the name; a negative one is a minimum.
    """

    name: str
    arity: int
    flags: frozenset[str]
    how: How
    notation: str
    keys: KeyPositions
    key_range: tuple[int, int, int] = (0, 0, 0)
    one_key: int = 0
    container: bool = False
    reason: str = ""

    @property
    def writes(self) -> bool:
        """Whether it may change a key. Scripts carry neither flag and count as writing."""
        return "readonly" not in self.flags

    def fits(self, count: int) -> bool:
        """Whether `count` arguments, the name included, can be right."""
        return count == self.arity if self.arity >= 0 else count >= -self.arity


@cache  # many commands have the same flags, and have them for good
def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SPLIT = frozenset(("mget", "mset", "del", "unlink", "exists", "touch"))
_ANYWHERE = _names("""acl|cat acl|genpass command|getkeys command|getkeysandflags lolwut
    object|help xinfo|help xgroup|help""")
_ROUTER = _names("""ping echo hello auth quit readonly readwrite reset select time info dbsize scan keys randomkey
    flushall flushdb
    acl|whoami acl|users lastsave role module|list
    command command|count command|info command|docs command|list command|help acl|help module|help
    client|capa client|id client|setname client|getname client|setinfo client|info client|list client|no-evict
    client|no-touch client|kill client|unblock client|reply client|tracking client|trackinginfo
    client|getredir client|caching
    client|help config|help memory|doctor memory|malloc-stats memory|purge memory|help wait
    slowlog|get slowlog|len slowlog|reset slowlog|help
    latency|doctor latency|graph latency|help latency|histogram latency|history latency|latest latency|reset
    config|get config|resetstat config|set multi exec discard watch unwatch
    script|load script|exists script|flush script|show script|kill
    function|load function|delete function|flush function|restore function|list function|dump function|stats
    function|kill function|help script|help pubsub|help
    subscribe unsubscribe psubscribe punsubscribe ssubscribe sunsubscribe publish spublish
    pubsub|channels pubsub|numsub pubsub|numpat pubsub|shardchannels pubsub|shardnumsub""")
# What the servers do not know and clients ask for.
_BEYOND = (("client|maint_notifications", -3, "noscript"),)
_BLOCKING = _names("blmove blmpop blpop brpop brpoplpush bzmpop bzpopmax bzpopmin xread xreadgroup")

NO_DATABASES = "Helios has one database, number 0"
_OWN = "the servers behind Helios are administered by Helios"
# Clients that probe for a cluster know these words.
_CLUSTER = "This instance has cluster support disabled: Helios is used as one single server"
_DEBUG = "it can stall or crash a server that others are using"

_REFUSED: dict[str, str] = {
    "acl": _OWN,
    "asking": _CLUSTER,
    "bgrewriteaof": _OWN,
    "bgsave": _OWN,
    "cluster": _CLUSTER,
    "clusterscan": _CLUSTER,
    "commandlog": "SLOWLOG has the commands that took long; requests and replies of unusual size are not logged",
    "config|rewrite": _OWN,
    "debug": _DEBUG,
    "failover": _OWN,
    "memory|stats": "its figures are those of one server; INFO and CLUSTERSTATS speak of the cluster",
    "module": _OWN,
    "monitor": "it would show every client's data and slow the servers down",
    "move": NO_DATABASES,
    "pfdebug": _DEBUG,
    "pfselftest": _DEBUG,
    "psync": _OWN,
    "replconf": _OWN,
    "replicaof": _OWN,
    "restore-asking": _CLUSTER,
    "save": _OWN,
    "script|debug": "it would stop a server that others are using",
    "shutdown": "stop the process that runs the cluster instead",
    "slaveof": _OWN,
    "swapdb": NO_DATABASES,
    "sync": _OWN,
    "waitaof": "what a client writes goes over connections that others share; atlas.aof_fsync says when it is on disk",
    "client|import-source": _OWN,
    "client|pause": "it would stop every client of the server",
    "client|unpause": "it would start every client of the server",
}

_TREATED = (
    (_SPLIT, How.SPLIT),
    (_BLOCKING, How.BLOCKING),
    (_ROUTER, How.ROUTER),
    (_ANYWHERE, How.ANYWHERE),
)


def _treatment(name: str, notation: str) -> tuple[How, str]:
    """How a server's command is treated, and why if it is refused."""
    container = name.partition("|")[0]
    for known in (name, container):
        if known in _REFUSED:
            reason = _REFUSED[known]
            shown = name.replace("|", " ").upper()
            return How.REFUSED, reason if reason is _CLUSTER else f"'{shown}' is refused: {reason}"
        for names, how in _TREATED:
            if known in names:
                return how, ""
    if notation:
        return How.FORWARD, ""
    raise ValueError(f"the table does not say how {name} is treated")


def _build() -> dict[str, Command]:
    containers = {name.partition("|")[0] for name, *_ in FACTS if "|" in name}
    table: dict[str, Command] = {}
    for name, arity, flags, notation in FACTS:
        if name == "migrate":
            continue  # The word is the cluster's verb; the server's form of it is refused in the verb.
        # A container that decides nothing itself leaves it to its subcommands; COMMAND alone is a command.
        decides = name not in containers or name in _ROUTER or name in _REFUSED
        how, reason = _treatment(name, notation) if decides else (How.ROUTER, "")
        table[name] = Command(
            name=name,
            arity=arity,
            flags=_names(flags),
            how=how,
            notation=notation,
            keys=compile_keys(notation),
            key_range=key_range(notation),
            one_key=one_position(notation) if how is How.FORWARD and name not in _GUARDED | ELEMENT_SCANS else 0,
            container=name in containers,
            reason=reason,
        )
    for name, arity, flags in _BEYOND:
        table[name] = Command(name, arity, _names(flags), How.ROUTER, "", compile_keys(""))
    for name, verb in VERBS.items():
        table[name] = Command(name, verb.arity, _names("admin"), How.VERB, "", compile_keys(""))
    return table


# Their cursors are a server's own: the router has to put the server into them, since keys move.
ELEMENT_SCANS = frozenset(("hscan", "sscan", "zscan"))
# While one runs, its server answers nobody.
SCRIPTS = _names("eval eval_ro evalsha evalsha_ro fcall fcall_ro")
# On keys that do not exist they change nothing, and there is more to them than keys.
HARMLESS_WITHOUT_KEYS = _names("""bitop blmove blmpop blpop brpop brpoplpush bzmpop bzpopmax bzpopmin copy georadius
    georadiusbymember geosearchstore lcs lmove lmpop sintercard sort xread xreadgroup zdiff zinter zintercard
    zinterstore zmpop zrangestore zunion zunionstore""")
# Several keys, of which they write one at most. Where it stands among the keys; None: they only read.
BORROWERS: dict[str, int | None] = {
    **dict.fromkeys(_names("lcs pfcount sdiff sinter sintercard sort_ro sunion zdiff zinter zintercard zunion")),
    **dict.fromkeys(_names("bitop geosearchstore pfmerge sdiffstore sinterstore sunionstore"), 0),
    **dict.fromkeys(_names("zdiffstore zinterstore zrangestore zunionstore"), 0),
    **dict.fromkeys(_names("copy georadius georadiusbymember sort"), -1),
}
# A further look is needed at these, whatever key they have.
_GUARDED = frozenset(("copy", "sort", "sort_ro"))

TABLE: dict[str, Command] = _build()

# By the bytes that clients send most often; find() adds other spellings' look-up, not entries.
_BY_BYTES: dict[bytes, Command] = {
    spelling.encode(): command
    for name, command in TABLE.items()
    if "|" not in name
    for spelling in (name, name.upper())
}

# Name, arity, key position and whether it writes (1) of the commands that have exactly one key and may be forwarded
# without a further look.
ONE_KEY: dict[bytes, tuple[str, int, int, int]] = {
    word: (command.name, command.arity, command.one_key, int(command.writes))
    for word, command in _BY_BYTES.items()
    if command.one_key
}


def find(word: bytes) -> Command | None:
    """The command (or container) that the first argument names, in any case; None where there is none."""
    command = _BY_BYTES.get(word)
    if command is None and len(word) <= 64:
        command = _BY_BYTES.get(word.lower())
    return command


def find_subcommand(container: Command, word: bytes) -> Command | None:
    """The subcommand of a container that the second argument names."""
    if len(word) > 64:
        return None
    return TABLE.get(f"{container.name}|{word.decode('latin-1').lower()}")


def objection(command: Command, arguments: Sequence[bytes]) -> str | None:
    """Why these arguments cannot pass although the command can; None where nothing speaks against them."""
    if command.name != "copy":
        return None
    words = [argument.upper() for argument in arguments]
    # Of a number that is none, and of a negative one, a server has words of its own.
    elsewhere = any(words[i] == b"DB" and words[i + 1].strip(b"0").isdigit() for i in range(3, len(words) - 1))
    return f"'COPY ... DB' is refused: {NO_DATABASES}" if elsewhere else None


def looked_up(command: Command, arguments: Sequence[bytes]) -> list[bytes]:
    """The patterns by which SORT looks at other keys than those it names: `BY weight_*`, `GET object_*->field`."""
    if command.name not in ("sort", "sort_ro"):
        return []
    options = range(2, len(arguments) - 1)
    # `BY nosort` and `GET #` look at no other key.
    return [arguments[i + 1] for i in options if arguments[i].upper() in (b"BY", b"GET") and b"*" in arguments[i + 1]]


def key_positions(command: Command, arguments: Sequence[bytes]) -> Sequence[int]:
    """The positions of all keys; raises InvalidInput where the arguments cannot be right."""
    positions = command.keys(arguments)
    if positions and positions[-1] >= len(arguments):
        raise InvalidInput("syntax error")
    return positions
