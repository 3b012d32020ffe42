"""Where a failed system call becomes a Python exception; set-up only."""

cdef int check(int rc, str what) except -1
cdef int set_option(int fd, int level, int option, int value, str what) except -1
