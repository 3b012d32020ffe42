/* The kernel engine: an eBPF program on the tcx ingress hook of an input link, and the filter of the ring beside it.
 *
 * The packet socket's tap comes before the hook (net/core/dev.c, __netif_receive_skb_core), on the same CPU and with
 * bottom halves off, so for each packet `filter` runs first and `relay` second. `filter` decides, once, who takes the
 * packet, and leaves the answer for `relay`: a rule that changes in between is then not forwarded twice, nor by nobody.
 * `relay` decides for itself only where no ring listens: while the process is away. Both read the packet through
 * helpers alone: its headers may lie in page fragments.
 */
#include <stddef.h>
#include <stdint.h>
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "relay.h"

enum {
    ETHERTYPE_IPV4 = 0x0800, ETHERTYPE_CTAG = 0x8100, ETHERTYPE_STAG = 0x88a8, PROTOCOL_UDP = 17, VID_MASK = 0x0fff,
    MORE_FRAGMENTS_OR_OFFSET = 0x3fff, DONT_FRAGMENT = 0x40, ECN = 3,
    ETHERTYPE_AT = 12, IP_AT = 14, PROTOCOL_AT = 23, GROUP_AT = 30, UDP_AT = 34, UDP_SUM_AT = 40, TAG = 4,
    MACS = 12, IPV4_BYTES = 20, UDP_BYTES = 8, HEADERS = 42, HEADERS_WORDS = 7,
    OUTGOING = 4,                           /* PACKET_OUTGOING of linux/if_packet.h */
    WHOLE_FRAME = 0x40000,
    PASS = -1, DROP = 2,                    /* TCX_NEXT, TCX_DROP of linux/bpf.h since 6.6 */
    SEND_NOBUFS = 0, SEND_NETDOWN = 1, SEND_PARKED = 8, SEND_OTHER = 9,
    XMIT_DROP = 1, XMIT_CN = 2,             /* NET_XMIT_* of linux/netdevice.h */
    ENETDOWN = 100, PARKED = 0x7fff,        /* neither of the kernel's */
};
#define SILENT_NS 100000000ULL              /* as ROUND_NS of repeats.pxd; longer than the ring holds anything */

#define TABLE(NAME, KEY, VALUE) \
    struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 1); __uint(map_flags, BPF_F_NO_PREALLOC); \
             __type(key, KEY); __type(value, VALUE); } NAME SEC(".maps")
#define ARRAY(NAME, TYPE, VALUE) \
    struct { __uint(type, TYPE); __uint(max_entries, 1); __type(key, uint32_t); __type(value, VALUE); } NAME SEC(".maps")
TABLE(groups, struct relay_group, uint32_t);
TABLE(rules, struct relay_key, struct relay_rule);
TABLE(own, struct relay_own, uint32_t);
ARRAY(outputs, BPF_MAP_TYPE_ARRAY, struct relay_output);
ARRAY(flows, BPF_MAP_TYPE_ARRAY, struct relay_flow);
ARRAY(received, BPF_MAP_TYPE_PERCPU_ARRAY, struct relay_input_counters);
ARRAY(sent, BPF_MAP_TYPE_PERCPU_ARRAY, struct relay_output_counters);
ARRAY(frames, BPF_MAP_TYPE_PERCPU_ARRAY, uint64_t);
ARRAY(decided, BPF_MAP_TYPE_PERCPU_ARRAY, struct relay_decision);

struct packet {
    uint8_t unused[2]; /* so that the IP header is aligned */
    uint8_t head[HEADERS];
    struct relay_key key;
    uint32_t source, size, datagrams;
    uint32_t fit; /* the program can treat it, as far as its headers say */
};

static __always_inline uint16_t half(const uint8_t *at) { return (uint16_t)(at[0] << 8 | at[1]); }
static __always_inline uint32_t word(const uint8_t *at) { return (uint32_t)half(at) << 16 | half(at + 2); }
static __always_inline void put_half(uint8_t *at, uint16_t v) { at[0] = v >> 8; at[1] = (uint8_t)v; }
static __always_inline void put_word(uint8_t *at, uint32_t v) { put_half(at, v >> 16); put_half(at + 2, (uint16_t)v); }

static __always_inline uint32_t fold(uint32_t total)
{
    total = (total & 0xffff) + (total >> 16);
    return (total & 0xffff) + (total >> 16);
}

/* RFC 1071, of an even number of bytes; not folded. */
static __always_inline uint32_t sum(const uint8_t *at, int bytes)
{
    uint32_t total = 0;
#pragma unroll
    for (int i = 0; i < bytes; i += 2)
        total += half(at + i);
    return total;
}

/* What a sender that left the checksum to its device has in the field (RFC 768's pseudo header). */
static __always_inline uint32_t pseudo_sum(const uint8_t *head)
{
    return fold(sum(head + IP_AT + 12, 8) + PROTOCOL_UDP + half(head + UDP_AT + 4));
}

static __always_inline int load(struct __sk_buff *skb, struct packet *packet)
{
    return !bpf_skb_load_bytes(skb, 0, packet->head, HEADERS);
}

/* Says whether it is a whole datagram, as `parse` of wire.pxd does; `key` and `source` then tell whose it may be. */
static __always_inline int read_packet(struct __sk_buff *skb, struct packet *packet, int loaded)
{
    uint8_t ends[UDP_BYTES];
    uint32_t header, total, length;
    const uint8_t *head = packet->head;
    if (!loaded || half(head + ETHERTYPE_AT) != ETHERTYPE_IPV4)
        return 0;
    if (head[IP_AT] >> 4 != 4 || head[IP_AT + 9] != PROTOCOL_UDP || half(head + IP_AT + 6) & MORE_FRAGMENTS_OR_OFFSET)
        return 0;
    if (skb->vlan_present && skb->vlan_tci & VID_MASK)
        return 0;
    header = (head[IP_AT] & 15) * 4;
    total = half(head + IP_AT + 2);
    if (header < IPV4_BYTES || total < header + UDP_BYTES || total > skb->len - IP_AT)
        return 0;
    if (header == IPV4_BYTES)
        __builtin_memcpy(ends, head + UDP_AT, UDP_BYTES);
    else if (bpf_skb_load_bytes(skb, IP_AT + header, ends, UDP_BYTES))
        return 0;
    length = half(ends + 4);
    if (length < UDP_BYTES || length > total - header)
        return 0;
    packet->key.ifindex = skb->ifindex;
    packet->key.group = word(head + IP_AT + 16);
    packet->key.port = half(ends + 2);
    packet->source = word(head + IP_AT + 12);
    packet->size = length - UDP_BYTES;
    packet->datagrams = 1;
    packet->fit = header == IPV4_BYTES && length == total - header && !skb->vlan_present && packet->source;
    if (header == IPV4_BYTES && fold(sum(head + IP_AT, IPV4_BYTES)) != 0xffff)
        return 0;
    if (skb->gso_size) {
        packet->datagrams = skb->gso_segs ? skb->gso_segs : (packet->size + skb->gso_size - 1) / skb->gso_size;
        /* Else it is a list of whole datagrams, each with headers of its own (rx-gro-list). */
        if (half(head + UDP_SUM_AT) != pseudo_sum(head))
            packet->fit = 0;
    }
    return 1;
}

/* A named source before any, as `find` of demux.pxd. */
static __always_inline struct relay_rule *find(struct packet *packet)
{
    struct relay_rule *rule;
    packet->key.source = packet->source;
    rule = bpf_map_lookup_elem(&rules, &packet->key);
    if (!rule) {
        packet->key.source = 0;
        rule = bpf_map_lookup_elem(&rules, &packet->key);
    }
    return rule;
}

/* Whether the rule's datagrams go by the program: all of them do, from the first after a silence, until one comes that
 * it cannot treat; then the ring has them until the rule is silent again. So none overtakes another on the way. The
 * same for a second source, which may be a relay that sends our datagrams back: only the ring knows how to end that. */
static __always_inline int steady(const struct relay_rule *rule, const struct packet *packet, int fit)
{
    struct relay_flow *flow = bpf_map_lookup_elem(&flows, &rule->flow);
    uint64_t now = bpf_ktime_get_coarse_ns();
    uint64_t last;
    if (!flow)
        return 0;
    last = flow->last_ns;
    if (last != now)
        flow->last_ns = now;
    if (now > last + SILENT_NS) {
        flow->source = 0;
        flow->held = 0;
    }
    if (flow->held)
        return 0;
    if (rule->flags & RULE_ANY_SOURCE) {
        if (!flow->source)
            flow->source = packet->source;
        else if (flow->source != packet->source)
            fit = 0;
    }
    if (!fit)
        flow->held = 1;
    return fit;
}

static __always_inline uint32_t decide(
    struct __sk_buff *skb, struct packet *packet, struct relay_rule **found, int whole)
{
    struct relay_own by_us;
    struct relay_rule *rule;
    uint32_t size;
    int fit;
    if (!whole)
        return DECIDED_RING;
    rule = find(packet);
    if (!rule || rule->engine != ENGINE_KERNEL)
        return DECIDED_RING;
    by_us.source = packet->source;
    by_us.group = packet->key.group;
    by_us.source_port = half(packet->head + UDP_AT);
    by_us.port = (uint16_t)packet->key.port;
    if (packet->fit && bpf_map_lookup_elem(&own, &by_us))
        return DECIDED_RING;
    size = skb->gso_size ? skb->gso_size + IPV4_BYTES + UDP_BYTES : half(packet->head + IP_AT + 2);
    fit = packet->fit && size <= rule->size_max && (!skb->gso_size || rule->flags & RULE_WHOLE);
    if (!steady(rule, packet, fit))
        return DECIDED_RING;
    *found = rule;
    return DECIDED_KERNEL;
}

/* Whether the ring is to see a frame: IPv4 UDP to a group of a rule, also behind a second tag. */
static __always_inline int concerns_us(struct __sk_buff *skb, const struct packet *packet, int loaded)
{
    struct relay_group key = {.ifindex = skb->ifindex};
    const uint8_t *head = packet->head;
    uint8_t at[2], protocol;
    uint32_t tag = 0, group;
    if (loaded && half(head + ETHERTYPE_AT) == ETHERTYPE_IPV4) {
        key.group = word(head + GROUP_AT);
        return head[PROTOCOL_AT] == PROTOCOL_UDP && bpf_map_lookup_elem(&groups, &key) != NULL;
    }
    if (bpf_skb_load_bytes(skb, ETHERTYPE_AT, at, 2))
        return 0;
    if (half(at) == ETHERTYPE_CTAG || half(at) == ETHERTYPE_STAG) {
        tag = TAG;
        if (bpf_skb_load_bytes(skb, ETHERTYPE_AT + TAG, at, 2))
            return 0;
    }
    if (half(at) != ETHERTYPE_IPV4)
        return 0;
    if (bpf_skb_load_bytes(skb, PROTOCOL_AT + tag, &protocol, 1) || protocol != PROTOCOL_UDP)
        return 0;
    if (bpf_skb_load_bytes(skb, GROUP_AT + tag, &group, 4))
        return 0;
    key.group = bpf_ntohl(group);
    return bpf_map_lookup_elem(&groups, &key) != NULL;
}

SEC("socket")
int filter(struct __sk_buff *skb)
{
    uint32_t zero = 0, answer;
    struct relay_decision *decision;
    struct packet packet = {};
    struct relay_rule *rule;
    int loaded;
    if (skb->pkt_type == OUTGOING)
        return 0;
    decision = bpf_map_lookup_elem(&decided, &zero);
    if (!decision)
        return 0;
    decision->answer = DECIDED_NOTHING;
    loaded = load(skb, &packet);
    if (!concerns_us(skb, &packet, loaded))
        return 0;
    answer = decide(skb, &packet, &rule, read_packet(skb, &packet, loaded));
    decision->answer = answer;
    decision->source = packet.key.source;
    decision->ifindex = skb->ifindex;
    __builtin_memcpy(decision->headers, packet.head + IP_AT, HEADERS - IP_AT);
    return answer == DECIDED_KERNEL ? 0 : WHOLE_FRAME;
}

/* What `filter` has decided about this very packet, if it has seen it. */
static __always_inline uint32_t decided_before(const struct __sk_buff *skb, struct packet *packet)
{
    uint32_t zero = 0, answer;
    uint32_t differing = 0;
    const uint32_t *words = (const uint32_t *)(packet->head + IP_AT);
    struct relay_decision *decision = bpf_map_lookup_elem(&decided, &zero);
    if (!decision)
        return DECIDED_RING;
    answer = decision->answer;
    decision->answer = DECIDED_NOTHING;
    if (answer == DECIDED_NOTHING || decision->ifindex != skb->ifindex)
        return DECIDED_NOTHING;
#pragma unroll
    for (int i = 0; i < HEADERS_WORDS; i++)
        differing |= decision->headers[i] ^ words[i];
    if (differing)
        return DECIDED_NOTHING;
    packet->key.source = decision->source;
    return answer;
}

/* The headers in `to` instead of those in `from`, which the packet has now; the checksum by difference. `device`: the
 * field holds what a sender leaves for its device, or by chance looks so; only the helpers know which. */
static __always_inline long rewrite(struct __sk_buff *skb, const uint8_t *from, const uint8_t *to, int device)
{
    uint32_t before[3], after[3];
    int64_t addresses;
    if (!device) {
        if (bpf_skb_store_bytes(skb, 0, to, UDP_AT, 0))
            return -1;
        return bpf_skb_store_bytes(skb, UDP_AT, to + UDP_AT, UDP_BYTES, BPF_F_RECOMPUTE_CSUM);
    }
    __builtin_memcpy(before, from + IP_AT + 12, 12);
    __builtin_memcpy(after, to + IP_AT + 12, 12);
    addresses = bpf_csum_diff((__be32 *)before, 8, (__be32 *)after, 8, 0);
    if (bpf_l4_csum_replace(skb, UDP_SUM_AT, 0, (uint64_t)addresses, BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0))
        return -1;
    if (bpf_l4_csum_replace(skb, UDP_SUM_AT, before[2], after[2], BPF_F_MARK_MANGLED_0 | 4))
        return -1;
    return bpf_skb_store_bytes(skb, 0, to, UDP_AT + 4, 0);
}

static __always_inline void address(uint8_t *to, const uint8_t *from, const struct relay_output *output)
{
    uint32_t checksum;
    __builtin_memcpy(to, from, HEADERS);
    __builtin_memcpy(to, output->macs, MACS);
    to[IP_AT + 1] = output->keep_dscp ? from[IP_AT + 1] & ~ECN : output->tos;
    to[IP_AT + 6] = from[IP_AT + 6] | (output->df ? DONT_FRAGMENT : 0);
    to[IP_AT + 8] = output->ttl;
    put_half(to + IP_AT + 10, 0);
    put_word(to + IP_AT + 12, output->source);
    put_word(to + IP_AT + 16, output->group);
    put_half(to + IP_AT + 10, (uint16_t)~fold(sum(to + IP_AT, IPV4_BYTES)));
    put_half(to + UDP_AT, output->source_port);
    put_half(to + UDP_AT + 2, output->port);
    if (half(from + UDP_SUM_AT)) { /* RFC 1624, eqn. 3: addresses and ports stand side by side */
        checksum = (uint16_t)~half(from + UDP_SUM_AT) + sum(to + IP_AT + 12, 12);
#pragma unroll
        for (int i = 0; i < 12; i += 2)
            checksum += (uint16_t)~half(from + IP_AT + 12 + i);
        checksum = (uint16_t)~fold(checksum);
        put_half(to + UDP_SUM_AT, checksum ? checksum : 0xffff);
    }
}

/* Without branches: the verifier of a loader without CAP_PERFMON wants each address computed in one way only. */
static __always_inline void count_sent(struct relay_output_counters *to, const struct packet *packet, long code)
{
    uint64_t datagrams = packet->datagrams;
    uint64_t full = -(uint64_t)(code == XMIT_DROP || code == XMIT_CN);
    uint64_t down = -(uint64_t)(code == -ENETDOWN);
    uint64_t parked = -(uint64_t)(code == PARKED);
    uint64_t good = -(uint64_t)!code;
    to->tx_packets += datagrams & good;
    to->tx_bytes += packet->size & good;
    to->errors[SEND_NOBUFS] += datagrams & full;
    to->errors[SEND_NETDOWN] += datagrams & down;
    to->errors[SEND_PARKED] += datagrams & parked;
    to->errors[SEND_OTHER] += datagrams & ~(good | full | down | parked);
}

static __always_inline void count_received(const struct relay_rule *rule, const struct packet *packet)
{
    struct relay_input_counters *counters = bpf_map_lookup_elem(&received, &rule->counters);
    uint64_t *taken = bpf_map_lookup_elem(&frames, &rule->link);
    if (counters) {
        counters->rx_packets += packet->datagrams;
        counters->rx_bytes += packet->size;
        counters->last_packet_ns = bpf_ktime_get_coarse_ns();
    }
    if (taken)
        *taken += 1;
}

struct work {
    struct __sk_buff *skb;
    struct packet packet;
    uint8_t unused[2];
    uint8_t last[HEADERS]; /* the headers that the packet has now */
    uint32_t first_output;
    int device;
};

/* Sends a copy by one output; bpf_loop's callback. */
static long send_copy(uint32_t i, struct work *work)
{
    uint32_t index = work->first_output + i;
    uint8_t next[HEADERS];
    long code = PARKED;
    struct relay_output_counters *to;
    struct relay_output *output = bpf_map_lookup_elem(&outputs, &index);
    if (!output)
        return 1;
    to = bpf_map_lookup_elem(&sent, &output->counters);
    if (!to)
        return 1;
    if (output->ifindex) {
        address(next, work->packet.head, output);
        code = rewrite(work->skb, work->last, next, work->device);
        if (!code) {
            __builtin_memcpy(work->last, next, HEADERS);
            code = bpf_clone_redirect(work->skb, output->ifindex, 0);
        }
    }
    count_sent(to, &work->packet, code);
    return 0;
}

SEC("tc")
int relay(struct __sk_buff *skb)
{
    struct work work = {};
    struct packet *packet = &work.packet;
    struct relay_rule *rule = NULL;
    uint32_t answer, flags;
    int whole = read_packet(skb, packet, load(skb, packet));
    answer = decided_before(skb, packet);
    if (!whole)
        return PASS;
    if (answer == DECIDED_NOTHING)
        answer = decide(skb, packet, &rule, whole);
    else if (answer == DECIDED_KERNEL)
        rule = bpf_map_lookup_elem(&rules, &packet->key);
    if (answer != DECIDED_KERNEL || !rule)
        return PASS;
    count_received(rule, packet);
    flags = rule->flags;
    work.skb = skb;
    work.first_output = rule->first_output;
    work.device = half(packet->head + UDP_SUM_AT) == pseudo_sum(packet->head);
    __builtin_memcpy(work.last, packet->head, HEADERS);
    bpf_loop(rule->output_count, send_copy, &work, 0);
    if (flags & RULE_EXCLUSIVE)
        return DROP;
    rewrite(skb, work.last, packet->head, work.device);
    return PASS;
}

const char licence[] SEC("license") = "Apache-2.0";
