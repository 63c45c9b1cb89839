# Until when a router may send commands and believe replies.

# Why what a server sent is not handed on.
UNASKED = "the server sent a reply that nothing had asked for"
LATE = "its reply came after this router's lease had ended"


cdef class Lease:
    """How long a router may send commands and believe replies, in seconds of `boottime`."""

    def __init__(self, clock):
        self.clock = None if clock is boottime else clock

    cpdef bint lasts(self) except -1:
        """Whether it has not ended yet."""
        if self.clock is None:
            return boot_ns() < self.deadline * 1e9
        return self.clock() < self.deadline
