from helios.placement._points cimport Points


cdef struct Beginning:
    const char *text
    Py_ssize_t size
    Py_ssize_t parent  # the longest other beginning that this one begins with; -1 where there is none
    Py_ssize_t first  # of its rules, in the order of all rules
    Py_ssize_t count


cdef struct Entry:
    Py_ssize_t rule
    const char *ending
    Py_ssize_t size
    Py_ssize_t least  # how long its keys are at least


cdef class RuleIndex:
    cdef list texts  # what the beginnings point into
    cdef list endings
    cdef list globs
    cdef readonly list targets
    cdef Beginning *beginnings  # ascending
    cdef Py_ssize_t size
    cdef Entry *entries

    cdef int set_entry(self, Entry *entry, Py_ssize_t rule, Py_ssize_t beginning) except -1
    cdef Py_ssize_t parent(self, Py_ssize_t i)
    cdef Py_ssize_t first_of(self, const char *key, Py_ssize_t size) except -2


cdef class Owners:
    cdef Points points
    cdef dict indexes
    cdef RuleIndex common

    cdef RuleIndex index_of(self, str home)
    cdef str owner_of(self, const char *key, Py_ssize_t size)
