# Who has replies to send, and how long a turn of the loop may take.

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
        self.discarded = []
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

    cdef int discard(self, list words) except -1:
        """Free a long command's arguments bit by bit, once nobody needs them: all at once they would take a turn."""
        if self.turn_ns:
            self.discarded.append(words)
            if len(self.discarded) == 1:
                self.loop.call_soon(self.free_some)
        return 0

    def free_some(self):
        """Free some of the arguments that nobody needs any more."""
        cdef list words
        cdef Py_ssize_t i
        for i in range(len(self.discarded)):
            words = self.discarded[i]
            if Py_REFCNT(words) == 2:  # by `discarded` and `words`
                del words[max(<Py_ssize_t>0, len(words) - FREED_AT_ONCE):]
                if not words:
                    del self.discarded[i]
                if self.discarded:
                    self.loop.call_soon(self.free_some)
                return
        self.loop.call_later(STILL_NEEDED_S, self.free_some)

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
