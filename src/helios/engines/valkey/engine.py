"""A Valkey or Redis server as an Engine."""

from __future__ import annotations

from collections.abc import Mapping

from helios.engines.valkey import replication
from helios.engines.valkey.changes import TrackingStream
from helios.engines.valkey.connection import Command, ErrorReply, Reply
from helios.engines.valkey.durability import persist, refusal
from helios.engines.valkey.keys import Keys
from helios.engines.valkey.rights import setuser
from helios.engines.valkey.understanding import understood
from helios.errors import EngineDenied, EngineError, EngineUnreachable
from helios.model.topology import Member
from helios.ports.engine import CLIENT_NAME, ChangeStream, Replication, ScriptEnd, UserRole, Vitals

_NAMELESS_S = 2  # how long a connection of Helios may take to say who it is


@understood
class ValkeyEngine(Keys):
    """A server's keys, functions and users, its part in a shard, and what changes there; see Conversation."""

    async def now_s(self) -> float:
        """What the server's clock says (TIME): Unix seconds."""
        seconds, microseconds = await self._execute("TIME")
        return int(seconds) + int(microseconds) / 1e6

    async def refuses_writes(self) -> str:
        """Why the server takes no writes at the moment and what to do about it; empty where it takes them.

        Empty as well where it does not let this user ask.
        """
        try:
            return await refusal(self._connection, await self._execute("INFO", "persistence"))
        except EngineDenied:
            return ""

    async def vitals(self) -> Vitals:
        """How many keys database 0 has, and why the server takes no writes, as far as it lets this user ask."""
        keys, said = await self._execute_many([("DBSIZE",), ("INFO", "persistence")])
        try:
            refuses = await refusal(self._connection, self._value(said, "INFO"))
        except EngineDenied:
            refuses = ""
        return Vitals(int(self._value(keys, "DBSIZE")), refuses)

    async def libraries(self) -> dict[bytes, bytes]:
        """The server's libraries of functions: code by name."""
        listed = await self._execute("FUNCTION", "LIST", "WITHCODE")
        return {library[b"library_name"]: library[b"library_code"] for library in listed}

    async def replace_libraries(self, libraries: Mapping[bytes, bytes]) -> None:
        """Make these the server's libraries, one after the other. Raises EngineError for code that it refuses."""
        present = await self.libraries()
        # What goes or changes goes first: a function may have moved from one library to another.
        gone = [name for name, code in present.items() if libraries.get(name) != code]
        fresh = [name for name, code in libraries.items() if present.get(name) != code]
        commands: list[Command] = [("FUNCTION", "DELETE", name) for name in gone]
        commands += [("FUNCTION", "LOAD", libraries[name]) for name in fresh]
        for reply, name in zip(await self._execute_many(commands), [*gone, *fresh], strict=True):
            self._value(reply, "FUNCTION", name)

    async def persist(self, timeout_s: float) -> bool:
        """Wait until everything that the server had executed before this call is on its disk.

        True if it is; False if the server does not promise it (AOF off, never synced, or not while it rewrites).
        Costs a round trip with `appendfsync always`, a little more than a second with `everysec`.
        Raises EngineUnreachable on time-out.
        """
        return await persist(self._connection, timeout_s)

    async def replication(self) -> Replication:
        """What the server is to other servers, and how much it has (INFO replication)."""
        return await replication.replication(self._connection, self._timeout_s)

    async def follow(self, leader: Member, user: str | None = None, password: str | None = None) -> None:
        """Make the server a read-only copy of `leader`, to which it logs in as `user` from now on (REPLICAOF)."""
        await replication.follow(self._connection, leader.address, user, password, self._timeout_s)

    async def forget_login(self) -> None:
        """Make the server forget how it logs in to its leader: once the connection is lost, it cannot follow again."""
        await replication.forget_login(self._connection, self._timeout_s)

    async def keep_history(self) -> None:
        """Have a leader go on in its history when nobody has followed it for a while, until it is restarted."""
        await self._administer("CONFIG", "SET", "repl-backlog-ttl", "0")

    async def databases(self) -> int:
        """How many databases the server has, used or not. Raises EngineDenied where it does not say."""
        said = await self._administer("CONFIG", "GET", "databases")
        return int(said[b"databases"])

    async def detach(self) -> Replication:
        """Make the server follow nobody: it takes no writes, acknowledges nothing to anybody, and stays where it is."""
        return await replication.detach(self._connection, self._timeout_s)

    async def promote(self) -> Replication:
        """Make the server lead, under a new history (REPLICAOF NO ONE) that stays until a restart.

        That needs `repl-backlog-ttl 0`: a server that nobody follows for so long begins another one.
        """
        return await replication.promote(self._connection, self._timeout_s)

    async def round(self, count: int, timeout_s: float) -> int:
        """How many followers have all that the server had executed before this call (SPUBLISH, then WAIT).

        Other calls on this engine wait meanwhile. Raises EngineError if the server does not lead, or ceases to.
        """
        return await replication.round_of(self._connection, count, timeout_s, self._timeout_s)

    async def end_script(self) -> ScriptEnd:
        """End the script or function that runs (SCRIPT KILL, FUNCTION KILL), unless it has written something."""
        # Each of the two says BUSY of what only the other can end.
        for reply in await self._execute_many([("SCRIPT", "KILL"), ("FUNCTION", "KILL")]):
            if not isinstance(reply, ErrorReply):
                return ScriptEnd.ENDED
            if str(reply).startswith("UNKILLABLE"):
                return ScriptEnd.UNKILLABLE
            if not str(reply).startswith(("NOTBUSY", "BUSY")):
                self._value(reply, "SCRIPT KILL")
        return ScriptEnd.NONE

    async def memory(self, word: str) -> str:
        """What the server answers to MEMORY with this word: DOCTOR, MALLOC-STATS or PURGE."""
        return bytes(await self._execute("MEMORY", word)).decode("utf-8", "replace")

    async def changes(self, *, own: bool = True, beginning: bytes = b"") -> ChangeStream:
        """Open a change stream on a connection of its own; nothing that changes after this returns is missed.

        Without `own` it names what others change, told apart by this engine's connection.
        """
        return await TrackingStream.open(
            self._connection.endpoint,
            writer=None if own else self._connection,
            beginning=beginning,
            connect_timeout_s=self._connect_timeout_s,
            timeout_s=self._timeout_s,
        )

    async def users(self) -> list[str]:
        """The names of the server's ACL users. Raises EngineDenied where that is not allowed."""
        return [name.decode() for name in await self._administer("ACL", "USERS")]

    async def strangers(self) -> list[str]:
        """The addresses of clients that neither have Helios' name nor a user that Helios made."""
        listed = (await self._administer("CLIENT", "LIST")).decode(errors="backslashreplace")
        clients = [dict(field.partition("=")[::2] for field in line.split()) for line in listed.splitlines()]
        return [
            client.get("addr", "?")
            for client in clients
            if client.get("name") != CLIENT_NAME
            and not client.get("user", "").startswith("helios-")
            # Replicas and masters belong to the server itself.
            and not set(client.get("flags", "")) & {"S", "M"}
            # One that has only just connected may be of Helios and about to give its name.
            and not (client.get("cmd") == "NULL" and int(client.get("age", 0)) < _NAMELESS_S)
        ]

    async def allow(self, user: str, password: str, role: UserRole) -> None:
        """Create or replace an ACL user. Raises EngineDenied where that is not allowed."""
        await self._administer(*setuser(user, password, role))

    async def force_off(self, user: str) -> None:
        """Take every right from a user, end its connections and delete it. Nothing of it runs after this returns.

        A user that does not exist is no error. Raises EngineError for the engine's own user, and
        EngineDenied where users cannot be administered.
        """
        if user == (self._connection.endpoint.user or "default"):
            raise EngineError(f"user {user!r} of {self._connection.endpoint} cannot force itself off")
        rights, kill, delete = await self._execute_many(
            [("ACL", "SETUSER", user, "reset"), ("CLIENT", "KILL", "USER", user), ("ACL", "DELUSER", user)]
        )
        for step, reply in (("ACL SETUSER", rights), ("CLIENT KILL", kill), ("ACL DELUSER", delete)):
            self._value(reply, step, user.encode())

    async def _administer(self, *command: str) -> Reply:
        """The same for users, which managed servers deny in many ways. Raises EngineDenied for any of them."""
        try:
            return await self._execute(*command)
        except EngineUnreachable:
            raise
        except EngineError as error:
            if "unknown command" in str(error) or "unknown subcommand" in str(error):
                raise EngineDenied(str(error)) from error
            raise
