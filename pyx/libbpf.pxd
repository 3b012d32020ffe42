"""libbpf (bpf/libbpf.h, bpf/bpf.h) and bpf(2), as far as program.pyx uses them; and the layout of relay.h."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "<bpf/libbpf.h>" nogil:
    struct bpf_object:
        pass
    struct bpf_program:
        pass
    struct bpf_map:
        pass
    struct bpf_object_open_opts:
        pass
    void *libbpf_set_print(void *function)
    bpf_object *bpf_object__open_mem(const void *memory, size_t size, const bpf_object_open_opts *options)
    int bpf_object__load(bpf_object *object)
    void bpf_object__close(bpf_object *object)
    bpf_map *bpf_object__find_map_by_name(const bpf_object *object, const char *name)
    bpf_program *bpf_object__find_program_by_name(const bpf_object *object, const char *name)
    int bpf_map__fd(const bpf_map *map)
    int bpf_map__set_max_entries(bpf_map *map, uint32_t entries)
    int bpf_program__fd(const bpf_program *program)
    int libbpf_num_possible_cpus()

cdef extern from "<linux/bpf.h>" nogil:
    enum bpf_prog_type: BPF_PROG_TYPE_SCHED_CLS
    struct bpf_insn:
        uint8_t code
    struct bpf_map_info:
        uint32_t value_size

cdef extern from "<bpf/bpf.h>" nogil:
    int bpf_map_update_elem(int fd, const void *key, const void *value, uint64_t flags)
    int bpf_map_lookup_elem(int fd, const void *key, void *value)
    int bpf_map_delete_elem(int fd, const void *key)
    int bpf_obj_get_info_by_fd(int fd, void *info, uint32_t *size)
    int bpf_prog_load(
        bpf_prog_type type, const char *name, const char *license, const bpf_insn *code, size_t count, void *options
    )

cdef extern from "<sys/syscall.h>" nogil:
    long SYS_bpf
    long SYS_membarrier

cdef extern from "<unistd.h>" nogil:
    long syscall(long number, ...)

cdef extern from "relay.h" nogil:
    enum: RELAY_SEND_ERRORS
    enum: RULE_EXCLUSIVE, RULE_ANY_SOURCE, RULE_WHOLE, RULE_OWN, RULE_CROSSES
    enum: GROUP_NONE, GROUP_ONE, GROUP_SEVERAL, GROUP_NAMED
    struct relay_key:
        uint32_t ifindex, group, source, port
    struct relay_key_six:
        uint32_t ifindex, port
        uint32_t group[4]
        uint32_t source[4]
    struct relay_rule:
        uint32_t flags, counters, first_output, output_count, payload_max, flow, link, unused
    struct relay_group_key:
        uint32_t ifindex, group
    struct relay_group_key_six:
        uint32_t ifindex
        uint32_t group[4]
    struct relay_group:
        uint32_t kind, port, named, let_in
        uint32_t source[4]
        relay_rule rule
    struct relay_flow:
        uint64_t last_ns, source_high, source_low
        uint32_t held, id
    struct relay_output:
        uint8_t macs[12]
        uint32_t ifindex
        uint32_t source[4]
        uint32_t group[4]
        uint16_t source_port, port
        uint8_t ttl, tos, keep_dscp, df
        uint32_t counters, is_six
    struct relay_own:
        uint32_t source, group
        uint16_t source_port, port
    struct relay_own_six:
        uint32_t source[4]
        uint32_t group[4]
        uint16_t source_port, port
    struct relay_input_counters:
        uint64_t rx_packets, rx_bytes, last_packet_ns
    struct relay_output_counters:
        uint64_t tx_packets, tx_bytes
        uint64_t errors[RELAY_SEND_ERRORS]
    struct relay_link_counters:
        uint64_t taken, malformed
