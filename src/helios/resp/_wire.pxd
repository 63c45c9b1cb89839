from cpython.ref cimport PyObject


cdef struct Span:
    Py_ssize_t start  # from the beginning of the frame
    Py_ssize_t size


cdef class Buffer:
    cdef PyObject *block  # a bytes object that nobody else has, NULL while there is no room
    cdef char *data       # its bytes
    cdef Py_ssize_t room
    cdef Py_ssize_t size  # bytes that have been appended

    cdef int reserve(self, Py_ssize_t room) except -1
    cdef bytes take(self, Py_ssize_t size)
    cpdef clear(self)


cdef class Stream:
    cdef bytes chunk          # what came last, while nothing of it has had to be copied
    cdef Buffer store         # a copy of what was left of earlier chunks
    cdef const char *data     # the chunk's bytes or the store
    cdef Py_ssize_t end       # bytes in it
    cdef Py_ssize_t start     # where the frame or reply under way begins
    cdef Py_ssize_t position  # what is before it has been understood
    cdef Py_ssize_t searched  # the line at `position` does not end before this
    cdef Py_ssize_t found     # where the last whole frame or reply began; it ended at `start`
    cdef object fault

    cdef int take_in(self, bytes data) except -1
    cdef int keep_rest(self) except -1
    cdef int advance(self) except -1
    cdef int find(self) except -1
    cdef Py_ssize_t line_end(self) noexcept
    cdef bytes whole(self)


cdef class RequestParser(Stream):
    cdef Py_ssize_t max_arguments
    cdef Py_ssize_t max_bulk
    cdef Py_ssize_t max_frame
    cdef Py_ssize_t missing   # arguments that the frame under way still lacks
    cdef Span *spans          # where its arguments are
    cdef Py_ssize_t spans_room
    cdef Py_ssize_t count     # of the arguments read so far
    cdef list words           # the arguments of an inline command, None for others
    cdef list made            # the first arguments of a long frame, made while the rest is on its way
    cdef Py_ssize_t made_bytes

    cdef int read_header(self) except -1
    cdef int read_arguments(self) except -1
    cdef int read_inline(self) except -1
    cdef int add_span(self, Py_ssize_t start, Py_ssize_t size) except -1
    cdef int make_words(self) except -1
    cdef bytes raw(self)
    cdef list arguments(self)
    cdef list short_arguments(self)


cdef class ReplySplitter(Stream):
    cdef Py_ssize_t pending     # values that the reply under way still lacks
    cdef Py_ssize_t max_bytes  # of a reply that is kept
    cdef Py_ssize_t skip        # bytes still to come of a value that is not kept
    cdef bytes big              # a string whose beginning has come, None if none is under way
    cdef Py_ssize_t filled      # bytes of it
    cdef bint dropping          # the reply under way is too big: nothing of it is kept

    cdef int begin_big(self, Py_ssize_t size) except -1
    cdef bytes fill_big(self, bytes data, list replies)
    cdef int drop_beyond(self, Py_ssize_t stop) except -1
    cdef int read_value(self, Py_ssize_t line) except -1
    cdef object misunderstood(self, Py_ssize_t line)
