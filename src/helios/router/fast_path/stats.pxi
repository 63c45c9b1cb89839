# How often commands were given, and how long they took.

cdef class Latencies:
    """How often commands took how long: four buckets for each power of two, from 1.024 µs to 137 s."""

    cdef int add(self, int64_t took_ns) except -1:
        cdef int power, bucket
        self.total_ns += took_ns
        if took_ns < 1024:
            bucket = 0
        else:
            power = 63 - __builtin_clzll(took_ns)
            bucket = 1 + ((power - 10) << 2) + <int>((took_ns >> (power - 2)) & 3)
            if bucket >= BUCKETS:
                bucket = BUCKETS - 1
        self.counts[bucket] += 1
        return 0

    def record(self, took_ns):
        """Count one command."""
        self.add(took_ns)

    def counted(self):
        """The buckets that are not empty: below how many nanoseconds, and how many commands."""
        cdef int i
        return [(bound_ns(i), self.counts[i]) for i in range(BUCKETS) if self.counts[i]]

    def clear(self):
        """Begin again."""
        memset(self.counts, 0, sizeof(self.counts))
        self.total_ns = 0


cdef object bound_ns(int bucket):
    if bucket == 0:
        return 1024
    return (<int64_t>5 + (bucket - 1) % 4) << (8 + (bucket - 1) // 4)


cdef class CommandStats:
    """A command in counts, with its arity and the position of its only key (0 where there is not just one).

    `parks` are the queues' modes in which its replies wait to be covered: it reads, it writes, or neither.
    """

    def __init__(self, str name, int group, int arity=0, int position=0, *, int parks=0):
        self.name = name
        self.group = group
        self.arity = arity
        self.position = position
        self.parks = _PARKS_READS if group == _READ else _PARKS_WRITES if group == _WRITE else parks
        self.latencies = Latencies()

    def clear(self):
        """Begin again."""
        self.latencies.clear()
        self.failed = self.rejected = 0


# What the router itself asks of servers, and parts of commands that nobody has named: what tells nobody anything of
# keys, what reads them, and what may change them.
OWN = CommandStats("", 2)
OWN_READ = CommandStats("", 2, parks=_PARKS_READS)
OWN_WRITE = CommandStats("", 2, parks=_PARKS_WRITES)
