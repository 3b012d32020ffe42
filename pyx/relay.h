/* What relay.bpf.c and its loader share: keys, values and counters of the kernel engine's maps. Host byte order unless said. */
#ifndef MCRELAY_RELAY_H
#define MCRELAY_RELAY_H

#include <stdint.h>

/* How many reasons there are why a datagram did not leave: the order of SEND_ERRORS in counters.pyx. */
enum { RELAY_SEND_ERRORS = 10 };

enum {
    RULE_EXCLUSIVE = 1,  /* the original is dropped: nothing else on this host listens */
    RULE_ANY_SOURCE = 2, /* only one source at a time is treated: see `steady` in decide.bpf.h */
    RULE_WHOLE = 4,      /* superframes may leave as they are */
    RULE_OWN = 8,        /* an output of ours sends to this group and port: `own` knows its datagrams */
    RULE_CROSSES = 16,   /* an output is of the other family */
};

/* Whose datagrams the program takes, of those to a group. */
enum { GROUP_NONE = 0, GROUP_ONE = 1, GROUP_SEVERAL = 2, GROUP_NAMED = 3 }; /* named: several, and sources among them */

struct relay_key {
    uint32_t ifindex;
    uint32_t group;
    uint32_t source; /* 0: any */
    uint32_t port;
};

/* The same of IPv6. Its addresses stand in every map as in a packet. */
struct relay_key_six {
    uint32_t ifindex, port;
    uint32_t group[4], source[4];
};

struct relay_rule {
    uint32_t flags;
    uint32_t counters;     /* index in `received` */
    uint32_t first_output; /* index in `outputs` */
    uint32_t output_count;
    uint32_t payload_max;  /* bytes of it that fit every output's link */
    uint32_t flow;         /* index in `flows` */
    uint32_t link;         /* index in `frames` */
    uint32_t unused;
};

struct relay_group_key {
    uint32_t ifindex, group;
};

struct relay_group_key_six {
    uint32_t ifindex;
    uint32_t group[4];
};

/* A group that the ring of a link lets in, or that the program takes datagrams of. The latter does not wait for the former:
 * a process that takes over has the program's entries before its ring lets anything in. */
struct relay_group {
    uint32_t kind;
    uint32_t port, named;   /* of the one rule, and whether it names its source; where there are several, they are in `rules` */
    uint32_t let_in;        /* the ring sees, or counts, what the program does not take */
    uint32_t source[4];     /* one of IPv4 in the first word, in host byte order */
    struct relay_rule rule;
};

/* Who sends to a rule, and whether the ring has its datagrams for now. */
struct relay_flow {
    uint64_t last_ns; /* CLOCK_MONOTONIC_COARSE */
    uint64_t source_high, source_low; /* as they stand in a packet; low 0: nobody since it was silent */
    uint32_t held;    /* by the ring, until it is silent */
    uint32_t id;      /* of the next IPv4 packet that is made of one of IPv6 */
};

struct relay_output {
    uint8_t macs[12];           /* destination and source, as they stand in the frame */
    uint32_t ifindex;           /* 0: parked, its datagrams are counted and not sent */
    uint32_t source[4], group[4]; /* network byte order; IPv4 in the first word */
    uint16_t source_port, port; /* network byte order */
    uint8_t ttl;
    uint8_t tos;                /* DSCP in its six high bits; ECN is never copied */
    uint8_t keep_dscp;
    uint8_t df;                 /* don't-fragment is set, else it stays as it came */
    uint32_t counters;          /* index in `sent` */
    uint32_t is_six;            /* its family */
};

/* A datagram that one of our outputs sends: the ring counts it as an echo. */
struct relay_own {
    uint32_t source, group;
    uint16_t source_port, port;
};

struct relay_own_six {
    uint32_t source[4], group[4];
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

/* Frames of a link that the program took, and those that it would have taken but for a wrong UDP checksum. */
struct relay_link_counters {
    uint64_t taken, malformed;
};

/* IPv4 without options, and UDP (RFC 791, RFC 768). Network byte order. */
struct relay_headers {
    uint8_t version, tos;
    uint16_t total, id, fragment;
    uint8_t ttl, protocol;
    uint16_t checksum;
    uint32_t source, group;
    uint16_t source_port, port, length, udp_checksum;
};

/* IPv6 without extension headers, and UDP (RFC 8200). Network byte order. */
struct relay_headers_six {
    uint32_t first;             /* version, traffic class, flow label */
    uint16_t payload;
    uint8_t protocol, hops;
    uint32_t source[4], group[4];
    uint16_t source_port, port, length, udp_checksum;
};

#endif
