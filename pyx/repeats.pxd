"""A second relay that sends our datagrams back: payloads that return again and again from somebody else.

Nothing of it is in the header: the other relay sends from an address of its own. So a worker remembers payloads that
it relayed lately. One that comes back from another source many times, each time soon after the last, is withheld once:
if it was we who kept it going it never returns, and from then on what that source sends back is dropped. If it does
return, somebody simply sends the same bytes, and it is relayed. A sender that repeats itself is never suspected, and a
stream of one sender is not looked at: memory is asked only after the source of an input changed.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from .kernel cimport read_raw32

cdef enum:
    RECENT = 4096               # payloads remembered by a worker, each until it was not seen for ROUND_NS
    WATCHED = 64                # datagrams of an input that are looked at after its source changed
    WATCHED_LONG = 1 << 20      # and after one came back
    RETURNS = 32                # of one payload, before it is withheld
    ROUND_NS = 100000000        # longer than a datagram takes through another relay and back
    SILENT_NS = 5 * ROUND_NS    # withheld and not back by then: it was a loop
    KNOWN_NS = 1000000000       # a payload that was not seen for so long is a new one
    INNOCENT = 0xffffffff       # returns of a payload that came all the same when it was withheld
    LOOP_NS = 60000000000       # a loop is taken for ended so long after the last return

cdef struct Recent:
    uint64_t payload            # its fingerprint; 0: free
    uint64_t seen_ns
    uint32_t source             # who sent it first
    uint32_t returns

cdef struct Repeats:
    # Of one worker. It outlives plans: it is part of a Scratch.
    Recent *recent
    uint64_t withheld           # a fingerprint, 0 if none is
    uint64_t withheld_ns
    uint32_t withheld_source
    uint32_t peer               # who sends back what we send, 0 if nobody does
    uint64_t peer_until_ns


cdef inline uint64_t fingerprint(uint32_t input, const uint8_t *payload, uint16_t size) noexcept nogil:
    """Of the input, the size and the first 16 bytes, where sequence numbers and time stamps are; never 0.

    A payload may go round twice, in both directions: each of them is judged by itself.
    """
    cdef uint64_t mixed = <uint64_t>input << 16 | size
    cdef uint32_t i
    for i in range(min(<uint32_t>size, 16) >> 2):
        mixed = (mixed ^ read_raw32(payload + 4 * i)) * 0x9e3779b97f4a7c15ULL
        mixed ^= mixed >> 29
    if size & 3 and size < 16:
        mixed = (mixed ^ payload[size - 1]) * 0x9e3779b97f4a7c15ULL
    return mixed | 1


cdef inline bint comes_back(
    Repeats *repeats, uint32_t input, uint32_t *watch, const uint8_t *payload, uint16_t size, uint32_t source,
    uint64_t now,
) noexcept nogil:
    """Whether to drop a datagram because a second relay returned it. ``now`` is Unix time in ns, from the ring."""
    cdef uint64_t payload_mark = fingerprint(input, payload, size)
    cdef Recent *recent = &repeats.recent[(payload_mark >> 32) & (RECENT - 1)]
    cdef uint64_t since = now - recent.seen_ns
    cdef bint known = recent.payload == payload_mark and since < <uint64_t>KNOWN_NS
    watch[0] -= 1
    if repeats.withheld:
        if payload_mark == repeats.withheld:            # it comes all the same: we are not the cause
            repeats.withheld = 0
            recent.returns = INNOCENT
        elif now - repeats.withheld_ns > <uint64_t>SILENT_NS:
            repeats.withheld = 0
            repeats.peer = repeats.withheld_source
            repeats.peer_until_ns = now + <uint64_t>LOOP_NS
    if not known:
        if recent.payload and recent.payload != payload_mark and since < <uint64_t>ROUND_NS:
            return False                                # two that go round would else displace each other for ever
        recent.payload = payload_mark
        recent.seen_ns = now
        recent.source = source
        recent.returns = 0
        return False
    recent.seen_ns = now
    if source == repeats.peer and now < repeats.peer_until_ns:
        repeats.peer_until_ns = now + <uint64_t>LOOP_NS
        watch[0] = WATCHED_LONG
        return True
    if recent.source == source or recent.returns == <uint32_t>INNOCENT:
        return False
    watch[0] = WATCHED_LONG
    recent.returns = recent.returns + 1 if since < <uint64_t>ROUND_NS else 0
    if recent.returns < RETURNS or repeats.withheld:
        return False
    recent.returns = 0
    repeats.withheld = payload_mark
    repeats.withheld_ns = now
    repeats.withheld_source = source
    return True
