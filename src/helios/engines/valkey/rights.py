"""What the ACL users that Helios makes may do, in the servers' own words."""

from __future__ import annotations

from hashlib import sha256

from helios.ports.engine import UserRole

# Both begin without @admin and @dangerous, so that what a later server adds to those classes is closed.
# SELECT, MOVE and SWAPDB would take keys where neither SCAN nor DBSIZE of database 0 sees them. FLUSHALL would empty
# databases of an external server that are not ours; and FLUSHDB, in a script, one server of the cluster and no other.
_COMMON = (
    *("~*", "&*", "+@all", "-@admin", "-@dangerous", "-select", "-move"),
    *("+info", "+keys", "+restore", "+sort", "+sort_ro", "+role", "+config|get"),
    *("+client|list", "+client|kill", "+client|unblock"),
    # A script runs as the router's user, so whoever may call one could ask the server for what its role hides.
    *("-memory", "+memory|usage", "-slowlog", "-latency", "-cluster", "-asking", "-readonly", "-readwrite"),
)
RULES: dict[UserRole, tuple[str, ...]] = {
    UserRole.ROUTER: _COMMON,
    UserRole.FLUSHER: ("+flushdb", "+hello", "+info", "+client|kill"),
    UserRole.MOVER: (*_COMMON, "+flushdb", "+acl"),
    UserRole.REPLICATOR: (*_COMMON, "+acl", "+config|set", "+replicaof", "+replconf", "+psync"),
    UserRole.FOLLOWER: ("+ping", "+replconf", "+psync"),
}


def setuser(user: str, password: str, role: UserRole) -> list[str]:
    """The ACL SETUSER command that makes `user` be exactly this; the server gets the password's hash only."""
    digest = sha256(password.encode()).hexdigest()
    return ["ACL", "SETUSER", user, "reset", "on", f"#{digest}", *RULES[role]]
