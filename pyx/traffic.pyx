"""Test traffic: an open-loop paced sender, and a receiver that checks every datagram.

One thread calls ``run``; any other may read the counters and call ``stop``. Sockets belong to the caller, who keeps
them open while ``run`` does. Payloads are described in payload.pxd; sending.pxd and receiving.pxd are the loops.
"""

import os

cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from .address cimport address_value
from .kernel cimport (
    CLOCK_MONOTONIC, CMSG_DATA, CMSG_LEN, CMSG_SPACE, EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLLIN, IPPROTO_UDP, SO_MEMINFO,
    SOL_SOCKET, UDP_SEGMENT, calloc, close, cmsghdr, epoll_create1, epoll_ctl, epoll_event, free, getsockopt, iovec,
    load_relaxed_u64, mmsghdr, now_ns, sockaddr_in6, store_relaxed_u64, store_release_u32,
)
from .payload cimport HEADER_BYTES, PATTERN_BYTES, SIZE_MAX, fill_pattern
from .receiving cimport CONTROL_BYTES, RECEIVES, SLOT_BYTES, Sink, receive_all
from .sending cimport BATCH, Job, Stream, send_all
from .system cimport check
from .tally cimport BUCKETS, Delays, Tally, bucket_middle, forget

cdef enum:
    GSO_MAX = 64                # datagrams of one superframe: UDP_MAX_SEGMENTS of older kernels
    MEMINFO_DROPS = 8           # linux/sock_diag.h: SK_MEMINFO_DROPS
    MEMINFO_WORDS = 9

cdef uint8_t pattern[PATTERN_BYTES]
fill_pattern(pattern)


@cython.final
cdef class Sender:
    """Sends on connected sockets at an even rate and never skips: when late, it catches up and says how late."""

    cdef Job job

    def __cinit__(
        self, fds, sizes, *, double rate, bint random_sizes=False, uint64_t count=0, double duration=0, uint32_t gso=1,
    ):
        """``rate`` is datagrams per second over all streams, one socket of ``fds`` each. ``sizes`` in bytes is a cycle,
        or with ``random_sizes`` the smallest and the largest. ``count`` datagrams of each stream and ``duration``
        seconds end it, 0 not. ``gso`` datagrams of one size form a UDP_SEGMENT superframe.
        """
        cdef Job *job = &self.job
        cdef cmsghdr *header
        cdef uint32_t i
        if not fds or not sizes or rate <= 0 or not 1 <= gso <= GSO_MAX or not all(0 <= s <= SIZE_MAX for s in sizes):
            raise ValueError("sockets, sizes of 0 to 65507 bytes, a rate above 0 and 1 to 64 datagrams a superframe")
        if gso > 1 and (random_sizes or len(sizes) > 1 or not 0 < sizes[0] * gso <= SIZE_MAX):
            raise ValueError("superframes have datagrams of one size, 65507 bytes in all")
        if random_sizes and (len(sizes) != 2 or sizes[0] > sizes[1]):
            raise ValueError("a range has a smallest and a largest size")
        job.pattern = pattern
        job.stream_count = len(fds)
        job.size_count = len(sizes)
        job.random = random_sizes
        job.gso = gso
        job.run, job.draws = int.from_bytes(os.urandom(4), "big"), int.from_bytes(os.urandom(7), "big")
        job.unit_ns = 1e9 * gso / rate
        job.count = count or ~<uint64_t>0
        job.units = ~<uint64_t>0
        job.duration_ns = ~<uint64_t>0
        if count:
            job.units = (count + gso - 1) // gso * job.stream_count
        if duration > 0:
            job.units = min(job.units, <uint64_t>max(1.0, duration * rate / gso + 0.999))
            job.duration_ns = <uint64_t>((duration + 0.1) * 1e9)    # for one who cannot keep up; units end the rest
        job.streams = <Stream *>calloc(job.stream_count, sizeof(Stream))
        job.sizes = <uint32_t *>calloc(job.size_count, sizeof(uint32_t))
        job.messages = <mmsghdr *>calloc(BATCH, sizeof(mmsghdr))
        job.vectors = <iovec *>calloc(2 * BATCH, sizeof(iovec))
        job.headers = <uint8_t *>calloc(BATCH, HEADER_BYTES)
        job.control = <uint8_t *>calloc(1, CMSG_SPACE(sizeof(uint16_t)))
        if (
            job.streams == NULL or job.sizes == NULL or job.messages == NULL or job.vectors == NULL
            or job.headers == NULL or job.control == NULL
        ):
            raise MemoryError
        for i in range(job.stream_count):
            job.streams[i].fd = fds[i]
        for i in range(job.size_count):
            job.sizes[i] = sizes[i]
        header = <cmsghdr *>job.control
        header.cmsg_len = CMSG_LEN(sizeof(uint16_t))
        header.cmsg_level = IPPROTO_UDP
        header.cmsg_type = UDP_SEGMENT
        (<uint16_t *>CMSG_DATA(header))[0] = <uint16_t>job.sizes[0]

    def __dealloc__(self):
        free(self.job.streams)
        free(self.job.sizes)
        free(self.job.messages)
        free(self.job.vectors)
        free(self.job.headers)
        free(self.job.control)

    def run(self):
        """Send until a limit or ``stop``; holds no GIL. Raises OSError where no datagram could ever be sent so."""
        store_relaxed_u64(&self.job.started, now_ns(CLOCK_MONOTONIC))
        store_relaxed_u64(&self.job.ended, self.job.started)
        with nogil:
            send_all(&self.job)
        if self.job.failure:
            raise OSError(self.job.failure, os.strerror(self.job.failure))

    def stop(self):
        """Let ``run`` return within some 20 ms."""
        store_release_u32(&self.job.stop, 1)

    @property
    def sent(self):
        """Datagrams that the kernel accepted."""
        return load_relaxed_u64(&self.job.sent)

    @property
    def sent_bytes(self):
        """UDP payload of them."""
        return load_relaxed_u64(&self.job.bytes)

    @property
    def errors(self):
        """Datagrams that the kernel refused, and ICMP refusals heard of."""
        return load_relaxed_u64(&self.job.errors)

    @property
    def last_error(self):
        """What the last of ``errors`` was, in words; "" without any. Read it after ``run``."""
        return os.strerror(self.job.last_error) if self.job.last_error else ""

    @property
    def late_max_ns(self):
        """How much later than due a datagram was handed to the kernel, at worst."""
        return load_relaxed_u64(&self.job.late_max)

    @property
    def elapsed_ns(self):
        """From the start to the last datagram."""
        return load_relaxed_u64(&self.job.ended) - load_relaxed_u64(&self.job.started)


@cython.final
cdef class Receiver:
    """Reads sockets, one for each stream, and accounts for every datagram.

    For each: received = unique + unnumbered + duplicated + corrupted + foreign. *reordered* is a part of unique.
    """

    cdef Sink sink

    def __cinit__(self, fds, *, uint64_t expected=0, double duration=0, double idle=0, bint frames=False):
        """``expected`` datagrams of each stream, ``duration`` seconds in all and ``idle`` seconds after the last
        datagram end it, 0 not. With ``frames`` they are packet sockets that have PACKET_VNET_HDR (packet(7)) and a
        filter for their stream."""
        cdef Sink *sink = &self.sink
        cdef epoll_event event
        cdef uint32_t i
        sink.epoll = -1
        if not fds or duration < 0 or idle < 0:
            raise ValueError("sockets, and seconds of 0 or more")
        sink.pattern = pattern
        sink.count = len(fds)
        sink.frames = frames
        sink.expected = expected
        sink.duration_ns = <uint64_t>(duration * 1e9)
        sink.idle_ns = <uint64_t>(idle * 1e9)
        sink.tallies = <Tally *>calloc(sink.count, sizeof(Tally))
        sink.fds = <int *>calloc(sink.count, sizeof(int))
        sink.dropped = <uint64_t *>calloc(sink.count, sizeof(uint64_t))
        sink.messages = <mmsghdr *>calloc(RECEIVES, sizeof(mmsghdr))
        sink.vectors = <iovec *>calloc(RECEIVES, sizeof(iovec))
        sink.names = <sockaddr_in6 *>calloc(RECEIVES, sizeof(sockaddr_in6))
        sink.controls = <uint8_t *>calloc(RECEIVES, CONTROL_BYTES)
        sink.slots = <uint8_t *>calloc(RECEIVES, SLOT_BYTES)
        sink.delays = <Delays *>calloc(1, sizeof(Delays))
        if (
            sink.tallies == NULL or sink.fds == NULL or sink.dropped == NULL or sink.messages == NULL
            or sink.vectors == NULL or sink.names == NULL or sink.controls == NULL or sink.slots == NULL
            or sink.delays == NULL
        ):
            raise MemoryError
        for i in range(<uint32_t>RECEIVES):
            sink.vectors[i].iov_base = &sink.slots[<size_t>i * SLOT_BYTES]
            sink.vectors[i].iov_len = SLOT_BYTES
            sink.messages[i].msg_hdr.msg_iov = &sink.vectors[i]
            sink.messages[i].msg_hdr.msg_iovlen = 1
            sink.messages[i].msg_hdr.msg_name = &sink.names[i]
            sink.messages[i].msg_hdr.msg_namelen = sizeof(sockaddr_in6)
            sink.messages[i].msg_hdr.msg_control = &sink.controls[i * CONTROL_BYTES]
            sink.messages[i].msg_hdr.msg_controllen = CONTROL_BYTES
        sink.epoll = check(epoll_create1(EPOLL_CLOEXEC), "epoll")
        for i in range(sink.count):
            sink.fds[i] = fds[i]
            event.events = EPOLLIN
            event.data.u32 = i
            check(epoll_ctl(sink.epoll, EPOLL_CTL_ADD, sink.fds[i], &event), "epoll")

    def __dealloc__(self):
        cdef uint32_t i
        if self.sink.tallies != NULL:
            for i in range(self.sink.count):
                forget(&self.sink.tallies[i])
        free(self.sink.tallies)
        free(self.sink.fds)
        free(self.sink.dropped)
        free(self.sink.messages)
        free(self.sink.vectors)
        free(self.sink.names)
        free(self.sink.controls)
        free(self.sink.slots)
        free(self.sink.delays)
        if self.sink.epoll >= 0:
            close(self.sink.epoll)

    def run(self):
        """Receive until a limit or ``stop``; holds no GIL. Raises OSError."""
        cdef uint32_t memory[MEMINFO_WORDS]
        cdef unsigned int size
        cdef uint32_t i
        self.sink.started = now_ns(CLOCK_MONOTONIC)
        with nogil:
            receive_all(&self.sink)
        for i in range(self.sink.count):
            size = sizeof(memory)   # what SO_RXQ_OVFL tells, without waiting for one more datagram
            check(getsockopt(self.sink.fds[i], SOL_SOCKET, SO_MEMINFO, memory, &size), "SO_MEMINFO")
            self.sink.dropped[i] = memory[MEMINFO_DROPS]
        if self.sink.failure:
            raise OSError(self.sink.failure, os.strerror(self.sink.failure))

    def stop(self):
        """Let ``run`` return within some 20 ms."""
        store_release_u32(&self.sink.stop, 1)

    @property
    def received(self):
        """Datagrams so far, of whatever kind."""
        cdef uint64_t total = 0
        cdef uint32_t i
        for i in range(self.sink.count):
            total += load_relaxed_u64(&self.sink.tallies[i].received)
        return total

    @property
    def elapsed_ns(self):
        """From the first datagram to the last."""
        return load_relaxed_u64(&self.sink.last) - load_relaxed_u64(&self.sink.first)

    def stream(self, uint32_t index):
        """The account of one stream, by name. ``lost`` is counted up to ``expected``, else between the lowest and the
        highest sequence seen; ``socket_dropped``, known when ``run`` has ended, is how many of those this sink lost."""
        cdef Tally *tally
        cdef uint64_t due = self.sink.expected
        cdef uint64_t there
        if index >= self.sink.count:
            raise IndexError(index)
        tally = &self.sink.tallies[index]
        there = load_relaxed_u64(&tally.unique)
        if due:
            there += load_relaxed_u64(&tally.unnumbered)
        elif there:
            due = load_relaxed_u64(&tally.highest) - load_relaxed_u64(&tally.lowest) + 1
        return {
            "received": load_relaxed_u64(&tally.received),
            "unique": load_relaxed_u64(&tally.unique),
            "lost": due - there if due > there else 0,
            "duplicated": load_relaxed_u64(&tally.duplicated),
            "reordered": load_relaxed_u64(&tally.reordered),
            "corrupted": load_relaxed_u64(&tally.corrupted),
            "foreign": load_relaxed_u64(&tally.foreign),
            "unnumbered": load_relaxed_u64(&tally.unnumbered),
            "socket_dropped": self.sink.dropped[index],
            "bytes": load_relaxed_u64(&tally.bytes),
        }

    def delay_ns(self, double quantile):
        """The delay from due to received that this share (0 to 1) of datagrams did not exceed, to 0.4 %; None if
        none was measured: payloads under 32 bytes, or a sender on another host. 1 gives the longest, exactly."""
        cdef Delays *delays = self.sink.delays
        cdef uint64_t total = load_relaxed_u64(&delays.count)
        cdef uint64_t longest = load_relaxed_u64(&delays.longest)
        cdef uint64_t passed = 0
        cdef uint32_t i
        if not total:
            return None
        if quantile < 1:
            for i in range(<uint32_t>BUCKETS):
                passed += load_relaxed_u64(&delays.buckets[i])
                if passed >= quantile * total:
                    return min(bucket_middle(i), longest)
        return longest

    def sources(self):
        """Datagrams by (address, port) they came from, 16 at most; None is the rest. Read it after ``run``.

        An IPv4 address is an int, an IPv6 one 16 bytes."""
        cdef uint32_t i
        seen = {}
        for i in range(self.sink.source_count):
            seen[address_value(&self.sink.sources[i].address), self.sink.sources[i].port] = self.sink.sources[i].count
        if self.sink.other_sources:
            seen[None] = self.sink.other_sources
        return seen

    def ttl(self):
        """Datagrams by TTL, where the sockets have IP_RECVTTL. Read it after ``run``."""
        return {i: self.sink.ttl[i] for i in range(256) if self.sink.ttl[i]}

    def tos(self):
        """Datagrams by TOS byte, where the sockets have IP_RECVTOS. Read it after ``run``."""
        return {i: self.sink.tos[i] for i in range(256) if self.sink.tos[i]}
