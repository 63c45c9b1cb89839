# The compiled part of a caller: its commands run in order, and something may make it wait.

cdef class ClientState:
    """The compiled part of a Caller (see frontend/caller.py): its frames, its row of replies, and why it waits."""

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
        self.bytes_in += PyBytes_GET_SIZE(data)
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
                except ProtocolError as error:
                    self.broken(error)
                    return
                if fast_path is not None and not self.modes and fast_path.forward(self):
                    self.commands += 1
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
            if verdict == _DONE or verdict == _WAIT_REPLY:
                self.commands += 1
                if len(frame[1]) > LONG:
                    self.outbox.discard(frame[1])
            frame = None
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
        return replies.at(replies.count - 1) if replies.count else None

    cdef Py_ssize_t unanswered(self) except -1:
        """How many of its commands have no reply yet."""
        cdef Py_ssize_t i, count = 0
        for i in range(self.replies.count):
            if (<Slot>self.replies.at(i)).reply is None:
                count += 1
        return count

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
                if type(slot) is not Confirmation or PyBytes_AS_STRING(slot.reply)[0] == c"-":
                    continue
            ready.append(slot.reply)
            self.outbox.bytes_out += PyBytes_GET_SIZE(slot.reply)
            self.bytes_out += PyBytes_GET_SIZE(slot.reply)
        if self.stops & (_FULL | _DRAINING):
            if replies.count * 2 <= self.max_commands:
                self.stops &= ~_FULL
            if not replies.count:
                self.stops &= ~_DRAINING
            self.resume = not self.stops
        return ready
