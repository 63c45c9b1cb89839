cdef class Glob:
    cdef readonly bytes pattern
    cdef readonly Py_ssize_t shortest  # bytes that each matching key has at least
    cdef Py_ssize_t first_star, behind_stars  # where the first star stands and what follows the last; -1: no star
    cdef Py_ssize_t head, tail  # how many bytes match before the first star and behind the last

    cdef bint matches(self, const unsigned char *key, Py_ssize_t size) noexcept
