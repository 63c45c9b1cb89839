# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""What every command passes through, compiled: a caller's row of replies, a server's queue, and the fast path between.

The short fast_path takes the commands with one key while nothing is out of the ordinary. Whatever else there is (several
keys, a fence, a slowed write, no lease, an unknown word) goes to the dispatcher, which decides about everything.
"""

import time

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport INT64_MAX, int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from helios.errors import ProtocolError
from helios.resp._wire cimport Span
from helios.resp.odd import ODD_REPLY


cdef enum Verdict:
    _DONE = 0
    _HOLD = 1
    _WAIT_REPLY = 2
    _WAIT_ALL = 3
    _SLOW = 4
    _PREPARE = 5

cdef enum Reason:
    _HELD = 1
    _ANSWERING = 2
    _DRAINING = 4
    _FULL = 8
    _CLOSED = 16
    _YIELDED = 32
    _PREPARING = 64

cdef enum Muted:
    _NEXT_REPLY = 1
    _EVERY_REPLY = 2

# In which modes a caller is, as bits: in any of them its commands do not take the fast path.
IN_MULTI = 1
IN_SUBSCRIPTION = 2
IN_NO_DATABASE = 4

# Which of its replies a caller does not want.
NEXT_REPLY = _NEXT_REPLY
EVERY_REPLY = _EVERY_REPLY

# What the dispatcher says of a command.
DONE = _DONE  # answered, or under way
HOLD = _HOLD  # touched nothing; try it again when the topology has changed
WAIT_REPLY = _WAIT_REPLY  # under way, and the next command must wait for its reply
WAIT_ALL = _WAIT_ALL  # touched nothing; try it again when every earlier command has been answered
SLOW = _SLOW  # touched nothing; try it again after `slow_s`
PREPARE = _PREPARE  # touched nothing; try it again when what has been begun for it is done

# Why a caller does not go on, as bits.
HELD = _HELD
ANSWERING = _ANSWERING
DRAINING = _DRAINING
FULL = _FULL
CLOSED = _CLOSED
YIELDED = _YIELDED
PREPARING = _PREPARING

# How commands are told apart in counts.
READ = 0
WRITE = 1
OTHER = 2

cdef extern from *:
    int __builtin_clzll(unsigned long long) noexcept

cdef Py_ssize_t MIN_CELLS = 8
cdef Py_ssize_t KEPT_CELLS = 1024
cdef Py_ssize_t HEAVY_BYTES = 1 << 20  # as in upstream/heavy.py
cdef Py_ssize_t SMALL_BYTES = 16 * 1024  # below it a copy costs less than a write
cdef Py_ssize_t LONGEST_NAME = 64
cdef Py_ssize_t FEW = 256  # arguments
cdef Py_ssize_t MAX_ERROR_NAMES = 100
cdef int COMMANDS_A_LOOK = 16  # of those that take the short way


cdef inline int64_t clock_ns() noexcept:
    """The monotonic clock. It is read once for whatever has come in one piece, not for each command."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1000000000 + now.tv_nsec


cdef class Latencies:
    """How often commands took how long: four buckets for each power of two, from 1.024 µs to 137 s."""

    cdef int add(self, int64_t took_ns) except -1:
        cdef int power, bucket
        self.total_ns += took_ns
        if took_ns < 1024:
            bucket = 0
        else:
            power = 63 - __builtin_clzll(took_ns)
            bucket = 1 + ((power - 10) << 2) + <int>((took_ns >> (power - 2)) & 3)
            if bucket >= BUCKETS:
                bucket = BUCKETS - 1
        self.counts[bucket] += 1
        return 0

    def record(self, took_ns):
        """Count one command."""
        self.add(took_ns)

    def counted(self):
        """The buckets that are not empty: below how many nanoseconds, and how many commands."""
        cdef int i
        return [(bound_ns(i), self.counts[i]) for i in range(BUCKETS) if self.counts[i]]

    def clear(self):
        """Begin again."""
        memset(self.counts, 0, sizeof(self.counts))
        self.total_ns = 0


cdef object bound_ns(int bucket):
    if bucket == 0:
        return 1024
    return (<int64_t>5 + (bucket - 1) % 4) << (8 + (bucket - 1) // 4)


cdef class CommandStats:
    """A command in counts, with its arity and the position of its only key (0 where there is not just one)."""

    def __init__(self, str name, int group, int arity=0, int position=0):
        self.name = name
        self.group = group
        self.arity = arity
        self.position = position
        self.latencies = Latencies()

    def clear(self):
        """Begin again."""
        self.latencies.clear()
        self.failed = self.rejected = 0


# What the router itself asks of servers, and parts of commands that nobody has named.
OWN = CommandStats("", 2)


cdef class Fifo:
    """First in, first out, without an allocation for each item."""

    def __len__(self):
        return self.count

    cdef int push(self, object item) except -1:
        cdef Py_ssize_t room = 0 if self.cells is None else len(self.cells)
        if self.count == room:
            if room:
                self.cells = self.cells[self.head :] + self.cells[: self.head] + [None] * room
            else:
                self.cells = [None] * MIN_CELLS
            self.head = 0
            room = len(self.cells)
        self.cells[(self.head + self.count) & (room - 1)] = item
        self.count += 1
        return 0

    cdef object shift(self):
        cdef object item
        if not self.count:
            raise IndexError("nothing is queued")
        item = self.cells[self.head]
        self.cells[self.head] = None
        self.head = (self.head + 1) & (len(self.cells) - 1)
        self.count -= 1
        if not self.count and len(self.cells) > KEPT_CELLS:
            self.clear()
        return item

    cdef object peek(self):
        return self.cells[self.head] if self.count else None

    def append(self, item):
        """Add the last."""
        self.push(item)

    def popleft(self):
        """Take the first away. Raises IndexError where there is none."""
        return self.shift()

    def pop(self):
        """Take the last away. Raises IndexError where there is none."""
        cdef Py_ssize_t last
        if not self.count:
            raise IndexError("nothing is queued")
        self.count -= 1
        last = (self.head + self.count) & (len(self.cells) - 1)
        item = self.cells[last]
        self.cells[last] = None
        return item

    cpdef clear(self):
        """Forget everything."""
        self.cells = None
        self.head = self.count = 0


@cython.freelist(1024)
cdef class Slot:
    """A place in a caller's row of replies."""

    def __init__(self, ClientState caller not None):
        self.caller = caller

    cpdef fill(self, bytes reply):
        """Take the reply; it leaves when all before it have."""
        cdef ClientState caller = self.caller
        self.reply = reply
        if PyBytes_AS_STRING(reply)[0] == c"-":
            caller.outbox.failed(reply)
        caller.owed += PyBytes_GET_SIZE(reply)
        if not caller.dirty and caller.replies.peek() is self:
            caller.outbox.mark(caller)
        if caller.owed > caller.max_owed:
            caller.overflow()


cdef class Push(Slot):
    """A place for what no command of the caller's has asked for; CLIENT REPLY does not silence it."""


cdef class LastSlot(Slot):
    """A slot whose reply the caller's next command waits for."""

    cpdef fill(self, bytes reply):
        """Take the reply and let the caller go on."""
        Slot.fill(self, reply)
        self.caller.go_on(_ANSWERING)


cdef Py_ssize_t biggest(list pieces) except -1:
    """The size of the biggest."""
    cdef bytes piece
    cdef Py_ssize_t most = 0
    for piece in pieces:
        most = max(most, PyBytes_GET_SIZE(piece))
    return most


cpdef write_all(transport, list pieces):
    """Write the pieces in order: big ones as they are, without the time for a copy, small ones together."""
    cdef list small = []
    cdef bytes piece
    if len(pieces) == 1:
        transport.write(pieces[0])
        return
    for piece in pieces:
        if PyBytes_GET_SIZE(piece) < SMALL_BYTES:
            small.append(piece)
            continue
        if small:
            transport.write(b"".join(small))
            small = []
        transport.write(piece)
    if small:
        transport.write(b"".join(small))


cdef class Outbox:
    """The callers with replies to send; each is flushed once in a turn of the loop, whoever answered.

    It also sees to it that a turn takes no longer than `turn_s` (0: as long as it likes), whatever clients have sent:
    those whose commands would take longer yield, and go on in the next turns, one after the other.
    """

    def __init__(self, loop, double turn_s=0.0):
        self.loop = loop
        self.callers = []
        self.errors = {}
        self.yielded = Fifo()
        self.turn_ns = <int64_t>(turn_s * 1e9)

    cdef bint turn_over(self) except -1:
        """Whether commands have been run for long enough in this turn of the loop."""
        cdef int64_t now_ns
        if not self.turn_ns:
            return False
        now_ns = clock_ns()
        if not self.turn_ends_ns:
            self.turn_ends_ns = now_ns + self.turn_ns
            self.loop.call_soon(self.next_turn)
        return now_ns >= self.turn_ends_ns

    def next_turn(self):
        """Let those go on that have yielded, the one that has waited longest first."""
        cdef ClientState caller
        self.turn_ends_ns = 0
        while self.yielded.count and not self.turn_over():
            caller = self.yielded.shift()
            caller.stops &= ~_YIELDED
            if not caller.stops:
                caller.proceed()

    def failed(self, bytes reply not None):
        """Count an error reply by its first word."""
        word = reply[1:41].split(None, 1)[:1]
        name = word[0].decode("ascii", "replace") if word else ""
        if name not in self.errors and (len(self.errors) >= MAX_ERROR_NAMES or not name.isupper()):
            name = "OTHER"
        self.errors[name] = self.errors.get(name, 0) + 1

    def now(self):
        """The loop's time, in seconds."""
        return self.loop.time()

    cpdef mark(self, ClientState caller):
        """See to it that `caller` is flushed before the loop waits again."""
        caller.dirty = True
        if not self.callers:
            self.loop.call_soon(self.flush)
        self.callers.append(caller)

    def flush(self):
        """Flush whoever has been marked, as many as there is time for."""
        cdef list callers = self.callers
        cdef ClientState caller
        cdef double now = self.loop.time()
        cdef int64_t ends_ns = clock_ns() + self.turn_ns
        cdef Py_ssize_t flushed = 0
        self.callers = []
        for caller in callers:
            caller.dirty = False
            caller.last_at = now
            caller.flush()
            flushed += 1
            if self.turn_ns and flushed < len(callers) and clock_ns() >= ends_ns:
                if not self.callers:
                    self.loop.call_soon(self.flush)
                self.callers = callers[flushed:] + self.callers
                return


cdef class ClientState:
    """The compiled part of a Caller (see callers.py): its frames, its row of replies, and why it waits."""

    def __init__(self, dispatch, Outbox outbox not None, holder, RequestParser parser=None, FastPath fast_path=None):
        self.dispatch = dispatch
        self.outbox = outbox
        self.holder = holder
        self.parser = parser
        self.fast_path = fast_path
        self.protocol = 2
        self.max_owed = (<Py_ssize_t>1) << 62
        self.max_commands = 1 << 30
        self.replies = Fifo()
        self.waiting = []
        self.last_word = b""
        self.arrived_ns = clock_ns()

    def data_received(self, bytes data not None):
        """The client has sent something."""
        if self.stops & _CLOSED:
            return
        self.arrived_ns = clock_ns()
        self.outbox.bytes_in += PyBytes_GET_SIZE(data)
        self.parser.take_in(data)
        if self.stops:
            self.stalled()
        else:
            self.run()

    cpdef run(self):
        """Run commands until there are no more or something makes it wait."""
        cdef RequestParser parser = self.parser
        cdef FastPath fast_path = self.fast_path
        cdef int verdict, looks = 0
        while not self.stops:
            if looks <= 0:
                if self.outbox.turn_over():
                    self.stops |= _YIELDED
                    self.outbox.yielded.push(self)
                    break
                looks = COMMANDS_A_LOOK
            looks -= 1
            if self.waiting:
                frame = self.waiting.pop(0)
            else:
                if parser is None:
                    return
                try:
                    if not parser.advance():
                        return
                except ProtocolError as fault:
                    self.broken(fault)
                    return
                if fast_path is not None and not self.modes and fast_path.forward(self):
                    if self.replies.count >= self.max_commands:
                        self.stops |= _FULL
                    continue
                frame = parser.raw()
                if fast_path is not None and not self.modes and fast_path.needs_no_values(parser):
                    frame = (frame, parser.short_arguments())
                else:
                    frame = (frame, parser.arguments())
            self.last_word = frame[1][0]
            looks = 0
            verdict = self.dispatch(self, frame[0], frame[1])
            fast_path = self.fast_path  # a command such as RESET can close it
            self.stop(verdict, frame)
        self.stalled()

    def flush(self):
        """Write the replies that are ready, in one piece; run on if nothing stops it any more."""
        cdef list ready = self.take_ready()
        transport = self.transport
        if ready and transport is not None and not transport.is_closing():
            if self.trailing or biggest(ready) >= HEAVY_BYTES:
                self.write_bit_by_bit(ready)
            else:
                write_all(transport, ready)
            if self.behind:
                self.unread()
        if self.resume:
            self.resume = False
            self.proceed()
        elif self.ending:
            self.flushed()

    cdef int proceed(self) except -1:
        """Run commands again, after something has made it wait."""
        if not self.stops:
            self.run()
        if not self.stops:
            self.read_on()
        if self.ending:
            self.flushed()
        return 0

    cdef int stop(self, int verdict, object frame) except -1:
        """Note why the caller must wait, if it must."""
        cdef Slot last
        if self.stops & _CLOSED:
            return 0
        if verdict == _HOLD:
            self.waiting.insert(0, frame)
            self.stops |= _HELD
            self.holder.hold(self)
            return 0
        if verdict == _SLOW:
            self.waiting.insert(0, frame)
            self.stops |= _HELD
            self.holder.delay(self)
            return 0
        if verdict == _PREPARE:
            self.waiting.insert(0, frame)
            self.stops |= _PREPARING
            return 0
        self.hold_until = None
        if verdict == _WAIT_REPLY:
            last = self.last_slot()
            if last is not None and last.reply is None:
                self.stops |= _ANSWERING
        elif verdict == _WAIT_ALL:
            self.waiting.insert(0, frame)
            self.stops |= _DRAINING
        if self.replies.count >= self.max_commands:
            self.stops |= _FULL
        return 0

    def last_slot(self):
        """The slot of the command that came last; None if everything has been answered."""
        cdef Fifo replies = self.replies
        if not replies.count:
            return None
        return replies.cells[(replies.head + replies.count - 1) & (len(replies.cells) - 1)]

    cpdef go_on(self, int reason):
        """A reason to wait is gone; runs in the next turn of the loop if there is no other."""
        if self.stops & reason:
            self.stops &= ~reason
            if not self.stops:
                self.resume = True
                if not self.dirty:
                    self.outbox.mark(self)

    cpdef list take_ready(self):
        """The replies that can leave now, in order; lets the caller go on where it waited for that."""
        cdef Fifo replies = self.replies
        cdef list ready = []
        cdef Slot slot
        while replies.count:
            slot = replies.peek()
            if slot.reply is None:
                break
            self.owed -= PyBytes_GET_SIZE(slot.reply)
            replies.shift()
            if self.muted and type(slot) is not Push:
                if self.muted == _NEXT_REPLY:
                    self.muted = 0
                continue
            ready.append(slot.reply)
            self.outbox.bytes_out += PyBytes_GET_SIZE(slot.reply)
        if self.stops & (_FULL | _DRAINING):
            if replies.count * 2 <= self.max_commands:
                self.stops &= ~_FULL
            if not replies.count:
                self.stops &= ~_DRAINING
            self.resume = not self.stops
        return ready


# Why what a server sent is not handed on.
UNASKED = "the server sent a reply that nothing had asked for"
LATE = "its reply came after this router's lease had ended"


cdef class Lease:
    """How long a router may send commands and believe replies, in seconds of `monotonic`."""

    def __init__(self, monotonic):
        self.monotonic = None if monotonic is time.monotonic else monotonic

    cpdef bint lasts(self) except -1:
        """Whether it has not ended yet."""
        if self.monotonic is None:
            return clock_ns() < self.deadline * 1e9
        return self.monotonic() < self.deadline


cdef class CommandQueue:
    """The compiled part of a MemberLink (see member.py): commands on their way to a server, and who waits for them.

    Its bounds are on commands and bytes that are unanswered. A single command always fits. Commands are kept until
    they are answered, so that those that take long can be named.

    Replies are handed on as they come, but only while the lease lasts: after it, the server may own the keys no
    longer. Where that does not prove enough (`parks`), they stay here until `hand_on` is told how many are covered.
    """

    def __init__(self, *, Py_ssize_t max_commands, Py_ssize_t max_bytes, bint pushes, Lease lease not None):
        self.max_commands = max_commands
        self.max_bytes = max_bytes
        self.pushes = pushes
        self.lease = lease
        self.parked = Fifo()
        self.out = []
        self.slow_ns = INT64_MAX
        self.latencies = Latencies()
        self.waiters = Fifo()
        self.frames = Fifo()

    def __dealloc__(self):
        free(self.flights)

    cpdef send(self, bytes raw, object waiter):
        """Send a command when the loop turns; the waiter gets its reply, or an error at once if it cannot be sent."""
        self.enqueue(raw, waiter, clock_ns(), OWN)

    cpdef send_as(self, bytes raw, object waiter, CommandStats kind):
        """The same, counted as a command of that kind; it began when its client's last bytes came."""
        if type(waiter) is Slot:
            self.enqueue(raw, waiter, (<Slot>waiter).caller.arrived_ns, kind)
        else:
            self.enqueue(raw, waiter, clock_ns(), kind)

    @property
    def counts(self):
        """Commands sent so far that read, that write, and others."""
        return self.requests[0], self.requests[1], self.requests[2]

    cdef int enqueue(self, bytes raw, object waiter, int64_t began_ns, CommandStats kind) except -1:
        cdef Py_ssize_t size = PyBytes_GET_SIZE(raw)
        if not self.ready and not self.admits(waiter):
            return 0
        if self.waiters.count and (
            self.waiters.count >= self.max_commands or self.queued_bytes + size > self.max_bytes
        ):
            waiter.fill(self.overloaded())
            return 0
        self.fly(raw, waiter, began_ns, kind)
        self.issued += 1
        self.queued_bytes += size
        self.out.append(raw)
        if self.ready and not self.scheduled:
            self.scheduled = True
            self.schedule()
        return 0

    cdef int fly(self, bytes raw, object waiter, int64_t began_ns, CommandStats kind) except -1:
        """Remember a command on its way, whose waiter gets the next reply that is not another's."""
        cdef Flight *flight
        if self.waiters.count == self.flights_room:
            self.grow_flights()
        flight = &self.flights[(self.flights_head + self.waiters.count) & (self.flights_room - 1)]
        flight.began_ns = began_ns
        flight.kind = <void *>kind
        self.requests[kind.group] += 1
        self.waiters.push(waiter)
        self.frames.push(raw)
        return 0

    cdef int grow_flights(self) except -1:
        cdef Py_ssize_t room = max(MIN_CELLS, 2 * self.flights_room), i
        cdef Flight *flights = <Flight *>malloc(room * sizeof(Flight))
        if flights == NULL:
            raise MemoryError
        for i in range(self.waiters.count):
            flights[i] = self.flights[(self.flights_head + i) & (self.flights_room - 1)]
        free(self.flights)
        self.flights = flights
        self.flights_head = 0
        self.flights_room = room
        return 0

    def send_together(self, list raws, waiter):
        """Send commands with nothing between them; the waiter gets a reply, or an error, for each of them."""
        cdef Py_ssize_t size = sum(map(len, raws)), count = len(raws)
        if not self.ready and not self.admits(waiter):
            count -= 1  # that was the first error
            error = self.down()
        elif self.waiters.count and (
            self.waiters.count + count > self.max_commands or self.queued_bytes + size > self.max_bytes
        ):
            error = self.overloaded()
        else:
            for raw in raws:
                self.fly(raw, waiter, clock_ns(), OWN)
            self.issued += count
            self.queued_bytes += size
            self.out += raws
            if self.ready and not self.scheduled:
                self.scheduled = True
                self.schedule()
            return
        for _ in range(count):
            waiter.fill(error)

    cpdef str received(self, list replies):
        """Hand replies to those who wait for them, in order; why the connection is to be ended, None where it is not."""
        cdef bytes reply, raw
        cdef object waiter
        cdef Flight flight
        cdef int64_t now_ns
        if not self.lease.lasts():
            return LATE
        now_ns = clock_ns()
        for reply in replies:
            if self.pushes and PyBytes_AS_STRING(reply)[0] == c">":
                continue
            if self.waiters.count <= len(self.out):
                return UNASKED
            flight = self.flights[self.flights_head]
            self.flights_head = (self.flights_head + 1) & (self.flights_room - 1)
            raw = self.frames.shift()
            self.queued_bytes -= PyBytes_GET_SIZE(raw)
            waiter = self.waiters.shift()
            self.answered += 1
            self.latencies.add(now_ns - flight.began_ns)
            (<CommandStats>flight.kind).latencies.add(now_ns - flight.began_ns)
            if PyBytes_AS_STRING(reply)[0] == c"-":
                (<CommandStats>flight.kind).failed += 1
            if now_ns - flight.began_ns >= self.slow_ns:
                self.slow(raw, waiter, now_ns - flight.began_ns)
            if PyBytes_GET_SIZE(reply) >= HEAVY_BYTES and isinstance(waiter, Slot):
                self.heavy_reply(raw)
            if self.parks:
                self.parked.push(waiter)
                self.parked.push(reply)
            else:
                self.hand(waiter, reply)
        return None

    cdef int hand(self, object waiter, bytes reply) except -1:
        """Give a reply to who waits for it, or an error where it cannot be what it should."""
        if type(waiter) is Slot:
            (<Slot>waiter).fill(reply)
            return 0
        try:
            waiter.fill(reply)
        except ODD_REPLY as error:  # it has not been handed on, then
            waiter.fill(self.misunderstood(reply, error))
        return 0

    cpdef str hand_on(self, Py_ssize_t count):
        """Hand on the first replies that are parked: something has covered them. The result is as of `received`."""
        if not self.lease.lasts():
            return LATE
        for _ in range(count):
            waiter = self.parked.shift()
            self.hand(waiter, self.parked.shift())
        return None

    def take_parked(self):
        """Those whose replies are parked, in order; nothing covers these any more."""
        cdef list waiters = []
        while self.parked.count:
            waiters.append(self.parked.shift())
            self.parked.shift()
        return waiters

    def take_unsent(self):
        """The waiters of what has not been written yet, in order; it is taken back."""
        cdef Py_ssize_t count = len(self.out)
        cdef list waiters = []
        for _ in range(count):
            self.queued_bytes -= len(self.frames.pop())
            waiters.append(self.waiters.pop())
        self.out = []
        self.answered += count
        waiters.reverse()
        return waiters

    def take_sent(self):
        """The waiters of what has been written and not answered, in order. Whether it ran is not known."""
        cdef list waiters = []
        while self.waiters.count > len(self.out):
            self.flights_head = (self.flights_head + 1) & (self.flights_room - 1)
            self.queued_bytes -= len(self.frames.shift())
            waiters.append(self.waiters.shift())
        return waiters


cdef class FastPath:
    """From a frame to its shard's queue without a Python object for its arguments, for commands with one key.

    It is open while `serve` has given it routes. Nothing here asks whether the lease still lasts: a queue does so
    before it writes, and it writes all that came since the loop's last turn.
    """

    def __init__(self, commands, links2, links3, heavy):
        """`commands`: spelling → (name, arity, position of the key, READ or WRITE). The dicts stay the same."""
        self.by_name = {}
        self.kinds = {}
        for word, (name, arity, position, group) in commands.items():
            self.kinds[word] = self.by_name.setdefault(name, CommandStats(name, group, arity, position))
        self.links2 = links2
        self.links3 = links3
        self.heavy = heavy

    def serve(self, routes, Owners owners):
        """Use these routes; by `owners` if they alone decide. None for both: leave everything to the dispatcher."""
        self.routes = routes
        self.owners = owners

    def kind_of(self, str name, int group):
        """How a command is counted that the dispatcher sends."""
        kind = self.by_name.get(name)
        if kind is None:
            kind = self.by_name[name] = CommandStats(name, group)
        return kind

    cdef bint needs_no_values(self, RequestParser parser) except -1:
        """Whether the frame that was found is big, and the dispatcher sends it on by its name and its only key."""
        cdef CommandStats kind
        cdef Span *spans = parser.spans
        if parser.words is not None or parser.start - parser.found < HEAVY_BYTES or parser.count > FEW:
            return False
        if spans[0].size > LONGEST_NAME:
            return False
        kind = self.kinds.get(PyBytes_FromStringAndSize(parser.data + parser.found + spans[0].start, spans[0].size))
        return kind is not None and kind.position < parser.count and spans[kind.position].size < SMALL_BYTES

    cdef bint forward(self, ClientState caller) except -1:
        """Send the frame that the caller's parser has found; False if that is not for here, and nothing was done."""
        cdef RequestParser parser = caller.parser
        cdef const char *frame = parser.data + parser.found
        cdef Span *spans = parser.spans
        cdef Span *key
        cdef CommandStats kind
        cdef CommandQueue link
        cdef Slot slot
        cdef str shard
        cdef bytes raw
        if self.routes is None or parser.words is not None:
            return False
        if caller.way != self.way:
            if caller.replies.count:
                return False
            caller.way = self.way
        if self.word is not None and spans[0].size == PyBytes_GET_SIZE(self.word) and not memcmp(
            frame + spans[0].start, PyBytes_AS_STRING(self.word), spans[0].size
        ):
            kind = self.kind
        else:
            if spans[0].size > LONGEST_NAME:
                return False
            word = PyBytes_FromStringAndSize(frame + spans[0].start, spans[0].size)
            kind = self.kinds.get(word)
            if kind is None:
                return False
            self.word = word
            self.kind = kind
        if parser.start - parser.found >= HEAVY_BYTES:
            return False
        if parser.count != kind.arity if kind.arity >= 0 else parser.count < -kind.arity:
            return False
        if kind.position >= parser.count:
            return False
        key = &spans[kind.position]
        if self.heavy and PyBytes_FromStringAndSize(frame + key.start, key.size) in self.heavy:
            return False
        if self.owners is not None:
            shard = self.owners.owner_of(frame + key.start, key.size)
        else:
            shard = self.routes.owner(PyBytes_FromStringAndSize(frame + key.start, key.size))
        link = (self.links2 if caller.protocol == 2 else self.links3).get(shard)
        if link is None:
            return False
        self.commands += 1
        caller.last_word = self.word
        caller.hold_until = None
        slot = Slot.__new__(Slot)
        slot.caller = caller
        raw = parser.raw()
        caller.replies.push(slot)
        link.enqueue(raw, slot, caller.arrived_ns, kind)
        return True
