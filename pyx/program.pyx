"""The kernel engine's program and its maps, loaded by libbpf: set-up only, nothing here is on the way of a packet."""

cimport cython
from libc.errno cimport EINVAL, ENODEV, ENOENT, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from os import strerror

from .counters cimport SEND_ERROR_COUNT
from .kernel cimport SOL_SOCKET, calloc, close, free, setsockopt, write_be16, write_be32
from .libbpf cimport (
    BPF_PROG_TYPE_SCHED_CLS, GROUP_NAMED, GROUP_NONE, GROUP_ONE, GROUP_SEVERAL, RELAY_SEND_ERRORS, RULE_ANY_SOURCE,
    RULE_CROSSES, RULE_EXCLUSIVE, RULE_OWN, RULE_WHOLE, SYS_bpf, SYS_membarrier, bpf_insn, bpf_map, bpf_map__fd,
    bpf_map__set_max_entries, bpf_map_delete_elem, bpf_map_info, bpf_map_lookup_elem, bpf_map_update_elem,
    bpf_obj_get_info_by_fd, bpf_object, bpf_object__close, bpf_object__find_map_by_name,
    bpf_object__find_program_by_name, bpf_object__load, bpf_object__open_mem, bpf_prog_load, bpf_program,
    bpf_program__fd, libbpf_num_possible_cpus, libbpf_set_print, relay_flow, relay_group, relay_group_key,
    relay_group_key_six, relay_input_counters, relay_key, relay_key_six, relay_link_counters, relay_output,
    relay_output_counters, relay_own, relay_own_six, relay_rule, syscall,
)
from .system cimport check

SIX = "_six"                    # ends the names of maps whose keys are of IPv6
MAPS = (
    "groups", "groups_six", "rules", "rules_six", "own", "own_six", "outputs", "flows", "received", "sent", "frames",
)
assert <int>RELAY_SEND_ERRORS == <int>SEND_ERROR_COUNT

cdef enum:
    BPF_LINK_CREATE = 28        # enum bpf_cmd of linux/bpf.h
    BPF_LINK_UPDATE = 29
    BPF_LINK_DETACH = 34
    BPF_TCX_INGRESS = 46        # enum bpf_attach_type, since Linux 6.6
    BPF_MOV_R0_0 = 0xb7         # BPF_ALU64 | BPF_MOV | BPF_K of linux/bpf.h: "return 0" with the next
    BPF_EXIT = 0x95
    NO_LINK = 0x7fffffff        # an ifindex that no link has
    SO_ATTACH_BPF = 50          # asm-generic/socket.h
    MEMBARRIER_CMD_GLOBAL = 1   # linux/membarrier.h

cdef struct LinkCreate:
    # link_create of union bpf_attr, with its tcx part
    uint32_t program, ifindex, attach_type, flags, relative, unused
    uint64_t revision

cdef struct LinkUpdate:
    # link_update of union bpf_attr
    uint32_t link, program, flags, former

cdef struct LinkDetach:
    # link_detach of union bpf_attr
    uint32_t link


libbpf_set_print(NULL)          # else it writes to stderr by itself; what it returns is said by us


cdef int succeed(int code, str what) except -1:
    """What libbpf returns below 0 is an error number."""
    if code < 0:
        raise OSError(-code, f"{what}: {strerror(-code)}")
    return code


def probe_hook():
    """Ask for a link of the smallest program there is, on a link that does not exist: what has tcx says so.

    Raises OSError: EPERM without CAP_BPF and CAP_NET_ADMIN, or where the kernel is locked down; EINVAL without tcx
    (bpf_link_create of linux/kernel/bpf/syscall.c does not know the type of attachment then).
    """
    cdef bpf_insn[2] code
    cdef LinkCreate wanted
    cdef int program, made, failed
    memset(code, 0, sizeof(code))
    code[0].code, code[1].code = BPF_MOV_R0_0, BPF_EXIT
    program = succeed(bpf_prog_load(BPF_PROG_TYPE_SCHED_CLS, NULL, b"Apache-2.0", code, 2, NULL), "the hook's probe")
    memset(&wanted, 0, sizeof(wanted))
    wanted.program, wanted.ifindex, wanted.attach_type = program, NO_LINK, BPF_TCX_INGRESS
    made = <int>syscall(SYS_bpf, <int>BPF_LINK_CREATE, &wanted, <int>sizeof(wanted))
    failed = errno
    close(program)
    if made >= 0:
        close(made)
    elif failed != ENODEV:
        raise OSError(failed, f"BPF_LINK_CREATE: {strerror(failed)}")


def read_counters(int map_fd, uint32_t index, uint32_t words, int newest):
    """Words of a map of counters of each CPU, added up over the CPUs; of that at ``newest`` the largest instead.

    Raises OSError: EINVAL where the map has values of another size, ENOENT beyond its end.
    """
    cdef bpf_map_info info
    cdef uint32_t size = sizeof(info)
    memset(&info, 0, sizeof(info))
    check(bpf_obj_get_info_by_fd(map_fd, &info, &size), "BPF_OBJ_GET_INFO_BY_FD")
    if info.value_size != 8 * words:
        raise OSError(EINVAL, f"counters of {info.value_size} bytes, not {8 * words}")
    return sum_of(map_fd, index, words, newest)


cdef tuple sum_of(int map, uint32_t index, int words, int newest):
    cdef int cpus = succeed(libbpf_num_possible_cpus(), "CPUs")
    cdef uint64_t *memory = <uint64_t *>calloc(cpus, 8 * words)
    cdef int cpu, i
    cdef list total = [0] * words
    if memory == NULL:
        raise MemoryError("counters")
    try:
        check(bpf_map_lookup_elem(map, &index, memory), "counters")
        for cpu in range(cpus):
            for i in range(words):
                if i == newest:
                    total[i] = max(total[i], memory[cpu * words + i])
                else:
                    total[i] += memory[cpu * words + i]
    finally:
        free(memory)
    return tuple(total)


def wait_for_packets():
    """Wait until every packet that is in a program now has left it: what only those packets use can then be freed.

    membarrier(2) waits for a grace period of RCU, under which the programs run. Raises OSError: EINVAL on a kernel with
    nohz_full, EPERM where a filter of system calls forbids it.
    """
    check(<int>syscall(SYS_membarrier, <int>MEMBARRIER_CMD_GLOBAL, <int>0, <int>0), "membarrier")


cdef bint is_six(object address) except -1:
    """An address of IPv4 is a number, in host order; one of IPv6 is its 16 bytes."""
    return isinstance(address, bytes)


cdef str of_family(str map, object address):
    """The name of the map of that kind which has an address in its key."""
    return map + SIX if is_six(address) else map


cdef int put_six(uint32_t *to, object address) except -1:
    """Write an address of IPv6, or 0 for none."""
    cdef bytes packed = address or bytes(16)
    cdef const uint8_t *words = packed
    if len(packed) != 16:
        raise ValueError("an address of IPv6 has 16 bytes")
    memcpy(to, words, 16)
    return 0


cdef bytes group_key(uint32_t ifindex, object group):
    cdef relay_group_key key
    cdef relay_group_key_six six
    if is_six(group):
        six.ifindex = ifindex
        put_six(six.group, group)
        return (<const uint8_t *>&six)[:sizeof(six)]
    key = relay_group_key(ifindex, group)
    return (<const uint8_t *>&key)[:sizeof(key)]


cdef bytes rule_key(uint32_t ifindex, object group, object source, uint32_t port):
    """``source`` 0 is any, of either family."""
    cdef relay_key key
    cdef relay_key_six six
    if is_six(group):
        six.ifindex, six.port = ifindex, port
        put_six(six.group, group)
        put_six(six.source, source)
        return (<const uint8_t *>&six)[:sizeof(six)]
    key = relay_key(ifindex, group, source, port)
    return (<const uint8_t *>&key)[:sizeof(key)]


cdef bytes own_key(object source, uint16_t source_port, object group, uint16_t port):
    cdef relay_own key
    cdef relay_own_six six
    if is_six(group):
        six.source_port, six.port = source_port, port
        put_six(six.source, source)
        put_six(six.group, group)
        return (<const uint8_t *>&six)[:sizeof(six)]
    key = relay_own(source, group, source_port, port)
    return (<const uint8_t *>&key)[:sizeof(key)]


def detach(int link):
    """Take off its network interface what ``link`` has attached, whoever else has a descriptor of it.

    Needs no capability. Raises OSError.
    """
    cdef LinkDetach wanted
    wanted.link = link
    check(<int>syscall(SYS_bpf, <int>BPF_LINK_DETACH, &wanted, <int>sizeof(wanted)), "BPF_LINK_DETACH")


@cython.final
cdef class KernelProgram:
    """One loaded program with its maps. Its descriptors close with this object, what is attached with its link."""

    cdef bpf_object *object
    cdef dict maps
    cdef set let_in       # (ifindex, group) that the ring is to see; groups as numbers or 16 bytes
    cdef dict taken       # group -> ifindex -> (source, port) -> the bytes of a relay_rule
    cdef dict own_to      # (group, port) -> how many outputs of ours send there

    def __cinit__(self, bytes code not None, dict sizes not None):
        """``code`` is relay.bpf.o; ``sizes`` has the number of entries of each map, by name, 1 unless said.

        Raises OSError: EPERM without CAP_BPF and CAP_NET_ADMIN, EINVAL where the kernel does not know what it uses.
        """
        cdef bpf_map *map
        cdef const uint8_t *start = code
        self.object = bpf_object__open_mem(start, len(code), NULL)
        if self.object == NULL:
            raise OSError(EINVAL, "the kernel engine's program is not one that libbpf can read")
        self.maps, self.let_in, self.taken, self.own_to = {}, set(), {}, {}
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
        """Close programs and maps. An attached program lives on as long as its link."""
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
        """Attach ``filter`` to a ring's socket in place of its filter; no frame passes unfiltered in between."""
        cdef int program = self.program("filter")
        check(setsockopt(socket, SOL_SOCKET, SO_ATTACH_BPF, &program, sizeof(program)), "SO_ATTACH_BPF")

    cdef int put(self, str map, const void *key, const void *value) except -1:
        return check(bpf_map_update_elem(self.maps[map], key, value, 0), f"map {map}")

    cdef int take(self, str map, bytes key) except -1:
        cdef const uint8_t *bytes_ = key
        return check(bpf_map_delete_elem(self.maps[map], bytes_), f"map {map}")

    def add_group(self, uint32_t ifindex, object group not None):
        """Let the ring of a link see what is sent to a group, less what the program takes."""
        self.let_in.add((ifindex, group))
        self.point(ifindex, group)

    def remove_group(self, uint32_t ifindex, object group not None):
        """Take back what `add_group` did."""
        self.let_in.discard((ifindex, group))
        self.point(ifindex, group)

    cdef int point(self, uint32_t ifindex, object group) except -1:
        """Have a group's entry say how the program finds its rules, in one step; one that says nothing is removed."""
        cdef bytes key = group_key(ifindex, group)
        cdef const uint8_t *at = key
        cdef relay_group value
        cdef const uint8_t *only
        rules = self.taken.get(group, {}).get(ifindex, {})
        memset(&value, 0, sizeof(value))
        value.let_in = (ifindex, group) in self.let_in
        if not value.let_in and not rules:
            return self.take(of_family("groups", group), key)
        if len(rules) == 1:
            (((source, port), packed),) = rules.items()
            only = packed
            value.kind, value.port, value.named = GROUP_ONE, port, bool(source)
            if is_six(group):
                put_six(value.source, source)
            else:
                value.source[0] = source
            memcpy(&value.rule, only, sizeof(value.rule))
        elif rules:
            value.kind = GROUP_NAMED if any([source for source, _ in rules]) else GROUP_SEVERAL
        else:
            value.kind = GROUP_NONE
        return self.put(of_family("groups", group), at, &value)

    def add_own(self, object source not None, uint16_t source_port, object group not None, uint16_t port):
        """Datagrams that an output of ours sends: they are left to the ring, which counts them as echoes."""
        cdef bytes key = own_key(source, source_port, group, port)
        cdef const uint8_t *at = key
        cdef uint32_t one = 1
        self.put(of_family("own", group), at, &one)
        self.own_to[group, port] = self.own_to.get((group, port), 0) + 1
        self.look_for_own(group, port)

    def remove_own(self, object source not None, uint16_t source_port, object group not None, uint16_t port):
        self.take(of_family("own", group), own_key(source, source_port, group, port))
        self.own_to[group, port] -= 1
        if not self.own_to[group, port]:
            del self.own_to[group, port]
        self.look_for_own(group, port)

    cdef int look_for_own(self, object group, uint16_t port) except -1:
        """Have rules look whether a datagram is ours where an output sends to what they take, and only there."""
        for ifindex, rules in self.taken.get(group, {}).items():
            for (source, at), packed in rules.items():
                if at == port:
                    self.enter(ifindex, group, source, at, packed)
        return 0

    cdef int enter(self, uint32_t ifindex, object group, object source, uint32_t port, bytes packed) except -1:
        """Make the entry for one input, or change it, in one step: a packet finds the old one or the new one."""
        cdef bytes key = rule_key(ifindex, group, source, port)
        cdef const uint8_t *at = key
        cdef const uint8_t *given = packed
        cdef relay_rule rule
        memcpy(&rule, given, sizeof(rule))
        rule.flags &= ~<uint32_t>RULE_OWN
        if (group, port) in self.own_to:
            rule.flags |= RULE_OWN
        self.put(of_family("rules", group), at, &rule)
        rules = self.taken.setdefault(group, {}).setdefault(ifindex, {})
        rules[source, port] = (<const uint8_t *>&rule)[:sizeof(rule)]
        return self.point(ifindex, group)

    def set_rule(
        self, *, uint32_t ifindex, object group not None, object source not None, uint32_t port, bint kernel,
        bint exclusive, bint whole, bint crosses, uint32_t counters, uint32_t first_output, uint32_t output_count,
        uint32_t payload_max, uint32_t flow, uint32_t link,
    ):
        """What is done with the datagrams of one input. Not ``kernel``: the ring has them.

        Addresses are numbers (IPv4) or 16 bytes; ``source`` 0 is any.
        """
        cdef relay_rule rule
        if not kernel:
            self.leave(ifindex, group, source, port)
            return
        memset(&rule, 0, sizeof(rule))
        if exclusive:
            rule.flags |= RULE_EXCLUSIVE
        if whole:
            rule.flags |= RULE_WHOLE
        if crosses:
            rule.flags |= RULE_CROSSES
        if not source:
            rule.flags |= RULE_ANY_SOURCE
        rule.counters = counters
        rule.first_output = first_output
        rule.output_count = output_count
        rule.payload_max = payload_max
        rule.flow = flow
        rule.link = link
        self.enter(ifindex, group, source, port, (<const uint8_t *>&rule)[:sizeof(rule)])

    cdef int leave(self, uint32_t ifindex, object group, object source, uint32_t port) except -1:
        """The ring's are whatever has no entry; what the program has in hand it has a copy of."""
        links = self.taken.get(group, {})
        rules = links.get(ifindex, {})
        if rules.pop((source, port), None) is None:
            return 0
        if not rules:
            del links[ifindex]
        if not links:
            del self.taken[group]
        self.point(ifindex, group)
        return self.take(of_family("rules", group), rule_key(ifindex, group, source, port))

    def remove_rule(self, *, uint32_t ifindex, object group not None, object source not None, uint32_t port):
        """Leave an input's datagrams to the ring."""
        self.leave(ifindex, group, source, port)

    def set_output(
        self, uint32_t index, *, uint32_t ifindex, object group not None, object source not None, uint16_t port,
        uint16_t source_port, uint8_t ttl, object dscp, bint df, bytes macs not None, uint32_t counters,
    ):
        """``ifindex`` 0 is a parked output, ``dscp`` None keeps the input's; ``macs`` are destination and source."""
        cdef relay_output output
        cdef const uint8_t *from_macs = macs
        if len(macs) != 12:
            raise ValueError("two MAC addresses are 12 bytes")
        memset(&output, 0, sizeof(output))
        output.ifindex = ifindex
        output.is_six = is_six(group)
        if output.is_six:
            put_six(output.group, group)
            put_six(output.source, source)
        else:
            write_be32(<uint8_t *>output.group, group)
            write_be32(<uint8_t *>output.source, source)
        write_be16(<uint8_t *>&output.port, port)
        write_be16(<uint8_t *>&output.source_port, source_port)
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

    def map(self, str name not None):
        """The descriptor of a map; it is this object's."""
        return self.maps[name]

    cdef tuple sum(self, str map, uint32_t index, int words, int newest):
        return sum_of(self.maps[map], index, words, newest)

    def read_input(self, uint32_t index):
        """(rx_packets, rx_bytes, last_packet_ns of CLOCK_MONOTONIC) of one input."""
        return self.sum("received", index, sizeof(relay_input_counters) // 8, 2)

    def read_output(self, uint32_t index):
        """(tx_packets, tx_bytes, errors in the order of SEND_ERRORS...) of one output."""
        return self.sum("sent", index, sizeof(relay_output_counters) // 8, -1)

    def read_frames(self, uint32_t index):
        """Frames that the program took on the link with that slot."""
        return self.sum("frames", index, sizeof(relay_link_counters) // 8, -1)[0]

    def read_malformed(self, uint32_t index):
        """Frames there that it would have taken, but for a wrong UDP checksum."""
        return self.sum("frames", index, sizeof(relay_link_counters) // 8, -1)[1]

    def clear_input(self, uint32_t index):
        self.clear("received", index, sizeof(relay_input_counters))

    def clear_output(self, uint32_t index):
        self.clear("sent", index, sizeof(relay_output_counters))

    def clear_frames(self, uint32_t index):
        self.clear("frames", index, sizeof(relay_link_counters))

    cdef int clear(self, str map, uint32_t index, size_t size) except -1:
        cdef void *memory = calloc(succeed(libbpf_num_possible_cpus(), "CPUs"), size)
        if memory == NULL:
            raise MemoryError(map)
        try:
            return self.put(map, &index, memory)
        finally:
            free(memory)
