"""The datagrams of a frame: one, or the many of a superframe, side by side and of one size but for the last."""

cimport cython
from libc.stdint cimport uint8_t, uint32_t

cdef struct Superframe:
    # What has not been taken of it yet.
    const uint8_t *payload      # borrowed: dies with the frame
    uint32_t left               # bytes
    uint32_t segment            # of each datagram, but for the last, which may have fewer; 0: all is one datagram


cdef inline Superframe superframe_of(const uint8_t *payload, uint32_t size, uint32_t segment) noexcept nogil:
    """A frame of one datagram, whose ``segment`` is 0 or no less than its ``size``, is a superframe of one."""
    return Superframe(payload, size, segment if segment < size else 0)


@cython.cdivision(True)         # segment is not 0 where it divides; the check would want the GIL
cdef inline uint32_t datagrams(const Superframe *frame) noexcept nogil:
    """How many are left; one where nothing has been taken of an empty datagram."""
    return (frame.left + frame.segment - 1) // frame.segment if frame.segment else 1


cdef inline uint32_t longest(const Superframe *frame) noexcept nogil:
    """Bytes of the next datagram, and none that follows has more."""
    return min(frame.segment, frame.left) if frame.segment else frame.left


cdef inline uint32_t take(Superframe *frame, const uint8_t **payload) noexcept nogil:
    """The next datagram: its bytes, and how many these are. It was the last one if nothing is ``left``."""
    cdef uint32_t size = longest(frame)
    payload[0] = frame.payload
    frame.payload += size
    frame.left -= size
    return size
