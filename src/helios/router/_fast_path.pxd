from libc.stdint cimport int64_t

from helios.placement._owners cimport Owners
from helios.resp._wire cimport RequestParser

cdef enum:
    BUCKETS = 109


cdef class Latencies:
    cdef int64_t counts[BUCKETS]
    cdef readonly int64_t total_ns

    cdef int add(self, int64_t took_ns) except -1


cdef class CommandStats:
    cdef readonly str name
    cdef readonly int group      # READ, WRITE or OTHER
    cdef readonly Latencies latencies
    cdef public int64_t failed, rejected  # calls that were answered with an error, and that were not carried out
    cdef readonly int parks
    cdef int arity, position


cdef struct Flight:
    int64_t began_ns
    void *kind  # CommandStats of a FastPath, which has to outlive the queue, or OWN


cdef class Fifo:
    cdef list cells  # a power of two of them, used round and round
    cdef Py_ssize_t head, count

    cdef int push(self, object item) except -1
    cdef object shift(self)
    cdef object peek(self)
    cdef object at(self, Py_ssize_t i)
    cdef int put(self, Py_ssize_t i, object item) except -1
    cpdef clear(self)


cdef class Slot:
    cdef readonly ClientState caller
    cdef readonly bytes reply

    cpdef fill(self, bytes reply)


cdef class Outbox:
    cdef object loop
    cdef list callers
    cdef readonly list discarded  # arguments of long commands that are being freed
    cdef Fifo yielded             # those whose commands go on in another turn of the loop
    cdef int64_t turn_ns          # how long a turn may run commands, and then flush replies; 0: without an end
    cdef int64_t turn_ends_ns     # 0 until commands are run in the turn
    cdef public dict errors          # error replies by their first word
    cdef public Py_ssize_t bytes_in, bytes_out

    cpdef mark(self, ClientState caller)
    cdef bint turn_over(self) except -1
    cdef int discard(self, list words) except -1


cdef class ClientState:
    cdef public int protocol
    cdef public int stops
    cdef public int modes         # IN_MULTI and the like: what its commands mean depends on it
    cdef public Py_ssize_t owed, max_owed, max_commands
    cdef public bint dirty, resume, slowed
    cdef public int reroutes      # as of the FastPath, when it sent the first of what is unanswered
    cdef public bint trailing     # replies are being written bit by bit, and others come behind them
    cdef public bint behind       # it does not read its replies as fast as they come
    cdef public double slow_s
    cdef public object hold_until
    cdef public list waiting
    cdef public bytes last_word
    cdef public double last_at    # the loop's time when it was last flushed
    cdef readonly int64_t arrived_ns  # when something last came from it, by the monotonic clock
    cdef readonly int64_t bytes_in, bytes_out, commands  # of its own, since it came
    cdef public object transport  # where its replies go; None while there is none
    cdef public int muted         # which of its replies it does not want; 0: it wants all
    cdef public bint ending       # `flushed` is to be called after each flush
    cdef readonly Fifo replies
    cdef readonly Outbox outbox
    cdef readonly object dispatch
    cdef readonly object holder
    cdef readonly RequestParser parser
    cdef public FastPath fast_path      # None: every command goes to the dispatcher

    cpdef run(self)
    cdef int proceed(self) except -1
    cpdef go_on(self, int reason)
    cpdef list take_ready(self)
    cdef Py_ssize_t unanswered(self) except -1
    cdef int stop(self, int verdict, object frame) except -1


cdef class Lease:
    cdef object clock             # None: the system's own, which is read without a call
    cdef public double deadline

    cpdef bint lasts(self) except -1


cdef class CommandQueue:
    cdef public bint ready
    cdef public int parks         # whose replies wait in `parked` for `hand_on`: of reads, writes, or neither
    cdef public object spares     # tells of a write whether its reply waits for nothing all the same; None: none does
    cdef public object rounds     # is told of those that wait; None where none does
    cdef public bint lacking      # members that would confirm writes: those that would wait are not sent
    cdef public bint scheduled
    cdef public Py_ssize_t issued, answered, queued_bytes
    cdef public list out
    cdef public int64_t slow_ns   # `slow` is told of commands that took so long or longer
    cdef readonly Fifo waiters
    cdef readonly Latencies latencies
    cdef readonly Lease lease
    cdef object big_keys
    cdef Fifo parked              # who waits, the reply, and what kind of command it is to, by turns
    cdef Fifo frames
    cdef Flight *flights          # as many as waiters, used round and round like their cells
    cdef Py_ssize_t flights_head, flights_room
    cdef int64_t requests[3]
    cdef Py_ssize_t max_commands, max_bytes
    cdef bint pushes

    cpdef send(self, bytes raw, object waiter)
    cpdef send_as(self, bytes raw, object waiter, CommandStats kind)
    cdef int enqueue(self, bytes raw, object waiter, int64_t began_ns, CommandStats kind) except -1
    cdef int fly(self, bytes raw, object waiter, int64_t began_ns, CommandStats kind) except -1
    cdef int grow_flights(self) except -1
    cdef Flight *flight(self, Py_ssize_t i) noexcept
    cpdef str received(self, list replies)
    cdef int count(self, Flight flight, bytes raw, object waiter, bytes reply, int64_t took_ns) except -1
    cdef bint is_spared(self, bytes raw, CommandStats kind) except -1
    cdef int reveals(self, bytes error) except -1
    cdef int hand(self, object waiter, bytes reply) except -1
    cpdef str hand_on(self, Py_ssize_t count)


cdef class FastPath:
    cdef public Py_ssize_t commands  # counted since the start, whichever path they took
    cdef dict kinds               # by spelling
    cdef readonly dict by_name    # the same, and those of commands that never go the fast path
    cdef dict links2, links3
    cdef public int reroutes      # counts how often a link was exchanged for another
    cdef dict heavy               # the keys of commands that may have a connection apart
    cdef object routes            # None while the dispatcher decides about everything
    cdef Owners owners
    cdef bytes word
    cdef CommandStats kind

    cdef bint needs_no_values(self, RequestParser parser) except -1
    cdef bint forward(self, ClientState caller) except -1
