# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The look-up of table.py, compiled: the ring's owner, and the first rule that says otherwise.

A rule is found by what all of its keys begin with. The beginnings are sorted, so the last one at or before a key is
the longest that the key can have; all others that it has are beginnings of that one.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp

from helios.placement._glob cimport Glob
from helios.placement._points cimport place_of


cdef inline int compared(const char *one, Py_ssize_t size, const char *other, Py_ssize_t other_size) noexcept:
    cdef int order = memcmp(one, other, min(size, other_size))
    return order if order else (size > other_size) - (size < other_size)


cdef class RuleIndex:
    """The rules for the keys of one shard of the ring, by what their keys begin with."""

    def __init__(self, ends, globs, targets):
        """For each rule in order how its keys begin and end, what else they match, and the shard (None: the ring's)."""
        cdef Py_ssize_t i, place = 0
        cdef dict together = {}
        if self.beginnings != NULL or not len(ends) == len(globs) == len(targets):
            raise ValueError("each rule has one beginning and ending, its globs and one target, given once")
        self.globs = [tuple(each) for each in globs]
        self.targets = list(targets)
        self.endings = [bytes(ending) for _, ending in ends]
        for i in range(len(ends)):
            together.setdefault(bytes(ends[i][0]), []).append(i)
        self.texts = sorted(together)
        self.size = len(self.texts)
        self.beginnings = <Beginning *>malloc(max(1, self.size) * sizeof(Beginning))
        self.entries = <Entry *>malloc(max(1, len(self.globs)) * sizeof(Entry))
        if self.beginnings == NULL or self.entries == NULL:
            raise MemoryError
        for i in range(self.size):
            text = self.texts[i]
            self.beginnings[i].text = PyBytes_AS_STRING(text)
            self.beginnings[i].size = PyBytes_GET_SIZE(text)
            self.beginnings[i].parent = self.parent(i)
            self.beginnings[i].first = place
            self.beginnings[i].count = len(together[text])
            for rule in together[text]:
                self.set_entry(&self.entries[place], rule, len(text))
                place += 1

    def __dealloc__(self):
        free(self.beginnings)
        free(self.entries)

    cdef int set_entry(self, Entry *entry, Py_ssize_t rule, Py_ssize_t beginning) except -1:
        cdef bytes ending = self.endings[rule]
        entry.rule = rule
        entry.ending = PyBytes_AS_STRING(ending)
        entry.size = PyBytes_GET_SIZE(ending)
        # Where globs follow, the beginning and the ending of their keys may overlap.
        entry.least = max(beginning, entry.size) if self.globs[rule] else beginning + entry.size
        return 0

    cdef Py_ssize_t parent(self, Py_ssize_t i):
        cdef Beginning *own = &self.beginnings[i]
        cdef Py_ssize_t other = i - 1
        while other >= 0 and not (
            self.beginnings[other].size <= own.size
            and not memcmp(self.beginnings[other].text, own.text, self.beginnings[other].size)
        ):
            other = self.beginnings[other].parent
        return other

    cdef Py_ssize_t first_of(self, const char *key, Py_ssize_t size) except -2:
        """The place of the first rule that the key matches; -1 where there is none."""
        cdef Py_ssize_t low = 0, high = self.size, middle, rule, place
        cdef Py_ssize_t best = -1
        cdef Beginning *beginning
        cdef Entry *entry
        while low < high:
            middle = (low + high) >> 1
            beginning = &self.beginnings[middle]
            if compared(beginning.text, beginning.size, key, size) <= 0:
                low = middle + 1
            else:
                high = middle
        middle = low - 1
        while middle >= 0:
            beginning = &self.beginnings[middle]
            middle = beginning.parent
            if beginning.size > size or memcmp(beginning.text, key, beginning.size):
                continue
            for place in range(beginning.first, beginning.first + beginning.count):
                entry = &self.entries[place]
                rule = entry.rule
                if 0 <= best < rule:
                    break
                if size < entry.least or memcmp(key + size - entry.size, entry.ending, entry.size):
                    continue
                if not matches(<tuple>self.globs[rule], key, size):
                    continue
                best = rule
                break
        return best

    def first(self, bytes key not None):
        """The place of the first rule that a key matches; -1 where there is none."""
        return self.first_of(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))


cdef bint matches(tuple globs, const char *key, Py_ssize_t size):
    cdef Glob glob
    for glob in globs:
        if not glob.matches(<const unsigned char *>key, size):
            return False
    return True


cdef class Owners:
    """Points of the ring, and for each shard of it the rules for its keys."""

    def __init__(self, Points points not None, indexes, RuleIndex common):
        """The rules by the shard that the ring gives the keys to; `common` for those that are not named."""
        self.points = points
        self.indexes = dict(indexes)
        self.common = common

    cdef RuleIndex index_of(self, str home):
        cdef object index = self.indexes.get(home)
        return self.common if index is None else <RuleIndex>index

    cdef str owner_of(self, const char *key, Py_ssize_t size):
        cdef str home = self.points.owner_at(place_of(key, size))
        cdef RuleIndex index = self.index_of(home)
        cdef Py_ssize_t rule
        if index is None:
            return home
        rule = index.first_of(key, size)
        if rule < 0:
            return home
        target = index.targets[rule]
        return home if target is None else <str>target

    def owner(self, bytes key not None):
        """The owner of a key. Raises IndexError where there are no points."""
        return self.owner_of(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))

    def first(self, bytes key not None):
        """The place of the rule that decides for a key among those of its shard of the ring; -1 where the ring does."""
        cdef RuleIndex index = self.index_of(
            self.points.owner_at(place_of(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key)))
        )
        return -1 if index is None else index.first_of(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
