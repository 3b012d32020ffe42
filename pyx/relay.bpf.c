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
#include "classify.bpf.h"

enum {
    ETHERTYPE_CTAG = 0x8100, ETHERTYPE_STAG = 0x88a8, DONT_FRAGMENT = 0x4000, ECN = 3,
    MULTICAST = 0xe0, MULTICAST_MASK = 0xf0, MULTICAST_SIX = 0xff,
    PROTOCOL_AT = 23, GROUP_AT = 30, PROTOCOL_SIX_AT = 20, GROUP_SIX_AT = 38,
    OUTGOING = 4,                           /* PACKET_OUTGOING of linux/if_packet.h */
    WHOLE_FRAME = 0x40000,
    PASS = -1, DROP = 2,                    /* TCX_NEXT, TCX_DROP of linux/bpf.h since 6.6 */
    SEND_NOBUFS = 0, SEND_NETDOWN = 1, SEND_PARKED = 8, SEND_OTHER = 9,
    XMIT_DROP = 1, XMIT_CN = 2,             /* NET_XMIT_* of linux/netdevice.h */
    ENETDOWN = 100, PARKED = 0x7fff,        /* neither of the kernel's */
};
enum { DECIDED_NOTHING = 0, DECIDED_RING = 1, DECIDED_KERNEL = 2 };
#define SILENT_NS 100000000ULL              /* as ROUND_NS of repeats.pxd; longer than the ring holds anything */

/* Classic BPF's loads, which the kernel inlines; beyond a frame's end they end the program with 0 (bpf_gen_ld_abs). */
unsigned long long load_byte(void *skb, unsigned long long at) asm("llvm.bpf.load.byte");
unsigned long long load_half(void *skb, unsigned long long at) asm("llvm.bpf.load.half");
unsigned long long load_word(void *skb, unsigned long long at) asm("llvm.bpf.load.word");

/* Whether the rule's datagrams go by the program: all of them do, from the first after a silence, until one comes that
 * it cannot treat; then the ring has them until the rule is silent again. So none overtakes another on the way. The
 * same for a second source, which may be a relay that sends our datagrams back: only the ring knows how to end that. */
static __always_inline int steady(struct desk *desk, int fit, uint64_t source_high, uint64_t source_low)
{
    struct relay_flow *flow = bpf_map_lookup_elem(&flows, &desk->rule.flow);
    uint64_t last;
    if (!flow)
        return 0;
    last = flow->last_ns;
    if (last != desk->now_ns)
        flow->last_ns = desk->now_ns;
    if (desk->now_ns > last + SILENT_NS) {
        flow->source_low = 0;
        flow->held = 0;
    }
    if (flow->held)
        return 0;
    if (desk->rule.flags & RULE_ANY_SOURCE) {
        if (!flow->source_low) {
            flow->source_high = source_high; /* first: another CPU may look */
            flow->source_low = source_low;
        } else if (flow->source_low != source_low || flow->source_high != source_high) {
            fit = 0;
        }
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

static __noinline int find_among_several_six(struct desk *desk, uint32_t kind)
{
    const struct relay_rule *rule = NULL;
    desk->key_six.ifindex = desk->group_six.ifindex;
    copy_address(desk->key_six.group, desk->group_six.group);
    desk->key_six.port = desk->port;
    if (kind == GROUP_NAMED) {
        copy_address(desk->key_six.source, desk->decided_six.source);
        rule = bpf_map_lookup_elem(&rules_six, &desk->key_six);
    }
    if (!rule) {
        __builtin_memset(desk->key_six.source, 0, sizeof(desk->key_six.source));
        rule = bpf_map_lookup_elem(&rules_six, &desk->key_six);
    }
    if (!rule)
        return 0;
    desk->rule = *rule;
    return 1;
}

static __always_inline int is_from(const struct desk *desk, const struct relay_group *group, const int six)
{
    const uint32_t *source = desk->decided_six.source;
    if (!six)
        return group->source[0] == bpf_ntohl(desk->decided.source);
    return group->source[0] == source[0] && group->source[1] == source[1] && group->source[2] == source[2]
        && group->source[3] == source[3];
}

/* The rule that the program takes a datagram by; it is on the desk then. */
static __always_inline int find(struct desk *desk, const struct relay_group *group, const int six)
{
    if (group->kind == GROUP_NONE)
        return 0;
    if (group->kind != GROUP_ONE)
        return six ? find_among_several_six(desk, group->kind) : find_among_several(desk, group->kind);
    if (group->port != desk->port || (group->named && !is_from(desk, group, six)))
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

static __noinline int sent_by_us_six(struct desk *desk)
{
    copy_address(desk->own_six.source, desk->decided_six.source);
    copy_address(desk->own_six.group, desk->decided_six.group);
    desk->own_six.source_port = bpf_ntohs(desk->decided_six.source_port);
    desk->own_six.port = bpf_ntohs(desk->decided_six.port);
    return bpf_map_lookup_elem(&own_six, &desk->own_six) != NULL;
}

/* Who takes the packet whose headers are in `decided` or `decided_six`; by which rule is on the desk then. */
static __always_inline int decide(struct __sk_buff *skb, struct desk *desk, const struct relay_group *group, const int six)
{
    uint64_t tick;
    uint32_t size;
    int kind = six ? classify_six(skb, desk) : classify(skb, desk);
    if (kind == NO_DATAGRAM || !find(desk, group, six))
        return DECIDED_RING;
    if (desk->rule.flags & RULE_OWN && kind == FIT && (six ? sent_by_us_six(desk) : sent_by_us(desk)))
        return DECIDED_RING;
    tick = bpf_jiffies64();
    if (tick != desk->tick) {
        desk->tick = tick;
        desk->now_ns = bpf_ktime_get_coarse_ns();
    }
    size = skb->gso_size ? skb->gso_size : bpf_ntohs(six ? desk->decided_six.length : desk->decided.length) - UDP_BYTES;
    if (size > desk->rule.payload_max || (skb->gso_size && !(desk->rule.flags & RULE_WHOLE)))
        kind = UNFIT;
    if (!six && desk->rule.flags & RULE_CROSSES && !desk->decided.udp_checksum) /* IPv6 has to have one */
        kind = UNFIT;
    if (six)
        return steady(desk, kind == FIT, (uint64_t)desk->decided_six.source[0] << 32 | desk->decided_six.source[1],
                      (uint64_t)desk->decided_six.source[2] << 32 | desk->decided_six.source[3])
            ? DECIDED_KERNEL : DECIDED_RING;
    return steady(desk, kind == FIT, 0, desk->decided.source) ? DECIDED_KERNEL : DECIDED_RING;
}

static __noinline int decide_four(struct __sk_buff *skb, struct desk *desk, const struct relay_group *group)
{
    return decide(skb, desk, group, 0);
}

static __noinline int decide_six(struct __sk_buff *skb, struct desk *desk, const struct relay_group *group)
{
    return decide(skb, desk, group, 1);
}

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

/* Makes a packet of the other family; its IP header is then to be written. Towards IPv4 the kernel takes the first bytes
 * of the header out of its sum of the packet, and towards IPv6 puts in zeros (bpf_skb_change_proto). */
static __noinline int cross(struct __sk_buff *skb, struct desk *desk, int six)
{
    const uint32_t *gone = desk->piece;
    long code;
    if (!six && desk->complete && bpf_skb_load_bytes(skb, IP_AT, desk->piece, IPV6_BYTES - IPV4_BYTES))
        return -1;
    code = bpf_skb_change_proto(skb, bpf_htons(six ? ETHERTYPE_IPV6 : ETHERTYPE_IPV4), 0);
    if (code)
        return -1;
    desk->is_six = six;
    if (!six && desk->complete)
        desk->covered = fold((uint64_t)desk->covered + (uint32_t)~gone[0] + (uint32_t)~gone[1] + (uint32_t)~gone[2]
            + (uint32_t)~gone[3] + (uint32_t)~gone[4]);
    return 0;
}

/* Has the kernel's sum of the packet follow the headers that come into it. */
static __noinline int cover(struct __sk_buff *skb, struct desk *desk, uint64_t share)
{
    uint32_t covered = fold(share);
    bpf_csum_update(skb, fold((uint64_t)covered + (uint16_t)~desk->covered));
    desk->covered = covered;
    return 0;
}

/* The frame `to` instead of what the packet has of it. */
static __always_inline long rewrite(struct __sk_buff *skb, struct desk *desk, const struct frame *to)
{
    if (desk->is_six && cross(skb, desk, 0))
        return -1;
    if (desk->complete)
        cover(skb, desk, share_of(&to->headers));
    return bpf_skb_store_bytes(skb, 0, to->macs, FRAME_BYTES, 0);
}

static __always_inline long rewrite_six(struct __sk_buff *skb, struct desk *desk, const struct frame_six *to)
{
    if (!desk->is_six && cross(skb, desk, 1))
        return -1;
    if (desk->complete)
        cover(skb, desk, share_of_six(&to->headers));
    return bpf_skb_store_bytes(skb, 0, to->macs, FRAME_SIX_BYTES, 0);
}

/* What an output of IPv4 makes of the packet. */
static __always_inline void address(struct desk *desk, const struct relay_output *output)
{
    const struct relay_headers *from = &desk->original.headers;
    struct relay_headers *to = &desk->next.headers;
    __builtin_memcpy(desk->next.macs, output->macs, MACS);
    desk->next.ethertype = bpf_htons(ETHERTYPE_IPV4);
    to->version = PLAIN_HEADER;
    to->tos = output->keep_dscp ? from->tos & ~ECN : output->tos;
    to->total = from->total;
    to->id = from->id;
    to->fragment = from->fragment | (output->df ? bpf_htons(DONT_FRAGMENT) : 0);
    to->ttl = output->ttl;
    to->protocol = PROTOCOL_UDP;
    to->checksum = 0;
    to->source = output->source[0];
    to->group = output->group[0];
    to->source_port = output->source_port;
    to->port = output->port;
    to->length = from->length;
    to->checksum = (uint16_t)~fold(header_sum(to));
    if (desk->device)
        to->udp_checksum = (uint16_t)pseudo_sum(to);
    else if (!from->udp_checksum)
        to->udp_checksum = 0;
    else
        to->udp_checksum = changed_checksum(desk->rest, addresses_of(to) + ports_of(&to->source_port));
}

/* What one of IPv6 makes of it: flow label 0, as the ring's. */
static __always_inline void address_six(struct desk *desk, const struct relay_output *output)
{
    const struct relay_headers *from = &desk->original.headers;
    struct relay_headers_six *to = &desk->next_six.headers;
    uint32_t traffic_class = output->keep_dscp ? from->tos & ~ECN : output->tos;
    __builtin_memcpy(desk->next_six.macs, output->macs, MACS);
    desk->next_six.ethertype = bpf_htons(ETHERTYPE_IPV6);
    to->first = VERSION_6 | bpf_htonl(traffic_class << 20);
    to->payload = from->length;
    to->protocol = PROTOCOL_UDP;
    to->hops = output->ttl;
    copy_address(to->source, output->source);
    copy_address(to->group, output->group);
    to->source_port = output->source_port;
    to->port = output->port;
    to->length = from->length;
    if (desk->device)
        to->udp_checksum = (uint16_t)pseudo_sum_six(to);
    else
        to->udp_checksum = changed_checksum(desk->rest, addresses_of_six(to) + ports_of(&to->source_port));
}

static __noinline int become_six(struct __sk_buff *skb, struct desk *desk, const struct relay_output *output)
{
    address_six(desk, output);
    return rewrite_six(skb, desk, &desk->next_six);
}

static __always_inline long become_four(struct __sk_buff *skb, struct desk *desk, const struct relay_output *output)
{
    address(desk, output);
    return rewrite(skb, desk, &desk->next);
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
        code = output->is_six ? become_six(skb, desk, output) : become_four(skb, desk, output);
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
