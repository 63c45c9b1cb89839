import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, Protocol, TypeVar

from helios.placement._owners import Owners
from helios.placement.routing import Routes
from helios.resp.wire import Frame, RequestParser
from helios.router.frontend.caller import Caller, Dispatch, Holder, Waiter
from helios.router.stats.big_keys import BigKeys

Item = TypeVar("Item")

PARKS_READS: Final = 1
PARKS_WRITES: Final = 2

READ: Final = 0
WRITE: Final = 1
OTHER: Final = 2

DONE: Final = 0
HOLD: Final = 1
WAIT_REPLY: Final = 2
WAIT_ALL: Final = 3
SLOW: Final = 4
PREPARE: Final = 5

IN_MULTI: Final = 1
IN_NO_DATABASE: Final = 4
IN_SUBSCRIPTION: Final = 2

NEXT_REPLY: Final = 1
EVERY_REPLY: Final = 2

HELD: Final = 1
ANSWERING: Final = 2
DRAINING: Final = 4
FULL: Final = 8
CLOSED: Final = 16
YIELDED: Final = 32
PREPARING: Final = 64

class Fifo(Generic[Item]):
    def __len__(self) -> int: ...
    def append(self, item: Item) -> None: ...
    def popleft(self) -> Item: ...
    def pop(self) -> Item: ...
    def clear(self) -> None: ...

class Latencies:
    total_ns: int
    def record(self, took_ns: int) -> None: ...
    def counted(self) -> list[tuple[int, int]]: ...
    def clear(self) -> None: ...

class CommandStats:
    name: str
    group: int
    latencies: Latencies
    failed: int
    rejected: int
    parks: int
    def __init__(self, name: str, group: int, arity: int = 0, position: int = 0, *, parks: int = 0) -> None: ...
    def clear(self) -> None: ...

OWN: Final[CommandStats]
OWN_READ: Final[CommandStats]
OWN_WRITE: Final[CommandStats]

class Rounds(Protocol):
    def park(self, queue: Any, count: int) -> None: ...
    def forget(self, queue: Any) -> None: ...

class Slot:
    caller: Caller
    reply: bytes | None
    def __init__(self, caller: Caller) -> None: ...
    def fill(self, reply: bytes) -> None: ...

class Push(Slot): ...

class LastSlot(Slot):
    filled: Callable[[], None] | None

class Confirmation(LastSlot): ...

def write_all(transport: asyncio.WriteTransport, pieces: list[bytes]) -> None: ...

class Outbox:
    errors: dict[str, int]
    discarded: list[list[bytes]]
    bytes_in: int
    bytes_out: int
    def __init__(self, loop: object, turn_s: float = 0.0) -> None: ...
    def failed(self, reply: bytes) -> None: ...
    def now(self) -> float: ...
    def mark(self, caller: Caller) -> None: ...
    def flush(self) -> None: ...

class ClientState:
    protocol: int
    stops: int
    modes: int
    owed: int
    max_owed: int
    max_commands: int
    dirty: bool
    reroutes: int
    trailing: bool
    behind: bool
    resume: bool
    slowed: bool
    slow_s: float
    hold_until: float | None
    waiting: list[Frame]
    last_word: bytes
    last_at: float
    arrived_ns: int
    bytes_in: int
    bytes_out: int
    commands: int
    transport: asyncio.Transport | None
    muted: int
    ending: bool
    replies: Fifo[Slot]
    outbox: Outbox
    dispatch: Dispatch
    holder: Holder
    parser: RequestParser | None
    fast_path: FastPath | None
    def __init__(
        self,
        dispatch: Dispatch,
        outbox: Outbox,
        holder: Holder,
        parser: RequestParser | None,
        fast_path: FastPath | None,
    ) -> None: ...
    def data_received(self, data: bytes) -> None: ...
    def run(self) -> None: ...
    def flush(self) -> None: ...
    def go_on(self, reason: int) -> None: ...
    def last_slot(self) -> Slot | None: ...
    def take_ready(self) -> list[bytes]: ...

UNASKED: Final[str]
LATE: Final[str]

class Lease:
    deadline: float
    def __init__(self, clock: Callable[[], float]) -> None: ...
    def lasts(self) -> bool: ...

class CommandQueue:
    ready: bool
    parks: int
    spares: Callable[[bytes], bool] | None
    rounds: Rounds | None
    lacking: bool
    lease: Lease
    scheduled: bool
    issued: int
    answered: int
    queued_bytes: int
    out: list[bytes]
    slow_ns: int
    waiters: Fifo[Waiter]
    latencies: Latencies
    def __init__(self, *, max_commands: int, max_bytes: int, pushes: bool, lease: Lease, big_keys: BigKeys) -> None: ...
    def send(self, raw: bytes, waiter: Waiter) -> None: ...
    def send_together(self, raws: list[bytes], waiter: Waiter, last: CommandStats = ...) -> None: ...
    def send_as(self, raw: bytes, waiter: Waiter, kind: CommandStats) -> None: ...
    @property
    def parked_count(self) -> int: ...
    @property
    def counts(self) -> tuple[int, int, int]: ...
    def oldest(self) -> bytes | None: ...
    def read_again(self, other: CommandQueue) -> None: ...
    def received(self, replies: list[bytes]) -> str | None: ...
    def hand_on(self, count: int) -> str | None: ...
    def refuse(self, count: int, read: bytes, written: bytes) -> None: ...
    def take_unsent(self) -> list[Waiter]: ...
    def take_sent(self) -> list[Waiter]: ...

class FastPath:
    reroutes: int
    commands: int
    by_name: dict[str, CommandStats]
    def __init__(
        self,
        commands: Mapping[bytes, tuple[str, int, int, int]],
        links2: Mapping[str, CommandQueue],
        links3: Mapping[str, CommandQueue],
        heavy: Mapping[bytes, object],
    ) -> None: ...
    def kind_of(self, name: str, group: int) -> CommandStats: ...
    def serve(self, routes: Routes | None, owners: Owners | None) -> None: ...
