"""Reassembly of fragments (RFC 791, 815, 8200): datagrams that wait for the rest of their parts, bounded in every way.

A fragment is copied out of the ring, so it outlives block and plan; all of a worker's are in one Fragments. As every
frame it gets one verdict, but together with its datagram, PATIENCE_NS later at most: until then it is counted nowhere.

Parts that overlap, or contradict each other, give the whole datagram up, and what is still to come of it (RFC 5722).
Where RFC 815 lists the holes, this lists the parts, in order: only so is an exact repetition, which networks make, told
from an overlap, which only an attacker does.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from .address cimport Address, digest, equal, is_mapped
from .counters cimport (
    FRAGMENT, INCOMPLETE, MALFORMED, MANY, NO_MATCH, OVERLAP, RELAYED, REPEATED, ROOM, WAITING, Refusal, Verdict,
)
from .kernel cimport add, memcmp, memcpy, read_be16
from .misses cimport count_miss, note_lost
from .ring cimport Ring
from .wire cimport HOP_BY_HOP, UDP_BYTES, Datagram, Fragment, parse_udp, walk

cdef enum:
    ASSEMBLIES = 256            # datagrams of one worker at a time: 16 MiB, which only those that come touch
    ASSEMBLY_BYTES = 65600      # holds any; not a power of two, so that they do not share cache sets
    PARTS = 128                 # of one datagram: 64 KiB need 119 where the MTU is 576 (RFC 791)
    PATIENCE_NS = 1000000000    # then the rest will not come; identifications begin anew after 65 536 (RFC 4963)
    # A flood must not take the room of others: a flow that begins more than this loses its oldest.
    FLOW_MOST = 32              # of one source to one group
    GROUP_MOST = 128
    CHAINS = 512                # of the table; a power of two, as is SHARES
    SHARES = 256
    NO_REFUSAL = 0xff

cdef struct Part:
    uint16_t start, end

cdef struct Assembly:
    # A datagram of which fragments are there. It waits, or is whole and waits to be sent, or is free.
    Assembly *next              # in its chain of the table; of those that are whole, or free
    Assembly *older             # of those that wait
    Assembly *newer
    Ring *ring                  # whose frames they were, and where they are counted
    uint8_t *bytes              # ASSEMBLY_BYTES: what follows the IPv4 header, or the IPv6 fragment header
    uint64_t since_ns           # monotonic
    uint64_t stamp              # Unix ns, of its newest frame
    uint32_t chain
    uint32_t flow, to_group     # shares
    Address source, group
    uint32_t identification
    uint16_t vlan
    uint8_t kind                # of the first fragment, as are these
    uint8_t tos, ttl
    uint8_t refused             # Refusal: given up, and what comes is refused as well; or NO_REFUSAL
    uint32_t parts_count        # frames without a verdict
    uint32_t filled, total      # bytes there, and in all; 0: the last part has not come
    Part parts[PARTS]           # in order

cdef struct Fragments:
    # Of one worker. It outlives plans: it is part of a Scratch.
    Assembly *assemblies
    uint8_t *memory
    Assembly *free
    Assembly *whole             # in hand until everything queued has been sent
    Assembly *oldest            # of those that wait
    Assembly *newest
    Assembly *chains[CHAINS]
    uint16_t of_flow[SHARES]    # how many wait, by a hash of source and group, and of the group
    uint16_t of_group[SHARES]


cdef inline uint64_t mix_up(uint64_t value) noexcept nogil:
    """Multiplied by the golden ratio: the highest bits are the best."""
    return value * 0x9e3779b97f4a7c15ULL


cdef inline uint32_t chain_of(const Ring *ring, uint16_t vlan, const Fragment *fragment) noexcept nogil:
    cdef uint64_t ends = mix_up(digest(&fragment.source)) ^ digest(&fragment.group)
    cdef uint64_t rest = <uint64_t>fragment.identification << 16 | vlan
    return <uint32_t>(mix_up(ends ^ mix_up(rest ^ <uint64_t><size_t>ring)) >> 40) & (CHAINS - 1)


cdef inline Assembly *assembly_of(
    const Fragments *store, uint32_t chain, const Ring *ring, uint16_t vlan, const Fragment *fragment
) noexcept nogil:
    """What waits for this fragment, or NULL."""
    cdef Assembly *each = store.chains[chain]
    while each != NULL and not (
        each.identification == fragment.identification and equal(&each.source, &fragment.source)
        and equal(&each.group, &fragment.group) and each.vlan == vlan and each.ring == ring
    ):
        each = each.next
    return each


cdef inline void settle(
    Ring *ring, Verdict verdict, uint32_t frames, const Address *group, const Address *source, uint16_t port,
    uint16_t vlan, uint64_t stamp,
) noexcept nogil:
    """Give so many frames their verdict. ``port`` 0 is none that is known."""
    add(&ring.counters.frames[<uint32_t>verdict], frames)
    if verdict >= NO_MATCH:
        count_miss(ring.misses, verdict, group, source, port, vlan, frames, stamp)
    if verdict >= FRAGMENT:
        note_lost(&ring.lost[<uint32_t>verdict], group)


cdef inline void refuse(
    Ring *ring, Refusal why, uint16_t vlan, const Fragment *fragment, uint64_t stamp
) noexcept nogil:
    """A frame that has just come."""
    add(&ring.fragments.refused[<uint32_t>why], 1)
    settle(ring, FRAGMENT, 1, &fragment.group, &fragment.source, 0, vlan, stamp)


cdef inline void give_up(Assembly *assembly, Refusal why) noexcept nogil:
    """Refuse what is there of it, and what comes after, as long as this waits."""
    if assembly.parts_count:
        add(&assembly.ring.fragments.refused[<uint32_t>why], assembly.parts_count)
        settle(
            assembly.ring, FRAGMENT, assembly.parts_count, &assembly.group, &assembly.source, 0, assembly.vlan,
            assembly.stamp,
        )
    assembly.parts_count = 0
    assembly.refused = <uint8_t>why


cdef inline void take_out(Fragments *store, Assembly *assembly) noexcept nogil:
    """It waits no more."""
    cdef Assembly **link = &store.chains[assembly.chain]
    while link[0] != assembly:
        link = &link[0].next
    link[0] = assembly.next
    if assembly.older != NULL:
        assembly.older.newer = assembly.newer
    else:
        store.oldest = assembly.newer
    if assembly.newer != NULL:
        assembly.newer.older = assembly.older
    else:
        store.newest = assembly.older
    store.of_flow[assembly.flow] -= 1
    store.of_group[assembly.to_group] -= 1


cdef inline void discard(Fragments *store, Assembly *assembly, Refusal why) noexcept nogil:
    """Give up a datagram that waits, and its room."""
    give_up(assembly, why)
    take_out(store, assembly)
    assembly.next = store.free
    store.free = assembly


cdef inline void make_room(Fragments *store, uint32_t flow, uint32_t to_group) noexcept nogil:
    """Make room for one more of that flow and group: give up the oldest of a flow or group that has its share, else the
    oldest of all if none is free."""
    cdef Assembly *each = store.oldest
    if store.of_flow[flow] >= FLOW_MOST:
        while each.flow != flow:
            each = each.newer
    elif store.of_group[to_group] >= GROUP_MOST:
        while each.to_group != to_group:
            each = each.newer
    elif store.free != NULL:
        return
    discard(store, each, ROOM)


cdef inline Assembly *begin(
    Fragments *store, uint32_t chain, Ring *ring, uint16_t vlan, const Fragment *fragment, uint64_t now
) noexcept nogil:
    """A datagram of which this fragment is the first to come."""
    cdef uint64_t group = mix_up(digest(&fragment.group))
    cdef uint32_t flow = <uint32_t>(mix_up(group ^ digest(&fragment.source)) >> 40) & (SHARES - 1)
    cdef uint32_t to_group = <uint32_t>(group >> 40) & (SHARES - 1)
    cdef Assembly *made
    make_room(store, flow, to_group)
    made = store.free
    store.free = made.next
    made.next = store.chains[chain]
    store.chains[chain] = made
    made.older = store.newest
    made.newer = NULL
    if store.newest != NULL:
        store.newest.newer = made
    else:
        store.oldest = made
    store.newest = made
    made.ring = ring
    made.since_ns = now
    made.chain = chain
    made.flow = flow
    made.to_group = to_group
    made.source = fragment.source
    made.group = fragment.group
    made.identification = fragment.identification
    made.vlan = vlan
    made.refused = NO_REFUSAL
    made.parts_count = 0
    made.filled = 0
    made.total = 0
    store.of_flow[flow] += 1
    store.of_group[to_group] += 1
    return made


cdef inline uint8_t objection(const Assembly *assembly, const Fragment *fragment, uint32_t at) noexcept nogil:
    """Why the fragment cannot take place ``at`` among the parts, or NO_REFUSAL. The part before it begins earlier."""
    cdef const Part *after = &assembly.parts[at]
    cdef uint32_t end = fragment.end
    if at < assembly.parts_count:
        if after.start == fragment.start and after.end == end:
            # Of two equal parts only one can be the last.
            if fragment.more == (end == assembly.total) or memcmp(
                assembly.bytes + fragment.start, fragment.bytes, end - fragment.start
            ):
                return OVERLAP
            return REPEATED
        if after.start < end or not fragment.more:
            return OVERLAP
    if at and assembly.parts[at - 1].end > fragment.start:
        return OVERLAP
    if assembly.total and (end > assembly.total or not fragment.more):
        return OVERLAP
    return MANY if assembly.parts_count == PARTS else NO_REFUSAL


cdef inline uint8_t enter(Assembly *assembly, const Fragment *fragment) noexcept nogil:
    """Put a part in its place. Returns why not, else NO_REFUSAL. Nearly always it is the last so far."""
    cdef uint32_t at = assembly.parts_count
    cdef uint32_t i
    cdef uint8_t why
    while at and assembly.parts[at - 1].start >= fragment.start:
        at -= 1
    why = objection(assembly, fragment, at)
    if why != NO_REFUSAL:
        return why
    i = assembly.parts_count
    while i > at:
        assembly.parts[i] = assembly.parts[i - 1]
        i -= 1
    assembly.parts[at].start = <uint16_t>fragment.start
    assembly.parts[at].end = <uint16_t>fragment.end
    assembly.parts_count += 1
    memcpy(assembly.bytes + fragment.start, fragment.bytes, fragment.end - fragment.start)
    assembly.filled += fragment.end - fragment.start
    if not fragment.more:
        assembly.total = fragment.end
    if not fragment.start:
        assembly.kind = fragment.kind
        assembly.tos = fragment.tos
        assembly.ttl = fragment.ttl
    return NO_REFUSAL


cdef inline Verdict take_in(
    Fragments *store, Ring *ring, uint16_t vlan, const Fragment *fragment, uint64_t now, uint64_t stamp,
    Assembly **out,
) noexcept nogil:
    """Keep a fragment: WAITING for the rest, FRAGMENT if it is refused, and counted; RELAYED if ``out`` is whole now.

    Something must be free or wait: the caller sends what is whole before. ``now`` is monotonic ns, ``stamp`` Unix ns.
    A whole datagram belongs to the caller until ``keep``. Its frames, ``parts_count`` with this one, get the verdict
    that the caller finds for it.
    """
    cdef uint32_t chain = chain_of(ring, vlan, fragment)
    cdef Assembly *assembly = assembly_of(store, chain, ring, vlan, fragment)
    cdef uint8_t why
    if assembly == NULL:
        assembly = begin(store, chain, ring, vlan, fragment, now)
    assembly.stamp = stamp
    why = assembly.refused
    if why == NO_REFUSAL:
        why = enter(assembly, fragment)
        if why != NO_REFUSAL and why != REPEATED:
            give_up(assembly, <Refusal>why)
    if why != NO_REFUSAL:
        refuse(ring, <Refusal>why, vlan, fragment, stamp)
        return FRAGMENT
    if assembly.filled != assembly.total:
        return WAITING
    take_out(store, assembly)
    out[0] = assembly
    return RELAYED


cdef inline void keep(Fragments *store, Assembly *assembly) noexcept nogil:
    """The whole datagram is queued or dropped: it stays until ``let_go``."""
    assembly.next = store.whole
    store.whole = assembly


cdef inline Verdict parse_whole(const Assembly *assembly, Datagram *out) noexcept nogil:
    """As ``parse``, for a reassembled datagram. No device has verified its checksum, so this does.

    An IPv6 datagram may have headers before UDP, and must have a checksum: as in `parse_other`.
    """
    cdef uint32_t at = 0
    cdef uint8_t kind = assembly.kind
    cdef Verdict verdict = walk(assembly.bytes, assembly.total, &at, &kind)
    if verdict != RELAYED:
        return MALFORMED if verdict == FRAGMENT else verdict
    if assembly.kind == HOP_BY_HOP:
        return MALFORMED
    if not is_mapped(&assembly.group) and assembly.total - at >= UDP_BYTES and not read_be16(assembly.bytes + at + 6):
        return MALFORMED
    out.source = assembly.source
    out.group = assembly.group
    out.tos = assembly.tos
    out.ttl = assembly.ttl
    return parse_udp(assembly.bytes + at, assembly.total - at, True, out)


cdef inline void expire(Fragments *store, uint64_t now) noexcept nogil:
    """Give up what has waited for too long."""
    while store.oldest != NULL and now - store.oldest.since_ns >= <uint64_t>PATIENCE_NS:
        discard(store, store.oldest, INCOMPLETE)


cdef inline bint is_full(const Fragments *store) noexcept nogil:
    """Whether what is whole has to be let go of before anything else is taken in."""
    return store.free == NULL and store.whole != NULL


cdef inline void let_go(Fragments *store) noexcept nogil:
    """Free the whole datagrams: they were sent or dropped, and nothing refers to them."""
    cdef Assembly *each
    while store.whole != NULL:
        each = store.whole
        store.whole = each.next
        each.next = store.free
        store.free = each


cdef int fragments_build(Fragments *store) except -1
cdef void fragments_free(Fragments *store) noexcept nogil
