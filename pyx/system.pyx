"""Where a failed system call becomes a Python exception; set-up only."""

import os

from .kernel cimport errno, setsockopt


cdef int check(int rc, str what) except -1:
    cdef int code = errno
    if rc == -1:
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return rc


cdef int set_option(int fd, int level, int option, int value, str what) except -1:
    return check(setsockopt(fd, level, option, &value, sizeof(value)), what)
