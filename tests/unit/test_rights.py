"""What each role may do: the whole matrix, and what key patterns leave of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from helios.access.rights import GRANTS, Need, Nobody, Rights, need_of
from helios.model.users import Role, User
from helios.resp.commands import TABLE, Command, How

# Of the commands that take no keys, and of those whose flags do not tell, what each is for.
LOGIN = "auth hello quit reset"
READ = """client|tracking dbsize function|dump function|list function|stats keys psubscribe pubsub|channels
    pubsub|numpat pubsub|numsub pubsub|shardchannels pubsub|shardnumsub randomkey scan script|exists script|load
    script|show ssubscribe subscribe watch"""
WRITE = """flushall flushdb function|delete function|flush function|kill function|load function|restore publish
    script|debug script|flush script|kill"""
CLUSTER = """acl|users config|set lastsave
    client|kill client|list client|unblock commandlog|get commandlog|len commandlog|reset config|get
    config|resetstat latency|doctor latency|graph latency|histogram latency|history latency|latest latency|reset
    memory|doctor memory|malloc-stats memory|purge memory|stats slowlog|get slowlog|len slowlog|reset"""

# Rows are needs, columns roles.
MATRIX = {
    Need.LOGIN: "admin operator metrics read-write read-only",
    Need.ANY: "admin operator metrics read-write read-only",
    Need.READ: "admin read-write read-only",
    Need.WRITE: "admin read-write",
    Need.METRICS: "admin operator metrics",
    Need.CLUSTER: "admin operator",
    Need.ALL: "admin",
}


def expected(command: Command) -> Need:
    for need, names in ((Need.LOGIN, LOGIN), (Need.READ, READ), (Need.WRITE, WRITE), (Need.CLUSTER, CLUSTER)):
        if command.name in names.split():
            return need
    if command.how is How.VERB:
        return Need.CLUSTER
    if command.how is How.REFUSED or not command.notation or command.name in ("sunsubscribe",):
        return Need.ANY
    return Need.READ if "readonly" in command.flags else Need.WRITE


def words(command: Command) -> list[bytes]:
    """As many arguments as the command takes at least."""
    name = command.name.split("|")
    count = max(abs(command.arity), len(name))
    return [*(part.encode() for part in name), *[b"1"] * (count - len(name))]


@pytest.mark.parametrize("role", list(Role))
def test_the_whole_matrix(role: Role) -> None:
    rights = Rights(User("u", role, "x"))
    for command in TABLE.values():
        may = role in MATRIX[expected(command)].split()
        refusal = rights.refusal(words(command))
        shown = command.name.replace("|", " ").upper()
        assert refusal == (None if may else f"NOPERM user 'u' with the role {role} may not run '{shown}'"), command.name


def test_every_command_has_been_thought_about() -> None:
    assert [command.name for command in TABLE.values() if need_of(command) is Need.ALL] == []
    assert {need: {role for role in Role if need in GRANTS[role]} for need in Need} == {
        need: set(map(Role, roles.split())) for need, roles in MATRIX.items()
    }


def test_before_a_login_there_is_little() -> None:
    for command in TABLE.values():
        refusal = Nobody().refusal(words(command))
        assert refusal == (None if command.name in LOGIN.split() else "NOAUTH Authentication required."), command.name
    assert Nobody().refusal([b"nonsense"]) is None  # which has an error of its own


def test_the_short_way_is_for_who_may_read_and_write_every_key() -> None:
    assert Rights(User("u", Role.READ_WRITE)).by_fast_path
    for user in (User("u", Role.READ_ONLY), User("u", Role.OPERATOR), User("u", Role.READ_WRITE, "", ("*",))):
        assert not Rights(user).by_fast_path
    assert not Nobody().by_fast_path


@pytest.mark.parametrize(
    ("line", "refusal"),
    [
        ("get a:1", None),
        ("GET b:1", "may not use the key 'b:1' in 'GET'"),
        ("set a:1 b:1", None),
        ("mget a:1 c a:2", None),
        ("mget a:1 b", "may not use the key 'b' in 'MGET'"),
        ("mset a:1 b c b", None),
        ("mset a:1 b b c", "may not use the key 'b'"),
        ("rename a:1 b", "may not use the key 'b'"),
        ("zunionstore a:1 2 a:2 b", "may not use the key 'b'"),
        ("sort a:1 store b", "may not use the key 'b'"),
        ("sort a:1 get b*", "'SORT' may concern others"),
        ("sort a:1 get #", None),
        ("xread streams a:1 b 0 0", "may not use the key 'b'"),
        ("object encoding b", "may not use the key 'b' in 'OBJECT ENCODING'"),
        ("watch a:1 b", "may not use the key 'b' in 'WATCH'"),
        ("blpop a:1 b 0", "may not use the key 'b'"),
        ("keys *", None),
        ("scan 0", None),
        ("dbsize", None),
        ("ping", None),
        ("multi", None),
        ("flushall", "'FLUSHALL' may concern others"),
        ("randomkey", "'RANDOMKEY' may concern others"),
        ("eval s 1 a:1", "'EVAL' may concern others"),
        ("evalsha_ro s 0", "'EVALSHA_RO' may concern others"),
        ("fcall f 1 a:1", "'FCALL' may concern others"),
        ("function load x", "'FUNCTION LOAD' may concern others"),
        ("subscribe a:1 c", None),
        ("subscribe a:1 b", "may not use the channel 'b' in 'SUBSCRIBE'"),
        ("ssubscribe b", "may not use the channel 'b'"),
        ("publish b hello", "may not use the channel 'b'"),
        ("publish a:1 b", None),
        ("psubscribe a:*", None),
        ("psubscribe a:1*", "may subscribe to the patterns of its keys alone"),
        ("pubsub channels", "'PUBSUB CHANNELS' may concern others"),
        ("pubsub numsub b", "may not use the channel 'b'"),
        ("pubsub shardnumsub a:1 b", "may not use the channel 'b'"),
        ("unsubscribe b", None),
        ("lmpop x b left", None),  # no server carries it out, and any says why
        ("xread nonsense streams b 0", "syntax error"),
        ("get", "wrong number of arguments for 'get' command"),
        ("listnodes", "with the role read-write may not run 'LISTNODES'"),
        ("config get *", "with the role read-write may not run 'CONFIG GET'"),
        ("config set a b", "with the role read-write may not run 'CONFIG SET'"),
        ("debug object a:1", None),  # refused to everybody, which is said elsewhere
        ("client nonsense", None),
    ],
)
def test_key_patterns(line: str, refusal: str | None) -> None:
    said = Rights(User("u", Role.READ_WRITE, "x", ("a:*", "c"))).refusal(line.encode().split())
    if refusal is None:
        assert said is None
    else:
        assert said is not None
        assert refusal in said
        assert said.startswith(("NOPERM user 'u' ", "ERR "))


def test_a_key_in_a_refusal_can_do_no_harm() -> None:
    said = Rights(User("u", Role.READ_WRITE, "x", ("a",))).refusal([b"GET", b"\r\n\xff\x1b" + b"x" * 500])
    assert said is not None
    assert r"'\r\n\xff\x1bxxx" in said
    assert len(said) < 250


def test_the_guide_has_the_matrix() -> None:
    text = (Path(__file__).parents[2] / "docs" / "USERS_AND_TLS.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) <!-- (\w+) --> \|(.+)\|$", text, re.MULTILINE)
    shown = {Need(need): [cell.strip() == "yes" for cell in cells.split("|")] for _, need, cells in rows}
    assert shown == {
        need: [role in roles.split() for role in Role]
        for need, roles in MATRIX.items()
        if need not in (Need.LOGIN, Need.ALL)
    }
