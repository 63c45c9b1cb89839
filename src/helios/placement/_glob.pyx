# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The matcher of glob.py, compiled. It reads the pattern where it stands and builds nothing from it."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

cdef extern from "string.h" nogil:
    const void *memmem(const void *key, size_t size, const void *part, size_t length)

cdef Py_ssize_t FEW_BYTES = 64  # so short a part is looked for byte by byte


cdef inline Py_ssize_t element_end(const unsigned char *pattern, Py_ssize_t at, Py_ssize_t end) noexcept:
    """Where the element at `at` ends, which matches one byte; a class that is not closed ends with the pattern."""
    if pattern[at] == c"\\" and at + 1 < end:
        return at + 2
    if pattern[at] != c"[":
        return at + 1
    at += 1
    if at < end and pattern[at] == c"^":
        at += 1
    while at < end and pattern[at] != c"]":
        at += 2 if pattern[at] == c"\\" and at + 1 < end else (3 if at + 2 < end and pattern[at + 1] == c"-" else 1)
    return min(at + 1, end)


cdef inline bint element_matches(
    const unsigned char *pattern, Py_ssize_t at, Py_ssize_t end, unsigned char byte
) noexcept:
    """Whether the element at `at` matches a byte."""
    cdef unsigned char first = pattern[at]
    if first == c"?":
        return True
    if first == c"\\" and at + 1 < end:
        return pattern[at + 1] == byte
    if first != c"[":
        return first == byte
    return class_matches(pattern, at + 1, end, byte)


cdef bint class_matches(const unsigned char *pattern, Py_ssize_t at, Py_ssize_t end, unsigned char byte) noexcept:
    """Whether the class behind a `[` matches a byte."""
    cdef unsigned char low, high
    cdef bint negated = at < end and pattern[at] == c"^"
    at += negated
    while at < end and pattern[at] != c"]":
        if pattern[at] == c"\\" and at + 1 < end:
            low = high = pattern[at + 1]
            at += 2
        elif at + 2 < end and pattern[at + 1] == c"-":
            low, high = pattern[at], pattern[at + 2]
            at += 3
        else:
            low = high = pattern[at]
            at += 1
        if low <= byte <= high or high <= byte <= low:
            return not negated
    return negated


cdef void note_members(const unsigned char *pattern, Py_ssize_t at, Py_ssize_t end, unsigned char *members) noexcept:
    """Which bytes the element at `at` matches, in one pass over it."""
    cdef unsigned char low, high
    cdef bint negated
    cdef int byte
    if pattern[at] != c"[":
        for byte in range(256):
            members[byte] = element_matches(pattern, at, end, <unsigned char>byte)
        return
    at += 1
    negated = at < end and pattern[at] == c"^"
    at += negated
    memset(members, negated, 256)
    while at < end and pattern[at] != c"]":
        if pattern[at] == c"\\" and at + 1 < end:
            low = high = pattern[at + 1]
            at += 2
        elif at + 2 < end and pattern[at + 1] == c"-":
            low, high = min(pattern[at], pattern[at + 2]), max(pattern[at], pattern[at + 2])
            at += 3
        else:
            low = high = pattern[at]
            at += 1
        memset(members + low, not negated, high - low + 1)


cdef inline Py_ssize_t stars_end(const unsigned char *pattern, Py_ssize_t at, Py_ssize_t end) noexcept:
    while at < end and pattern[at] == c"*":
        at += 1
    return at


cdef inline bint part_matches(
    const unsigned char *pattern, Py_ssize_t at, Py_ssize_t end, const unsigned char *key
) noexcept:
    """Whether a part without stars matches the bytes at `key`, of which there are enough."""
    while at < end:
        if not element_matches(pattern, at, end, key[0]):
            return False
        at = element_end(pattern, at, end)
        key += 1
    return True


cdef const unsigned char *found_part(
    const unsigned char *pattern,
    Py_ssize_t at,
    Py_ssize_t end,
    Py_ssize_t count,
    const unsigned char *key,
    const unsigned char *last,
) noexcept:
    """Where a part without stars first matches between `key` and `last`; NULL where it does not."""
    cdef Py_ssize_t words, i = 0, word
    cdef uint64_t *masks
    cdef uint64_t *state
    cdef uint64_t carry, out
    cdef unsigned char members[256]
    cdef int byte
    if end - at > FEW_BYTES and last - key > count:
        # Which beginnings of the part end here, one bit each, for 64 of them at once (Baeza-Yates and Gonnet).
        words = (count + 63) >> 6
        masks = <uint64_t *>calloc(257 * words, sizeof(uint64_t))
        if masks != NULL:
            state = masks + 256 * words
            while at < end:
                note_members(pattern, at, end, members)
                for byte in range(256):
                    if members[byte]:
                        masks[byte * words + (i >> 6)] |= <uint64_t>1 << (i & 63)
                at = element_end(pattern, at, end)
                i += 1
            while key < last and not state[words - 1] >> ((count - 1) & 63) & 1:
                carry = 1
                for word in range(words):
                    out = state[word] >> 63
                    state[word] = (state[word] << 1 | carry) & masks[key[0] * words + word]
                    carry = out
                key += 1
            i = state[words - 1] >> ((count - 1) & 63) & 1
            free(masks)
            return key - count if i else NULL
    while last - key >= count:
        if part_matches(pattern, at, end, key):
            return key
        key += 1
    return NULL


cdef class Glob:
    """A pattern, and how long a key must be at least. Nothing is compiled, nothing kept but the pattern's bytes."""

    def __init__(self, pattern):
        cdef const unsigned char *text
        cdef Py_ssize_t at = 0, end
        self.pattern = pattern.encode() if isinstance(pattern, str) else pattern
        text = <const unsigned char *>PyBytes_AS_STRING(self.pattern)
        end = PyBytes_GET_SIZE(self.pattern)
        self.first_star = self.behind_stars = -1
        while at < end:
            if text[at] == c"*":
                if self.first_star < 0:
                    self.first_star = at
                    self.head = self.shortest
                at = self.behind_stars = stars_end(text, at, end)
                self.tail = 0
            else:
                at = element_end(text, at, end)
                self.shortest += 1
                self.tail += 1

    cdef bint matches(self, const unsigned char *key, Py_ssize_t size) noexcept:
        """Whether all of the key matches. Each part between two stars is best found as early as it can be."""
        cdef const unsigned char *pattern = <const unsigned char *>PyBytes_AS_STRING(self.pattern)
        cdef Py_ssize_t end = PyBytes_GET_SIZE(self.pattern), at, part, count
        cdef const unsigned char *last = key + size - self.tail
        cdef bint plain
        if size < self.shortest:
            return False
        if self.first_star < 0:
            return size == self.shortest and part_matches(pattern, 0, end, key)
        if not part_matches(pattern, 0, self.first_star, key):
            return False
        if not part_matches(pattern, self.behind_stars, end, last):
            return False
        key += self.head
        at = stars_end(pattern, self.first_star, end)
        while at < self.behind_stars:
            part = at
            count = 0
            plain = True
            while pattern[at] != c"*":
                plain = plain and pattern[at] != c"?" and pattern[at] != c"[" and pattern[at] != c"\\"
                at = element_end(pattern, at, end)
                count += 1
            if plain:
                key = <const unsigned char *>memmem(key, last - key, pattern + part, count)
            else:
                key = found_part(pattern, part, at, count, key, last)
            if key == NULL:
                return False
            key += count
            at = stars_end(pattern, at, end)
        return True

    def match(self, bytes key not None):
        """Whether the whole key matches."""
        return self.matches(<const unsigned char *>PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
