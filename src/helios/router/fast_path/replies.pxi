# Places in a caller's row of replies.

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
    """A slot whose reply the caller's next command waits for; `filled`, unless None, is called once it is there."""

    cdef public object filled

    cpdef fill(self, bytes reply):
        """Take the reply and let the caller go on."""
        Slot.fill(self, reply)
        if self.filled is not None:
            self.filled()
            self.filled = None
        self.caller.go_on(_ANSWERING)


cdef class Confirmation(LastSlot):
    """The place of a confirmation that a subscription begins or ends: messages come behind it.

    CLIENT REPLY silences it only where it is an error.
    """


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
