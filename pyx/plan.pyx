"""Build a plan for one worker from Python values, by name; it is read in worker.pyx."""

cimport cython
from libc.stdint cimport uint8_t, uint16_t

from . import counters as names
from .counters cimport DROP_ECHO, DROP_SOURCE, DROPPED, RELAYED, CounterBlock, InputCounters, OutputCounters, Verdict
from .demux cimport mapped, table_build, table_free, table_insert
from .echo cimport Sent, place
from .egress cimport EgressSocket
from .kernel cimport POLLIN, TP_STATUS_VLAN_VALID, calloc, free, memcpy, memset, realloc, virtio_net_hdr
from .match cimport is_echo, let_in, match
from .policer cimport PolicerState
from .queue cimport queue_build, queue_free
from .ring cimport Frame, RingSocket
from .runs cimport RUN_MAX
from .wire cimport Datagram


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


cdef int expect(CounterBlock counters, tuple fields) except -1:
    if counters.fields is not fields:
        raise ValueError(f"counters of another kind: {counters.fields}")
    return 0


@cython.final
cdef class PlanOwner:
    def __cinit__(self, uint64_t generation, *, Scratch scratch=None, uint32_t worker=0):
        """An empty plan. Rings, flows with their outputs, and inputs are added; ``seal`` ends that, then it may be
        published. ``worker`` is the number by which it uses the sockets; one whose plans share a ``scratch`` allocates
        the less. Addresses are ints in host byte order. Every method that builds raises MemoryError, and RuntimeError
        once the plan is sealed.
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

    def add_flow(self):
        """Its number: inputs feed it, and the outputs that are added next are its own."""
        self._building()
        self.plan.flows = <Flow *>grown(self.plan.flows, self.plan.flow_count, sizeof(Flow))
        self.plan.flows[self.plan.flow_count].first_output = self.plan.output_count
        self.plan.flow_count += 1
        return self.plan.flow_count - 1

    def add_output(
        self, *, uint32_t flow, EgressSocket socket, CounterBlock counters not None, uint32_t burst, bint keep_dscp,
        bint keep_ttl=False, uint8_t hops=0,
    ):
        """``socket`` is None for one that is parked. ``hops`` are taken from a TTL that is kept.

        Raises ValueError for any flow but the newest, or such a burst.
        """
        cdef Output *output
        self._building()
        if flow + 1 != self.plan.flow_count:
            raise ValueError(f"an output of flow {flow}, of {self.plan.flow_count}: a flow's are added before the next")
        if not 1 <= burst <= <uint32_t>RUN_MAX:
            raise ValueError(f"a burst of {burst}")
        expect(counters, names.OUTPUT_FIELDS)
        self.plan.outputs = <Output *>grown(self.plan.outputs, self.plan.output_count, sizeof(Output))
        output = &self.plan.outputs[self.plan.output_count]
        output.egress = socket.of(self.worker) if socket is not None else NULL
        output.counters = <OutputCounters *>counters.memory
        output.burst = burst
        output.keep_dscp = keep_dscp
        output.keep_ttl = keep_ttl
        output.hops = hops
        self.owned += (socket, counters)
        self.plan.output_count += 1
        self.plan.flows[flow].output_count += 1

    def add_input(
        self, *, uint32_t flow, uint32_t ring, uint32_t group, uint32_t source=0, uint16_t port,
        CounterBlock counters not None, allow=(), PolicerState policer=None, tuple label=None, bint bypassed=False,
    ):
        """Its number. ``source`` 0 is any; ``allow`` are pairs (network, mask) of sources let in, none lets in all.
        ``label`` is what `explain` calls it; ``bypassed`` says that the kernel engine takes what it can.

        Raises ValueError for a ring or a flow that is not there.
        """
        cdef Input *input
        cdef Key *key
        cdef Prefix *prefix
        cdef uint32_t at = self.plan.input_count
        self._building()
        if ring >= self.plan.capture_count:
            raise ValueError(f"input names ring {ring} of {self.plan.capture_count}")
        if flow >= self.plan.flow_count:
            raise ValueError(f"input names flow {flow} of {self.plan.flow_count}")
        expect(counters, names.INPUT_FIELDS)
        self.keyed = <Keyed *>grown(self.keyed, at, sizeof(Keyed))
        self.keyed[at].capture = ring
        key = &self.keyed[at].key
        key.group = mapped(group)
        key.port = port
        if source:
            key.source = mapped(source)
        self.plan.inputs = <Input *>grown(self.plan.inputs, at, sizeof(Input))
        input = &self.plan.inputs[at]
        input.counters = <InputCounters *>counters.memory
        input.flow = flow
        input.bypassed = bypassed
        input.policer = &policer.policer if policer is not None else NULL
        input.first_prefix = self.plan.prefix_count
        for network, mask in allow:
            self.plan.prefixes = <Prefix *>grown(self.plan.prefixes, self.plan.prefix_count, sizeof(Prefix))
            prefix = &self.plan.prefixes[self.plan.prefix_count]
            prefix.network = network
            prefix.mask = mask
            self.plan.prefix_count += 1
            input.prefix_count += 1
        self.owned += (counters, policer)
        self.labels.append(label)
        self.plan.input_count += 1
        return at

    def add_own(self, *, uint32_t source, uint16_t source_port, uint32_t address, uint16_t port):
        """What an output of ours sends with: where it comes back, it is an echo."""
        self._building()
        self.sent = <Sent *>grown(self.sent, self.sent_count, sizeof(Sent))
        self.sent[self.sent_count] = Sent(source, address, source_port, port)
        self.sent_count += 1

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
        self.owned += (output, of_input)
        self.plan.beginning_count += 1

    def seal(self):
        """End building: from here on the plan never changes. Raises ValueError for two inputs with one key."""
        self._building()
        self.closed = True
        self._lay_out()
        self.sealed = True
        return self

    cdef int _lay_out(self) except -1:
        cdef uint32_t i, j, inputs
        cdef uint32_t size = 2
        cdef Capture *capture
        queue_build(&self.queue, self.scratch, self.plan.input_count, self.plan.flow_count, self.plan.output_count)
        self.plan.polls = <pollfd *>array(self.plan.capture_count + 1, sizeof(pollfd))
        self.plan.polls[self.plan.capture_count].events = POLLIN
        for i in range(self.plan.capture_count):
            capture = &self.plan.captures[i]
            self.plan.polls[i].fd = capture.ring.fd
            self.plan.polls[i].events = POLLIN
            inputs = 0
            for j in range(self.plan.input_count):
                inputs += self.keyed[j].capture == i
            table_build(&capture.table, inputs, self.plan.input_count)
        for i in range(self.plan.input_count):
            table_insert(&self.plan.captures[self.keyed[i].capture].table, &self.keyed[i].key, i)
        while size < 2 * self.sent_count:
            size *= 2
        self.plan.own.members = <Sent *>array(size, sizeof(Sent))
        self.plan.own.mask = size - 1
        for i in range(self.sent_count):
            self.plan.own.members[place(&self.plan.own, &self.sent[i])] = self.sent[i]
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
        free(memory)            # and with it datagram.payload
        if verdict != RELAYED:
            return names.VERDICTS[<int>verdict], None, None
        input = &self.plan.inputs[found]
        if is_echo(&self.plan, capture, &datagram):
            return names.VERDICTS[<int>DROPPED], self.labels[found], names.DROPS[<int>DROP_ECHO]
        if not let_in(&self.plan, input, datagram.source):
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
        free(self.plan.beginnings)
        free(self.plan.own.members)
        free(self.keyed)
        free(self.sent)
        queue_free(&self.queue)

    @property
    def generation(self):
        return self.plan.generation
