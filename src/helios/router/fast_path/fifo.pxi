# The row that replies and commands stand in.

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

    cdef object at(self, Py_ssize_t i):
        return self.cells[(self.head + i) & (len(self.cells) - 1)]

    cdef int put(self, Py_ssize_t i, object item) except -1:
        self.cells[(self.head + i) & (len(self.cells) - 1)] = item
        return 0

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
