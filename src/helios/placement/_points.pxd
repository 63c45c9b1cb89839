from libc.stdint cimport uint64_t


cdef uint64_t place_of(const char *key, Py_ssize_t size) noexcept


cdef class Points:
    cdef uint64_t *places  # ascending
    cdef Py_ssize_t count
    cdef list owners

    cdef str owner_at(self, uint64_t place)
