/* What leaves: a packet becomes what an output sends, of its own family or of the other, a copy goes, and it is counted. */
#ifndef MCRELAY_COPIES_BPF_H
#define MCRELAY_COPIES_BPF_H

#include "classify.bpf.h"

enum {
    DONT_FRAGMENT = 0x4000, ECN = 3,
    SEND_NOBUFS = 0, SEND_NETDOWN = 1, SEND_PARKED = 8, SEND_OTHER = 9,
    XMIT_DROP = 1, XMIT_CN = 2,             /* NET_XMIT_* of linux/netdevice.h */
    ENETDOWN = 100, PARKED = 0x7fff,        /* neither of the kernel's */
};

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

#endif
