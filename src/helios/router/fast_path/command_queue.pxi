# Commands on their way to a server, and who waits for them.

cdef class CommandQueue:
    """The compiled part of a ServerConnection (see upstream/link.py): commands on their way to a server, and who waits for them.

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
