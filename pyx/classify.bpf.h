/* What kind of packet the headers on the desk make, as `parse` of wire.pxd sees it. */
#ifndef MCRELAY_CLASSIFY_BPF_H
#define MCRELAY_CLASSIFY_BPF_H

#include "sums.bpf.h"

enum {
    VERSION_4 = 0x40, PLAIN_HEADER = 0x45, MORE_FRAGMENTS_OR_OFFSET = 0x3fff, VID_MASK = 0x0fff,
    HOP_BY_HOP = 0, ROUTING = 43, FRAGMENT_HEADER = 44, ICMP_SIX = 58, DESTINATION_OPTIONS = 60, HEADERS_MAX = 8,
    LENGTH_MAX = 65535 - IPV4_BYTES,    /* of UDP in a packet of either family */
};
#define VERSION_6 bpf_htonl(0x60000000)
#define VERSION_MASK bpf_htonl(0xf0000000)

/* UNFIT is a whole datagram that the program cannot treat. Its destination port is on the desk then. */
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

/* Whether there is an IPv6 extension header that the ring looks behind, as `walk` of wire.pxd. */
static __always_inline int is_extension(uint32_t kind)
{
    return kind == HOP_BY_HOP || kind == ROUTING || kind == FRAGMENT_HEADER || kind == DESTINATION_OPTIONS;
}

/* Goes over the extension header at `at`, of the kind `kind`; bpf_loop's callback. A fragment ends it. */
static long pass_header(uint32_t number, struct __sk_buff **skb)
{
    struct desk *desk = my_desk();
    const uint8_t *header;
    uint32_t kind;
    if (!desk)
        return 1;
    kind = desk->kind;
    header = (const uint8_t *)desk->piece;
    if (!is_extension(kind) || desk->at + UDP_BYTES > desk->left)
        return 1;
    if (bpf_skb_load_bytes(*skb, IP_AT + desk->at, desk->piece, UDP_BYTES))
        return 1;
    if ((kind == HOP_BY_HOP && number) || (kind == ROUTING && header[3]))
        return 1;
    if (kind == FRAGMENT_HEADER && (header[2] || header[3] & 0xf9)) /* an offset, or more of them */
        return 1;
    desk->at += 8 + (kind == FRAGMENT_HEADER ? 0 : header[1] * 8);
    desk->kind = header[0];
    return 0;
}

/* One with extension headers, which may be a datagram that the program cannot treat. */
static __noinline int classify_odd_six(struct __sk_buff *skb, struct desk *desk)
{
    const uint16_t *udp = (const uint16_t *)desk->piece;
    uint32_t length;
    desk->kind = desk->decided_six.protocol;
    desk->at = IPV6_BYTES;
    desk->left = IPV6_BYTES + bpf_ntohs(desk->decided_six.payload);
    bpf_loop(HEADERS_MAX, pass_header, &skb, 0);
    if (desk->kind != PROTOCOL_UDP || desk->at + UDP_BYTES > desk->left)
        return NO_DATAGRAM;
    if (bpf_skb_load_bytes(skb, IP_AT + desk->at, desk->piece, UDP_BYTES))
        return NO_DATAGRAM;
    length = bpf_ntohs(udp[2]);
    desk->port = bpf_ntohs(udp[1]);
    return length < UDP_BYTES || length > desk->left - desk->at || !udp[3] ? NO_DATAGRAM : UNFIT;
}

static __always_inline int classify_six(struct __sk_buff *skb, struct desk *desk)
{
    const struct relay_headers_six *headers = &desk->decided_six;
    uint32_t length = bpf_ntohs(headers->length), payload = bpf_ntohs(headers->payload);
    if ((headers->first & VERSION_MASK) != VERSION_6 || IPV6_BYTES + payload > skb->len - IP_AT)
        return NO_DATAGRAM;
    if (skb->vlan_present && skb->vlan_tci & VID_MASK)
        return NO_DATAGRAM;
    if (headers->protocol != PROTOCOL_UDP)
        return classify_odd_six(skb, desk);
    if (length < UDP_BYTES || length > payload || !headers->udp_checksum)
        return NO_DATAGRAM;
    desk->port = bpf_ntohs(headers->port);
    if (length != payload || length > LENGTH_MAX || skb->vlan_present || !(headers->source[2] | headers->source[3]))
        return UNFIT;
    return skb->gso_size && headers->udp_checksum != pseudo_sum_six(headers) ? UNFIT : FIT;
}

#endif
