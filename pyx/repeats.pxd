"""Ends the loop of a second relay that sends our datagrams back: payloads that return from another source.

The header does not show it: the other relay sends from its own address. So a worker remembers payloads that it relayed
lately. A payload that comes back from another source RETURNS times, each time soon after the last, is withheld once. If
we kept it going, it never returns: its loop is ended. If it returns, somebody sends the same bytes, and it is relayed
from then on. A sender that repeats itself is not suspected. A stream of one sender is not tested: a worker looks into
its memory only after the source of an input has changed.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from .kernel cimport read_raw32

cdef enum:
    RECENT = 4096               # payloads that a worker remembers, each until it was not seen for ROUND_NS
    WATCHED = 64                # datagrams of an input that are looked at after its source changed
    WATCHED_LONG = 1 << 20      # and after one came back
    RETURNS = 16                # of one payload, before it is withheld
    WITHHELD = 0xfffffffe       # as returns: it was, and has not come since
    INNOCENT = 0xffffffff       # as returns: it came all the same
    ROUND_NS = 100000000        # longer than a datagram takes through another relay and back
    SILENT_NS = 5 * ROUND_NS    # withheld and not back by then: it was a loop
    KNOWN_NS = 1000000000       # a payload that was not seen for so long is a new one
    LOOPS = 3                   # ended, and none that came all the same: their source is a relay
    LOOP_NS = 60000000000       # and is taken for one for so long

cdef struct Recent:
    uint64_t payload            # its fingerprint; 0: free
    uint64_t seen_ns
    uint64_t source             # who sent it first (address.digest; 0: nobody that is known)
    uint32_t returns

cdef struct Repeats:
    # Of one worker. It outlives plans: it is part of a Scratch.
    Recent *recent
    uint64_t withheld           # the fingerprint of one that is waited for, 0 if none is
    uint64_t withheld_ns
    uint64_t withheld_source
    uint32_t withheld_too       # others of that source, meanwhile
    uint32_t ended              # loops with `suspect`
    uint64_t suspect
    uint64_t peer               # a relay that sends back what we send, 0 if none is known
    uint64_t peer_until_ns


cdef inline uint64_t fingerprint(uint32_t input, const uint8_t *payload, uint16_t size) noexcept nogil:
    """Of the input, the size and every byte; never 0.

    A payload may go round twice, in both directions: each of them is judged by itself.
    """
    cdef uint64_t total = (<uint64_t>input << 16 | size) * 0xc2b2ae3d27d4eb4fULL
    cdef uint64_t factor = 0x9e3779b97f4a7c15ULL
    cdef uint32_t i
    for i in range(<uint32_t>size >> 2):
        total += read_raw32(payload + 4 * i) * factor
        factor += 0x9e3779b97f4a7c16ULL
    for i in range(<uint32_t>size & ~3, size):
        total += payload[i] * factor
        factor += 0x9e3779b97f4a7c16ULL
    total ^= total >> 29
    return total * 0x9e3779b97f4a7c15ULL | 1


cdef inline void await_silence(Repeats *repeats, uint64_t now) noexcept nogil:
    """A payload that was withheld and has not come since: its loop is ended, and who sent it back may be a relay."""
    if repeats.withheld and now - repeats.withheld_ns > <uint64_t>SILENT_NS:
        repeats.withheld = 0
        if repeats.suspect != repeats.withheld_source:
            repeats.ended = 0
        repeats.ended += 1 + repeats.withheld_too
        repeats.suspect = repeats.withheld_source
        if repeats.ended >= LOOPS:
            repeats.peer = repeats.suspect
            repeats.peer_until_ns = now + <uint64_t>LOOP_NS
    if repeats.peer and now > repeats.peer_until_ns:
        repeats.peer = 0


cdef inline bint comes_back(
    Repeats *repeats, uint32_t input, uint32_t *watch, const uint8_t *payload, uint16_t size, uint64_t source,
    bint first, uint64_t now,
) noexcept nogil:
    """Whether to withhold a datagram because it may go round by way of a second relay. ``now``: Unix ns, of its frame.
    ``source``: the digest of who sent it.

    Not ``first``: somebody else may have sent that payload before, which went by the kernel engine.

    What a known relay repeats is tested too: two payloads with one place in memory go round under its name.
    """
    cdef uint64_t mark = fingerprint(input, payload, size)
    cdef Recent *recent = &repeats.recent[(mark >> 32) & (RECENT - 1)]
    cdef uint64_t since = now - recent.seen_ns
    watch[0] -= 1
    await_silence(repeats, now)
    if recent.payload != mark or since > <uint64_t>KNOWN_NS:
        if recent.payload and recent.payload != mark and since < <uint64_t>ROUND_NS:
            return False
        recent.payload = mark
        recent.seen_ns = now
        recent.source = source if first else 0
        recent.returns = 0
        return False
    recent.seen_ns = now
    if recent.returns == <uint32_t>WITHHELD:
        recent.returns = INNOCENT
        repeats.ended = 0
        repeats.withheld_too = 0
        if repeats.withheld == mark:
            repeats.withheld = 0
    if recent.returns == <uint32_t>INNOCENT or (recent.source == source and source != repeats.peer):
        return False
    watch[0] = WATCHED_LONG
    recent.returns = recent.returns + 1 if since < <uint64_t>ROUND_NS else 0
    if recent.returns < RETURNS:
        return False
    recent.returns = WITHHELD
    if not repeats.withheld:
        repeats.withheld = mark
        repeats.withheld_ns = now
        repeats.withheld_source = source
        repeats.withheld_too = 0
    elif repeats.withheld_source == source:
        repeats.withheld_too += 1
    return True
