# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The look-up of ring.py, compiled: where a key lies and whose point comes first."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdlib cimport free, malloc
from libc.string cimport memchr


cdef extern from "md5.h":
    uint64_t md5_position(const char *data, size_t size) nogil


cdef uint64_t place_of(const char *key, Py_ssize_t size) noexcept:
    """The position of a key: of what stands in its first `{...}` unless that is empty, else of all of it."""
    cdef const char *opening = <const char *>memchr(key, c"{", size)
    cdef const char *closing
    if opening != NULL:
        opening += 1
        closing = <const char *>memchr(opening, c"}", size - (opening - key))
        if closing != NULL and closing > opening:
            return md5_position(opening, closing - opening)
    return md5_position(key, size)


def position(bytes key not None):
    """Where a key lies on the ring: the first 8 bytes, big-endian, of the MD5 of its hash tag."""
    return place_of(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))


def digest(bytes data not None):
    """The first 8 bytes, big-endian, of the MD5 of `data`."""
    return md5_position(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))


cdef class Points:
    """Positions in ascending order and the owner of each. 16 bytes a point and the ids."""

    def __init__(self, places, owners):
        cdef Py_ssize_t i
        cdef uint64_t *room
        if self.places != NULL or len(places) != len(owners):
            raise ValueError("each point has one owner, given once")
        self.owners = list(owners)
        room = <uint64_t *>malloc(max(1, len(self.owners)) * sizeof(uint64_t))
        if room == NULL:
            raise MemoryError
        self.places = room
        for i in range(len(self.owners)):
            room[i] = places[i]
        self.count = len(self.owners)

    def __dealloc__(self):
        free(self.places)

    cdef str owner_at(self, uint64_t place):
        cdef Py_ssize_t low = 0, high = self.count, middle
        if not high:
            raise IndexError("no shard is on the ring")
        while low < high:
            middle = (low + high) >> 1
            if self.places[middle] < place:
                low = middle + 1
            else:
                high = middle
        return <str>self.owners[low if low < self.count else 0]

    def at(self, uint64_t place):
        """The owner of the first point at or after a position, wrapping. Raises IndexError where there are no points."""
        return self.owner_at(place)

    def owner(self, bytes key not None):
        """The owner of a key. Raises IndexError where there are no points."""
        return self.owner_at(place_of(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key)))
