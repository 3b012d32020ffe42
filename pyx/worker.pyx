"""The loop. Read it top to bottom: turn, gather, frame, flush. Everything it touches is in the plan."""

cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from .address cimport Address, digest
from .bare cimport dress, outer_bytes
from .chains cimport begin_chain, send_chain
from .counters cimport (
    BROKEN, DROP_COUNT, DROP_ECHO, DROP_POLICER, DROP_SOURCE, DROPPED, FRAGMENT, INCOMPLETE, NO_MATCH, RELAYED,
    SEND_NOBUFS, SEND_PARKED, VERDICT_COUNT, WAITING, InputCounters, Verdict,
)
from .egress cimport Output
from .fragments cimport (
    PATIENCE_NS, Assembly, Fragments, discard, expire, is_full, keep, let_go, parse_whole, refuse, settle, take_in,
)
from .health cimport look
from .kept cimport mac_at
from .kernel cimport (
    CLOCK_MONOTONIC, CLOCK_REALTIME, MSG_DONTWAIT, POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT, SOL_SOCKET, SO_ERROR,
    TP_STATUS_COPY, add, getsockopt, load_acquire_ptr, load_acquire_u32, load_acquire_u64, load_relaxed_u64, now_ns,
    poll, read, recv, relax, store_relaxed_u64, store_release_ptr, store_release_u32, store_release_u64,
    virtio_net_hdr,
)
from .match cimport is_echo, let_in, look_up, match, vlan_of
from .misses cimport count_miss, note_lost
from .offload cimport segment_bytes
from .plan cimport Beginning, Capture, Flow, Input, Plan, PlanOwner
from .policer cimport conforms
from .queue cimport ENTRIES, NONE, Blocked, Chain, Place, Queue, Watch, append, chain_rest, note_ends, push
from .repeats cimport WATCHED, comes_back
from .ring cimport (
    LARGE_BYTES, LARGE_FRAMES, Frame, Ring, acquire, first_frame, frame_count, half_free, handed_over, release,
    view_frame,
)
from .runs cimport charge
from .superframes cimport Superframe, datagrams, longest, superframe_of, take
from .times cimport TIMED_SENDS, note_times
from .wire cimport ETHERNET_BYTES, Datagram, Fragment, glance, parse_fragment

cdef enum:
    GATHER = 3072               # sends in hand after which a turn takes no further place; below ENTRIES by a block
    PUT_OFF = 8192              # sends of one ring after which even a place begun waits for the next turn
    SPIN_NS = 100000            # how long a latency ring is looked at before the worker sleeps
    WAIT_MS = 20                # for outputs whose socket is full, a turn at most
    LOOK_MS = 1                 # how often such a wait looks at the rings
    IDLE_MS = 1000              # a sleep at most, so that turns are counted

cdef struct State:
    void *plan                  # the engine stores, the worker loads
    uint64_t seen               # generation in use: every older one may be freed
    uint64_t turns              # grows while the loop lives, under load and in idle polls alike
    uint32_t stop
    int wake_fd                 # eventfd, owned by the engine


cdef void run(State *state) noexcept nogil:
    """Until stop is set: adopt the newest plan, take what the rings have ready, send it; sleep if there was nothing."""
    cdef Plan *plan
    cdef uint64_t spin_until = 0
    cdef uint32_t i, ready
    while not load_acquire_u32(&state.stop):
        plan = <Plan *>load_acquire_ptr(&state.plan)
        if plan.generation != load_relaxed_u64(&state.seen):
            begin_outputs(plan)
            forsake(plan)
            store_release_u64(&state.seen, plan.generation)
        add(&state.turns, 1)
        if plan.queue.fragments.oldest != NULL:
            expire(plan.queue.fragments, now_ns(CLOCK_MONOTONIC))
        ready = rings_ready(plan)
        if ready:
            for i in range(plan.capture_count):
                gather(plan, &plan.captures[i], max(<uint32_t>GATHER // ready, <uint32_t>1))
            flush(plan)
            plan.queue.sends = 0
            for i in range(plan.capture_count):
                release(plan.captures[i].ring)
            if plan.spins:
                spin_until = now_ns(CLOCK_MONOTONIC) + SPIN_NS
        elif plan.spins and now_ns(CLOCK_MONOTONIC) < spin_until:
            relax()
        else:
            sleep(state, plan)
    plan = <Plan *>load_acquire_ptr(&state.plan)
    while plan.queue.fragments.oldest != NULL:
        discard(plan.queue.fragments, plan.queue.fragments.oldest, INCOMPLETE)


cdef void begin_outputs(Plan *plan) noexcept nogil:
    """Note what the inputs of a new output had let through. Nothing is in hand between two turns, so it is exact."""
    cdef const InputCounters *input
    cdef const Beginning *beginning
    cdef uint64_t passed
    cdef uint32_t i, j, group
    for i in range(plan.beginning_count):
        beginning = &plan.beginnings[i]
        for group in range(beginning.groups):
            input = &beginning.input[group]
            passed = input.rx_packets
            for j in range(DROP_COUNT):
                passed -= input.drops[j]
            add(&beginning.output[group if beginning.by_group else 0].since_packets, passed)


cdef void forsake(Plan *plan) noexcept nogil:
    """Give up fragments of rings that the plan has no more; these may be closed once the plan is adopted."""
    cdef Fragments *store = plan.queue.fragments
    cdef Assembly *each = store.oldest
    cdef Assembly *after
    cdef uint32_t i
    while each != NULL:
        after = each.newer
        i = 0
        while i < plan.capture_count and plan.captures[i].ring != each.ring:
            i += 1
        if i == plan.capture_count:
            discard(store, each, INCOMPLETE)
        each = after


cdef inline int patience_ms(const Plan *plan) noexcept nogil:
    """How long there is nothing to do if no frame comes: until the oldest fragment's time is up."""
    cdef const Assembly *oldest = plan.queue.fragments.oldest
    cdef uint64_t waited
    if oldest == NULL:
        return IDLE_MS
    waited = now_ns(CLOCK_MONOTONIC) - oldest.since_ns
    return 1 + <int>((<uint64_t>PATIENCE_NS - min(waited, <uint64_t>PATIENCE_NS)) // 1000000)


cdef inline void sleep(State *state, Plan *plan) noexcept nogil:
    """Until a ring closes a block, the engine wakes us, or there is something to give up; IDLE_MS at most."""
    cdef uint32_t i
    cdef uint64_t drained
    cdef int pending
    cdef unsigned int size = sizeof(pending)
    plan.polls[plan.capture_count].fd = state.wake_fd
    poll(plan.polls, plan.capture_count + 1, patience_ms(plan))     # void: EINTR and time-out mean another turn
    for i in range(plan.capture_count):
        if plan.polls[i].revents & (POLLERR | POLLHUP | POLLNVAL):
            # The link went down or away: taking the error is what lets poll sleep again.
            getsockopt(plan.polls[i].fd, SOL_SOCKET, SO_ERROR, &pending, &size)
    if plan.polls[plan.capture_count].revents & POLLIN:
        read(state.wake_fd, &drained, sizeof(drained))


cdef inline uint32_t rings_ready(const Plan *plan) noexcept nogil:
    """How many rings have something for this turn: it is shared among them."""
    cdef uint32_t i
    cdef uint32_t ready = 0
    for i in range(plan.capture_count):
        if plan.captures[i].ring.left or handed_over(plan.captures[i].ring):
            ready += 1
    return ready


cdef inline void gather(Plan *plan, Capture *capture, uint32_t share) noexcept nogil:
    """Take the places that are ready, until this ring has brought ``share`` datagrams to send, or is held by a quarter.

    A worker that keeps up finds one place at a time. One that is behind finds several, and the more datagrams of a
    stream it has in hand, the longer are its runs and the less each of them costs. A datagram counts once for each
    output: that bounds the turn, and so how long another ring waits. What others brought does not count, so that no
    ring goes without its share; and a place with many datagrams for many outputs is left in the middle (PUT_OFF).
    """
    cdef Ring *ring = capture.ring
    cdef const uint8_t *place
    cdef uint32_t before = plan.queue.sends
    if ring.left:
        relay_place(plan, capture, before + PUT_OFF)
    while not ring.left and plan.queue.sends - before < share and ring.held <= ring.place_count // 4:
        place = acquire(ring)
        if place == NULL:
            break
        ring.at = first_frame(ring, place)
        ring.left = frame_count(ring, place)
        relay_place(plan, capture, before + PUT_OFF)


cdef inline void relay_place(Plan *plan, Capture *capture, uint32_t most) noexcept nogil:
    """Give the frames left of a block or slot their verdicts, until ``most`` sends are in hand; matching datagrams are
    queued."""
    cdef uint32_t verdicts[VERDICT_COUNT + 1]   # the last are WAITING: fragments, counted with their datagram
    cdef Ring *ring = capture.ring
    cdef const uint8_t *at = ring.at
    cdef const uint8_t *header
    cdef uint32_t left = ring.left
    cdef Frame frame
    cdef Verdict verdict
    cdef uint32_t i
    for i in range(VERDICT_COUNT + 1):
        verdicts[i] = 0
    while left and plan.queue.sends < most:
        header = at
        at = view_frame(ring, at, &frame)
        if frame.status & <uint32_t>TP_STATUS_COPY:
            fetch(plan, ring, &frame)
        if ring.bare:
            dress(&frame, outer_bytes(ring.slots, header))
        verdict = relay_frame(plan, capture, &frame)
        verdicts[<uint32_t>verdict] += 1
        if NO_MATCH <= verdict < WAITING:
            note_untaken(ring, verdict, &frame)
        left -= 1
    ring.at = at
    ring.left = left
    for i in range(VERDICT_COUNT):
        if verdicts[i]:
            add(&ring.counters.frames[i], verdicts[i])


cdef void fetch(Plan *plan, Ring *ring, Frame *frame) noexcept nogil:
    """Read the whole of a frame larger than its slot: the kernel has queued it (packet(7), PACKET_COPY_THRESH).

    The one system call that a frame may cost, and only such a one. An error of the link stands before the queue, and is
    gone once it was read: hence the second attempt. What does not come stays as the slot has it, cut short.
    """
    cdef uint8_t *room
    cdef ssize_t size
    if ring.fetched == LARGE_FRAMES:
        flush(plan)                             # nothing refers to them any more
        ring.fetched = 0
    room = ring.large + <size_t>ring.fetched * LARGE_BYTES + ETHERNET_BYTES     # see bare.pxd
    size = recv(ring.fd, room, LARGE_BYTES - ETHERNET_BYTES, MSG_DONTWAIT)
    if size < 0:
        size = recv(ring.fd, room, LARGE_BYTES - ETHERNET_BYTES, MSG_DONTWAIT)
    if size == <ssize_t>(frame.wire_size + sizeof(virtio_net_hdr)):
        ring.fetched += 1
        frame.mac = room + sizeof(virtio_net_hdr)
        frame.size = frame.wire_size


cdef inline uint64_t stamp_of(const Frame *frame) noexcept nogil:
    """When it came, Unix ns."""
    return <uint64_t>frame.seconds * 1000000000 + frame.nanoseconds


cdef inline void note_untaken(Ring *ring, Verdict verdict, const Frame *frame) noexcept nogil:
    """Remember what no rule took, and whose frame was lost if it could not be relayed at all.

    The ring's filter has read the destination too, so it is there, or cut off.
    """
    cdef Address source, group
    cdef uint16_t port
    if not glance(frame.mac, frame.size, &source, &group, &port):
        return
    count_miss(ring.misses, verdict, &group, &source, port, vlan_of(frame), 1, stamp_of(frame))
    if verdict >= FRAGMENT:
        note_lost(&ring.lost[<uint32_t>verdict], &group)


cdef inline Verdict relay_frame(Plan *plan, Capture *capture, const Frame *frame) noexcept nogil:
    """Match, then relay what matches; a fragment is put to the others of its datagram first."""
    cdef Datagram datagram
    cdef uint32_t found
    cdef Verdict verdict = match(capture, frame, &datagram, &found)
    if verdict == RELAYED:
        return relay_datagram(plan, capture, frame, &datagram, found, segment_bytes(frame.mac))
    if verdict != FRAGMENT:
        return verdict
    relay_fragment(plan, capture, frame)
    return WAITING


cdef void relay_fragment(Plan *plan, Capture *capture, const Frame *frame) noexcept nogil:
    """Keep it until its datagram is whole, then relay that. The verdict goes for all the frames in which it came."""
    cdef Fragments *store = plan.queue.fragments
    cdef uint16_t vlan = vlan_of(frame)
    cdef uint64_t stamp = stamp_of(frame)
    cdef Fragment fragment
    cdef Datagram datagram
    cdef Assembly *whole
    cdef uint32_t found
    cdef Verdict verdict
    if not parse_fragment(frame.mac, &fragment):
        refuse(capture.ring, BROKEN, vlan, &fragment, stamp)
        return
    if is_full(store):
        flush(plan)
    if take_in(store, capture.ring, vlan, &fragment, now_ns(CLOCK_MONOTONIC), stamp, &whole) != RELAYED:
        return
    datagram.port = 0
    verdict = parse_whole(whole, &datagram)
    if verdict == RELAYED:
        verdict = look_up(capture, vlan, &datagram, &found)
    if verdict == RELAYED:
        verdict = relay_datagram(plan, capture, frame, &datagram, found, 0)
    settle(capture.ring, verdict, whole.parts_count, &whole.group, &whole.source, datagram.port, vlan, stamp)
    keep(store, whole)


cdef inline uint32_t lane_of(const Flow *flow, const Place *place) noexcept nogil:
    """Neighbours among groups and ports have lanes of their own, as long as there are enough."""
    return (place.group + place.port * 37) & flow.lane_mask


cdef inline Verdict relay_datagram(
    Plan *plan, Capture *capture, const Frame *frame, const Datagram *datagram, uint32_t found, uint32_t segment
) noexcept nogil:
    """Let in, queue. A superframe's datagrams, of ``segment`` bytes, are queued one by one."""
    cdef uint32_t chain, stream
    cdef const uint8_t *payload
    cdef Watch *watch
    cdef Place place
    cdef Input *input = &plan.inputs[found]
    cdef const Flow *flow = &plan.flows[input.flow]
    cdef uint32_t group = <uint32_t>(datagram.group.low - input.group)      # 0, unless it is a range
    cdef InputCounters *counters = &input.counters[group]
    cdef uint32_t size = datagram.size
    cdef Superframe rest = superframe_of(datagram.payload, size, segment)
    cdef uint32_t count = datagrams(&rest)
    cdef bint keeps = flow.keeps_ends
    cdef uint64_t sender = digest(&datagram.source)
    cdef uint64_t stamp = stamp_of(frame)
    add(&counters.rx_packets, count)
    add(&counters.rx_bytes, size)
    store_relaxed_u64(&counters.last_packet_ns, stamp)
    if is_echo(plan, capture, frame.mac, datagram):
        add(&counters.drops[<uint32_t>DROP_ECHO], count)
        return DROPPED
    if keeps:           # a second relay may send it back from the same address, and does so from a MAC of its own
        sender ^= mac_at(frame.mac + 6) << 16
    stream = input.first_watch + group
    watch = &plan.queue.watches[stream]
    if flow.addressed:
        stream += <uint32_t>datagram.port << 16
    if watch.source != sender or input.bypassed:
        watch.source = sender
        watch.left = max(watch.left, <uint32_t>WATCHED)
    if watch.left and not capture.loopback and comes_back(
        plan.queue.repeats, stream, &watch.left, datagram.payload, <uint16_t>longest(&rest),
        sender, not input.bypassed, stamp,
    ):
        add(&counters.drops[<uint32_t>DROP_ECHO], count)
        return DROPPED
    if not let_in(plan, input, &datagram.source):
        add(&counters.drops[<uint32_t>DROP_SOURCE], count)
        return DROPPED
    if input.health != NULL:
        look(input.health, rest, stamp)
    if input.policer != NULL and not conforms(&input.policer[group], stamp, count, size):
        add(&counters.drops[<uint32_t>DROP_POLICER], count)
        return DROPPED
    plan.queue.sends += count * flow.output_count
    chain = flow.first_chain
    if flow.addressed:
        place = Place(group, datagram.port)
        chain += lane_of(flow, &place)
    while True:
        if plan.queue.used == ENTRIES:
            flush(plan)
        if flow.addressed:
            plan.queue.places[plan.queue.used] = place
        size = take(&rest, &payload)
        push(plan.queue, chain, payload, <uint16_t>size, datagram.tos, datagram.ttl, stamp)
        if keeps:
            note_ends(plan.queue, &datagram.source, datagram.source_port)
        if not rest.left:
            return RELAYED


cdef void flush(Plan *plan) noexcept nogil:
    """Send every chain by every output of its flow; then wait for the blocked ones; then count what is left."""
    cdef Queue *queue = plan.queue
    cdef Flow *flow
    cdef Chain *chain
    cdef Output *output
    cdef uint32_t i, j, cursor
    cdef uint32_t timed = 0                     # chains whose time is noted
    cdef uint32_t sends = 0                     # since then
    if plan.lanes:
        join_lanes(plan)
    for i in range(queue.touched_count):
        chain = &queue.chains[queue.touched[i]]
        flow = &plan.flows[chain.flow]
        for j in range(flow.first_output, flow.first_output + flow.output_count):
            output = &plan.outputs[j]
            if output.egress == NULL:
                if output.addressed:
                    charge(queue, output, chain.head, SEND_PARKED)
                else:
                    add(&output.counters.errors[<uint32_t>SEND_PARKED], chain.count)
                continue
            cursor = begin_chain(queue, output, chain)
            if cursor != NONE:
                queue.blocked[queue.blocked_count].output = j
                queue.blocked[queue.blocked_count].cursor = cursor
                queue.blocked[queue.blocked_count].moved = False
                queue.blocked_count += 1
                chain.blocked = True
        sends += chain.count * flow.output_count
        if sends >= TIMED_SENDS:
            end_chains(plan, timed, i + 1, False)
            timed = i + 1
            sends = 0
    if timed < queue.touched_count:
        end_chains(plan, timed, queue.touched_count, False)
    if queue.blocked_count:
        wait_for_room(plan)
        end_chains(plan, 0, queue.touched_count, True)
    queue.touched_count = 0
    queue.used = 0
    let_go(queue.fragments)


cdef inline void end_chains(Plan *plan, uint32_t first, uint32_t end, bint blocked) noexcept nogil:
    """Chains that are sent: note how long they were here, and empty them. Those that wait for room end after that."""
    cdef Queue *queue = plan.queue
    cdef uint64_t now = now_ns(CLOCK_REALTIME)
    cdef Chain *chain
    cdef Flow *flow
    cdef uint32_t i
    for i in range(first, end):
        chain = &queue.chains[queue.touched[i]]
        if chain.blocked != blocked:
            continue
        flow = &plan.flows[chain.flow]
        if flow.times != NULL:
            note_times(flow.times, chain.since_ns, now, chain.count)
        chain.count = 0
        chain.bytes = 0
        chain.blocked = False


cdef void join_lanes(Plan *plan) noexcept nogil:
    """Make one chain of those of a flow, so that its streams leave in the same messages; each of them stays whole."""
    cdef Queue *queue = plan.queue
    cdef Chain *chain
    cdef Chain *home
    cdef uint32_t count = 0
    cdef uint32_t i, first
    for i in range(queue.touched_count):
        chain = &queue.chains[queue.touched[i]]
        first = plan.flows[chain.flow].first_chain
        home = &queue.chains[first]
        if chain == home or not home.count:
            queue.touched[count] = first
            count += 1
        if chain != home:
            append(queue, home, chain)
    queue.touched_count = count


cdef void wait_for_room(Plan *plan) noexcept nogil:
    """Back-pressure: poll the full sockets while half of every ring is free, WAIT_MS at most; drop the rest.

    A ring can fill while no socket has anything to say, so the rings are looked at each LOOK_MS: one with little room
    is not kept waiting for somebody else's output.

    An output that took nothing during a whole wait (a host that does not answer ARP) is not waited for again before
    it takes something: a dead one must not slow down the others.
    """
    cdef Queue *queue = plan.queue
    cdef Blocked *blocked
    cdef Output *output
    cdef uint64_t now = now_ns(CLOCK_MONOTONIC)
    cdef uint64_t until = now + <uint64_t>WAIT_MS * 1000000
    cdef uint32_t i, waiting, before
    while now < until and rings_have_room(plan):
        waiting = 0
        for i in range(queue.blocked_count):
            blocked = &queue.blocked[i]
            output = &plan.outputs[blocked.output]
            queue.waiting[i].fd = -1                    # poll(2) skips it
            queue.waiting[i].revents = 0
            if blocked.cursor != NONE and not output.egress.stalled:
                queue.waiting[i].fd = output.egress.fd
                queue.waiting[i].events = POLLOUT
                waiting += 1
        if not waiting:
            break
        poll(queue.waiting, queue.blocked_count, LOOK_MS)       # void: the clock decides
        for i in range(queue.blocked_count):
            if queue.waiting[i].revents:
                blocked = &queue.blocked[i]
                before = blocked.cursor
                blocked.cursor = send_chain(queue, &plan.outputs[blocked.output], before)
                blocked.moved |= blocked.cursor != before
        now = now_ns(CLOCK_MONOTONIC)
    for i in range(queue.blocked_count):
        blocked = &queue.blocked[i]
        if blocked.cursor != NONE:
            output = &plan.outputs[blocked.output]
            if output.addressed:
                charge(queue, output, blocked.cursor, SEND_NOBUFS)
            else:
                add(&output.counters.errors[<uint32_t>SEND_NOBUFS], chain_rest(queue, output, blocked.cursor))
            if now >= until and not blocked.moved:
                output.egress.stalled = True
    queue.blocked_count = 0


cdef inline bint rings_have_room(const Plan *plan) noexcept nogil:
    cdef uint32_t i
    for i in range(plan.capture_count):
        if not half_free(plan.captures[i].ring):
            return False
    return True


cdef int require_sealed(PlanOwner plan) except -1:
    if not plan.sealed:
        raise ValueError(f"plan {plan.generation} is not sealed")
    return 0


@cython.final
cdef class Worker:
    """One thread's loop. The thread that calls ``run`` is the worker; every other method belongs to the engine."""

    cdef State state

    def __cinit__(self, PlanOwner plan not None, int wake_fd):
        """``wake_fd`` is an eventfd, non-blocking; the caller keeps it open longer than this runs.

        Raises ValueError, as ``publish`` does, for a plan that is not sealed.
        """
        require_sealed(plan)
        self.state.plan = &plan.plan
        self.state.seen = 0
        self.state.turns = 0
        self.state.stop = 0
        self.state.wake_fd = wake_fd

    def run(self):
        """Relay until ``stop``. Holds no GIL; the caller keeps every published plan alive until ``seen`` passes it."""
        with nogil:
            run(&self.state)

    def publish(self, PlanOwner plan not None):
        """Let the loop go by ``plan`` from its next turn on. Write to the eventfd afterwards to make that soon."""
        require_sealed(plan)
        store_release_ptr(&self.state.plan, &plan.plan)

    def stop(self):
        """Let the loop end after the block in hand. Write to the eventfd afterwards."""
        store_release_u32(&self.state.stop, 1)

    @property
    def seen(self):
        """The generation in use: plans older than that are no longer read."""
        return load_acquire_u64(&self.state.seen)

    @property
    def turns(self):
        """Turns of the loop: what a watchdog watches."""
        return load_relaxed_u64(&self.state.turns)
