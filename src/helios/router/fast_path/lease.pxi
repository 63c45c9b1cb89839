# Until when a router may send commands and believe replies.

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
