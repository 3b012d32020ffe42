"""Compile a plan for one worker from Python values; it is read in worker.pyx."""

cimport cython
from libc.stdint cimport uint16_t

from .counters cimport CounterBlock, InputCounters, OutputCounters
from .demux cimport Key, mapped, table_build, table_free, table_insert
from .echo cimport Sent, place
from .egress cimport EgressSocket
from .kernel cimport POLLIN, calloc, free
from .policer cimport PolicerState
from .queue cimport Scratch, queue_build, queue_free
from .ring cimport RingSocket
from .runs cimport RUN_MAX


cdef void *array(size_t count, size_t size) except NULL:
    cdef void *memory = calloc(count + 1, size)
    if memory == NULL:
        raise MemoryError("a plan")
    return memory


@cython.final
cdef class PlanOwner:
    def __cinit__(
        self, uint64_t generation, list rings not None, list inputs not None, own=(), loopback=(),
        Scratch scratch=None, uint32_t worker=0, beginnings=(),
    ):
        """``rings`` are RingSocket. ``inputs`` are tuples

            (ring index, group, source or 0, port, CounterBlock, [(network, mask)], outputs[, PolicerState or None])

        and outputs tuples ``(EgressSocket or None when parked, CounterBlock, burst, keep_dscp)``; addresses are ints in
        host byte order. ``own`` are tuples (source address, source port, destination address, destination port), what
        our outputs send with; ``loopback`` are the indexes of rings on which nothing is an echo. Raises ValueError for
        two inputs with one key, MemoryError. A worker whose plans share a ``scratch`` allocates the less; ``worker`` is
        its number, the one by which it uses the sockets. ``beginnings`` are pairs of
        CounterBlock: an output that is new with this plan and an input of its rule, once for each input.
        """
        cdef uint32_t i, outputs, prefixes
        cdef RingSocket ring
        outputs = sum([len(entry[6]) for entry in inputs])
        prefixes = sum([len(entry[5]) for entry in inputs])
        if scratch is None:
            scratch = Scratch()
        beginnings = list(beginnings)
        self.owned = (rings, inputs, scratch, beginnings)   # keeps sockets, counters and policers alive
        self.worker = worker
        self.plan.generation = generation
        self.plan.queue = &self.queue
        queue_build(&self.queue, scratch, len(inputs), outputs)
        self.plan.captures = <Capture *>array(len(rings), sizeof(Capture))
        self.plan.polls = <pollfd *>array(len(rings) + 1, sizeof(pollfd))
        self.plan.inputs = <Input *>array(len(inputs), sizeof(Input))
        self.plan.outputs = <Output *>array(outputs, sizeof(Output))
        self.plan.prefixes = <Prefix *>array(prefixes, sizeof(Prefix))
        self.plan.beginnings = <Beginning *>array(len(beginnings), sizeof(Beginning))
        for i in range(len(rings)):
            ring = rings[i]
            self.plan.captures[i].ring = &ring.ring
            self.plan.spins |= ring.ring.slots
            self.plan.polls[i].fd = ring.ring.fd
            self.plan.polls[i].events = POLLIN
            table_build(&self.plan.captures[i].table, sum([entry[0] == i for entry in inputs]), len(inputs))
            self.plan.capture_count += 1
        self.plan.polls[len(rings)].events = POLLIN
        for i in loopback:
            self.plan.captures[i].loopback = True
        self._own(list(own))
        for entry in inputs:
            self._add_input(*entry)
        for begun in beginnings:
            self._add_beginning(*begun)

    def _add_input(self, uint32_t capture, uint32_t group, uint32_t source, uint16_t port,
                   CounterBlock counters not None,
                   list allow not None, list outputs not None, PolicerState policer=None):
        cdef Key key
        cdef Input *input = &self.plan.inputs[self.plan.input_count]
        cdef uint32_t prefix = 0
        if self.plan.input_count:
            prefix = input[-1].first_prefix + input[-1].prefix_count
        key.group = mapped(group)
        key.source = mapped(source)
        if not source:
            key.source.low = 0
        key.port = port
        key.vlan = 0
        if capture >= self.plan.capture_count:
            raise ValueError(f"input names ring {capture} of {self.plan.capture_count}")
        table_insert(&self.plan.captures[capture].table, &key, self.plan.input_count)
        input.counters = <InputCounters *>counters.memory
        input.policer = &policer.policer if policer is not None else NULL
        input.first_prefix = prefix
        input.prefix_count = len(allow)
        for network, mask in allow:
            self.plan.prefixes[prefix].network = network
            self.plan.prefixes[prefix].mask = mask
            prefix += 1
        input.first_output = self.plan.output_count
        input.output_count = len(outputs)
        for output in outputs:
            self._add_output(*output)
        self.plan.input_count += 1

    def _add_beginning(self, CounterBlock output not None, CounterBlock input not None):
        self.plan.beginnings[self.plan.beginning_count].output = <OutputCounters *>output.memory
        self.plan.beginnings[self.plan.beginning_count].input = <const InputCounters *>input.memory
        self.plan.beginning_count += 1

    def _own(self, list members):
        cdef uint32_t size = 2
        cdef Sent member
        while size < 2 * len(members):
            size *= 2
        self.plan.own.members = <Sent *>array(size, sizeof(Sent))
        self.plan.own.mask = size - 1
        for source, source_port, group, port in members:
            member = Sent(source, group, source_port, port)
            self.plan.own.members[place(&self.plan.own, &member)] = member

    def _add_output(self, EgressSocket socket, CounterBlock counters not None, uint32_t burst, bint keep_dscp):
        cdef Output *output = &self.plan.outputs[self.plan.output_count]
        if not 1 <= burst <= <uint32_t>RUN_MAX:
            raise ValueError(f"a burst of {burst}")
        output.egress = socket.of(self.worker) if socket is not None else NULL
        output.counters = <OutputCounters *>counters.memory
        output.burst = burst
        output.keep_dscp = keep_dscp
        self.plan.output_count += 1

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.plan.capture_count):
            table_free(&self.plan.captures[i].table)
        free(self.plan.captures)
        free(self.plan.polls)
        free(self.plan.inputs)
        free(self.plan.outputs)
        free(self.plan.prefixes)
        free(self.plan.beginnings)
        free(self.plan.own.members)
        queue_free(&self.queue)

    @property
    def generation(self):
        return self.plan.generation
