"""The sending loop: build what is due, hand it to the kernel, sleep until more is (send(2), udp(7))."""

cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from .kernel cimport (
    CLOCK_MONOTONIC, CMSG_SPACE, EAGAIN, ECONNREFUSED, EINTR, EINVAL, EMSGSIZE, ENOBUFS, ENOMEM, MSG_DONTWAIT, POLLOUT,
    PR_SET_TIMERSLACK, TIMER_ABSTIME, add, clock_nanosleep, errno, iovec, load_acquire_u32, load_relaxed_u64, mmsghdr,
    msghdr, now_ns, poll, pollfd, prctl, sendmmsg, store_relaxed_u64, timespec,
)
from .payload cimport HEADER_BYTES, Header, mix, write_header

cdef enum:
    BATCH = 128                 # datagrams built at a time, at most
    NAP_NS = 20000000           # the longest wait after stop is set

cdef struct Stream:
    # One stream being sent.
    int fd
    uint32_t sequence           # of the next numbered datagram
    uint64_t built              # datagrams
    uint32_t next_size          # index in sizes

cdef struct Job:
    # All that the sending loop touches. A unit is one message: a datagram, or a superframe of `gso`.
    const uint8_t *pattern
    Stream *streams
    uint32_t stream_count
    uint32_t *sizes             # a cycle, or the first and last of a range
    uint32_t size_count
    bint random
    uint64_t draws              # state of the size generator
    uint32_t gso
    uint32_t run
    double unit_ns
    uint64_t units              # to send in all
    uint64_t count              # datagrams of each stream
    uint64_t duration_ns
    mmsghdr *messages
    iovec *vectors
    uint8_t *headers
    uint8_t *control            # UDP_SEGMENT; the same for every message
    uint32_t datagrams[BATCH]   # of each message
    uint32_t sizes_sum[BATCH]   # bytes of each message
    uint64_t sent, bytes, errors, late_max, started, ended
    uint32_t stop
    int failure                 # errno that ended the run
    int last_error              # errno counted last


cdef inline uint64_t due_at(const Job *job, uint64_t unit) noexcept nogil:
    return job.started + <uint64_t>(<double>unit * job.unit_ns)


cdef inline void sleep_until(uint64_t when) noexcept nogil:
    cdef timespec until
    until.tv_sec = <long>(when // 1000000000)
    until.tv_nsec = <long>(when % 1000000000)
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL)   # void: the caller looks at the clock


cdef inline uint32_t take_size(Job *job, Stream *stream) noexcept nogil:
    cdef uint32_t size
    if job.random:
        job.draws += 1
        size = <uint32_t>(mix(job.draws) >> 32)
        return job.sizes[0] + <uint32_t>((<uint64_t>size * (job.sizes[1] - job.sizes[0] + 1)) >> 32)
    size = job.sizes[stream.next_size]
    stream.next_size = stream.next_size + 1 if stream.next_size + 1 < job.size_count else 0
    return size


cdef inline void build(Job *job, Stream *stream, uint32_t message, uint64_t due, uint64_t now) noexcept nogil:
    """Compose one unit: headers of our own, patterns straight from the table."""
    cdef msghdr *msg = &job.messages[message].msg_hdr
    cdef iovec *vectors = &job.vectors[<size_t>message * 2 * job.gso]
    cdef uint8_t *at = &job.headers[<size_t>message * HEADER_BYTES * job.gso]
    cdef uint32_t used = 0
    cdef uint32_t n = 0
    cdef uint32_t size, offset
    cdef Header header
    header.due = due
    header.sent = now
    header.run = job.run
    header.stream = <uint16_t>(stream - job.streams)
    job.sizes_sum[message] = 0
    while n < job.gso and stream.built < job.count:
        size = take_size(job, stream)
        header.size = <uint16_t>size
        header.sequence = stream.sequence
        offset = write_header(at, &header)
        if size:
            vectors[used].iov_base = at
            vectors[used].iov_len = min(size, <uint32_t>HEADER_BYTES)
            used += 1
        if size > HEADER_BYTES:
            vectors[used].iov_base = <void *>&job.pattern[offset]
            vectors[used].iov_len = size - HEADER_BYTES
            used += 1
        if size >= 4:
            stream.sequence += 1
        stream.built += 1
        job.sizes_sum[message] += size
        at += HEADER_BYTES
        n += 1
    job.datagrams[message] = n
    msg.msg_iov = vectors
    msg.msg_iovlen = used
    msg.msg_control = job.control if n > 1 else NULL
    msg.msg_controllen = CMSG_SPACE(sizeof(uint16_t)) if n > 1 else 0


cdef inline void hand_over(Job *job, Stream *stream, uint32_t messages) noexcept nogil:
    """Send until the kernel has each message, or has refused it. A full queue is waited for without a limit."""
    cdef pollfd full
    cdef uint32_t at = 0
    cdef int taken, code, _i
    while at < messages and not load_acquire_u32(&job.stop):
        taken = sendmmsg(stream.fd, &job.messages[at], messages - at, MSG_DONTWAIT)
        if taken > 0:
            for _i in range(taken):
                add(&job.sent, job.datagrams[at])
                add(&job.bytes, job.sizes_sum[at])
                at += 1
            continue
        code = errno
        if code == EINTR:
            continue
        if code == EAGAIN or code == ENOBUFS or code == ENOMEM:
            full.fd = stream.fd
            full.events = POLLOUT
            poll(&full, 1, 10)      # void: the next try decides
            if code != EAGAIN:
                sleep_until(now_ns(CLOCK_MONOTONIC) + 50000)     # the device's queue: poll knows nothing of it
            continue
        job.last_error = code
        if code == ECONNREFUSED:
            add(&job.errors, 1)     # it tells of an earlier datagram; this one goes again
        elif code == EMSGSIZE or code == EINVAL:
            job.failure = code
            return
        else:
            add(&job.errors, job.datagrams[at])
            at += 1


@cython.cdivision(True)
cdef inline void send_all(Job *job) noexcept nogil:
    """Unit i is due at start + i x unit_ns and goes to stream i mod n. Behind time: all that is due, in batches."""
    cdef uint32_t limit = BATCH // job.gso
    cdef uint32_t stream = 0
    cdef uint64_t done = 0
    cdef uint64_t now, late, unit
    cdef uint32_t ready, first, messages
    prctl(PR_SET_TIMERSLACK, 1)     # void: only makes this thread's sleeps end sooner
    while done < job.units and not job.failure and not load_acquire_u32(&job.stop):
        now = now_ns(CLOCK_MONOTONIC)
        if now - job.started > job.duration_ns:
            break
        if now < due_at(job, done):
            sleep_until(min(due_at(job, done), now + NAP_NS))
            continue
        ready = 1
        while ready < limit and done + ready < job.units and due_at(job, done + ready) <= now:
            ready += 1
        first = 0
        while first < ready and first < job.stream_count:
            now = now_ns(CLOCK_MONOTONIC)
            late = now - due_at(job, done + first)
            if late > load_relaxed_u64(&job.late_max):
                store_relaxed_u64(&job.late_max, late)
            messages = 0
            unit = first
            while unit < ready:
                build(job, &job.streams[stream], messages, due_at(job, done + unit), now)
                messages += 1
                unit += job.stream_count
            hand_over(job, &job.streams[stream], messages)
            stream = stream + 1 if stream + 1 < job.stream_count else 0
            first += 1
        done += ready
        stream = <uint32_t>(done % job.stream_count)
        store_relaxed_u64(&job.ended, now_ns(CLOCK_MONOTONIC))
