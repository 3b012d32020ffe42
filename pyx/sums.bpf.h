/* Checksums of the kernel engine: what headers come to, whose the packet's is, whether it is right (RFC 1071, 1624).
 *
 * A sum of words in the machine's order folds to that of halves in the machine's order. Not loops: the verifier of a
 * loader without CAP_PERFMON wants an address computed in one way.
 */
#ifndef MCRELAY_SUMS_BPF_H
#define MCRELAY_SUMS_BPF_H

#include "desk.bpf.h"

enum {
    UDP_AT = IP_AT + IPV4_BYTES, UDP_SIX_AT = IP_AT + IPV6_BYTES, UDP_SUM_AT = UDP_AT + 6, UDP_SUM_SIX_AT = UDP_SIX_AT + 6,
    PIECES = 130,
};

static __always_inline uint32_t fold(uint64_t total)
{
    total = (total >> 32) + (uint32_t)total;
    total = (total >> 32) + (uint32_t)total;
    total = (total >> 16) + (total & 0xffff);
    return (uint32_t)((total >> 16) + (total & 0xffff));
}

/* The complement of a sum, whatever words it is of. */
static __always_inline uint64_t without(uint64_t sum)
{
    return (uint16_t)~fold(sum);
}

static __always_inline uint64_t address_sum(const uint32_t *address)
{
    return (uint64_t)address[0] + address[1] + address[2] + address[3];
}

static __always_inline uint64_t addresses_of(const struct relay_headers *headers)
{
    return (uint64_t)headers->source + headers->group;
}

static __always_inline uint64_t addresses_of_six(const struct relay_headers_six *headers)
{
    return address_sum(headers->source) + address_sum(headers->group);
}

static __always_inline uint64_t header_sum(const struct relay_headers *headers)
{
    const uint32_t *word = (const uint32_t *)headers;
    return (uint64_t)word[0] + word[1] + word[2] + word[3] + word[4];
}

static __always_inline uint64_t header_sum_six(const struct relay_headers_six *headers)
{
    const uint32_t *word = (const uint32_t *)headers;
    return (uint64_t)word[0] + word[1] + addresses_of_six(headers);
}

/* Ports, length and checksum. */
static __always_inline uint64_t udp_sum(const uint16_t *source_port)
{
    const uint32_t *word = (const uint32_t *)source_port;
    return (uint64_t)word[0] + word[1];
}

/* What the headers are in a sum of the whole packet: a right IPv4 header comes to nothing. */
static __always_inline uint64_t share_of(const struct relay_headers *headers)
{
    return udp_sum(&headers->source_port);
}

static __always_inline uint64_t share_of_six(const struct relay_headers_six *headers)
{
    return header_sum_six(headers) + udp_sum(&headers->source_port);
}

static __always_inline uint32_t ports_of(const uint16_t *source_port)
{
    return *(const uint32_t *)source_port;
}

/* What a sender that left the checksum to its device has in the field (RFC 768's pseudo header, RFC 8200, 8.1). */
static __always_inline uint32_t pseudo_sum(const struct relay_headers *headers)
{
    return fold(addresses_of(headers) + bpf_htons(PROTOCOL_UDP) + headers->length);
}

static __always_inline uint32_t pseudo_sum_six(const struct relay_headers_six *headers)
{
    return fold(addresses_of_six(headers) + bpf_htons(PROTOCOL_UDP) + headers->length);
}

/* RFC 1624, eqn. 3: `rest` is of the packet as it came, the other of what an output puts in. */
static __always_inline uint16_t changed_checksum(uint64_t rest, uint64_t put_in)
{
    uint32_t checksum = (uint16_t)~fold(rest + put_in);
    return checksum ? checksum : 0xffff;
}

/* Of a checksum that stands at `at` and is what the pseudo header comes to. */
static __always_inline int is_left(struct __sk_buff *skb, struct desk *desk, const uint32_t at, const uint16_t *checksum)
{
    if (skb->gso_size)
        return 1;
    if (bpf_l4_csum_replace(skb, at, 0, 1, 4) || bpf_skb_load_bytes(skb, at, desk->piece, 2))
        return 0;
    if (*(const uint16_t *)desk->piece == *checksum)
        return 1;
    bpf_skb_store_bytes(skb, at, checksum, 2, 0);
    return 0;
}

/* Whether the checksum is left to the device: of a superframe it always is, and else only a helper knows, which then does
 * not touch it. */
static __noinline int left_to_device(struct __sk_buff *skb, struct desk *desk)
{
    const struct relay_headers *headers = &desk->original.headers;
    return headers->udp_checksum == pseudo_sum(headers) && is_left(skb, desk, UDP_SUM_AT, &headers->udp_checksum);
}

static __noinline int left_to_device_six(struct __sk_buff *skb, struct desk *desk)
{
    const struct relay_headers_six *headers = &desk->original_six.headers;
    return headers->udp_checksum == pseudo_sum_six(headers) && is_left(skb, desk, UDP_SUM_SIX_AT, &headers->udp_checksum);
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

/* Adds up what UDP has, from `at` on; -1 if the packet is shorter than it says. */
static __always_inline int64_t sum_of(struct __sk_buff *skb, struct desk *desk, uint32_t at, uint32_t size)
{
    desk->at = at;
    desk->left = size;
    desk->total = 0;
    bpf_loop(PIECES, add_piece, &skb, 0);
    return desk->left ? -1 : (int64_t)desk->total;
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
    whole = sum_of(skb, desk, UDP_AT, bpf_ntohs(headers->length));
    return whole >= 0 && fold((uint64_t)whole + pseudo_sum(headers)) == 0xffff;
}

static __noinline int sum_is_right_six(struct __sk_buff *skb, struct desk *desk)
{
    const struct relay_headers_six *headers = &desk->original_six.headers;
    int64_t whole;
    if (bpf_csum_level(skb, BPF_CSUM_LEVEL_QUERY) >= 0)
        return 1;
    whole = bpf_csum_update(skb, 0);
    if (whole >= 0 && fold((uint32_t)whole + without(header_sum_six(headers)) + pseudo_sum_six(headers)) == 0xffff)
        return 1;
    whole = sum_of(skb, desk, UDP_SIX_AT, bpf_ntohs(headers->length));
    return whole >= 0 && fold((uint64_t)whole + pseudo_sum_six(headers)) == 0xffff;
}

#endif
