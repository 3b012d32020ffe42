"""Build a plan for one worker from Python values, by name; it is read in worker.pyx."""

cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from . import counters as names
from .address cimport Address, address_of, address_value
from .counters cimport (
    DROP_ECHO, DROP_SOURCE, DROPPED, RELAYED, CounterBlock, InputCounters, OutputCounters, TimeCounters, Verdict,
)
from .demux cimport ANY_VLAN, MISS, Key, Table, probe, table_build, table_fill, table_free
from .echo cimport Sent, place
from .egress cimport EgressSocket, Output, PortSpan
from .health cimport HealthState
from .kept cimport Kept, KeptMemory
from .kernel cimport POLLIN, TP_STATUS_VLAN_VALID, calloc, free, memcpy, memset, realloc, virtio_net_hdr
from .match cimport is_echo, let_in, match
from .policer cimport PolicerState
from .queue cimport queue_build, queue_free
from .ring cimport Frame, RingSocket
from .runs cimport RUN_MAX
from .wire cimport Datagram

cdef enum:
    LANES = 1024                # chains of one flow at most: more streams than that share them, and break runs


cdef void *array(size_t count, size_t size) except NULL:
    cdef void *memory = calloc(count + 1, size)
    if memory == NULL:
        raise MemoryError("a plan")
    return memory


cdef void *grown(void *memory, uint32_t count, size_t size) except NULL:
    """Room for one element more, zeroed: it doubles where ``count`` is a power of two, or nothing."""
    cdef void *larger = memory
    if count & (count - 1) == 0:
        larger = realloc(memory, (2 * <size_t>count if count else 1) * size)
        if larger == NULL:
            raise MemoryError("a plan")
    memset(<char *>larger + count * size, 0, size)
    return larger


cdef Address mask_of(object mask) except *:
    """That of an IPv4 network also covers what stands above a mapped address."""
    cdef Address whole = address_of(mask)
    if not isinstance(mask, bytes):
        whole.high = whole.low = ~<uint64_t>0
        whole.low = whole.low << 32 | <uint32_t>mask
    return whole


cdef int expect(CounterBlock counters, tuple fields) except -1:
    if counters.fields is not fields:
        raise ValueError(f"counters of another kind: {counters.fields}")
    return 0


@cython.final
cdef class PlanOwner:
    def __cinit__(self, uint64_t generation, *, Scratch scratch=None, uint32_t worker=0):
        """An empty plan. Rings, flows with their outputs, and inputs are added; ``seal`` ends that, then it may be
        published. ``worker`` is the number by which it uses the sockets; one whose plans share a ``scratch`` allocates
        the less. An address is an int of IPv4 in host byte order, or 16 bytes of IPv6. Every method that
        builds raises MemoryError, and RuntimeError once the plan is sealed.
        """
        self.owned = []         # keeps sockets, counters and policers alive
        self.labels = []
        self.scratch = Scratch() if scratch is None else scratch
        self.worker = worker
        self.plan.generation = generation
        self.plan.queue = &self.queue

    cdef int _building(self) except -1:
        if self.closed:
            raise RuntimeError(f"plan {self.plan.generation} is sealed: a change builds another one")
        return 0

    def add_ring(self, RingSocket ring not None, *, bint loopback=False):
        """Its number. With ``loopback`` nothing that it brings is an echo."""
        cdef Capture *capture
        self._building()
        self.plan.captures = <Capture *>grown(self.plan.captures, self.plan.capture_count, sizeof(Capture))
        capture = &self.plan.captures[self.plan.capture_count]
        capture.ring = &ring.ring
        capture.loopback = loopback
        self.plan.spins |= ring.ring.slots
        self.owned.append(ring)
        self.plan.capture_count += 1
        return self.plan.capture_count - 1

    def add_flow(self, *, CounterBlock times=None, bint addressed=False, uint32_t lanes=1):
        """Its number: inputs feed it, and the outputs that are added next are its own.

        ``addressed``: of a range of groups or several ports, so that an output has many destinations. About so many
        ``lanes`` of it may form runs side by side. ``times`` counts how long its datagrams are in the relay.
        """
        cdef Flow *flow
        cdef uint32_t chains = 1
        self._building()
        while addressed and chains < min(lanes, <uint32_t>LANES):
            chains *= 2
        self.plan.flows = <Flow *>grown(self.plan.flows, self.plan.flow_count, sizeof(Flow))
        flow = &self.plan.flows[self.plan.flow_count]
        flow.first_output = self.plan.output_count
        if times is not None:
            expect(times, names.TIME_FIELDS)
            flow.times = <TimeCounters *>times.memory
            self.owned.append(times)
        flow.first_chain = self.plan.chain_count
        flow.lane_mask = chains - 1
        flow.addressed = addressed
        self.plan.lanes |= chains > 1
        self.plan.chain_count += chains
        self.plan.flow_count += 1
        return self.plan.flow_count - 1

    def add_output(
        self, *, uint32_t flow, EgressSocket socket, CounterBlock counters not None, uint32_t burst, bint keep_dscp,
        bint keep_ttl=False, uint8_t hops=0, KeptMemory kept=None, uint64_t mac=0,
        object group=0, uint16_t port=0, spans=(),
    ):
        """``socket`` is None for one that is parked. ``hops`` are taken from a TTL that is kept. With ``kept``, the
        worker's, one that keeps source addresses or ports, as its socket was made to, remembers there what it sends,
        by a link with that ``mac``.

        Of an addressed flow: ``group`` is where the first of the range goes, ``port`` where every port goes, or 0, and
        the ``spans`` (lowest, highest, what the lowest becomes) are then changed, all others kept.
        Raises ValueError for any flow but the newest, such a burst, and a socket that keeps without ``kept``.
        """
        cdef Output *output
        cdef PortSpan *span
        self._building()
        if flow + 1 != self.plan.flow_count:
            raise ValueError(f"an output of flow {flow}, of {self.plan.flow_count}: a flow's are added before the next")
        if not 1 <= burst <= <uint32_t>RUN_MAX:
            raise ValueError(f"a burst of {burst}")
        expect(counters, names.OUTPUT_FIELDS)
        self.plan.outputs = <Output *>grown(self.plan.outputs, self.plan.output_count, sizeof(Output))
        output = &self.plan.outputs[self.plan.output_count]
        if socket is not None:
            socket.lend(output, self.worker)
        output.counters = <OutputCounters *>counters.memory
        output.burst = burst
        output.keep_dscp = keep_dscp
        output.keep_ttl = keep_ttl
        output.hops = hops
        output.mac = output.mac or mac
        if output.keep_address or output.keep_port:
            if kept is None:
                raise ValueError("an output that keeps where datagrams come from, and nothing to remember it in")
            output.kept = &kept.kept
            self.plan.flows[flow].keeps_ends = True
            self.owned.append(kept)
            self.add_own(source=0, source_port=0, address=address_value(&output.address), port=output.port)
        output.addressed = self.plan.flows[flow].addressed
        output.group = address_of(group)
        output.into_port = port
        for low, high, to in spans:
            self.plan.spans = <PortSpan *>grown(self.plan.spans, self.plan.span_count, sizeof(PortSpan))
            span = &self.plan.spans[self.plan.span_count]
            span.low = low
            span.high = high
            span.to = to
            self.plan.span_count += 1
            output.span_count += 1
        self.owned += (socket, counters)
        self.plan.output_count += 1
        self.plan.flows[flow].output_count += 1

    def add_input(
        self, *, uint32_t flow, uint32_t ring, object group, object source=0, uint16_t port=0, spans=(),
        CounterBlock counters not None, allow=(), PolicerState policer=None, tuple label=None, bint bypassed=False,
        HealthState health=None, object vlan=0,
    ):
        """Its number. It has as many groups, from ``group`` on, as there are ``counters``; ``port`` 0 is any, unless
        ``spans`` of ports (lowest, highest) are given. ``source`` 0 is any, ``vlan`` 0 untagged and None
        any; ``allow`` are pairs (network, mask) of
        sources let in, none lets in all.
        ``label`` is what `explain` calls it; ``bypassed`` says that the kernel engine takes what it can.
        ``health`` looks at every datagram that is let in.

        Raises ValueError for a ring or a flow that is not there, and for many streams of a flow that is for one.
        """
        cdef Input *input
        cdef Keyed *keyed
        cdef Prefix *prefix
        cdef uint32_t at = self.plan.input_count
        self._building()
        if ring >= self.plan.capture_count:
            raise ValueError(f"input names ring {ring} of {self.plan.capture_count}")
        if flow >= self.plan.flow_count:
            raise ValueError(f"input names flow {flow} of {self.plan.flow_count}")
        if (counters.groups > 1 or spans or not port) and not self.plan.flows[flow].addressed:
            raise ValueError(f"many streams of flow {flow}, which is not addressed")
        if policer is not None and policer.groups != counters.groups:
            raise ValueError(f"limits for {policer.groups} groups of {counters.groups}")
        expect(counters, names.INPUT_FIELDS)
        for low, high in spans or ((port, port),):
            self.keyed = <Keyed *>grown(self.keyed, self.keyed_count, sizeof(Keyed))
            keyed = &self.keyed[self.keyed_count]
            keyed.capture = ring
            keyed.groups = counters.groups
            keyed.ports = high - low + 1
            keyed.key.input = at
            keyed.key.group = address_of(group)
            keyed.key.port = low
            keyed.key.vlan = <uint16_t>ANY_VLAN if vlan is None else <uint16_t>vlan
            if source:
                keyed.key.source = address_of(source)
            self.keyed_count += 1
        self.plan.inputs = <Input *>grown(self.plan.inputs, at, sizeof(Input))
        input = &self.plan.inputs[at]
        input.counters = <InputCounters *>counters.memory
        input.flow = flow
        input.group = address_of(group).low
        input.first_watch = self.plan.watch_count
        self.plan.watch_count += counters.groups
        input.bypassed = bypassed
        input.policer = policer.policers if policer is not None else NULL
        input.health = &health.health if health is not None else NULL
        input.first_prefix = self.plan.prefix_count
        for network, mask in allow:
            self.plan.prefixes = <Prefix *>grown(self.plan.prefixes, self.plan.prefix_count, sizeof(Prefix))
            prefix = &self.plan.prefixes[self.plan.prefix_count]
            prefix.network = address_of(network)
            prefix.mask = mask_of(mask)
            self.plan.prefix_count += 1
            input.prefix_count += 1
        self.owned += (counters, policer, health)
        self.labels.append(label)
        self.plan.input_count += 1
        return at

    def add_own(self, *, object source, uint16_t source_port, object address, uint16_t port, uint32_t groups=1):
        """What an output of ours sends with: where it comes back, it is an echo. ``port`` 0 is every port."""
        self._building()
        self.sent = <SentRange *>grown(self.sent, self.sent_count, sizeof(SentRange))
        self.sent[self.sent_count].first = Sent(address_of(source), address_of(address), source_port, port)
        self.sent[self.sent_count].groups = groups
        self.sent_count += 1

    def add_kept(self, KeptMemory memory not None):
        """What one of the workers remembers: each is looked at for what comes back."""
        self._building()
        self.plan.kept = <const Kept **>grown(self.plan.kept, self.plan.kept_count, sizeof(Kept *))
        self.plan.kept[self.plan.kept_count] = &memory.kept
        self.plan.kept_count += 1
        self.owned.append(memory)

    def add_beginning(self, *, CounterBlock output not None, CounterBlock of_input not None):
        """An output that is new with this plan, once for each input of its rule that may have counted before."""
        cdef Beginning *beginning
        self._building()
        expect(output, names.OUTPUT_FIELDS)
        expect(of_input, names.INPUT_FIELDS)
        self.plan.beginnings = <Beginning *>grown(self.plan.beginnings, self.plan.beginning_count, sizeof(Beginning))
        beginning = &self.plan.beginnings[self.plan.beginning_count]
        beginning.output = <OutputCounters *>output.memory
        beginning.input = <const InputCounters *>of_input.memory
        beginning.groups = of_input.groups
        beginning.by_group = of_input.groups == output.groups
        self.owned += (output, of_input)
        self.plan.beginning_count += 1

    def seal(self):
        """End building: from here on the plan never changes. Raises ValueError for two inputs with one key.

        Of two that have it by ranges of different lengths, it is the one's whose range is shorter in groups.
        """
        self._building()
        self.closed = True
        self._lay_out()
        self.sealed = True
        return self

    cdef int _lay_out(self) except -1:
        cdef uint32_t i, j, at
        cdef Capture *capture
        cdef Flow *flow
        cdef Output *output
        queue_build(
            &self.queue, self.scratch, self.plan.watch_count, self.plan.chain_count, self.plan.output_count
        )
        for i in range(self.plan.flow_count):
            flow = &self.plan.flows[i]
            for j in range(flow.lane_mask + 1):
                self.queue.chains[flow.first_chain + j].flow = i
        at = 0
        for i in range(self.plan.output_count):
            output = &self.plan.outputs[i]
            output.spans = &self.plan.spans[at]
            at += output.span_count
        self.plan.polls = <pollfd *>array(self.plan.capture_count + 1, sizeof(pollfd))
        self.plan.polls[self.plan.capture_count].events = POLLIN
        for i in range(self.plan.capture_count):
            capture = &self.plan.captures[i]
            self.plan.polls[i].fd = capture.ring.fd
            self.plan.polls[i].events = POLLIN
        self._lay_tables()
        return self._lay_own()

    cdef int _lay_tables(self) except -1:
        """Each key once, the more exact inputs first: what is there is not a wider range's."""
        cdef uint32_t i, group, port, length, keys
        cdef Keyed *keyed
        cdef Key key, wider
        cdef Table *table
        cdef uint32_t owner
        groups = {self.keyed[j].key.input: self.keyed[j].groups for j in range(self.keyed_count)}
        for i in range(self.plan.capture_count):
            keys = 0
            for j in range(self.keyed_count):
                if self.keyed[j].capture == i:
                    keys += self.keyed[j].groups * self.keyed[j].ports
            table_build(&self.plan.captures[i].table, keys)
        for length in sorted(set(groups.values())):
            for i in range(self.keyed_count):
                keyed = &self.keyed[i]
                if keyed.groups != length:
                    continue
                table = &self.plan.captures[keyed.capture].table
                key = keyed.key
                for group in range(keyed.groups):
                    key.group.low = keyed.key.group.low + group
                    for port in range(keyed.ports):
                        key.port = <uint16_t>(keyed.key.port + port)
                        if key.vlan != ANY_VLAN:        # a group in any VLAN goes before a range in this one
                            wider = key
                            wider.vlan = ANY_VLAN
                            owner = probe(table, &wider)
                            if owner != MISS and groups[owner] < length:
                                continue
                        if not table_fill(table, &key, key.input) and groups[probe(table, &key)] == length:
                            raise ValueError("two inputs with one key")
        return 0

    cdef int _lay_own(self) except -1:
        cdef uint32_t i, _group
        cdef uint32_t members = 0
        cdef uint32_t size = 2
        cdef Sent sent
        for i in range(self.sent_count):
            members += self.sent[i].groups
        while size < 2 * members:
            size *= 2
        self.plan.own.members = <Sent *>array(size, sizeof(Sent))
        self.plan.own.mask = size - 1
        for i in range(self.sent_count):
            sent = self.sent[i].first
            self.plan.own.any_ports |= not sent.port
            for _group in range(self.sent[i].groups):
                self.plan.own.members[place(&self.plan.own, &sent)] = sent
                sent.group.low += 1
        return 0

    def explain(self, bytes frame not None, *, uint32_t ring, tci=None):
        """What the loop would do with a whole frame that this ring brings: the verdict, the label of the input that
        takes it or None, and why that drops it or None.

        ``tci`` is the tag control information of a VLAN tag, which the kernel takes out of a frame; None without a
        tag. Checksums are verified. Nothing is counted and nothing remembered: what depends on other frames is left
        out, a policer and datagrams that a second relay sends back. Any thread may ask. Raises ValueError for a ring
        that is not there and for a plan that is not sealed.
        """
        cdef Frame seen
        cdef Datagram datagram
        cdef Capture *capture
        cdef Input *input
        cdef Verdict verdict
        cdef uint32_t found = 0
        cdef uint8_t *memory
        if not self.sealed:
            raise ValueError(f"plan {self.plan.generation} is not sealed")
        if ring >= self.plan.capture_count:
            raise ValueError(f"ring {ring} of {self.plan.capture_count}")
        capture = &self.plan.captures[ring]
        memset(&seen, 0, sizeof(Frame))
        seen.size = seen.wire_size = len(frame)
        if tci is not None:
            seen.status = TP_STATUS_VLAN_VALID
            seen.tci = tci
        # As in a ring: what is left for a device stands before the frame, and here it is nothing.
        memory = <uint8_t *>calloc(1, sizeof(virtio_net_hdr) + seen.size)
        if memory == NULL:
            raise MemoryError("a frame")
        memcpy(memory + sizeof(virtio_net_hdr), <const uint8_t *>frame, seen.size)
        seen.mac = memory + sizeof(virtio_net_hdr)
        verdict = match(capture, &seen, &datagram, &found)
        echo = verdict == RELAYED and is_echo(&self.plan, capture, seen.mac, &datagram)
        free(memory)            # and with it datagram.payload
        if verdict != RELAYED:
            return names.VERDICTS[<int>verdict], None, None
        input = &self.plan.inputs[found]
        if echo:
            return names.VERDICTS[<int>DROPPED], self.labels[found], names.DROPS[<int>DROP_ECHO]
        if not let_in(&self.plan, input, &datagram.source):
            return names.VERDICTS[<int>DROPPED], self.labels[found], names.DROPS[<int>DROP_SOURCE]
        return names.VERDICTS[<int>RELAYED], self.labels[found], None

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.plan.capture_count):
            table_free(&self.plan.captures[i].table)
        free(self.plan.captures)
        free(self.plan.polls)
        free(self.plan.inputs)
        free(self.plan.flows)
        free(self.plan.outputs)
        free(self.plan.prefixes)
        free(self.plan.spans)
        free(self.plan.beginnings)
        free(self.plan.own.members)
        free(self.plan.kept)
        free(self.keyed)
        free(self.sent)
        queue_free(&self.queue)

    @property
    def generation(self):
        return self.plan.generation
