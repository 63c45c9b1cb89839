# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The framing of wire.py, compiled: where requests and replies begin and end. Values are not looked into.

What is fed is read where it lies; only what is left of it is copied, so that a frame in many pieces costs time
linear in its length. No byte is read before its position has been compared with `end`.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport Py_CLEAR, Py_INCREF, PyObject
from libc.stdint cimport INT64_MIN
from libc.stdlib cimport free, realloc
from libc.string cimport memchr, memcpy, memmove

from helios.errors import ProtocolError
from helios.resp.inline import split_inline
from helios.resp.limits import Limits

cdef extern from "Python.h":
    int _PyBytes_Resize(PyObject **block, Py_ssize_t size) except -1

cdef Py_ssize_t MAX_LINE = 64 * 1024
cdef Py_ssize_t MAX_REPLY_LINE = 1024 * 1024
MISPLACED_END = "a server's bulk reply does not end where it should"
cdef Py_ssize_t BIG_BYTES = 256 * 1024  # of a string that gets its own room before all of it has come
cdef Py_ssize_t MAX_REPLY_BYTES = (<Py_ssize_t>1) << 30
cdef Py_ssize_t MAX_ELEMENTS = (<Py_ssize_t>1) << 40
cdef Py_ssize_t KEPT_ROOM = 16 * 1024  # a store or table that has grown beyond is given back when it is not needed
cdef Py_ssize_t KEPT_SPANS = 256
cdef Py_ssize_t MANY = 10_000  # arguments; fewer are made in less than a millisecond
cdef Py_ssize_t MADE_BYTES = 64 * 1024 * 1024  # of arguments that are made while others are on their way
cdef Py_ssize_t WORD_BYTES = 41  # that an argument takes beside its own
cdef Py_ssize_t NO_NUMBER = INT64_MIN


cdef inline Py_ssize_t number(const char *digits, Py_ssize_t size) noexcept:
    """A canonical decimal of at most 18 digits; NO_NUMBER for anything else, which servers need not read alike."""
    cdef Py_ssize_t value = 0, i
    cdef bint negative = size > 1 and digits[0] == c"-"
    if negative:
        digits += 1
        size -= 1
    if size < 1 or size > 18 or (digits[0] == c"0" and (size > 1 or negative)):
        return NO_NUMBER
    for i in range(size):
        if not c"0" <= digits[i] <= c"9":
            return NO_NUMBER
        value = value * 10 + (digits[i] - c"0")
    return -value if negative else value


cdef class Buffer:
    """Room for bytes that come bit by bit. What has filled it becomes a bytes object without being copied again."""

    def __init__(self, Py_ssize_t room=0):
        if room:
            self.reserve(room)

    def __dealloc__(self):
        Py_CLEAR(self.block)

    cdef int reserve(self, Py_ssize_t room) except -1:
        """Have room for so many bytes at least; `data` may stand elsewhere afterwards."""
        cdef bytes block
        if self.block == NULL:
            block = PyBytes_FromStringAndSize(NULL, room)
            Py_INCREF(block)
            self.block = <PyObject *>block
        elif room > self.room:
            self.data = NULL
            self.room = 0
            _PyBytes_Resize(&self.block, room)  # a big one is moved by the page table, not byte by byte
        else:
            return 0
        self.data = PyBytes_AS_STRING(<object>self.block)
        self.room = room
        return 0

    cdef bytes take(self, Py_ssize_t size):
        """Its first bytes; it has no room afterwards."""
        cdef bytes whole
        self.data = NULL
        self.room = self.size = 0
        if self.block == NULL:
            return b""
        _PyBytes_Resize(&self.block, size)
        whole = <bytes>self.block
        Py_CLEAR(self.block)
        return whole

    cpdef clear(self):
        """Give the room back."""
        self.data = NULL
        self.room = self.size = 0
        Py_CLEAR(self.block)

    def append(self, bytes data not None):
        """Add `data` behind the rest."""
        cdef Py_ssize_t more = PyBytes_GET_SIZE(data)
        if self.room < self.size + more:
            self.reserve(max(self.size + more, 2 * self.room))
        memcpy(self.data + self.size, PyBytes_AS_STRING(data), more)
        self.size += more

    def whole(self):
        """All that has been appended; it is empty afterwards."""
        return self.take(self.size)


cdef class Stream:
    """Bytes that come in pieces and are cut into whole frames or replies."""

    def __cinit__(self):
        self.store = Buffer()

    cdef int take_in(self, bytes data) except -1:
        """Add `data` behind what has not been taken yet."""
        cdef Py_ssize_t left = self.end - self.start, size = PyBytes_GET_SIZE(data)
        cdef Buffer store = self.store
        if self.fault is not None:
            return 0
        if not left:
            self.chunk = data
            self.data = PyBytes_AS_STRING(data)
            self.end = size
            self.start = self.position = self.searched = 0
            return 0
        if store.room < left + size:
            store.reserve(max(left + size, 2 * store.room))
            if self.chunk is None:
                self.data = store.data
        if self.chunk is not None or self.start:
            memmove(store.data, self.data + self.start, left)
            self.position -= self.start
            self.searched -= self.start
            self.start = 0
            self.data = store.data
            self.chunk = None
        memcpy(store.data + left, PyBytes_AS_STRING(data), size)
        self.end = left + size
        return 0

    cdef int keep_rest(self) except -1:
        """Nothing more can be taken for now: keep what is left and nothing else."""
        if self.start < self.end:
            if self.start:
                self.take_in(b"")
            return 0
        self.chunk = None
        self.data = NULL
        self.start = self.end = self.position = self.searched = 0
        if self.store.room > KEPT_ROOM:
            self.store.clear()
        return 0

    cdef int advance(self) except -1:
        """Go to the next whole frame or reply: 1, or 0 if there is none yet. It can be read until the next call."""
        cdef int there
        if self.fault is not None:
            raise self.fault
        try:
            there = self.find()
        except ProtocolError as error:
            self.fault = error
            self.start = self.end
            self.keep_rest()
            raise
        if not there:
            self.keep_rest()
        return there

    cdef int find(self) except -1:
        raise NotImplementedError

    cdef Py_ssize_t line_end(self) noexcept:
        """Where the line at `position` ends (its CRLF begins), or -1 if that is not there yet."""
        cdef Py_ssize_t at = max(self.position, self.searched)
        cdef const char *cr
        while at < self.end:
            cr = <const char *>memchr(self.data + at, c"\r", self.end - at)
            if cr == NULL:
                at = self.end
                break
            at = cr - self.data
            if at + 1 >= self.end:
                break
            if self.data[at + 1] == c"\n":
                self.searched = at
                return at
            at += 1
        self.searched = at
        return -1

    cdef bytes whole(self):
        """The frame or reply that was found, as it came."""
        cdef Py_ssize_t size = self.start - self.found
        if self.chunk is None and size == self.end and size >= BIG_BYTES:
            self.chunk = self.store.take(size)
            self.data = PyBytes_AS_STRING(self.chunk)
        if self.chunk is not None and size == PyBytes_GET_SIZE(self.chunk):
            return self.chunk
        return PyBytes_FromStringAndSize(self.data + self.found, size)


cdef class RequestParser(Stream):
    """Cuts what a client sends into frames. Holds at most one frame and one chunk."""

    def __init__(self, limits=None):
        self.made = []
        self.bound(limits or Limits())

    def __dealloc__(self):
        free(self.spans)

    def bound(self, limits not None):
        """Accept no more than this from now on."""
        self.max_arguments = limits.arguments
        self.max_bulk = limits.bulk_bytes
        self.max_frame = limits.frame_bytes

    @property
    def buffered(self):
        """Bytes that are kept until the rest of a frame comes."""
        return self.end - self.start + self.made_bytes

    def feed(self, bytes data not None):
        """Take what has been read from the connection."""
        self.take_in(data)

    def take(self, Py_ssize_t limit=1 << 30):
        """At most `limit` of the frames that are complete, in order.

        Raises ProtocolError, once all frames before the fault have been taken; nothing comes after it.
        """
        cdef list frames = []
        try:
            while len(frames) < limit and self.advance():
                frames.append((self.raw(), self.arguments()))
        except ProtocolError:
            if not frames:
                raise
        return frames

    cdef int find(self) except -1:
        while self.position < self.end:
            if not self.missing:
                self.start = self.position
                if self.data[self.position] != c"*":
                    if not self.read_inline():
                        return 0
                    if not self.words:
                        continue
                    self.found = self.start
                    self.start = self.position
                    return 1
                if not self.read_header():
                    return 0
                if not self.missing:
                    continue
            if not self.read_arguments():
                if self.count > MANY and self.made_bytes < MADE_BYTES:
                    self.make_words()
                return 0
            self.found = self.start
            self.start = self.position
            return 1
        if not self.missing:
            self.start = self.position
        return 0

    cdef int read_header(self) except -1:
        """Read `*<count>`; 0 if it is not complete."""
        cdef Py_ssize_t line = self.line_end(), count
        if line < 0:
            if self.end - self.position > MAX_LINE:
                raise ProtocolError("Protocol error: too big mbulk count string")
            return 0
        count = number(self.data + self.position + 1, line - self.position - 1)
        if count == NO_NUMBER or count > self.max_arguments:
            raise ProtocolError("Protocol error: invalid multibulk length")
        if count > 0:
            self.missing = count
            self.count = 0
            self.words = None
            if self.made_bytes:
                self.made = []
                self.made_bytes = 0
            if self.spans_room > KEPT_SPANS:
                free(self.spans)
                self.spans = NULL
                self.spans_room = 0
        self.position = line + 2
        return 1

    cdef int read_arguments(self) except -1:
        """Read arguments of the frame under way; 0 if some of them are not complete."""
        cdef Py_ssize_t line, length, body, stop
        cdef const char *data = self.data
        while self.missing:
            if self.position < self.end and data[self.position] != c"$":
                raise ProtocolError(f"Protocol error: expected '$', got '{shown(data[self.position])}'")
            line = self.line_end()
            if line < 0:
                if self.end - self.position > MAX_LINE:
                    raise ProtocolError("Protocol error: too big bulk count string")
                return 0
            length = number(data + self.position + 1, line - self.position - 1)
            if length < 0 or length > self.max_bulk:
                raise ProtocolError("Protocol error: invalid bulk length")
            body = line + 2
            stop = body + length
            if stop - self.start > self.max_frame:
                raise ProtocolError("Protocol error: too big request")
            if stop + 2 > self.end:
                return 0
            if data[stop] != c"\r" or data[stop + 1] != c"\n":
                raise ProtocolError("Protocol error: expected CRLF behind a bulk string")
            self.add_span(body - self.start, length)
            self.position = stop + 2
            self.missing -= 1
        return 1

    cdef int add_span(self, Py_ssize_t start, Py_ssize_t size) except -1:
        cdef Span *spans
        cdef Py_ssize_t room
        if self.count == self.spans_room:
            # It grows with the bytes that have come, not with what was announced.
            room = max(<Py_ssize_t>8, 2 * self.spans_room)
            spans = <Span *>realloc(self.spans, room * sizeof(Span))
            if spans == NULL:
                raise MemoryError
            self.spans = spans
            self.spans_room = room
        self.spans[self.count].start = start
        self.spans[self.count].size = size
        self.count += 1
        return 0

    cdef int read_inline(self) except -1:
        """Read an inline command; 0 if it is not complete."""
        cdef Py_ssize_t at = max(self.position, self.searched), line = -1
        cdef const char *lf = NULL
        if at < self.end:
            lf = <const char *>memchr(self.data + at, c"\n", self.end - at)
        if lf != NULL:
            line = lf - self.data
        if line < 0 or line - self.position > MAX_LINE:
            if self.end - self.position > MAX_LINE:
                raise ProtocolError("Protocol error: too big inline request")
            self.searched = self.end
            return 0
        self.words = split_inline(PyBytes_FromStringAndSize(self.data + self.position, line - self.position))
        self.position = line + 1
        return 1

    cdef bytes raw(self):
        """The frame that was found, as it came; an inline command as an array."""
        return self.whole() if self.words is None else encode_command(self.words)

    cdef int make_words(self) except -1:
        """Make the arguments that have come, so that little is left to do when the last one has."""
        cdef const char *frame = self.data + self.start
        cdef Py_ssize_t i
        for i in range(len(self.made), self.count):
            self.made.append(PyBytes_FromStringAndSize(frame + self.spans[i].start, self.spans[i].size))
            self.made_bytes += self.spans[i].size + WORD_BYTES
        return 0

    cdef list arguments(self):
        """The arguments of the frame that was found."""
        cdef list argv
        cdef Py_ssize_t i
        cdef const char *frame
        if self.words is not None:
            return self.words
        argv, self.made = self.made, []
        self.made_bytes = 0
        frame = self.data + self.found
        for i in range(len(argv), self.count):
            argv.append(PyBytes_FromStringAndSize(frame + self.spans[i].start, self.spans[i].size))
        return argv

    cdef list short_arguments(self):
        """The same, but that long ones are left empty: for who needs none of them, and would have to wait for a copy."""
        cdef list argv = []
        cdef Py_ssize_t i
        cdef const char *frame = self.data + self.found
        for i in range(self.count):
            argv.append(
                PyBytes_FromStringAndSize(frame + self.spans[i].start, self.spans[i].size)
                if self.spans[i].size < BIG_BYTES else b""
            )
        return argv


cdef str shown(char byte):
    cdef int code = <unsigned char>byte
    return chr(code) if 32 <= code < 127 else f"\\x{code:02x}"


def encode_command(argv):
    """A request as an array of bulk strings."""
    cdef list parts = [b"*%d\r\n" % len(argv)]
    for argument in argv:
        parts.append(b"$%d\r\n" % len(argument))
        parts.append(argument)
        parts.append(b"\r\n")
    return b"".join(parts)


cdef class ReplySplitter(Stream):
    """Cuts what a server sends into whole replies, nested ones included, of RESP2 and RESP3.

    A reply of more than `max_bytes` is not kept: its bytes are dropped as they come, and an error stands for it.
    """

    def __init__(self, Py_ssize_t max_bytes=MAX_REPLY_BYTES):
        self.pending = 1
        self.max_bytes = max_bytes

    @property
    def buffered(self):
        """Bytes that are kept until the rest of a reply comes."""
        return self.end - self.start + self.filled

    @property
    def drops(self):
        """Whether the reply under way is too big, and dropped as it comes."""
        return self.dropping

    def feed(self, bytes data not None):
        """The replies that `data` completes. Raises ProtocolError; the connection is of no use then."""
        cdef list replies = []
        if self.big is not None:
            data = self.fill_big(data, replies)
            if not data:
                return replies
        self.take_in(data)
        while self.advance():
            if self.dropping:
                self.dropping = False
                replies.append(
                    b"-ERR the command was carried out, but its reply has more than the %d bytes of router.max_reply "
                    b"and is not passed on\r\n" % self.max_bytes
                )
            else:
                replies.append(self.whole())
        return replies

    def clear(self):
        """Nothing more comes: give back what is kept of a reply that has begun."""
        self.start = self.end
        self.keep_rest()
        self.pending = 1
        self.skip = self.filled = 0
        self.dropping = False
        self.big = None

    cdef int begin_big(self, Py_ssize_t size) except -1:
        """Have the rest of a big string written where it is to stay: nothing of it is copied when it is complete."""
        self.big = PyBytes_FromStringAndSize(NULL, size)
        self.filled = self.end - self.start
        memcpy(PyBytes_AS_STRING(self.big), self.data + self.start, self.filled)
        self.start = self.position = self.end
        return 0

    cdef bytes fill_big(self, bytes data, list replies):
        """Take what belongs to the big string; what of `data` comes behind it."""
        cdef Py_ssize_t size = PyBytes_GET_SIZE(self.big)
        cdef Py_ssize_t some = min(size - self.filled, PyBytes_GET_SIZE(data))
        cdef char *reply = PyBytes_AS_STRING(self.big)
        memcpy(reply + self.filled, PyBytes_AS_STRING(data), some)
        self.filled += some
        if self.filled < size:
            return b""
        if reply[size - 2] != c"\r" or reply[size - 1] != c"\n":
            self.fault = ProtocolError(MISPLACED_END)
            self.clear()
            raise self.fault
        replies.append(self.big)
        self.big = None
        self.filled = 0
        return data[some:]

    cdef int find(self) except -1:
        cdef Py_ssize_t line, some
        while self.position < self.end:
            if self.skip:
                some = min(self.skip, self.end - self.position)
                self.position += some
                self.skip -= some
                if self.skip:
                    break
                self.pending -= 1
            else:
                line = self.line_end()
                if line < 0:
                    if self.end - self.position > MAX_REPLY_LINE:
                        raise ProtocolError("a server's reply has a line of more than 1 MiB")
                    break
                if not self.read_value(line):
                    break
            if not self.pending:
                self.drop_beyond(self.position)
                self.pending = 1
                self.found = self.start
                self.start = self.position
                return 1
        self.drop_beyond(self.position)
        if self.dropping:
            self.start = self.position
        return 0

    cdef int drop_beyond(self, Py_ssize_t stop) except -1:
        """Keep nothing of the reply under way if it reaches to `stop` at least and that is too far."""
        if not self.dropping and stop - self.start > self.max_bytes:
            if self.data[self.start] == c">":  # nothing can stand for what nobody has asked for
                raise ProtocolError(f"a server's message has more than {self.max_bytes} bytes")
            self.dropping = True
        return 0

    cdef int read_value(self, Py_ssize_t line) except -1:
        """Read the value, or the beginning of values, whose line ends there; 0 if it is not complete."""
        cdef const char *data = self.data
        cdef char kind = data[self.position]
        cdef Py_ssize_t size, stop
        if kind in (c"+", c"-", c":", c"_", c",", c"#", c"("):
            self.position = line + 2
            self.pending -= 1
            return 1
        size = number(data + self.position + 1, line - self.position - 1)
        if size < -1 or (size == -1 and kind != c"$" and kind != c"*"):
            raise self.misunderstood(line)
        if kind in (c"$", c"=", c"!"):
            stop = line + 2 if size < 0 else line + 4 + size
            if stop > self.end:
                self.drop_beyond(stop)
                if self.dropping:
                    self.skip = stop - self.position
                    return 1
                if self.pending == 1 and self.position == self.start and stop - self.start >= BIG_BYTES:
                    self.begin_big(stop - self.start)
                return 0
            if data[stop - 2] != c"\r" or data[stop - 1] != c"\n":
                raise ProtocolError(MISPLACED_END)
            self.position = stop
            self.pending -= 1
            return 1
        if size > MAX_ELEMENTS:
            raise self.misunderstood(line)
        if kind == c"|":  # An attribute stands before the value that it belongs to.
            self.pending += 2 * size
        elif kind == c"%":
            self.pending += 2 * size - 1
        elif kind in (c"*", c"~", c">"):
            self.pending += -1 if size < 0 else size - 1
        else:
            raise self.misunderstood(line)
        if self.pending > MAX_ELEMENTS:
            raise self.misunderstood(line)
        self.position = line + 2
        return 1

    cdef object misunderstood(self, Py_ssize_t line):
        """The error for a line that no server should send."""
        cdef Py_ssize_t size = min(line - self.position, <Py_ssize_t>40)
        text = PyBytes_FromStringAndSize(self.data + self.position, size)
        return ProtocolError(f"a server's reply is not understood: {text!r}")
