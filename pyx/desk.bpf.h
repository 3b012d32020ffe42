/* What the kernel engine's two programs have in common: the frames they know, the desk of a CPU, and the maps. */
#ifndef MCRELAY_DESK_BPF_H
#define MCRELAY_DESK_BPF_H

#include <stddef.h>
#include <stdint.h>
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "relay.h"

enum {
    MACS = 12, ETHERTYPE_AT = 12, IP_AT = 14, TAG = 4, UDP_BYTES = 8, IPV4_BYTES = 20, IPV6_BYTES = 40, PIECE = 512,
    ETHERTYPE_IPV4 = 0x0800, ETHERTYPE_IPV6 = 0x86dd, PROTOCOL_UDP = 17,
};

/* The unused bytes align what follows the Ethernet header. */
struct frame {
    uint8_t unused[2];
    uint8_t macs[MACS];
    uint16_t ethertype;
    struct relay_headers headers;
};

struct frame_six {
    uint8_t unused[2];
    uint8_t macs[MACS];
    uint16_t ethertype;
    struct relay_headers_six headers;
};

enum { FRAME_BYTES = IP_AT + sizeof(struct relay_headers), FRAME_SIX_BYTES = IP_AT + sizeof(struct relay_headers_six) };
_Static_assert(sizeof(struct relay_headers) == IPV4_BYTES + UDP_BYTES, "headers as they stand in a frame");
_Static_assert(sizeof(struct relay_headers_six) == IPV6_BYTES + UDP_BYTES, "headers as they stand in a frame");

/* One CPU's: what the filter leaves for the program that sees the packet next, and what either has in hand. */
struct desk {
    uint64_t tick, now_ns;           /* CLOCK_MONOTONIC_COARSE, which moves with the ticks */
    uint32_t answer;
    uint32_t ifindex;                /* with `decided`, or with `decided_six`: about which packet */
    uint32_t about_six;
    struct relay_headers decided;
    struct relay_headers_six decided_six;
    struct relay_rule rule;
    struct frame original, next;     /* of a packet of IPv6 the original is what an IPv4 one would say in its place */
    struct frame_six original_six, next_six;
    uint32_t is_six;                 /* what the packet is now: it becomes what an output sends, and is put back */
    uint32_t datagrams, size;        /* of a packet: how many, and the bytes of their payload */
    uint32_t device;                 /* the checksum is left to the device */
    uint32_t complete;               /* the kernel has a sum of the whole packet (CHECKSUM_COMPLETE), which follows */
    uint32_t covered;                /* what the headers that the packet has now are in it */
    uint64_t rest;                   /* of the checksum: all but what an output puts in */
    uint32_t at, left, total;        /* of a checksum that is added up; of IPv6 headers, `left` is where the packet ends */
    uint32_t kind;                   /* of the IPv6 header at `at` */
    struct relay_group_key group;
    struct relay_group_key_six group_six;
    struct relay_key key;
    struct relay_key_six key_six;
    struct relay_own own;
    struct relay_own_six own_six;
    uint32_t port;
    uint32_t index;
    uint32_t piece[PIECE / 4 + 1];
};

#define TABLE(NAME, KEY, VALUE) \
    struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 1); __uint(map_flags, BPF_F_NO_PREALLOC); \
             __type(key, KEY); __type(value, VALUE); } NAME SEC(".maps")
#define ARRAY(NAME, TYPE, VALUE) \
    struct { __uint(type, TYPE); __uint(max_entries, 1); __type(key, uint32_t); __type(value, VALUE); } NAME SEC(".maps")
TABLE(groups, struct relay_group_key, struct relay_group);
TABLE(groups_six, struct relay_group_key_six, struct relay_group);
TABLE(rules, struct relay_key, struct relay_rule);
TABLE(rules_six, struct relay_key_six, struct relay_rule);
TABLE(own, struct relay_own, uint32_t);
TABLE(own_six, struct relay_own_six, uint32_t);
ARRAY(outputs, BPF_MAP_TYPE_ARRAY, struct relay_output);
ARRAY(flows, BPF_MAP_TYPE_ARRAY, struct relay_flow);
ARRAY(received, BPF_MAP_TYPE_PERCPU_ARRAY, struct relay_input_counters);
ARRAY(sent, BPF_MAP_TYPE_PERCPU_ARRAY, struct relay_output_counters);
ARRAY(frames, BPF_MAP_TYPE_PERCPU_ARRAY, struct relay_link_counters);
ARRAY(desks, BPF_MAP_TYPE_PERCPU_ARRAY, struct desk);
const volatile uint32_t mine = 0; /* the one desk of a CPU */

static __always_inline struct desk *my_desk(void)
{
    return bpf_map_lookup_elem(&desks, (const void *)&mine);
}

static __always_inline void copy_address(uint32_t *to, const uint32_t *from)
{
    to[0] = from[0];
    to[1] = from[1];
    to[2] = from[2];
    to[3] = from[3];
}

static __always_inline struct relay_group *group_of(const struct __sk_buff *skb, struct desk *desk, uint32_t group)
{
    desk->group.ifindex = skb->ifindex;
    desk->group.group = group;
    return bpf_map_lookup_elem(&groups, &desk->group);
}

static __always_inline struct relay_group *group_of_six(const struct __sk_buff *skb, struct desk *desk, const uint32_t *group)
{
    desk->group_six.ifindex = skb->ifindex;
    copy_address(desk->group_six.group, group);
    return bpf_map_lookup_elem(&groups_six, &desk->group_six);
}

#endif
