# Commands on their way to a server, and who waits for them.

cdef class Nobody:
    """Who waits for the first reply to a read that has been sent once more, over another connection."""

    def fill(self, bytes reply):
        """Drop the reply."""


cdef Nobody NOBODY = Nobody()

# What a server says that leads no more.
cdef tuple _STOOD_DOWN = (b"-READONLY", b"-MASTERDOWN")
# Errors that have nothing to do with what keys hold.
cdef tuple _REVEALS_NOTHING = (
    b"-CLUSTERDOWN", b"-UNBLOCKED", b"-NOPERM", b"-NOAUTH", b"-NOSCRIPT", b"-LOADING", b"-BUSY ", b"-OOM", b"-MISCONF",
    b"-READONLY", b"-MASTERDOWN",
)


cdef class CommandQueue:
    """The compiled part of a ServerConnection (see upstream/link.py): commands on their way to a server, and who waits for them.

    Its bounds are on commands and bytes that are unanswered. A single command always fits. Commands are kept until
    they are answered, so that those that take long can be named.

    Replies are handed on as they come, but only while the lease lasts: after it, the server may own the keys no
    longer. Where that does not prove enough (`parks`), they stay here until `hand_on` is told how many are covered.
    Errors do not, for they acknowledge nothing; nor do writes that `spares` names. Writes that would wait in vain, as
    members are `lacking`, are refused.

    `big_keys` is told of commands that are big or have a big reply.
    """

    def __init__(self, *, Py_ssize_t max_commands, Py_ssize_t max_bytes, bint pushes, Lease lease not None, big_keys):
        self.max_commands = max_commands
        self.max_bytes = max_bytes
        self.pushes = pushes
        self.lease = lease
        self.big_keys = big_keys
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
        if self.lacking and self.parks & kind.parks & _PARKS_WRITES and not self.is_spared(raw, kind):
            waiter.fill(self.unconfirmed())
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
        flight = self.flight(self.waiters.count)
        flight.began_ns = began_ns
        flight.kind = <void *>kind
        self.requests[kind.group] += 1
        self.waiters.push(waiter)
        self.frames.push(raw)
        if PyBytes_GET_SIZE(raw) >= BIG_BYTES:
            self.big_keys.sent(raw)
        return 0

    def oldest(self):
        """The command that has waited for its reply the longest, as it was sent; None where none waits."""
        return self.frames.peek()

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

    def read_again(self, CommandQueue other not None):
        """Send over another connection, too, what waits behind a big reply here and only reads one key's value.

        Its first reply counts for nothing then. Reads and writes of one client must not overtake one another: only
        for a client whose unanswered commands are all such reads that wait here, all of them are sent again.
        """
        cdef Py_ssize_t i, size = other.queued_bytes, count = other.waiters.count
        cdef dict reads = {}  # by client: where its reads stand
        cdef bytes big = self.frames.peek()
        cdef ClientState caller
        cdef Flight *flight
        cdef list places
        for i in range(1, self.waiters.count):
            waiter = self.waiters.at(i)
            kind = <CommandStats>self.flight(i).kind
            if type(waiter) is not Slot or self.frames.at(i) == big:
                continue
            if (<CommandStats>kind).group == _READ and (<CommandStats>kind).position:
                reads.setdefault((<Slot>waiter).caller, []).append(i)
        reads = {caller: places for caller, places in reads.items() if caller.unanswered() == len(places)}
        for places in reads.values():
            count += len(places)
            for i in places:
                size += PyBytes_GET_SIZE(self.frames.at(i))
        if count > other.max_commands or size > other.max_bytes:
            return
        for i in sorted([i for places in reads.values() for i in places]):
            flight = self.flight(i)
            other.enqueue(self.frames.at(i), self.waiters.at(i), flight.began_ns, <CommandStats>flight.kind)
            flight.kind = <void *>OWN
            self.waiters.put(i, NOBODY)

    cdef Flight *flight(self, Py_ssize_t i) noexcept:
        return &self.flights[(self.flights_head + i) & (self.flights_room - 1)]

    def send_together(self, list raws, waiter, CommandStats last=OWN):
        """Send commands with nothing between them, the last one of that kind.

        The waiter gets a reply, or an error, for each of them.
        """
        cdef Py_ssize_t size = sum(map(len, raws)), count = len(raws)
        if not self.ready and not self.admits(waiter):
            count -= 1  # that was the first error
            error = self.down()
        elif self.lacking and self.parks & last.parks & _PARKS_WRITES:
            error = self.unconfirmed()
        elif self.waiters.count and (
            self.waiters.count + count > self.max_commands or self.queued_bytes + size > self.max_bytes
        ):
            error = self.overloaded()
        else:
            for raw in raws[:count - 1]:
                self.fly(raw, waiter, clock_ns(), OWN)
            self.fly(raws[count - 1], waiter, clock_ns(), last)
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
        cdef Py_ssize_t parked = 0
        cdef bint failed
        cdef str reason = None
        if not self.lease.lasts():
            return LATE
        now_ns = clock_ns()
        for reply in replies:
            if self.pushes and PyBytes_AS_STRING(reply)[0] == c">":
                continue
            if self.waiters.count <= len(self.out):
                reason = UNASKED
                break
            flight = self.flights[self.flights_head]
            self.flights_head = (self.flights_head + 1) & (self.flights_room - 1)
            raw = self.frames.shift()
            self.queued_bytes -= PyBytes_GET_SIZE(raw)
            waiter = self.waiters.shift()
            self.answered += 1
            if waiter is not NOBODY:
                self.count(flight, raw, waiter, reply, now_ns - flight.began_ns)
            if PyBytes_GET_SIZE(reply) >= HEAVY_BYTES and isinstance(waiter, Slot):
                self.heavy_reply(raw)
                self.big_keys.answered(raw, PyBytes_GET_SIZE(reply))
            failed = PyBytes_AS_STRING(reply)[0] == c"-"
            if failed and reply.startswith(_STOOD_DOWN):
                reply = self.stood_down(reply)
            if (
                self.parks & (<CommandStats>flight.kind).parks
                and (not failed or self.reveals(reply))
                and not self.is_spared(raw, <CommandStats>flight.kind)
            ):
                self.parked.push(waiter)
                self.parked.push(reply)
                self.parked.push(<object>flight.kind)
                parked += 1
            else:
                self.hand(waiter, reply)
        if parked:
            self.rounds.park(self, parked)
        return reason

    cdef bint is_spared(self, bytes raw, CommandStats kind) except -1:
        """Whether it is a write whose reply waits for nothing all the same."""
        return self.spares is not None and kind.parks == _PARKS_WRITES and self.spares(raw)

    cdef int reveals(self, bytes error) except -1:
        """Whether an error must not be told before it is covered: it may tell what a key holds, as a read does."""
        return self.parks & _PARKS_READS != 0 and not error.startswith(_REVEALS_NOTHING)

    cdef int count(self, Flight flight, bytes raw, object waiter, bytes reply, int64_t took_ns) except -1:
        """Note how long a command took, and whether it failed."""
        self.latencies.add(took_ns)
        (<CommandStats>flight.kind).latencies.add(took_ns)
        if PyBytes_AS_STRING(reply)[0] == c"-":
            (<CommandStats>flight.kind).failed += 1
        if took_ns >= self.slow_ns:
            self.slow(raw, waiter, took_ns)
        return 0

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
        while count > 0 and self.parked.count:  # whoever gets a reply may end the connection
            waiter = self.parked.shift()
            reply = self.parked.shift()
            self.parked.shift()
            self.hand(waiter, reply)
            count -= 1
        return None

    @property
    def parked_count(self):
        """How many replies are parked."""
        return self.parked.count // 3

    def refuse(self, Py_ssize_t count, bytes read not None, bytes written not None):
        """Tell those of the first replies that are parked, by whether they have read or may have written, instead."""
        cdef CommandStats kind
        while count > 0 and self.parked.count:
            waiter = self.parked.shift()
            self.parked.shift()
            kind = self.parked.shift()
            kind.failed += 1
            waiter.fill(read if kind.parks == _PARKS_READS else written)
            count -= 1

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
