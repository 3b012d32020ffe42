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
#include "copies.bpf.h"
#include "decide.bpf.h"

enum {
    ETHERTYPE_CTAG = 0x8100, ETHERTYPE_STAG = 0x88a8,
    MULTICAST = 0xe0, MULTICAST_MASK = 0xf0, MULTICAST_SIX = 0xff,
    PROTOCOL_AT = 23, GROUP_AT = 30, PROTOCOL_SIX_AT = 20, GROUP_SIX_AT = 38,
    OUTGOING = 4,                           /* PACKET_OUTGOING of linux/if_packet.h */
    WHOLE_FRAME = 0x40000,
    PASS = -1, DROP = 2,                    /* TCX_NEXT, TCX_DROP of linux/bpf.h since 6.6 */
};

/* Classic BPF's loads, which the kernel inlines; beyond a frame's end they end the program with 0 (bpf_gen_ld_abs). */
unsigned long long load_byte(void *skb, unsigned long long at) asm("llvm.bpf.load.byte");
unsigned long long load_half(void *skb, unsigned long long at) asm("llvm.bpf.load.half");
unsigned long long load_word(void *skb, unsigned long long at) asm("llvm.bpf.load.word");

/* The entry of the group that an IPv6 packet at `at` goes to, if it may have UDP in it: MLD, which goes to the groups
 * themselves behind options for every hop, has none. What stands there is in `decided_six`. */
static __noinline struct relay_group *group_at_six(struct __sk_buff *skb, struct desk *desk, uint32_t at)
{
    struct relay_headers_six *headers = &desk->decided_six;
    if (bpf_skb_load_bytes(skb, at, headers, IPV6_BYTES))
        return NULL;
    if (headers->protocol != PROTOCOL_UDP && headers->protocol != FRAGMENT_HEADER) {
        if (!is_extension(headers->protocol) || bpf_skb_load_bytes(skb, at + IPV6_BYTES, desk->piece, 1))
            return NULL;
        if (*(const uint8_t *)desk->piece == ICMP_SIX)
            return NULL;
    }
    return group_of_six(skb, desk, headers->group);
}

/* Whether a frame with a second tag in it is UDP to a group that the ring lets in. */
static __noinline int concerns_us_behind(struct __sk_buff *skb, struct desk *desk)
{
    const uint8_t *tagged = (const uint8_t *)desk->piece;
    const struct relay_group *group = NULL;
    if (bpf_skb_load_bytes(skb, ETHERTYPE_AT, desk->piece, GROUP_AT + TAG + 4 - ETHERTYPE_AT))
        return 0;
    if (tagged[4] == ETHERTYPE_IPV6 >> 8 && tagged[5] == (ETHERTYPE_IPV6 & 0xff))
        group = group_at_six(skb, desk, IP_AT + TAG);
    else if (tagged[4] == ETHERTYPE_IPV4 >> 8 && !tagged[5] && tagged[PROTOCOL_AT + TAG - ETHERTYPE_AT] == PROTOCOL_UDP)
        group = group_of(skb, desk, bpf_ntohl(*(uint32_t *)(tagged + GROUP_AT + TAG - ETHERTYPE_AT)));
    return group && group->let_in;
}

static __noinline int filter_six(struct __sk_buff *skb, struct desk *desk)
{
    const struct relay_group *group = group_at_six(skb, desk, IP_AT);
    if (!group)
        return 0;
    if (bpf_skb_load_bytes(skb, UDP_SIX_AT, &desk->decided_six.source_port, UDP_BYTES))
        return group->let_in ? WHOLE_FRAME : 0;
    desk->ifindex = skb->ifindex;
    desk->about_six = 1;
    desk->answer = decide_six(skb, desk, group);
    return desk->answer != DECIDED_KERNEL && group->let_in ? WHOLE_FRAME : 0;
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
        if (ethertype == ETHERTYPE_IPV6)
            return filter_six(skb, desk);
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
    desk->about_six = 0;
    desk->answer = decide_four(skb, desk, group);
    return desk->answer != DECIDED_KERNEL && group->let_in ? WHOLE_FRAME : 0;
}

/* Says no to what is none of ours without a call. */
static __always_inline int may_be_ours(const struct __sk_buff *skb, const int six)
{
    const uint8_t *data = (const uint8_t *)(long)skb->data;
    const uint8_t *end = (const uint8_t *)(long)skb->data_end;
    if (data + (six ? UDP_SIX_AT : UDP_AT) > end) /* the headers lie in page fragments */
        return 1;
    if (six)
        return data[PROTOCOL_SIX_AT] == PROTOCOL_UDP && data[GROUP_SIX_AT] == MULTICAST_SIX;
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
    return decide_four(skb, desk, group);
}

static __noinline int decide_here_six(struct __sk_buff *skb, struct desk *desk)
{
    struct relay_group *group;
    if (desk->original_six.headers.protocol != PROTOCOL_UDP)
        return DECIDED_RING;
    group = group_of_six(skb, desk, desk->original_six.headers.group);
    if (!group)
        return DECIDED_RING;
    desk->decided_six = desk->original_six.headers;
    return decide_six(skb, desk, group);
}

/* Whether `filter` has decided about this very packet. */
static __noinline int is_decided(struct desk *desk)
{
    const uint32_t *was = (const uint32_t *)&desk->decided, *is = (const uint32_t *)&desk->original.headers;
    return was[0] == is[0] && was[1] == is[1] && was[2] == is[2] && was[3] == is[3] && was[4] == is[4]
        && was[5] == is[5] && was[6] == is[6];
}

static __noinline int is_decided_six(struct desk *desk)
{
    const uint32_t *was = (const uint32_t *)&desk->decided_six, *is = (const uint32_t *)&desk->original_six.headers;
    return was[0] == is[0] && was[1] == is[1] && was[2] == is[2] && was[3] == is[3] && was[4] == is[4]
        && was[5] == is[5] && was[6] == is[6] && was[7] == is[7] && was[8] == is[8] && was[9] == is[9]
        && was[10] == is[10] && was[11] == is[11];
}

static __always_inline int decision_on(struct __sk_buff *skb, struct desk *desk, const int six)
{
    uint32_t answer = desk->answer;
    desk->answer = DECIDED_NOTHING;
    if (answer != DECIDED_NOTHING && desk->ifindex == skb->ifindex && desk->about_six == (uint32_t)six
        && (six ? is_decided_six(desk) : is_decided(desk)))
        return answer;
    return six ? decide_here_six(skb, desk) : decide_here(skb, desk);
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
    return PASS;
}

/* What all outputs of a packet have in common; `length` and `checksum` are of its UDP header. */
static __always_inline void prepare(struct __sk_buff *skb, struct desk *desk, uint32_t length, uint32_t checksum, const int six)
{
    uint32_t size = bpf_ntohs(length) - UDP_BYTES;
    desk->size = size;
    desk->datagrams = 1;
    if (skb->gso_size)
        desk->datagrams = skb->gso_segs ? skb->gso_segs : (size + skb->gso_size - 1) / skb->gso_size;
    desk->is_six = six;
    desk->complete = !desk->device && bpf_csum_update(skb, 0) >= 0;
    desk->rest = (uint16_t)~checksum;
}

/* Writes down what an IPv4 packet would say in this one's place, but for the addresses. Only who sends one needs an
 * identification: there is one for each datagram, because each may be cut on its way (RFC 791). */
static __noinline int stand_in(struct desk *desk)
{
    const struct relay_headers_six *from = &desk->original_six.headers;
    struct relay_headers *to = &desk->original.headers;
    struct relay_flow *flow;
    to->tos = (uint8_t)(bpf_ntohl(from->first) >> 20);
    to->total = bpf_htons(IPV4_BYTES + bpf_ntohs(from->length));
    to->fragment = 0;
    to->length = from->length;
    to->udp_checksum = from->udp_checksum;
    if (!(desk->rule.flags & RULE_CROSSES))
        return 0;
    flow = bpf_map_lookup_elem(&flows, &desk->rule.flow);
    if (flow)
        to->id = bpf_htons((uint16_t)__sync_fetch_and_add(&flow->id, desk->datagrams));
    return 0;
}

static __always_inline int send(struct __sk_buff *skb, struct desk *desk)
{
    count_received(desk);
    send_by(skb, desk, 0);
    if (desk->rule.output_count > 1)
        send_others(skb, desk);
    return desk->rule.flags & RULE_EXCLUSIVE;
}

static __always_inline int relay_four(struct __sk_buff *skb)
{
    struct desk *desk = my_desk();
    const struct relay_headers *headers;
    if (!desk || bpf_skb_load_bytes(skb, 0, desk->original.macs, FRAME_BYTES))
        return PASS;
    if (decision_on(skb, desk, 0) != DECIDED_KERNEL)
        return PASS;
    headers = &desk->original.headers;
    desk->device = left_to_device(skb, desk);
    if (!desk->device && headers->udp_checksum && !sum_is_right(skb, desk))
        return count_malformed(desk);
    prepare(skb, desk, headers->length, headers->udp_checksum, 0);
    desk->rest += (uint64_t)(uint32_t)~headers->source + (uint32_t)~headers->group + (uint32_t)~ports_of(&headers->source_port);
    if (desk->complete)
        desk->covered = fold(share_of(headers));
    if (send(skb, desk))
        return DROP;
    rewrite(skb, desk, &desk->original);
    return PASS;
}

static __noinline int relay_six(struct __sk_buff *skb)
{
    struct desk *desk = my_desk();
    const struct relay_headers_six *headers;
    if (!desk || bpf_skb_load_bytes(skb, 0, desk->original_six.macs, FRAME_SIX_BYTES))
        return PASS;
    if (decision_on(skb, desk, 1) != DECIDED_KERNEL)
        return PASS;
    headers = &desk->original_six.headers;
    desk->device = left_to_device_six(skb, desk);
    if (!desk->device && !sum_is_right_six(skb, desk))
        return count_malformed(desk);
    prepare(skb, desk, headers->length, headers->udp_checksum, 1);
    desk->rest += without(addresses_of_six(headers)) + (uint32_t)~ports_of(&headers->source_port);
    if (desk->complete)
        desk->covered = fold(share_of_six(headers));
    stand_in(desk);
    if (send(skb, desk))
        return DROP;
    rewrite_six(skb, desk, &desk->original_six);
    return PASS;
}

SEC("tc")
int relay(struct __sk_buff *skb)
{
    if (skb->protocol == bpf_htons(ETHERTYPE_IPV4))
        return may_be_ours(skb, 0) ? relay_four(skb) : PASS;
    if (skb->protocol == bpf_htons(ETHERTYPE_IPV6))
        return may_be_ours(skb, 1) ? relay_six(skb) : PASS;
    return PASS;
}

const char licence[] SEC("license") = "Apache-2.0";
