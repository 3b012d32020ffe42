/* The kernel engine: an eBPF program on the tcx ingress hook of an input link, and the filter of the ring beside it.
 *
 * The packet socket's tap comes before the hook (net/core/dev.c, __netif_receive_skb_core), on the same CPU and with
 * bottom halves off, so for each packet `filter` runs first and `relay` second. `filter` decides, once, who takes the
 * packet, and leaves the answer and the rule for `relay`: a rule that changes in between is then not forwarded twice,
 * nor by nobody. `relay` decides for itself only where no ring listens: while the process is away.
 *
 * What costs time: a call (arrays are read without one, hashes and helpers are not), and a store to the stack, after
 * which the verifier of a loader without CAP_PERFMON lets the CPU wait for it (Spectre v4). So a packet has one look-up,
 * the time is asked for once a tick, and what is remembered stands on a desk, which is a map's.
 */
#include <stddef.h>
#include <stdint.h>
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "relay.h"

enum {
    ETHERTYPE_IPV4 = 0x0800, ETHERTYPE_CTAG = 0x8100, ETHERTYPE_STAG = 0x88a8, PROTOCOL_UDP = 17, VID_MASK = 0x0fff,
    VERSION_4 = 0x40, PLAIN_HEADER = 0x45, MORE_FRAGMENTS_OR_OFFSET = 0x3fff, DONT_FRAGMENT = 0x4000, ECN = 3,
    MULTICAST = 0xe0, MULTICAST_MASK = 0xf0,
    ETHERTYPE_AT = 12, IP_AT = 14, PROTOCOL_AT = 23, GROUP_AT = 30, UDP_AT = 34, UDP_SUM_AT = 40, TAG = 4,
    MACS = 12, IPV4_BYTES = 20, UDP_BYTES = 8, HEADERS = 42, PIECE = 512, PIECES = 130,
    OUTGOING = 4,                           /* PACKET_OUTGOING of linux/if_packet.h */
    WHOLE_FRAME = 0x40000,
    PASS = -1, DROP = 2,                    /* TCX_NEXT, TCX_DROP of linux/bpf.h since 6.6 */
    SEND_NOBUFS = 0, SEND_NETDOWN = 1, SEND_PARKED = 8, SEND_OTHER = 9,
    XMIT_DROP = 1, XMIT_CN = 2,             /* NET_XMIT_* of linux/netdevice.h */
    ENETDOWN = 100, PARKED = 0x7fff,        /* neither of the kernel's */
};
enum { DECIDED_NOTHING = 0, DECIDED_RING = 1, DECIDED_KERNEL = 2 };
#define SILENT_NS 100000000ULL              /* as ROUND_NS of repeats.pxd; longer than the ring holds anything */

struct frame {
    uint8_t unused[2]; /* so that the IP header is aligned */
    uint8_t macs[MACS];
    uint16_t ethertype;
    struct relay_headers headers;
};

/* One CPU's: what the filter leaves for the program that sees the packet next, and what either has in hand. */
struct desk {
    uint64_t tick, now_ns;           /* CLOCK_MONOTONIC_COARSE, which moves with the ticks */
    uint32_t answer;
    uint32_t ifindex;                /* with `decided`: about which packet */
    struct relay_headers decided;
    struct relay_rule rule;
    struct frame original, next;
    uint32_t datagrams, size;        /* of a packet: how many, and the bytes of their payload */
    uint32_t device;                 /* the checksum is left to the device */
    uint32_t complete;               /* the kernel has a sum of the whole packet (CHECKSUM_COMPLETE), which follows */
    uint64_t rest;                   /* of the checksum: all but what an output puts in */
    uint32_t ports, length_and_checksum; /* which the packet has now */
    uint32_t at, left, total;        /* of a checksum that is added up: -1 is none */
    struct relay_group_key group;
    struct relay_key key;
    struct relay_own own;
    uint32_t port;
    uint32_t index;
    uint32_t piece[PIECE / 4 + 1];
};

_Static_assert(sizeof(struct relay_headers) == IPV4_BYTES + UDP_BYTES, "headers as they stand in a frame");

#define TABLE(NAME, KEY, VALUE) \
    struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 1); __uint(map_flags, BPF_F_NO_PREALLOC); \
             __type(key, KEY); __type(value, VALUE); } NAME SEC(".maps")
#define ARRAY(NAME, TYPE, VALUE) \
    struct { __uint(type, TYPE); __uint(max_entries, 1); __type(key, uint32_t); __type(value, VALUE); } NAME SEC(".maps")
TABLE(groups, struct relay_group_key, struct relay_group);
TABLE(rules, struct relay_key, struct relay_rule);
TABLE(own, struct relay_own, uint32_t);
ARRAY(outputs, BPF_MAP_TYPE_ARRAY, struct relay_output);
ARRAY(flows, BPF_MAP_TYPE_ARRAY, struct relay_flow);
ARRAY(received, BPF_MAP_TYPE_PERCPU_ARRAY, struct relay_input_counters);
ARRAY(sent, BPF_MAP_TYPE_PERCPU_ARRAY, struct relay_output_counters);
ARRAY(frames, BPF_MAP_TYPE_PERCPU_ARRAY, struct relay_link_counters);
ARRAY(desks, BPF_MAP_TYPE_PERCPU_ARRAY, struct desk);
const volatile uint32_t mine = 0; /* the one desk of a CPU */

/* Classic BPF's loads, which the kernel inlines; beyond a frame's end they end the program with 0 (bpf_gen_ld_abs). */
unsigned long long load_byte(void *skb, unsigned long long at) asm("llvm.bpf.load.byte");
unsigned long long load_half(void *skb, unsigned long long at) asm("llvm.bpf.load.half");
unsigned long long load_word(void *skb, unsigned long long at) asm("llvm.bpf.load.word");

static __always_inline uint32_t fold(uint64_t total)
{
    total = (total >> 32) + (uint32_t)total;
    total = (total >> 32) + (uint32_t)total;
    total = (total >> 16) + (total & 0xffff);
    return (uint32_t)((total >> 16) + (total & 0xffff));
}

/* RFC 1071: a sum of words in the machine's order folds to that of halves in the machine's order. Not loops: the verifier
 * of a loader without CAP_PERFMON wants an address computed in one way. */
static __always_inline uint64_t addresses_of(const struct relay_headers *headers)
{
    return (uint64_t)headers->source + headers->group;
}

static __always_inline uint64_t header_sum(const struct relay_headers *headers)
{
    const uint32_t *word = (const uint32_t *)headers;
    return (uint64_t)word[0] + word[1] + word[2] + word[3] + word[4];
}

static __always_inline uint32_t ports_of(const struct relay_headers *headers)
{
    return *(const uint32_t *)&headers->source_port;
}

static __always_inline uint32_t length_and_checksum_of(const struct relay_headers *headers)
{
    return *(const uint32_t *)&headers->length;
}

/* What a sender that left the checksum to its device has in the field (RFC 768's pseudo header). */
static __always_inline uint32_t pseudo_sum(const struct relay_headers *headers)
{
    return fold(addresses_of(headers) + bpf_htons(PROTOCOL_UDP) + headers->length);
}

static __always_inline struct desk *my_desk(void)
{
    return bpf_map_lookup_elem(&desks, (const void *)&mine);
}

static __always_inline struct relay_group *group_of(const struct __sk_buff *skb, struct desk *desk, uint32_t group)
{
    desk->group.ifindex = skb->ifindex;
    desk->group.group = group;
    return bpf_map_lookup_elem(&groups, &desk->group);
}

/* What kind of packet the headers make, as `parse` of wire.pxd sees it. */
enum { NO_DATAGRAM = 0, UNFIT = 1, FIT = 2 };

/* One with IP options, which may be a datagram that the program cannot treat. */
static __noinline int classify_odd(struct __sk_buff *skb, struct desk *desk)
{
    uint16_t *udp = (uint16_t *)desk->piece;
    uint32_t header = (desk->decided.version & 15) * 4, total = bpf_ntohs(desk->decided.total), length;
    if ((desk->decided.version & 0xf0) != VERSION_4 || header < IPV4_BYTES || total < header + UDP_BYTES)
        return NO_DATAGRAM;
    if (bpf_skb_load_bytes(skb, IP_AT + header, udp, UDP_BYTES))
        return NO_DATAGRAM;
    length = bpf_ntohs(udp[2]);
    desk->port = bpf_ntohs(udp[1]);
    return length < UDP_BYTES || length > total - header ? NO_DATAGRAM : UNFIT;
}

/* UNFIT is a whole datagram that the program cannot treat. Its destination port is on the desk then. */
static __always_inline int classify(struct __sk_buff *skb, struct desk *desk)
{
    uint32_t length = bpf_ntohs(desk->decided.length), total = bpf_ntohs(desk->decided.total);
    if (desk->decided.fragment & bpf_htons(MORE_FRAGMENTS_OR_OFFSET) || total > skb->len - IP_AT)
        return NO_DATAGRAM;
    if (skb->vlan_present && skb->vlan_tci & VID_MASK)
        return NO_DATAGRAM;
    if (desk->decided.version != PLAIN_HEADER)
        return classify_odd(skb, desk);
    if (length < UDP_BYTES || total < IPV4_BYTES + length || fold(header_sum(&desk->decided)) != 0xffff)
        return NO_DATAGRAM;
    desk->port = bpf_ntohs(desk->decided.port);
    if (total != IPV4_BYTES + length || skb->vlan_present || !desk->decided.source)
        return UNFIT;
    /* Else it is a list of whole datagrams, each with headers of its own (rx-gro-list). */
    return skb->gso_size && desk->decided.udp_checksum != pseudo_sum(&desk->decided) ? UNFIT : FIT;
}

/* Whether the rule's datagrams go by the program: all of them do, from the first after a silence, until one comes that
 * it cannot treat; then the ring has them until the rule is silent again. So none overtakes another on the way. The
 * same for a second source, which may be a relay that sends our datagrams back: only the ring knows how to end that. */
static __always_inline int steady(struct desk *desk, int fit)
{
    struct relay_flow *flow = bpf_map_lookup_elem(&flows, &desk->rule.flow);
    uint64_t last;
    if (!flow)
        return 0;
    last = flow->last_ns;
    if (last != desk->now_ns)
        flow->last_ns = desk->now_ns;
    if (desk->now_ns > last + SILENT_NS) {
        flow->source = 0;
        flow->held = 0;
    }
    if (flow->held)
        return 0;
    if (desk->rule.flags & RULE_ANY_SOURCE) {
        if (!flow->source)
            flow->source = desk->decided.source;
        else if (flow->source != desk->decided.source)
            fit = 0;
    }
    if (!fit)
        flow->held = 1;
    return fit;
}

/* Of a group with several rules: a named source before any, as `find` of demux.pxd. */
static __noinline int find_among_several(struct desk *desk, uint32_t kind)
{
    const struct relay_rule *rule = NULL;
    desk->key.ifindex = desk->group.ifindex;
    desk->key.group = desk->group.group;
    desk->key.port = desk->port;
    if (kind == GROUP_NAMED) {
        desk->key.source = bpf_ntohl(desk->decided.source);
        rule = bpf_map_lookup_elem(&rules, &desk->key);
    }
    if (!rule) {
        desk->key.source = 0;
        rule = bpf_map_lookup_elem(&rules, &desk->key);
    }
    if (!rule)
        return 0;
    desk->rule = *rule;
    return 1;
}

/* The rule that the program takes a datagram by; it is on the desk then. */
static __always_inline int find(struct desk *desk, const struct relay_group *group)
{
    if (group->kind != GROUP_ONE)
        return group->kind != GROUP_NONE && find_among_several(desk, group->kind);
    if (group->port != desk->port || (group->source && group->source != bpf_ntohl(desk->decided.source)))
        return 0;
    desk->rule = group->rule;
    return 1;
}

/* Whether an output of ours sends such datagrams: the ring counts them as echoes. */
static __noinline int sent_by_us(struct desk *desk)
{
    desk->own.source = bpf_ntohl(desk->decided.source);
    desk->own.group = bpf_ntohl(desk->decided.group);
    desk->own.source_port = bpf_ntohs(desk->decided.source_port);
    desk->own.port = bpf_ntohs(desk->decided.port);
    return bpf_map_lookup_elem(&own, &desk->own) != NULL;
}

/* Who takes the packet whose headers are in `decided`; by which rule is on the desk then. */
static __noinline int decide(struct __sk_buff *skb, struct desk *desk, const struct relay_group *group)
{
    uint64_t tick;
    uint32_t size;
    int kind = classify(skb, desk);
    if (kind == NO_DATAGRAM || !find(desk, group))
        return DECIDED_RING;
    if (desk->rule.flags & RULE_OWN && kind == FIT && sent_by_us(desk))
        return DECIDED_RING;
    tick = bpf_jiffies64();
    if (tick != desk->tick) {
        desk->tick = tick;
        desk->now_ns = bpf_ktime_get_coarse_ns();
    }
    size = skb->gso_size ? skb->gso_size + IPV4_BYTES + UDP_BYTES : bpf_ntohs(desk->decided.total);
    if (size > desk->rule.size_max || (skb->gso_size && !(desk->rule.flags & RULE_WHOLE)))
        kind = UNFIT;
    return steady(desk, kind == FIT) ? DECIDED_KERNEL : DECIDED_RING;
}

/* Whether a frame with a second tag in it is IPv4 UDP to a group that the ring lets in. */
static __noinline int concerns_us_behind(struct __sk_buff *skb, struct desk *desk)
{
    const uint8_t *tagged = (const uint8_t *)desk->piece;
    const struct relay_group *group;
    if (bpf_skb_load_bytes(skb, ETHERTYPE_AT, desk->piece, GROUP_AT + TAG + 4 - ETHERTYPE_AT))
        return 0;
    if (tagged[4] != ETHERTYPE_IPV4 >> 8 || tagged[5] || tagged[PROTOCOL_AT + TAG - ETHERTYPE_AT] != PROTOCOL_UDP)
        return 0;
    group = group_of(skb, desk, bpf_ntohl(*(uint32_t *)(tagged + GROUP_AT + TAG - ETHERTYPE_AT)));
    return group && group->let_in;
}

SEC("socket")
int filter(struct __sk_buff *skb)
{
    struct relay_group *group;
    struct desk *desk;
    uint32_t ethertype;
    if (skb->pkt_type == OUTGOING)
        return 0;
    desk = my_desk();
    if (!desk)
        return 0;
    desk->answer = DECIDED_NOTHING;
    ethertype = load_half(skb, ETHERTYPE_AT);
    if (ethertype != ETHERTYPE_IPV4) {
        if (ethertype != ETHERTYPE_CTAG && ethertype != ETHERTYPE_STAG)
            return 0;
        return concerns_us_behind(skb, desk) ? WHOLE_FRAME : 0;
    }
    if (load_byte(skb, PROTOCOL_AT) != PROTOCOL_UDP)
        return 0;
    group = group_of(skb, desk, load_word(skb, GROUP_AT));
    if (!group)
        return 0;
    if (bpf_skb_load_bytes(skb, IP_AT, &desk->decided, sizeof(desk->decided)))
        return group->let_in ? WHOLE_FRAME : 0;
    desk->ifindex = skb->ifindex;
    desk->answer = decide(skb, desk, group);
    return desk->answer != DECIDED_KERNEL && group->let_in ? WHOLE_FRAME : 0;
}

/* Says no to what is none of ours without a call. */
static __always_inline int may_be_ours(const struct __sk_buff *skb)
{
    const uint8_t *data = (const uint8_t *)(long)skb->data;
    const uint8_t *end = (const uint8_t *)(long)skb->data_end;
    if (skb->protocol != bpf_htons(ETHERTYPE_IPV4))
        return 0;
    if (data + UDP_AT > end) /* the headers lie in page fragments */
        return 1;
    return data[PROTOCOL_AT] == PROTOCOL_UDP && (data[GROUP_AT] & MULTICAST_MASK) == MULTICAST;
}

/* For the program, where no filter has decided. */
static __noinline int decide_here(struct __sk_buff *skb, struct desk *desk)
{
    struct relay_group *group;
    if (desk->original.headers.protocol != PROTOCOL_UDP)
        return DECIDED_RING;
    group = group_of(skb, desk, bpf_ntohl(desk->original.headers.group));
    if (!group)
        return DECIDED_RING;
    desk->decided = desk->original.headers;
    return decide(skb, desk, group);
}

/* Whether `filter` has decided about this very packet. */
static __noinline int is_decided(struct desk *desk)
{
    const uint32_t *was = (const uint32_t *)&desk->decided, *is = (const uint32_t *)&desk->original.headers;
    return was[0] == is[0] && was[1] == is[1] && was[2] == is[2] && was[3] == is[3] && was[4] == is[4]
        && was[5] == is[5] && was[6] == is[6];
}

static __always_inline int decision_on(struct __sk_buff *skb, struct desk *desk)
{
    uint32_t answer = desk->answer;
    desk->answer = DECIDED_NOTHING;
    if (answer != DECIDED_NOTHING && desk->ifindex == skb->ifindex && is_decided(desk))
        return answer;
    return decide_here(skb, desk);
}

/* Whether the checksum is left to the device: of a superframe it always is, and else only a helper knows, which then does
 * not touch it. */
static __noinline int left_to_device(struct __sk_buff *skb, struct desk *desk)
{
    const struct relay_headers *headers = &desk->original.headers;
    if (headers->udp_checksum != pseudo_sum(headers))
        return 0;
    if (skb->gso_size)
        return 1;
    if (bpf_l4_csum_replace(skb, UDP_SUM_AT, 0, 1, 4) || bpf_skb_load_bytes(skb, UDP_SUM_AT, desk->piece, 2))
        return 0;
    if (*(const uint16_t *)desk->piece == headers->udp_checksum)
        return 1;
    bpf_skb_store_bytes(skb, UDP_SUM_AT, &headers->udp_checksum, 2, 0);
    return 0;
}

/* Adds up a piece of the UDP packet; bpf_loop's callback. */
static long add_piece(uint32_t number, struct __sk_buff **skb)
{
    struct desk *desk = my_desk();
    uint32_t size;
    (void)number;
    if (!desk)
        return 1;
    size = desk->left;
    if (size >= PIECE) {
        if (bpf_skb_load_bytes(*skb, desk->at, desk->piece, PIECE))
            return 1;
        desk->total = bpf_csum_diff(NULL, 0, desk->piece, PIECE, desk->total);
        desk->at += PIECE;
        desk->left -= PIECE;
        return 0;
    }
    size &= PIECE - 1;
    if (!size)
        return 1;
    desk->piece[(size - 1) / 4] = 0;
    if (bpf_skb_load_bytes(*skb, desk->at, desk->piece, size))
        return 1;
    desk->total = bpf_csum_diff(NULL, 0, desk->piece, (size + 3) & ~3, desk->total);
    desk->left = 0;
    return 1;
}

/* Whether the checksum is right: as the device says, or as the kernel's sum of the packet does, or as it comes to. */
static __noinline int sum_is_right(struct __sk_buff *skb, struct desk *desk)
{
    const struct relay_headers *headers = &desk->original.headers;
    int64_t whole;
    if (bpf_csum_level(skb, BPF_CSUM_LEVEL_QUERY) >= 0)
        return 1;
    whole = bpf_csum_update(skb, 0);
    if (whole >= 0 && fold((uint64_t)(uint32_t)whole + pseudo_sum(headers)) == 0xffff)
        return 1; /* a right IP header comes to nothing */
    desk->at = UDP_AT;
    desk->left = bpf_ntohs(headers->length);
    desk->total = 0;
    bpf_loop(PIECES, add_piece, &skb, 0);
    return !desk->left && fold((uint64_t)desk->total + pseudo_sum(headers)) == 0xffff;
}

/* The frame `to` instead of what the packet has of it. */
static __always_inline long rewrite(struct __sk_buff *skb, struct desk *desk, const struct frame *to)
{
    const struct relay_headers *headers = &to->headers;
    uint64_t change;
    if (desk->complete) {
        change = (uint64_t)ports_of(headers) + length_and_checksum_of(headers) + (uint32_t)~desk->ports
            + (uint32_t)~desk->length_and_checksum;
        bpf_csum_update(skb, fold(change));
        desk->ports = ports_of(headers);
        desk->length_and_checksum = length_and_checksum_of(headers);
    }
    return bpf_skb_store_bytes(skb, 0, to->macs, HEADERS, 0);
}

/* What an output makes of the packet. */
static __always_inline void address(struct desk *desk, const struct relay_output *output)
{
    const struct relay_headers *from = &desk->original.headers;
    struct relay_headers *to = &desk->next.headers;
    uint32_t checksum;
    __builtin_memcpy(desk->next.macs, output->macs, MACS);
    desk->next.ethertype = desk->original.ethertype;
    to->version = from->version;
    to->tos = output->keep_dscp ? from->tos & ~ECN : output->tos;
    to->total = from->total;
    to->id = from->id;
    to->fragment = from->fragment | (output->df ? bpf_htons(DONT_FRAGMENT) : 0);
    to->ttl = output->ttl;
    to->protocol = PROTOCOL_UDP;
    to->checksum = 0;
    to->source = output->source;
    to->group = output->group;
    to->source_port = output->source_port;
    to->port = output->port;
    to->length = from->length;
    to->checksum = (uint16_t)~fold(header_sum(to));
    if (desk->device) {
        to->udp_checksum = (uint16_t)pseudo_sum(to);
    } else if (!from->udp_checksum) {
        to->udp_checksum = 0;
    } else { /* RFC 1624, eqn. 3 */
        checksum = (uint16_t)~fold(desk->rest + addresses_of(to) + ports_of(to));
        to->udp_checksum = checksum ? checksum : 0xffff;
    }
}

/* Without branches: the verifier of a loader without CAP_PERFMON wants an address computed in one way. */
static __noinline int count_failed(struct relay_output_counters *to, uint64_t datagrams, long code)
{
    uint64_t full = -(uint64_t)(code == XMIT_DROP || code == XMIT_CN);
    uint64_t down = -(uint64_t)(code == -ENETDOWN);
    uint64_t parked = -(uint64_t)(code == PARKED);
    to->errors[SEND_NOBUFS] += datagrams & full;
    to->errors[SEND_NETDOWN] += datagrams & down;
    to->errors[SEND_PARKED] += datagrams & parked;
    to->errors[SEND_OTHER] += datagrams & ~(full | down | parked);
    return 0;
}

/* Sends a copy by an output; says whether there is such a one. */
static __noinline int send_by(struct __sk_buff *skb, struct desk *desk, uint32_t number)
{
    struct relay_output_counters *to;
    struct relay_output *output;
    long code = PARKED;
    desk->index = desk->rule.first_output + number;
    output = bpf_map_lookup_elem(&outputs, &desk->index);
    if (!output)
        return 0;
    if (output->ifindex) {
        address(desk, output);
        code = rewrite(skb, desk, &desk->next);
        if (!code)
            code = bpf_clone_redirect(skb, output->ifindex, 0);
    }
    to = bpf_map_lookup_elem(&sent, &output->counters);
    if (!to)
        return 0;
    if (code) {
        count_failed(to, desk->datagrams, code);
        return 1;
    }
    to->tx_packets += desk->datagrams;
    to->tx_bytes += desk->size;
    return 1;
}

/* bpf_loop's callback, for the outputs after the first. */
static long send_copy(uint32_t number, struct __sk_buff **skb)
{
    struct desk *desk = my_desk();
    return !desk || !send_by(*skb, desk, number + 1);
}

static __noinline int send_others(struct __sk_buff *skb, struct desk *desk)
{
    bpf_loop(desk->rule.output_count - 1, send_copy, &skb, 0);
    return 0;
}

static __always_inline void count_received(struct desk *desk)
{
    struct relay_link_counters *link = bpf_map_lookup_elem(&frames, &desk->rule.link);
    struct relay_input_counters *counters;
    if (!link)
        return;
    link->taken += 1;
    counters = bpf_map_lookup_elem(&received, &desk->rule.counters);
    if (!counters)
        return;
    counters->rx_packets += desk->datagrams;
    counters->rx_bytes += desk->size;
    counters->last_packet_ns = desk->now_ns;
}

static __noinline int count_malformed(struct desk *desk)
{
    struct relay_link_counters *link = bpf_map_lookup_elem(&frames, &desk->rule.link);
    if (link)
        link->malformed += 1;
    return 0;
}

/* What all outputs of a packet have in common. */
static __always_inline void prepare(struct __sk_buff *skb, struct desk *desk)
{
    const struct relay_headers *headers = &desk->original.headers;
    uint32_t size = bpf_ntohs(headers->length) - UDP_BYTES;
    desk->size = size;
    desk->datagrams = 1;
    if (skb->gso_size)
        desk->datagrams = skb->gso_segs ? skb->gso_segs : (size + skb->gso_size - 1) / skb->gso_size;
    desk->complete = !desk->device && bpf_csum_update(skb, 0) >= 0;
    desk->ports = ports_of(headers);
    desk->length_and_checksum = length_and_checksum_of(headers);
    desk->rest = (uint64_t)(uint16_t)~headers->udp_checksum + (uint32_t)~headers->source + (uint32_t)~headers->group
        + (uint32_t)~desk->ports;
}

SEC("tc")
int relay(struct __sk_buff *skb)
{
    struct desk *desk;
    if (!may_be_ours(skb))
        return PASS;
    desk = my_desk();
    if (!desk || bpf_skb_load_bytes(skb, 0, desk->original.macs, HEADERS))
        return PASS;
    if (decision_on(skb, desk) != DECIDED_KERNEL)
        return PASS;
    desk->device = left_to_device(skb, desk);
    if (!desk->device && desk->original.headers.udp_checksum && !sum_is_right(skb, desk)) {
        count_malformed(desk);
        return PASS;
    }
    prepare(skb, desk);
    count_received(desk);
    send_by(skb, desk, 0);
    if (desk->rule.output_count > 1)
        send_others(skb, desk);
    if (desk->rule.flags & RULE_EXCLUSIVE)
        return DROP;
    rewrite(skb, desk, &desk->original);
    return PASS;
}

const char licence[] SEC("license") = "Apache-2.0";
