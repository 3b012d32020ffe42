/* Who takes a packet, and by which rule: the one decision of the kernel engine's two programs. */
#ifndef MCRELAY_DECIDE_BPF_H
#define MCRELAY_DECIDE_BPF_H

#include "classify.bpf.h"

enum { DECIDED_NOTHING = 0, DECIDED_RING = 1, DECIDED_KERNEL = 2 };
#define SILENT_NS 100000000ULL  /* as ROUND_NS of repeats.pxd; longer than the ring holds anything */

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

#endif
