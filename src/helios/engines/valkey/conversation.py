"""A conversation with a Valkey or Redis server: commands that wait for their replies, and who answers."""

from __future__ import annotations

from collections.abc import Sequence

from helios.engines.valkey.connection import Command, Connection, ErrorReply, Reply
from helios.engines.valkey.durability import fsync_policy
from helios.engines.valkey.statistics import operations_in, script_calls_in
from helios.engines.valkey.understanding import understood
from helios.errors import EngineError
from helios.ports.engine import EngineInfo
from helios.resp.info import info_fields


@understood
class Conversation:
    """One connection to one server, as one user. Not reopened when it is lost: open another.

    `timeout_s` bounds every call; after EngineUnreachable on a time-out the connection goes on, and what is
    sent later runs after what was sent before.
    """

    def __init__(self, connection: Connection, *, connect_timeout_s: float, timeout_s: float) -> None:
        self._connection = connection
        self._connect_timeout_s = connect_timeout_s
        self._timeout_s = timeout_s
        self._by_frequency: bool | None = None

    @property
    def connection(self) -> Connection:
        """The connection itself, for commands that the port does not name."""
        return self._connection

    async def info(self) -> EngineInfo:
        """Who answers there. `keys` counts those of all databases, also where `count` (database 0) is less.

        Where the server does not tell how often it syncs its log, that is given as "no": nothing is promised.
        """
        text, config = await self._execute_many([("INFO", "default", "commandstats"), ("CONFIG", "GET", "appendfsync")])
        fields = info_fields(self._value(text, "INFO"))
        valkey = fields.get("valkey_version")
        try:
            return EngineInfo(
                product="valkey" if valkey else "redis",
                version=valkey or fields["redis_version"],
                run_id=fields["run_id"],
                keys=sum(_keys_of_database(value) for name, value in fields.items() if name[:2] == "db"),
                used_memory_bytes=int(fields.get("used_memory", 0)),
                aof_enabled=fields.get("aof_enabled") == "1",
                aof_fsync=fsync_policy(config),
                helios_node=fields.get("helios_node"),
                dataset_bytes=int(fields.get("used_memory_dataset", 0)),
                operations=operations_in(fields),
                script_calls=script_calls_in(fields),
                counts_accesses=fields.get("maxmemory_policy", "").endswith("lfu"),
            )
        except KeyError as error:
            raise EngineError(f"{self._connection.endpoint} does not say its {error} in INFO") from None

    async def close(self) -> None:
        """End the connection."""
        await self._connection.close()

    async def _execute(self, *command: bytes | str | int) -> Reply:
        return await self._connection.execute(*command, timeout_s=self._timeout_s)

    async def _execute_many(self, commands: Sequence[Command]) -> list[Reply]:
        return await self._connection.execute_many(commands, timeout_s=self._timeout_s)

    def _value(self, reply: Reply, command: str, subject: bytes | None = None) -> Reply:
        """`reply` unless it is an error, which is raised with what it was about."""
        if isinstance(reply, ErrorReply):
            raise self._connection.failure(reply, command if subject is None else f"{command} of {subject[:100]!r}")
        return reply


def _keys_of_database(line: str) -> int:
    """The count in a line such as `keys=2,expires=0,avg_ttl=0`."""
    return sum(int(part[5:]) for part in line.split(",") if part.startswith("keys="))
