"""The kernel engine's program and its maps, loaded by libbpf: set-up only, nothing here is on the way of a packet."""

cimport cython
from libc.errno cimport EINVAL, ENOENT
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from os import strerror

from .counters cimport SEND_ERROR_COUNT
from .kernel cimport SOL_SOCKET, calloc, free, setsockopt
from .libbpf cimport (
    ENGINE_KERNEL, ENGINE_RING, RELAY_SEND_ERRORS, RULE_ANY_SOURCE, RULE_EXCLUSIVE, RULE_WHOLE, SYS_bpf,
    SYS_membarrier, bpf_map, bpf_map__fd, bpf_map__set_max_entries, bpf_map_delete_elem, bpf_map_lookup_elem,
    bpf_map_update_elem, bpf_object, bpf_object__close, bpf_object__find_map_by_name,
    bpf_object__find_program_by_name, bpf_object__load, bpf_object__open_mem, bpf_program, bpf_program__fd,
    libbpf_num_possible_cpus, libbpf_set_print, relay_flow, relay_group, relay_input_counters, relay_key,
    relay_output, relay_output_counters, relay_own, relay_rule, syscall,
)
from .system cimport check

MAPS = ("groups", "rules", "own", "outputs", "flows", "received", "sent", "frames", "decided")
assert <int>RELAY_SEND_ERRORS == <int>SEND_ERROR_COUNT

cdef enum:
    BPF_LINK_CREATE = 28        # enum bpf_cmd of linux/bpf.h
    BPF_LINK_UPDATE = 29
    BPF_TCX_INGRESS = 46        # enum bpf_attach_type, since Linux 6.6
    SO_ATTACH_BPF = 50          # asm-generic/socket.h
    MEMBARRIER_CMD_GLOBAL = 1   # linux/membarrier.h

cdef struct LinkCreate:
    # link_create of union bpf_attr, with its tcx part
    uint32_t program, ifindex, attach_type, flags, relative, unused
    uint64_t revision

cdef struct LinkUpdate:
    # link_update of union bpf_attr
    uint32_t link, program, flags, former


libbpf_set_print(NULL)          # else it writes to stderr by itself; what it returns is said by us


cdef int succeed(int code, str what) except -1:
    """What libbpf returns below 0 is an error number."""
    if code < 0:
        raise OSError(-code, f"{what}: {strerror(-code)}")
    return code


def wait_for_packets():
    """Return when no packet is on its way any more that was when this was called: what only those use can go.

    membarrier(2) waits for a grace period of RCU, under which the programs run. Raises OSError: EINVAL on a kernel with
    nohz_full, EPERM where a filter of system calls forbids it.
    """
    check(<int>syscall(SYS_membarrier, <int>MEMBARRIER_CMD_GLOBAL, <int>0, <int>0), "membarrier")


@cython.final
cdef class KernelProgram:
    """One loaded program with its maps. Its descriptors close with this object, what is attached with its link."""

    cdef bpf_object *object
    cdef dict maps
    cdef int cpus

    def __cinit__(self, bytes code not None, dict sizes not None):
        """``code`` is relay.bpf.o; ``sizes`` has the number of entries of each map, by name, 1 unless said.

        Raises OSError: EPERM without CAP_BPF and CAP_NET_ADMIN, EINVAL where the kernel does not know what it uses.
        """
        cdef bpf_map *map
        cdef const uint8_t *start = code
        self.object = bpf_object__open_mem(start, len(code), NULL)
        if self.object == NULL:
            raise OSError(EINVAL, "the kernel engine's program is not one that libbpf can read")
        self.cpus = succeed(libbpf_num_possible_cpus(), "CPUs")
        self.maps = {}
        for name, size in sizes.items():
            succeed(bpf_map__set_max_entries(self.find(name), size), f"map {name}")
        succeed(bpf_object__load(self.object), "BPF_PROG_LOAD")
        for name in MAPS:
            map = self.find(name)
            self.maps[name] = bpf_map__fd(map)

    cdef bpf_map *find(self, str name) except NULL:
        cdef bytes encoded = name.encode()
        cdef bpf_map *map = bpf_object__find_map_by_name(self.object, encoded)
        if map == NULL:
            raise OSError(ENOENT, f"the kernel engine's program has no map {name}")
        return map

    def __dealloc__(self):
        bpf_object__close(self.object)

    def close(self):
        """Let go of programs and maps. What is attached lives on as long as its link."""
        bpf_object__close(self.object)
        self.object = NULL
        self.maps = {}

    def program(self, str name not None):
        """The descriptor of ``filter`` or ``relay``; it is this object's."""
        cdef bytes encoded = name.encode()
        cdef bpf_program *found = bpf_object__find_program_by_name(self.object, encoded)
        if found == NULL:
            raise OSError(ENOENT, f"the kernel engine has no program {name}")
        return bpf_program__fd(found)

    def attach(self, uint32_t ifindex):
        """Put ``relay`` on the ingress hook of a link, behind what is there; the new link's descriptor is the caller's.

        Raises OSError: EINVAL where the kernel has no tcx (Linux 6.6), ENODEV, EPERM without CAP_NET_ADMIN.
        """
        cdef LinkCreate wanted
        memset(&wanted, 0, sizeof(wanted))
        wanted.program = self.program("relay")
        wanted.ifindex = ifindex
        wanted.attach_type = BPF_TCX_INGRESS
        return check(<int>syscall(SYS_bpf, <int>BPF_LINK_CREATE, &wanted, <int>sizeof(wanted)), "BPF_LINK_CREATE")

    def replace(self, int link):
        """Put ``relay`` in the place of what ``link`` has attached, between two packets. Raises OSError: ENOLINK where
        the network interface is gone."""
        cdef LinkUpdate wanted
        memset(&wanted, 0, sizeof(wanted))
        wanted.link = link
        wanted.program = self.program("relay")
        check(<int>syscall(SYS_bpf, <int>BPF_LINK_UPDATE, &wanted, <int>sizeof(wanted)), "BPF_LINK_UPDATE")

    def filter(self, int socket):
        """Attach ``filter`` to a ring's socket, in the place of the filter that it has; no frame slips between."""
        cdef int program = self.program("filter")
        check(setsockopt(socket, SOL_SOCKET, SO_ATTACH_BPF, &program, sizeof(program)), "SO_ATTACH_BPF")

    cdef int put(self, str map, const void *key, const void *value) except -1:
        return check(bpf_map_update_elem(self.maps[map], key, value, 0), f"map {map}")

    cdef int take(self, str map, const void *key) except -1:
        return check(bpf_map_delete_elem(self.maps[map], key), f"map {map}")

    def add_group(self, uint32_t ifindex, uint32_t group):
        """Let the ring of a link see what is sent to a group."""
        cdef relay_group key = relay_group(ifindex, group)
        cdef uint32_t one = 1
        self.put("groups", &key, &one)

    def remove_group(self, uint32_t ifindex, uint32_t group):
        cdef relay_group key = relay_group(ifindex, group)
        self.take("groups", &key)

    def add_own(self, uint32_t source, uint16_t source_port, uint32_t group, uint16_t port):
        """Datagrams that an output of ours sends: they are left to the ring, which counts them as echoes."""
        cdef relay_own key = relay_own(source, group, source_port, port)
        cdef uint32_t one = 1
        self.put("own", &key, &one)

    def remove_own(self, uint32_t source, uint16_t source_port, uint32_t group, uint16_t port):
        cdef relay_own key = relay_own(source, group, source_port, port)
        self.take("own", &key)

    def set_rule(
        self, *, uint32_t ifindex, uint32_t group, uint32_t source, uint32_t port, bint kernel, bint exclusive,
        bint whole, uint32_t counters, uint32_t first_output, uint32_t output_count, uint32_t size_max, uint32_t flow,
        uint32_t link,
    ):
        """The entry for one input, in one step: a packet finds the old one or the new one. Addresses in host order."""
        cdef relay_key key = relay_key(ifindex, group, source, port)
        cdef relay_rule rule
        rule.engine = ENGINE_KERNEL if kernel else ENGINE_RING
        rule.flags = 0
        if exclusive:
            rule.flags |= RULE_EXCLUSIVE
        if whole:
            rule.flags |= RULE_WHOLE
        if not source:
            rule.flags |= RULE_ANY_SOURCE
        rule.counters = counters
        rule.first_output = first_output
        rule.output_count = output_count
        rule.size_max = size_max
        rule.flow = flow
        rule.link = link
        self.put("rules", &key, &rule)

    def remove_rule(self, *, uint32_t ifindex, uint32_t group, uint32_t source, uint32_t port):
        cdef relay_key key = relay_key(ifindex, group, source, port)
        self.take("rules", &key)

    def set_output(
        self, uint32_t index, *, uint32_t ifindex, uint32_t group, uint32_t source, uint16_t port,
        uint16_t source_port, uint8_t ttl, object dscp, bint df, bytes macs not None, uint32_t counters,
    ):
        """``ifindex`` 0 is a parked output, ``dscp`` None keeps the input's; ``macs`` are destination and source."""
        cdef relay_output output
        cdef const uint8_t *from_macs = macs
        if len(macs) != 12:
            raise ValueError("two MAC addresses are 12 bytes")
        output.ifindex = ifindex
        output.group = group
        output.source = source
        output.port = port
        output.source_port = source_port
        output.ttl = ttl
        output.keep_dscp = dscp is None
        output.tos = 0 if dscp is None else dscp << 2
        output.df = df
        memcpy(output.macs, from_macs, 12)
        output.counters = counters
        self.put("outputs", &index, &output)

    def held(self, uint32_t flow):
        """Whether the ring has the datagrams of a rule for now: one came that the program cannot treat."""
        cdef relay_flow found
        check(bpf_map_lookup_elem(self.maps["flows"], &flow, &found), "map flows")
        return found.held != 0

    def clear_flow(self, uint32_t flow):
        cdef relay_flow none
        memset(&none, 0, sizeof(none))
        self.put("flows", &flow, &none)

    cdef tuple sum(self, str map, uint32_t index, int words, int newest):
        """Words added up over all CPUs; of that at ``newest`` the largest instead."""
        cdef uint64_t *memory = <uint64_t *>calloc(self.cpus, 8 * words)
        cdef int cpu, i
        cdef list total = [0] * words
        if memory == NULL:
            raise MemoryError(map)
        try:
            check(bpf_map_lookup_elem(self.maps[map], &index, memory), f"map {map}")
            for cpu in range(self.cpus):
                for i in range(words):
                    if i == newest:
                        total[i] = max(total[i], memory[cpu * words + i])
                    else:
                        total[i] += memory[cpu * words + i]
        finally:
            free(memory)
        return tuple(total)

    def read_input(self, uint32_t index):
        """(rx_packets, rx_bytes, last_packet_ns of CLOCK_MONOTONIC) of one input."""
        return self.sum("received", index, sizeof(relay_input_counters) // 8, 2)

    def read_output(self, uint32_t index):
        """(tx_packets, tx_bytes, errors in the order of SEND_ERRORS...) of one output."""
        return self.sum("sent", index, sizeof(relay_output_counters) // 8, -1)

    def read_frames(self, uint32_t index):
        """Frames that the program took on the link with that slot."""
        return self.sum("frames", index, 1, -1)[0]

    def clear_input(self, uint32_t index):
        self.clear("received", index, sizeof(relay_input_counters))

    def clear_output(self, uint32_t index):
        self.clear("sent", index, sizeof(relay_output_counters))

    def clear_frames(self, uint32_t index):
        self.clear("frames", index, 8)

    cdef int clear(self, str map, uint32_t index, size_t size) except -1:
        cdef void *memory = calloc(self.cpus, size)
        if memory == NULL:
            raise MemoryError(map)
        try:
            return self.put(map, &index, memory)
        finally:
            free(memory)
