"""Addresses from and to Python, in set-up: an int is an IPv4 one in host byte order, 16 bytes are an IPv6 one.

So ``ipaddress.ip_address`` takes either.
"""

from libc.stdint cimport uint8_t, uint32_t


cdef Address address_of(object value) except *:
    """Raises ValueError for bytes that are not 16, OverflowError for an int that is no IPv4 address."""
    if not isinstance(value, bytes):
        return mapped(<uint32_t>value)
    if len(value) != 16:
        raise ValueError(f"an IPv6 address of {len(value)} bytes")
    return address_at(<const uint8_t *>value)


cdef object address_value(const Address *address):
    if is_mapped(address):
        return <uint32_t>address.low
    cdef object high = address.high
    cdef object low = address.low
    return (high << 64 | low).to_bytes(16, "big")
