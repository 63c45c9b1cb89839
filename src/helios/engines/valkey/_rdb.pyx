# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Reads the files in which Valkey and Redis keep everything they have (RDB), and makes of each value what DUMP gives.

A value stands in such a file as it stands in a payload of DUMP, so it is never decoded: only where it ends is found out.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy

cdef enum:
    _INT8 = 0
    _INT16 = 1
    _INT32 = 2
    _LZF = 3

    _FUNCTION = 245
    _MODULE_AUX = 247
    _IDLE = 248
    _FREQUENCY = 249
    _AUX = 250
    _RESIZE = 251
    _EXPIRE_MS = 252
    _EXPIRE_S = 253
    _SELECT = 254
    _END = 255

    _FOOTER = 10
    _HEAD = 9

cdef uint64_t[8][256] _crc_table


cdef void _make_table() noexcept:
    cdef int i, j
    cdef uint64_t crc
    for i in range(256):
        crc = i
        for j in range(8):
            crc = (crc >> 1) ^ (<uint64_t>0x95AC9329AC4BC9B5 if crc & 1 else 0)
        _crc_table[0][i] = crc
    for i in range(256):
        crc = _crc_table[0][i]
        for j in range(1, 8):
            crc = _crc_table[0][crc & 0xFF] ^ (crc >> 8)
            _crc_table[j][i] = crc


_make_table()


cdef uint64_t _crc64(uint64_t crc, const uint8_t *data, Py_ssize_t size) noexcept nogil:
    cdef uint64_t word
    while size >= 8:
        memcpy(&word, data, 8)  # as a little-endian machine has it
        crc ^= word
        crc = (
            _crc_table[7][crc & 0xFF]
            ^ _crc_table[6][(crc >> 8) & 0xFF]
            ^ _crc_table[5][(crc >> 16) & 0xFF]
            ^ _crc_table[4][(crc >> 24) & 0xFF]
            ^ _crc_table[3][(crc >> 32) & 0xFF]
            ^ _crc_table[2][(crc >> 40) & 0xFF]
            ^ _crc_table[1][(crc >> 48) & 0xFF]
            ^ _crc_table[0][crc >> 56]
        )
        data += 8
        size -= 8
    while size > 0:
        crc = _crc_table[0][(crc ^ data[0]) & 0xFF] ^ (crc >> 8)
        data += 1
        size -= 1
    return crc


def crc64(const uint8_t[::1] data not None):
    """The checksum that the servers use, of some bytes."""
    return 0 if data.shape[0] == 0 else _crc64(0, &data[0], data.shape[0])


class Damaged(ValueError):
    """A file is not what a server has written, or of a server newer than what is known here."""


cdef class Records:
    """The keys of a file in order: (database, key, payload of DUMP, Unix milliseconds of its end or -1).

    `libraries` are the codes of the libraries of functions, which stand before all keys. Raises Damaged.
    """

    cdef const uint8_t[::1] _view
    cdef const uint8_t *_data
    cdef Py_ssize_t _size
    cdef Py_ssize_t _at
    cdef int _version
    cdef bint _valkey
    cdef int64_t _database
    cdef readonly list libraries

    def __init__(self, const uint8_t[::1] data not None):
        self._view = data
        self._size = data.shape[0]
        if self._size < _HEAD:
            raise Damaged("it is cut off")
        self._data = &data[0]
        head = PyBytes_FromStringAndSize(<const char *>self._data, _HEAD)
        self._valkey = head.startswith(b"VALKEY")
        digits = head[6:] if self._valkey else head[5:]
        if not (self._valkey or head.startswith(b"REDIS")) or not digits.isdigit():
            raise Damaged("it is no file of a Valkey or Redis server")
        self._version = int(digits)
        self._at = _HEAD
        self._database = 0
        self.libraries = []

    def __iter__(self):
        return self

    def close(self):
        """Let go of the data. Nothing more can be read."""
        self._view = None
        self._size = self._at = 0

    def __next__(self):
        cdef int64_t expire = -1
        cdef int code
        cdef Py_ssize_t start
        cdef bytes key
        while True:
            start = self._at
            code = self._byte()
            if code == _EXPIRE_MS:
                expire = <int64_t>self._fixed(8)
            elif code == _EXPIRE_S:
                expire = <int64_t>self._fixed(4) * 1000
            elif code == _SELECT:
                self._database = <int64_t>self._length()
            elif code == _RESIZE:
                self._length()
                self._length()
            elif code == _AUX:
                self._pass_string()
                self._pass_string()
            elif code == _IDLE:
                self._length()
            elif code == _FREQUENCY:
                self._byte()
            elif code == _FUNCTION:
                self.libraries.append(self._string())
            elif code == _MODULE_AUX:
                self._length()
                self._length()
                self._length()
                self._pass_module()
            elif code == _END:
                self._check_end()
                raise StopIteration
            elif code > 200:
                raise Damaged(f"at byte {start} stands {code}, which is unknown here: is its server newer?")
            else:
                key = self._string()
                start = self._at
                self._pass_value(code)
                return self._database, key, self._payload(code, start), expire

    cdef _check_end(self):
        """Nothing is behind the end but the checksum, which is 0 where a server makes none."""
        cdef uint64_t said
        cdef Py_ssize_t end = self._at
        said = self._fixed(8)
        if self._at != self._size:
            raise Damaged(f"{self._size - self._at} bytes stand behind its end")
        if said and said != _crc64(0, self._data, end):
            raise Damaged("the checksum that its server wrote is another")

    cdef bytes _payload(self, int code, Py_ssize_t start):
        cdef Py_ssize_t size = self._at - start
        cdef bytes payload = PyBytes_FromStringAndSize(NULL, 1 + size + _FOOTER)
        cdef uint8_t *room = <uint8_t *>PyBytes_AS_STRING(payload)
        cdef uint64_t crc
        room[0] = code
        memcpy(room + 1, self._data + start, size)
        room[1 + size] = self._version & 0xFF
        room[2 + size] = self._version >> 8
        crc = _crc64(0, room, size + 3)
        memcpy(room + 3 + size, &crc, 8)
        return payload

    # --- what a file is made of ---

    cdef int _need(self, uint64_t count) except -1:
        if count > <uint64_t>(self._size - self._at):
            raise Damaged("it is cut off")
        return 0

    cdef int _byte(self) except -1:
        self._need(1)
        self._at += 1
        return self._data[self._at - 1]

    cdef int _pass(self, uint64_t count) except -1:
        self._need(count)
        self._at += count
        return 0

    cdef uint64_t _fixed(self, int count) except? 0xFFFFFFFFFFFFFFFF:
        cdef uint64_t value = 0
        self._need(count)
        memcpy(&value, self._data + self._at, count)
        self._at += count
        return value

    cdef int _head(self, uint64_t *value) except -1:
        """A length (0), or how a string is encoded (1)."""
        cdef int first = self._byte()
        cdef int kind = first >> 6
        cdef int i, count
        if kind == 3:
            value[0] = first & 0x3F
            return 1
        if kind == 0:
            value[0] = first & 0x3F
        elif kind == 1:
            value[0] = ((first & 0x3F) << 8) | self._byte()
        elif first == 0x80 or first == 0x81:
            count = 4 if first == 0x80 else 8
            self._need(count)
            value[0] = 0
            for i in range(count):
                value[0] = (value[0] << 8) | self._data[self._at + i]
            self._at += count
        else:
            raise Damaged(f"at byte {self._at - 1} stands no length")
        return 0

    cdef uint64_t _length(self) except? 0xFFFFFFFFFFFFFFFF:
        cdef uint64_t value = 0
        if self._head(&value):
            raise Damaged(f"at byte {self._at - 1} stands no length")
        return value

    cdef int _pass_string(self) except -1:
        cdef uint64_t value = 0
        if not self._head(&value):
            return self._pass(value)
        if value == _INT8:
            return self._pass(1)
        if value == _INT16:
            return self._pass(2)
        if value == _INT32:
            return self._pass(4)
        if value == _LZF:
            value = self._length()
            self._length()
            return self._pass(value)
        raise Damaged(f"at byte {self._at - 1} stands a string of an unknown encoding")

    cdef bytes _string(self):
        cdef uint64_t value = 0, size
        cdef Py_ssize_t start
        if not self._head(&value):
            start = self._at
            self._pass(value)
            return PyBytes_FromStringAndSize(<const char *>self._data + start, value)
        if value == _INT8:
            return b"%d" % <signed char>self._byte()
        if value == _INT16:
            return b"%d" % <short>self._fixed(2)
        if value == _INT32:
            return b"%d" % <int>self._fixed(4)
        if value == _LZF:
            value = self._length()
            size = self._length()
            start = self._at
            self._pass(value)
            return self._unpacked(start, value, size)
        raise Damaged(f"at byte {self._at - 1} stands a string of an unknown encoding")

    cdef bytes _unpacked(self, Py_ssize_t start, uint64_t packed, uint64_t size):
        """What LZF has packed."""
        cdef const uint8_t *data = self._data + start
        cdef uint64_t at = 0, done = 0, count, back
        cdef bytes result
        cdef uint8_t *room
        if size > packed * 264 + 264:  # more than it can hold
            raise Damaged("a packed string is damaged")
        result = PyBytes_FromStringAndSize(NULL, size)
        room = <uint8_t *>PyBytes_AS_STRING(result)
        while at < packed:
            count = data[at]
            at += 1
            if count < 32:
                count += 1
                if at + count > packed or done + count > size:
                    raise Damaged("a packed string is damaged")
                memcpy(room + done, data + at, count)
                at += count
                done += count
                continue
            back = (count & 0x1F) << 8
            count >>= 5
            if count == 7:
                if at >= packed:
                    raise Damaged("a packed string is damaged")
                count += data[at]
                at += 1
            if at >= packed:
                raise Damaged("a packed string is damaged")
            back += data[at] + 1
            at += 1
            count += 2
            if back > done or done + count > size:
                raise Damaged("a packed string is damaged")
            while count:  # it may overlap with what it makes
                room[done] = room[done - back]
                done += 1
                count -= 1
        if done != size:
            raise Damaged("a packed string is damaged")
        return result

    # --- values ---

    cdef int _pass_value(self, int code) except -1:
        cdef uint64_t i, count
        if code in (0, 9, 10, 11, 12, 13, 16, 17, 20):  # one string, packed or not
            return self._pass_string()
        if code in (1, 2, 14):  # list, set, list of packed nodes
            for i in range(self._length()):
                self._pass_string()
        elif code == 4:  # hash
            count = self._length()
            for i in range(count):
                self._pass_string()
                self._pass_string()
        elif code == 3:  # sorted set, scores as text
            count = self._length()
            for i in range(count):
                self._pass_string()
                self._pass_score()
        elif code == 5:  # sorted set
            count = self._length()
            for i in range(count):
                self._pass_string()
                self._pass(8)
        elif code == 18:  # list of nodes, each with how it is packed
            count = self._length()
            for i in range(count):
                self._length()
                self._pass_string()
        elif code in (15, 19, 21):
            self._pass_stream(code)
        elif code == 7:
            self._length()
            self._pass_module()
        elif code == 22 and self._valkey:  # hash whose fields may end
            count = self._length()
            for i in range(count):
                self._pass_string()
                self._pass_string()
                self._pass(8)
        elif code == 24 and not self._valkey:  # the same in Redis
            self._pass(8)
            count = self._length()
            for i in range(count):
                self._length()
                self._pass_string()
                self._pass_string()
        elif code == 25 and not self._valkey:
            self._pass(8)
            self._pass_string()
        else:
            raise Damaged(f"at byte {self._at} stands a value of type {code}, which is unknown here: is its server newer?")
        return 0

    cdef int _pass_score(self) except -1:
        cdef int size = self._byte()
        return 0 if size >= 253 else self._pass(size)

    cdef int _pass_stream(self, int code) except -1:
        cdef uint64_t i, j, count, inner
        count = self._length()
        for i in range(count):
            self._pass_string()
            self._pass_string()
        for i in range(3 if code == 15 else 8):  # how many, the last id, and what later servers know beside them
            self._length()
        count = self._length()
        for i in range(count):
            self._pass_string()
            for j in range(2 if code == 15 else 3):
                self._length()
            inner = self._length()
            for j in range(inner):
                self._pass(24)
                self._length()
            inner = self._length()
            for j in range(inner):
                self._pass_string()
                self._pass(16 if code == 21 else 8)
                self._pass_pending()
        return 0

    cdef int _pass_pending(self) except -1:
        cdef uint64_t count = self._length()
        if count > <uint64_t>self._size:
            raise Damaged("it is cut off")
        return self._pass(count * 16)

    cdef int _pass_module(self) except -1:
        cdef uint64_t code
        while True:
            code = self._length()
            if code == 0:
                return 0
            if code in (1, 2):
                self._length()
            elif code == 3:
                self._pass(4)
            elif code == 4:
                self._pass(8)
            elif code == 5:
                self._pass_string()
            else:
                raise Damaged("the value of a module is damaged")
