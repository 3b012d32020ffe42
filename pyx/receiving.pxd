"""The receiving loop: wait for any of the sockets, take in what is there, check and count it (recv(2), epoll(7)).

They are UDP sockets, or packet sockets with PACKET_VNET_HDR: then frames are taken apart here, superframes too."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from .kernel cimport (
    CLOCK_MONOTONIC, CMSG_DATA, CMSG_FIRSTHDR, CMSG_NXTHDR, EAGAIN, ECONNREFUSED, EINTR, ENOMEM, IP_TOS, IP_TTL,
    IPPROTO_IP, IPPROTO_IPV6, IPV6_HOPLIMIT, IPV6_TCLASS, MSG_DONTWAIT, EINVAL, clock_nanosleep, cmsghdr, epoll_event,
    epoll_wait, errno, iovec, load_acquire_u32, mmsghdr, msghdr, now_ns, read_be16, read_be32, read_raw16, read_raw32,
    recvmmsg, sockaddr_in6, store_relaxed_u64, timespec,
)
from .address cimport Address, equal, mapped
from .payload cimport CHECK_AT, NUMBERED, Header, Kind, read_payload
from .sockaddr cimport take_end
from .superframes cimport Superframe, superframe_of, take
from .tally cimport Delays, Tally, count, note_delay

cdef enum:
    RECEIVES = 64               # datagrams of one recvmmsg
    ROUNDS = 16                 # of recvmmsg on one socket before the others have their turn
    SLOT_BYTES = 65600          # holds any datagram; not a power of two, so that slots do not share cache sets
    CONTROL_BYTES = 64          # IP_TTL and IP_TOS
    SOURCES = 16
    POLL_MS = 20                # the longest wait after stop is set
    MANY = 20                   # with this many sockets, a wake-up for each datagram costs more than the datagram
    NAP_NS = 200000             # with more sockets, datagrams gather for so long
    LINGER_NS = 100000000       # after the last expected datagram, for a duplicate of it
    IP_AT = 10 + 14             # struct virtio_net_hdr, then Ethernet: the kernel has taken the tag of a VLAN off
    GSO_TYPE_AT = 1             # in struct virtio_net_hdr of linux/virtio_net.h
    GSO_SIZE_AT = 4
    GSO_UDP_L4 = 5
    FRAGMENT = 0x3FFF           # more fragments, or an offset

cdef struct Source:
    Address address
    uint16_t port
    uint64_t count

cdef struct Sink:
    # All that the receiving loop touches.
    const uint8_t *pattern
    Tally *tallies              # one for each socket
    int *fds
    uint64_t *dropped           # by each socket for want of buffer, read when the run ends
    uint32_t count
    int epoll
    mmsghdr *messages
    iovec *vectors
    sockaddr_in6 *names
    uint8_t *controls
    uint8_t *slots
    Delays *delays
    bint frames                 # of packet sockets, not payloads
    Source sources[SOURCES]
    uint32_t source_count, last_source
    uint64_t other_sources      # datagrams from any further ones
    uint64_t ttl[256]
    uint64_t tos[256]
    uint64_t expected           # of each stream; 0 not known
    uint32_t complete           # streams that have all of them
    uint64_t complete_at
    uint64_t duration_ns, idle_ns
    uint64_t started, first, last
    uint32_t stop
    int failure


cdef inline bint is_from(const Source *source, const Address *address, uint16_t port) noexcept nogil:
    return source.port == port and equal(&source.address, address)


cdef inline void note_source(Sink *sink, Address address, uint16_t port) noexcept nogil:
    cdef uint32_t i = sink.last_source
    if i >= sink.source_count or not is_from(&sink.sources[i], &address, port):
        i = 0
        while i < sink.source_count and not is_from(&sink.sources[i], &address, port):
            i += 1
        if i == SOURCES:
            sink.other_sources += 1
            return
        if i == sink.source_count:
            sink.sources[i].address = address
            sink.sources[i].port = port
            sink.source_count += 1
        sink.last_source = i
    sink.sources[i].count += 1


cdef inline void note_name(Sink *sink, const sockaddr_in6 *name) noexcept nogil:
    """Who sent it."""
    cdef Address address
    cdef uint16_t port
    take_end(name, &address, &port)
    note_source(sink, address, port)


cdef inline void note_header(Sink *sink, msghdr *message) noexcept nogil:
    cdef cmsghdr *part = CMSG_FIRSTHDR(message)
    while part != NULL:
        if part.cmsg_level == IPPROTO_IP and part.cmsg_type == IP_TTL:      # an int: ip(7)
            sink.ttl[read_raw32(CMSG_DATA(part)) & 255] += 1
        elif part.cmsg_level == IPPROTO_IP and part.cmsg_type == IP_TOS:    # one byte
            sink.tos[CMSG_DATA(part)[0]] += 1
        elif part.cmsg_level == IPPROTO_IPV6 and part.cmsg_type == IPV6_HOPLIMIT:   # ints both: ipv6(7)
            sink.ttl[read_raw32(CMSG_DATA(part)) & 255] += 1
        elif part.cmsg_level == IPPROTO_IPV6 and part.cmsg_type == IPV6_TCLASS:
            sink.tos[read_raw32(CMSG_DATA(part)) & 255] += 1
        part = CMSG_NXTHDR(message, part)


cdef inline int enter(Sink *sink, uint32_t stream, const uint8_t *payload, uint32_t size, uint64_t now) noexcept nogil:
    """Check and count one datagram."""
    cdef Tally *tally = &sink.tallies[stream]
    cdef Header header
    cdef Kind kind
    cdef int new
    header.due = 0      # what a short payload lacks is never looked at; the compiler cannot know
    header.run = 0
    kind = read_payload(sink.pattern, payload, size, &header)
    new = count(tally, size, kind, &header)
    if new < 0:
        sink.failure = ENOMEM
        return -1
    if new:
        if kind == NUMBERED and size >= CHECK_AT:
            note_delay(sink.delays, header.due, now)
        if tally.unique + tally.unnumbered == sink.expected:
            sink.complete += 1
            sink.complete_at = now
    return 0


cdef inline int take_apart(
    Sink *sink, uint32_t stream, const uint8_t *frame, uint32_t size, uint64_t now
) noexcept nogil:
    """Check and count what is in one frame: a datagram, or the many of a superframe. What is neither is passed over."""
    cdef const uint8_t *ip = frame + IP_AT
    cdef Superframe rest
    cdef const uint8_t *payload
    cdef uint32_t header, length
    cdef uint32_t whole = size - IP_AT
    if size < IP_AT + 28 or ip[0] >> 4 != 4 or read_be16(ip + 6) & FRAGMENT:
        return 0
    header = (ip[0] & 15) * 4
    if header < 20 or whole < header + 8:
        return 0
    length = read_be16(ip + header + 4)
    if length < 8 or header + length > whole:
        return 0
    rest = superframe_of(
        ip + header + 8, length - 8, read_raw16(frame + GSO_SIZE_AT) if frame[GSO_TYPE_AT] == GSO_UDP_L4 else 0
    )
    while True:
        size = take(&rest, &payload)
        if enter(sink, stream, payload, size, now):
            return -1
        note_source(sink, mapped(read_be32(ip + 12)), read_be16(ip + header))
        sink.ttl[ip[8]] += 1
        sink.tos[ip[1]] += 1
        if not rest.left:
            return 0


cdef inline void drain(Sink *sink, uint32_t stream) noexcept nogil:
    """Read the waiting datagrams of one socket."""
    cdef uint32_t i
    cdef int got = RECEIVES
    cdef int turn = 0
    cdef uint64_t now
    cdef msghdr *message
    while got == RECEIVES and turn < ROUNDS:
        turn += 1
        got = recvmmsg(sink.fds[stream], sink.messages, RECEIVES, MSG_DONTWAIT, NULL)
        if got <= 0:
            if got < 0 and errno == EINVAL and sink.frames:     # a superframe that this kernel cannot describe
                got = RECEIVES
                continue
            if got < 0 and errno != EAGAIN and errno != EINTR and errno != ECONNREFUSED:
                sink.failure = errno
            return
        now = now_ns(CLOCK_MONOTONIC)
        if sink.first == 0:
            store_relaxed_u64(&sink.first, now)
        store_relaxed_u64(&sink.last, now)
        for i in range(<uint32_t>got):
            message = &sink.messages[i].msg_hdr
            if sink.frames:
                if take_apart(sink, stream, &sink.slots[<size_t>i * SLOT_BYTES], sink.messages[i].msg_len, now):
                    return
            else:
                if enter(sink, stream, &sink.slots[<size_t>i * SLOT_BYTES], sink.messages[i].msg_len, now):
                    return
                note_name(sink, &sink.names[i])
                note_header(sink, message)
            message.msg_namelen = sizeof(sockaddr_in6)
            message.msg_controllen = CONTROL_BYTES


cdef inline bint over(const Sink *sink, uint64_t now) noexcept nogil:
    if sink.duration_ns and now - sink.started >= sink.duration_ns:
        return True
    if sink.complete == sink.count and now - sink.complete_at >= <uint64_t>LINGER_NS:
        return True
    return sink.idle_ns and sink.first and now - sink.last >= sink.idle_ns


cdef inline void receive_all(Sink *sink) noexcept nogil:
    cdef epoll_event ready[64]
    cdef timespec nap
    cdef int i, got
    while not sink.failure and not load_acquire_u32(&sink.stop) and not over(sink, now_ns(CLOCK_MONOTONIC)):
        got = epoll_wait(sink.epoll, ready, 64, POLL_MS)
        for i in range(got):
            drain(sink, ready[i].data.u32)
        if sink.count > MANY and 0 < got < 64:
            nap.tv_sec = 0
            nap.tv_nsec = NAP_NS
            clock_nanosleep(CLOCK_MONOTONIC, 0, &nap, NULL)     # void: shorter is as well
