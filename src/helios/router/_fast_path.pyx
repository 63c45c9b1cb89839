# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""What every command passes through, compiled: a caller's row of replies, a server's queue, and the fast path between.

One extension, in parts that `fast_path/` holds: each is included where it stands below, and sees what stands above it.

The fast path takes the commands with one key while nothing is out of the ordinary. Whatever else there is (several
keys, a fence, a slowed write, no lease, an unknown word) goes to the dispatcher, which decides about everything.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport Py_REFCNT
from libc.stdint cimport INT64_MAX, int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.types cimport clockid_t

from helios.errors import ProtocolError
from helios.ports.clock import boottime
from helios.resp._wire cimport Span
from helios.resp.odd import ODD_REPLY


cdef enum Verdict:
    _DONE = 0
    _HOLD = 1
    _WAIT_REPLY = 2
    _WAIT_ALL = 3
    _SLOW = 4
    _PREPARE = 5

cdef enum Reason:
    _HELD = 1
    _ANSWERING = 2
    _DRAINING = 4
    _FULL = 8
    _CLOSED = 16
    _YIELDED = 32
    _PREPARING = 64

cdef enum Group:
    _READ = 0
    _WRITE = 1
    _OTHER = 2

cdef enum Muted:
    _NEXT_REPLY = 1
    _EVERY_REPLY = 2

cdef enum Parks:
    _PARKS_READS = 1
    _PARKS_WRITES = 2

# In which modes a caller is, as bits: in any of them its commands do not take the fast path.
IN_MULTI = 1
IN_SUBSCRIPTION = 2
IN_NO_DATABASE = 4

# Which of its replies a caller does not want.
NEXT_REPLY = _NEXT_REPLY
EVERY_REPLY = _EVERY_REPLY

# What the dispatcher says of a command.
DONE = _DONE  # answered, or under way
HOLD = _HOLD  # touched nothing; try it again when the topology has changed
WAIT_REPLY = _WAIT_REPLY  # under way, and the next command must wait for its reply
WAIT_ALL = _WAIT_ALL  # touched nothing; try it again when every earlier command has been answered
SLOW = _SLOW  # touched nothing; try it again after `slow_s`
PREPARE = _PREPARE  # touched nothing; try it again when what has been begun for it is done

# Why a caller does not go on, as bits.
HELD = _HELD
ANSWERING = _ANSWERING
DRAINING = _DRAINING
FULL = _FULL
CLOSED = _CLOSED
YIELDED = _YIELDED
PREPARING = _PREPARING

# Which replies of a server wait until something covers them, as bits.
PARKS_READS = _PARKS_READS
PARKS_WRITES = _PARKS_WRITES

# How commands are told apart in counts.
READ = _READ
WRITE = _WRITE
OTHER = _OTHER

cdef extern from *:
    """
    #include <time.h>
    #ifndef CLOCK_BOOTTIME
    #define CLOCK_BOOTTIME CLOCK_MONOTONIC
    #endif
    """
    clockid_t CLOCK_BOOTTIME

cdef extern from *:
    int __builtin_clzll(unsigned long long) noexcept

cdef Py_ssize_t MIN_CELLS = 8
cdef Py_ssize_t KEPT_CELLS = 1024
cdef Py_ssize_t HEAVY_BYTES = 1 << 20  # as in upstream/heavy.py
cdef Py_ssize_t BIG_BYTES = 256 << 10  # as BIG_VALUE_BYTES in ports/engine.py
cdef Py_ssize_t SMALL_BYTES = 16 * 1024  # below it a copy costs less than a write
cdef Py_ssize_t LONGEST_NAME = 64
cdef Py_ssize_t FEW = 256  # arguments
cdef Py_ssize_t LONG = 10_000  # arguments; fewer are freed in a tenth of a millisecond
cdef Py_ssize_t FREED_AT_ONCE = 50_000
cdef double STILL_NEEDED_S = 0.05
cdef Py_ssize_t MAX_ERROR_NAMES = 100
cdef int COMMANDS_A_LOOK = 16  # of those that take the fast path


cdef inline int64_t clock_ns() noexcept:
    """The monotonic clock. It is read once for whatever has come in one piece, not for each command."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1000000000 + now.tv_nsec


cdef inline int64_t boot_ns() noexcept:
    """The clock that `helios.ports.clock.boottime` reads."""
    cdef timespec now
    clock_gettime(CLOCK_BOOTTIME, &now)
    return <int64_t>now.tv_sec * 1000000000 + now.tv_nsec


include "fast_path/stats.pxi"
include "fast_path/fifo.pxi"
include "fast_path/replies.pxi"
include "fast_path/outbox.pxi"
include "fast_path/client_state.pxi"
include "fast_path/lease.pxi"
include "fast_path/command_queue.pxi"


cdef class FastPath:
    """From a frame to its shard's queue without a Python object for its arguments, for commands with one key.

    It is open while `serve` has given it routes. Nothing here asks whether the lease still lasts: a queue does so
    before it writes, and it writes all that came since the loop's last turn.
    """

    def __init__(self, commands, links2, links3, heavy):
        """`commands`: spelling → (name, arity, position of the key, READ or WRITE). The dicts stay the same."""
        self.by_name = {}
        self.kinds = {}
        for word, (name, arity, position, group) in commands.items():
            self.kinds[word] = self.by_name.setdefault(name, CommandStats(name, group, arity, position))
        self.links2 = links2
        self.links3 = links3
        self.heavy = heavy

    def serve(self, routes, Owners owners):
        """Use these routes; by `owners` if they alone decide. None for both: leave everything to the dispatcher."""
        self.routes = routes
        self.owners = owners

    def kind_of(self, str name, int group):
        """How a command is counted that the dispatcher sends."""
        kind = self.by_name.get(name)
        if kind is None:
            kind = self.by_name[name] = CommandStats(name, group)
        return kind

    cdef bint needs_no_values(self, RequestParser parser) except -1:
        """Whether the frame that was found is big, and the dispatcher sends it on by its name and its only key."""
        cdef CommandStats kind
        cdef Span *spans = parser.spans
        if parser.words is not None or parser.start - parser.found < HEAVY_BYTES or parser.count > FEW:
            return False
        if spans[0].size > LONGEST_NAME:
            return False
        kind = self.kinds.get(PyBytes_FromStringAndSize(parser.data + parser.found + spans[0].start, spans[0].size))
        return kind is not None and kind.position < parser.count and spans[kind.position].size < SMALL_BYTES

    cdef bint forward(self, ClientState caller) except -1:
        """Send the frame that the caller's parser has found; False if that is not for here, and nothing was done."""
        cdef RequestParser parser = caller.parser
        cdef const char *frame = parser.data + parser.found
        cdef Span *spans = parser.spans
        cdef Span *key
        cdef CommandStats kind
        cdef CommandQueue link
        cdef Slot slot
        cdef str shard
        cdef bytes raw
        if self.routes is None or parser.words is not None:
            return False
        if caller.reroutes != self.reroutes:
            if caller.replies.count:
                return False
            caller.reroutes = self.reroutes
        if self.word is not None and spans[0].size == PyBytes_GET_SIZE(self.word) and not memcmp(
            frame + spans[0].start, PyBytes_AS_STRING(self.word), spans[0].size
        ):
            kind = self.kind
        else:
            if spans[0].size > LONGEST_NAME:
                return False
            word = PyBytes_FromStringAndSize(frame + spans[0].start, spans[0].size)
            kind = self.kinds.get(word)
            if kind is None:
                return False
            self.word = word
            self.kind = kind
        if parser.start - parser.found >= HEAVY_BYTES:
            return False
        if parser.count != kind.arity if kind.arity >= 0 else parser.count < -kind.arity:
            return False
        if kind.position >= parser.count:
            return False
        key = &spans[kind.position]
        if self.heavy and PyBytes_FromStringAndSize(frame + key.start, key.size) in self.heavy:
            return False
        if self.owners is not None:
            shard = self.owners.owner_of(frame + key.start, key.size)
        else:
            shard = self.routes.owner(PyBytes_FromStringAndSize(frame + key.start, key.size))
        link = (self.links2 if caller.protocol == 2 else self.links3).get(shard)
        if link is None:
            return False
        self.commands += 1
        caller.last_word = self.word
        caller.hold_until = None
        slot = Slot.__new__(Slot)
        slot.caller = caller
        raw = parser.raw()
        caller.replies.push(slot)
        link.enqueue(raw, slot, caller.arrived_ns, kind)
        return True
