/* What relay.bpf.c and its loader share: keys, values and counters of the kernel engine's maps. Host byte order unless said. */
#ifndef MCRELAY_RELAY_H
#define MCRELAY_RELAY_H

#include <stdint.h>

/* How many reasons there are why a datagram did not leave: the order of SEND_ERRORS in counters.pyx. */
enum { RELAY_SEND_ERRORS = 10 };

/* Of a rule: who forwards. A rule that moves to the ring keeps its entry until no packet can be between the two programs. */
enum { ENGINE_RING = 0, ENGINE_KERNEL = 1 };

enum {
    RULE_EXCLUSIVE = 1,  /* the original is dropped: nothing else on this host listens */
    RULE_ANY_SOURCE = 2, /* only one source at a time is treated: see `steady` in relay.bpf.c */
    RULE_WHOLE = 4,      /* superframes may leave as they are */
};

/* A group that some rule has on a link: whatever else its datagrams are, the ring is to see or to count them. */
struct relay_group {
    uint32_t ifindex, group;
};

struct relay_key {
    uint32_t ifindex;
    uint32_t group;
    uint32_t source; /* 0: any */
    uint32_t port;
};

struct relay_rule {
    uint32_t engine;
    uint32_t flags;
    uint32_t counters;     /* index in `received` */
    uint32_t first_output; /* index in `outputs` */
    uint32_t output_count;
    uint32_t size_max;     /* bytes of an IPv4 packet that fit every output's link */
    uint32_t flow;         /* index in `flows` */
    uint32_t link;         /* index in `frames` */
};

/* Who sends to a rule, and whether the ring has its datagrams for now. */
struct relay_flow {
    uint64_t last_ns; /* CLOCK_MONOTONIC_COARSE */
    uint32_t source;  /* 0: nobody since it was silent */
    uint32_t held;    /* by the ring, until it is silent */
};

struct relay_output {
    uint32_t ifindex; /* 0: parked, its datagrams are counted and not sent */
    uint32_t group, source;
    uint16_t port, source_port;
    uint8_t ttl;
    uint8_t tos;      /* DSCP in its six high bits; ECN is never copied */
    uint8_t keep_dscp;
    uint8_t df;       /* don't-fragment is set, else it stays as it came */
    uint8_t macs[12]; /* destination and source, as they stand in the frame */
    uint32_t counters; /* index in `sent` */
};

/* A datagram that one of our outputs sends: the ring counts it as an echo. */
struct relay_own {
    uint32_t source, group;
    uint16_t source_port, port;
};

struct relay_input_counters {
    uint64_t rx_packets, rx_bytes; /* datagrams, UDP payload */
    uint64_t last_packet_ns;       /* CLOCK_MONOTONIC_COARSE */
};

struct relay_output_counters {
    uint64_t tx_packets, tx_bytes;
    uint64_t errors[RELAY_SEND_ERRORS];
};

/* What the ring's filter decided about a packet, for the program that sees it next on the same CPU. */
enum { DECIDED_NOTHING = 0, DECIDED_RING = 1, DECIDED_KERNEL = 2 };

struct relay_decision {
    uint32_t answer;
    uint32_t ifindex; /* with the headers: of which packet */
    uint32_t source;  /* of the key that its rule was found by */
    uint32_t headers[7];
};

#endif
