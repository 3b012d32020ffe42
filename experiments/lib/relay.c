/* The smallest relay that can be measured: one group in, one group out, everything else a parameter.
 *
 *   relay PROTOCOL VERSION TIMEOUT_MS IN_LINK GROUP PORT WAY RUN OUT_LINK TO_GROUP TO_PORT EXPECT
 *
 * PROTOCOL  all | ip          which AF_PACKET tap
 * VERSION   2 | 3             TPACKET ring; TIMEOUT_MS is how long an open V3 block may wait
 * WAY       none | send | sendmmsg | segment: a UDP socket; txring | packet | superframe: AF_PACKET, headers by hand;
 *           kept | keptrun: sendmmsg and segment from the source address that the datagram came from (IP_TRANSPARENT);
 *           raw | hdrincl: from its address and its port, UDP header by hand, or the IP header too (IP_HDRINCL)
 * RUN       at most so many datagrams go out together
 *
 * Prints "ready", relays EXPECT datagrams (or until a second of silence), prints one JSON line. CPU is this thread's,
 * from the first datagram to the last, with whatever the kernel does on its time: for a veth that is the whole way
 * out and into the other end. Latency is from the sender's stamp to the moment that this program sees the frame.
 * EXPECT 0 relays until the process is killed, times nothing and prints no line: what others are compared with.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef VIRTIO_NET_HDR_GSO_UDP_L4
#define VIRTIO_NET_HDR_GSO_UDP_L4 5
#endif

enum { BLOCK = 1 << 20, BLOCKS = 32, SLOT = 2048, SLOTS = BLOCK / SLOT * BLOCKS, RUN = 64, RUN_BYTES = 65507 };
enum { TX_BLOCKS = 4, TX_SLOTS = BLOCK / SLOT * TX_BLOCKS, HEADERS = 14 + 20 + 8 };

typedef enum { NONE, SEND, SENDMMSG, SEGMENT, TXRING, PACKET, SUPERFRAME, KEPT, KEPTRUN, RAW, HDRINCL } Way;

static struct {
    Way way;
    int fd;
    struct sockaddr_in to;
    unsigned run, size, queued;     /* all queued payloads have this size */
    struct iovec parts[RUN];        /* borrowed from the ring until flush() */
    uint8_t *tx;                    /* TX ring, its next slot, and the headers that every frame begins with */
    unsigned tx_next;
    uint8_t headers[HEADERS];
    uint8_t ends[8];                /* of what is queued: source address, as it came, and the two UDP ports */
    unsigned long sent, sends, refused;
} out;

static struct {
    uint64_t count, polls, expect, first_cpu;
    uint64_t *latency;
} seen;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static int check(int rc, const char *what) {
    if (rc < 0)
        die(what);
    return rc;
}

static uint64_t clock_ns(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

/* ---- the ways out ---- */

static uint16_t ip_checksum(const uint8_t *header) {
    uint32_t sum = 0;
    for (int i = 0; i < 20; i += 2)
        sum += header[i] << 8 | header[i + 1];
    sum = (sum & 0xffff) + (sum >> 16);
    return htons(~(sum + (sum >> 16)));
}

static void write_headers(const char *link) {
    struct ifreq req = {0};
    int inet = check(socket(AF_INET, SOCK_DGRAM, 0), "socket");
    strncpy(req.ifr_name, link, IFNAMSIZ - 1);
    check(ioctl(inet, SIOCGIFHWADDR, &req), "SIOCGIFHWADDR");
    uint32_t group = ntohl(out.to.sin_addr.s_addr);
    uint8_t mac[6] = {1, 0, 0x5e, group >> 16 & 0x7f, group >> 8, group};
    memcpy(out.headers, mac, 6);
    memcpy(out.headers + 6, req.ifr_hwaddr.sa_data, 6);
    out.headers[12] = 8;
    check(ioctl(inet, SIOCGIFADDR, &req), "SIOCGIFADDR");
    uint8_t *ip = out.headers + 14;
    ip[0] = 0x45, ip[8] = 8, ip[9] = IPPROTO_UDP;
    memcpy(ip + 12, &((struct sockaddr_in *)&req.ifr_addr)->sin_addr, 4);
    memcpy(ip + 16, &out.to.sin_addr, 4);
    uint16_t source_port = htons(40000);
    memcpy(ip + 20, &source_port, 2);
    memcpy(ip + 22, &out.to.sin_port, 2);
    close(inet);
}

/* PACKET_QDISC_BYPASS drops what must be segmented in software first, so superframes go without. */
static void open_packet(const char *link) {
    int version = TPACKET_V2, yes = 1, buffer = 4 << 20;
    struct tpacket_req ring = {BLOCK, TX_BLOCKS, SLOT, TX_SLOTS};
    struct sockaddr_ll at = {
        .sll_family = AF_PACKET,
        .sll_protocol = out.way == TXRING ? 0 : htons(ETH_P_IP),
        .sll_ifindex = if_nametoindex(link)};
    struct sock_filter nothing = BPF_STMT(BPF_RET | BPF_K, 0);
    struct sock_fprog program = {1, &nothing};
    write_headers(link);
    out.fd = check(socket(AF_PACKET, SOCK_RAW, 0), "socket");
    check(setsockopt(out.fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program), "SO_ATTACH_FILTER");
    setsockopt(out.fd, SOL_SOCKET, SO_SNDBUFFORCE, &buffer, sizeof buffer);
    if (out.way == SUPERFRAME)
        check(setsockopt(out.fd, SOL_PACKET, PACKET_VNET_HDR, &yes, sizeof yes), "PACKET_VNET_HDR");
    else
        check(setsockopt(out.fd, SOL_PACKET, PACKET_QDISC_BYPASS, &yes, sizeof yes), "PACKET_QDISC_BYPASS");
    if (out.way == TXRING) {
        check(setsockopt(out.fd, SOL_PACKET, PACKET_VERSION, &version, sizeof version), "PACKET_VERSION");
        check(setsockopt(out.fd, SOL_PACKET, PACKET_TX_RING, &ring, sizeof ring), "PACKET_TX_RING");
        out.tx = mmap(NULL, (size_t)BLOCK * TX_BLOCKS, PROT_READ | PROT_WRITE, MAP_SHARED, out.fd, 0);
        if (out.tx == MAP_FAILED)
            die("mmap");
    }
    check(bind(out.fd, (void *)&at, sizeof at), "bind");
}

static void open_out(const char *link) {
    if (out.way == NONE)
        return;
    if (out.way >= TXRING && out.way <= SUPERFRAME) {
        open_packet(link);
        return;
    }
    int ttl = 8, buffer = 4 << 20, yes = 1;
    struct ip_mreqn via = {.imr_ifindex = if_nametoindex(link)};
    if (out.way == RAW || out.way == HDRINCL)
        out.fd = check(socket(AF_INET, SOCK_RAW, out.way == RAW ? IPPROTO_UDP : IPPROTO_RAW), "raw socket");
    else
        out.fd = check(socket(AF_INET, SOCK_DGRAM, 0), "socket");
    if (out.way >= KEPT)
        check(setsockopt(out.fd, IPPROTO_IP, IP_TRANSPARENT, &yes, sizeof yes), "IP_TRANSPARENT");
    check(setsockopt(out.fd, IPPROTO_IP, IP_MULTICAST_IF, &via, sizeof via), "IP_MULTICAST_IF");
    check(setsockopt(out.fd, IPPROTO_IP, IP_MULTICAST_TTL, &ttl, sizeof ttl), "IP_MULTICAST_TTL");
    setsockopt(out.fd, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer);
    check(connect(out.fd, (void *)&out.to, sizeof out.to), "connect");
}

/* The headers of a frame with so many bytes of payload. No UDP checksum: RFC 768 allows that in IPv4. */
static void fill_headers(uint8_t *frame, unsigned bytes) {
    uint8_t *ip = frame + 14;
    uint16_t total = htons(28 + bytes), length = htons(8 + bytes);
    memcpy(frame, out.headers, HEADERS);
    memcpy(ip + 2, &total, 2);
    memcpy(ip + 24, &length, 2);
    uint16_t sum = ip_checksum(ip);
    memcpy(ip + 10, &sum, 2);
}

static void put_on_tx_ring(const struct iovec *part) {
    struct tpacket2_hdr *slot = (void *)(out.tx + (size_t)out.tx_next * SLOT);
    while (__atomic_load_n(&slot->tp_status, __ATOMIC_ACQUIRE) & (TP_STATUS_SEND_REQUEST | TP_STATUS_SENDING))
        send(out.fd, NULL, 0, 0);
    uint8_t *frame = (uint8_t *)slot + TPACKET2_HDRLEN - sizeof(struct sockaddr_ll);
    fill_headers(frame, part->iov_len);
    memcpy(frame + HEADERS, part->iov_base, part->iov_len);
    slot->tp_len = HEADERS + part->iov_len;
    __atomic_store_n(&slot->tp_status, TP_STATUS_SEND_REQUEST, __ATOMIC_RELEASE);
    out.tx_next = (out.tx_next + 1) % TX_SLOTS;
}

/* A control message that sets the source address (ip(7)), at the end of what the message has. */
static void add_source(struct msghdr *message) {
    struct cmsghdr *cmsg = (void *)((char *)message->msg_control + message->msg_controllen);
    struct in_pktinfo info = {0};
    memcpy(&info.ipi_spec_dst, out.ends, 4);
    cmsg->cmsg_level = IPPROTO_IP;
    cmsg->cmsg_type = IP_PKTINFO;
    cmsg->cmsg_len = CMSG_LEN(sizeof info);
    memcpy(CMSG_DATA(cmsg), &info, sizeof info);
    message->msg_controllen += CMSG_SPACE(sizeof info);
}

static uint32_t sum_of(const uint8_t *data, unsigned size) {
    uint64_t sum = 0;
    uint32_t word;
    for (; size >= 4; data += 4, size -= 4)
        memcpy(&word, data, 4), sum += word;
    word = 0;
    memcpy(&word, data, size);
    sum += word;
    sum = (uint32_t)sum + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    return (sum & 0xffff) + (sum >> 16);
}

/* The UDP header that a datagram leaves with, its checksum written out; before it, for HDRINCL, the IP header, of which
 * the kernel fills in checksum, total length and identification (raw(7)). */
static void send_header(uint8_t *header, const struct iovec *part) {
    uint8_t *udp = header + 20;
    uint16_t length = htons(8 + part->iov_len), protocol = htons(IPPROTO_UDP), sum = 0;
    memset(header, 0, 20);
    header[0] = 0x45, header[8] = 8, header[9] = IPPROTO_UDP;
    memcpy(header + 12, out.ends, 4);
    memcpy(header + 16, &out.to.sin_addr, 4);
    memcpy(udp, out.ends + 4, 2);
    memcpy(udp + 2, &out.to.sin_port, 2);
    memcpy(udp + 4, &length, 2);
    memcpy(udp + 6, &sum, 2);
    uint32_t total = sum_of(header + 12, 16) + sum_of(part->iov_base, part->iov_len) + length + protocol;
    total = (total & 0xffff) + (total >> 16);
    sum = ~((total & 0xffff) + (total >> 16));
    sum = sum ? sum : 0xffff;
    memcpy(udp + 6, &sum, 2);
}

static int send_kept(void) {
    static struct mmsghdr messages[RUN];
    static union {
        char bytes[CMSG_SPACE(sizeof(struct in_pktinfo))];
        struct cmsghdr align;
    } controls[RUN];
    static uint8_t headers[RUN][28];
    static struct iovec parts[RUN][2];
    for (unsigned i = 0; i < out.queued; i++) {
        struct msghdr *message = &messages[i].msg_hdr;
        *message = (struct msghdr){.msg_iov = parts[i], .msg_iovlen = 2, .msg_control = &controls[i]};
        parts[i][1] = out.parts[i];
        if (out.way != KEPT)
            send_header(headers[i], &out.parts[i]);
        parts[i][0] = out.way == HDRINCL ? (struct iovec){headers[i], 28} : (struct iovec){headers[i] + 20, 8};
        if (out.way == KEPT)
            message->msg_iov = &parts[i][1], message->msg_iovlen = 1;
        if (out.way != HDRINCL)
            add_source(message);
        else
            message->msg_control = NULL;
    }
    return sendmmsg(out.fd, messages, out.queued, 0) == (int)out.queued ? 0 : -1;
}

static int send_run(void) {
    union {
        char bytes[CMSG_SPACE(sizeof(uint16_t)) + CMSG_SPACE(sizeof(struct in_pktinfo))];
        struct cmsghdr align;
    } control = {0};
    struct msghdr message = {.msg_iov = out.parts, .msg_iovlen = out.queued, .msg_control = control.bytes};
    if (out.queued > 1) {
        message.msg_controllen = CMSG_SPACE(sizeof(uint16_t));
        struct cmsghdr *cmsg = CMSG_FIRSTHDR(&message);
        cmsg->cmsg_level = IPPROTO_UDP;
        cmsg->cmsg_type = UDP_SEGMENT;
        cmsg->cmsg_len = CMSG_LEN(sizeof(uint16_t));
        uint16_t size = out.size;
        memcpy(CMSG_DATA(cmsg), &size, sizeof size);
    }
    if (out.way == KEPTRUN)
        add_source(&message);
    return sendmsg(out.fd, &message, 0);
}

static int send_packets(void) {
    static struct mmsghdr messages[RUN];
    static uint8_t headers[RUN][HEADERS];
    static struct iovec parts[RUN][2];
    for (unsigned i = 0; i < out.queued; i++) {
        fill_headers(headers[i], out.parts[i].iov_len);
        parts[i][0] = (struct iovec){headers[i], HEADERS};
        parts[i][1] = out.parts[i];
        messages[i].msg_hdr = (struct msghdr){.msg_iov = parts[i], .msg_iovlen = 2};
    }
    return sendmmsg(out.fd, messages, out.queued, 0) == (int)out.queued ? 0 : -1;
}

/* One frame for the whole run: the kernel or the device cuts it by gso_size and writes the checksums. The UDP checksum
 * field holds the sum over the pseudo header (linux/include/linux/virtio_net.h). */
static int send_superframe(void) {
    uint8_t headers[HEADERS];
    unsigned bytes = 0;
    for (unsigned i = 0; i < out.queued; i++)
        bytes += out.parts[i].iov_len;
    fill_headers(headers, bytes);
    uint32_t sum = IPPROTO_UDP + 8 + bytes;
    for (int i = 26; i < 34; i += 2)
        sum += headers[i] << 8 | headers[i + 1];
    sum = (sum & 0xffff) + (sum >> 16);
    uint16_t folded = htons(sum + (sum >> 16));
    memcpy(headers + 40, &folded, 2);
    struct virtio_net_hdr how = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 34, .csum_offset = 6};
    if (out.queued > 1) {
        how.gso_type = VIRTIO_NET_HDR_GSO_UDP_L4;
        how.gso_size = out.size;
        how.hdr_len = HEADERS;
    }
    struct iovec parts[2 + RUN] = {{&how, sizeof how}, {headers, HEADERS}};
    memcpy(parts + 2, out.parts, out.queued * sizeof *parts);
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2 + out.queued};
    return sendmsg(out.fd, &message, 0);
}

static void flush(void) {
    static struct mmsghdr messages[RUN];
    if (!out.queued)
        return;
    int bad = 0;
    switch (out.way) {
    case SEND:
        bad = send(out.fd, out.parts[0].iov_base, out.parts[0].iov_len, 0) < 0;
        break;
    case SENDMMSG:
        for (unsigned i = 0; i < out.queued; i++)
            messages[i].msg_hdr = (struct msghdr){.msg_iov = &out.parts[i], .msg_iovlen = 1};
        bad = sendmmsg(out.fd, messages, out.queued, 0) != (int)out.queued;
        break;
    case SEGMENT:
    case KEPTRUN:
        bad = send_run() < 0;
        break;
    case KEPT:
    case RAW:
    case HDRINCL:
        bad = send_kept() < 0;
        break;
    case TXRING:
        for (unsigned i = 0; i < out.queued; i++)
            put_on_tx_ring(&out.parts[i]);
        bad = send(out.fd, NULL, 0, MSG_DONTWAIT) < 0 && errno != EAGAIN;
        break;
    case PACKET:
        bad = send_packets() < 0;
        break;
    case SUPERFRAME:
        bad = send_superframe() < 0;
        break;
    case NONE:
        break;
    }
    out.refused += bad;
    out.sends++;
    out.sent += out.queued;
    out.queued = 0;
}

static void queue(const uint8_t *eth, const uint8_t *payload, unsigned size) {
    if (out.way == NONE)
        return;
    int one_message = out.way == SEGMENT || out.way == KEPTRUN || out.way == SUPERFRAME;
    unsigned room = one_message && size * out.run > RUN_BYTES ? RUN_BYTES / size : out.run;
    int other = memcmp(out.ends, eth + 26, 4) || memcmp(out.ends + 4, payload - 8, 4);
    if (out.queued && (size != out.size || out.queued >= room || other))
        flush();
    memcpy(out.ends, eth + 26, 4);
    memcpy(out.ends + 4, payload - 8, 4);
    out.size = size;
    out.parts[out.queued++] = (struct iovec){(void *)payload, size};
}

/* ---- the way in ---- */

static void note_time(const uint8_t *at) {
    uint64_t stamp, now = clock_ns(CLOCK_MONOTONIC);
    memcpy(&stamp, at, sizeof stamp);
    if (!seen.count)
        seen.first_cpu = clock_ns(CLOCK_THREAD_CPUTIME_ID);
    if (seen.count < seen.expect)
        seen.latency[seen.count] = now - stamp;
}

static void frame(const uint8_t *eth, unsigned captured) {
    if (captured < HEADERS + 24)
        return;
    const uint8_t *udp = eth + 14 + (eth[14] & 15) * 4;
    unsigned size = (udp[4] << 8 | udp[5]) - 8;
    if (seen.expect)
        note_time(udp + 24);
    seen.count++;
    queue(eth, udp + 8, size);
}

static int more(void) {
    return !seen.expect || seen.count < seen.expect;
}

static int silence(int fd) {
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    seen.polls++;
    return poll(&wait, 1, !seen.expect ? -1 : seen.count ? 1000 : 5000) <= 0;
}

static void read_v3(int fd, uint8_t *map) {
    for (unsigned next = 0; more(); next = (next + 1) % BLOCKS) {
        struct tpacket_block_desc *block = (void *)(map + (size_t)next * BLOCK);
        while (!(__atomic_load_n(&block->hdr.bh1.block_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER))
            if (silence(fd))
                return;
        uint8_t *at = (uint8_t *)block + block->hdr.bh1.offset_to_first_pkt;
        for (unsigned n = block->hdr.bh1.num_pkts; n; n--) {
            struct tpacket3_hdr *head = (void *)at;
            frame(at + head->tp_mac, head->tp_snaplen);
            at += head->tp_next_offset;
        }
        flush();
        __atomic_store_n(&block->hdr.bh1.block_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
    }
}

static void read_v2(int fd, uint8_t *map) {
    unsigned next = 0, held = 0;
    while (more()) {
        struct tpacket2_hdr *head = (void *)(map + (size_t)((next + held) % SLOTS) * SLOT);
        int ready = __atomic_load_n(&head->tp_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER;
        if (ready) {
            frame((uint8_t *)head + head->tp_mac, head->tp_snaplen);
            held++;
        }
        if (held && (!ready || held == RUN || !more())) {
            flush();
            for (; held; held--, next = (next + 1) % SLOTS) {
                head = (void *)(map + (size_t)next * SLOT);
                __atomic_store_n(&head->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
            }
        }
        if (!ready && silence(fd))
            return;
    }
}

static void only_group(int fd, uint32_t group) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 12),        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ETH_P_IP, 0, 5),
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 23),        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_UDP, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 30),        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, group, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, 0x40000),            BPF_STMT(BPF_RET | BPF_K, 0),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    check(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program), "SO_ATTACH_FILTER");
}

static int open_ring(const char *link, int protocol, int version, unsigned timeout_ms, uint32_t group, uint8_t **map) {
    int fd = check(socket(AF_PACKET, SOCK_RAW, 0), "socket"), yes = 1, mode = version == 3 ? TPACKET_V3 : TPACKET_V2;
    struct tpacket_req3 ring = {BLOCK, BLOCKS, SLOT, SLOTS, timeout_ms, 0, 0};
    struct sockaddr_ll at = {
        .sll_family = AF_PACKET, .sll_protocol = htons(protocol), .sll_ifindex = if_nametoindex(link)};
    check(setsockopt(fd, SOL_PACKET, PACKET_VERSION, &mode, sizeof mode), "PACKET_VERSION");
    check(setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &ring,
                     version == 3 ? sizeof ring : sizeof(struct tpacket_req)), "PACKET_RX_RING");
    check(setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &yes, sizeof yes), "PACKET_IGNORE_OUTGOING");
    only_group(fd, group);
    check(bind(fd, (void *)&at, sizeof at), "bind");
    *map = mmap(NULL, (size_t)BLOCK * BLOCKS, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (*map == MAP_FAILED)
        die("mmap");
    return fd;
}

/* Never read, never bound: it is there so that the kernel joins. */
static void join_group(const char *link, struct in_addr group) {
    int fd = check(socket(AF_INET, SOCK_DGRAM, 0), "socket");
    struct ip_mreqn membership = {.imr_multiaddr = group, .imr_ifindex = if_nametoindex(link)};
    check(setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &membership, sizeof membership), "IP_ADD_MEMBERSHIP");
}

static int by_value(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    static const char *ways[] = {"none", "send", "sendmmsg", "segment", "txring", "packet", "superframe",
                                 "kept", "keptrun", "raw", "hdrincl"};
    if (argc != 13)
        return 2;
    struct in_addr group;
    int version = atoi(argv[2]);
    if (!inet_aton(argv[5], &group) || !inet_aton(argv[10], &out.to.sin_addr))
        return 2;
    while (strcmp(argv[7], ways[out.way]))
        if (++out.way > HDRINCL)
            return 2;
    out.run = out.way == SEND ? 1 : atoi(argv[8]);
    if (out.run < 1 || out.run > RUN)
        return 2;
    out.to.sin_family = AF_INET;
    out.to.sin_port = htons(atoi(argv[11]));
    seen.expect = strtoull(argv[12], NULL, 10);
    seen.latency = calloc(seen.expect, sizeof *seen.latency);

    uint8_t *map;
    int protocol = strcmp(argv[1], "all") ? ETH_P_IP : ETH_P_ALL;
    open_out(argv[9]);
    int fd = open_ring(argv[4], protocol, version, atoi(argv[3]), ntohl(group.s_addr), &map);
    join_group(argv[4], group);
    printf("ready\n");
    fflush(stdout);
    version == 3 ? read_v3(fd, map) : read_v2(fd, map);
    flush();

    uint64_t cpu = clock_ns(CLOCK_THREAD_CPUTIME_ID) - seen.first_cpu;
    struct tpacket_stats_v3 lost = {0};
    socklen_t size = version == 3 ? sizeof lost : sizeof(struct tpacket_stats);
    check(getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &lost, &size), "PACKET_STATISTICS");
    uint64_t timed = seen.count < seen.expect ? seen.count : seen.expect;
    qsort(seen.latency, timed, sizeof *seen.latency, by_value);
    printf("{\"received\": %llu, \"ring_drops\": %u, \"sent\": %lu, \"refused\": %lu, \"sends\": %lu, "
           "\"cpu_ns\": %.1f, \"frames_per_poll\": %.2f, \"p50_us\": %.1f, \"p99_us\": %.1f}\n",
           (unsigned long long)seen.count, lost.tp_drops, out.sent, out.refused, out.sends,
           seen.count ? (double)cpu / seen.count : 0, seen.polls ? (double)seen.count / seen.polls : 0,
           timed ? seen.latency[timed / 2] / 1e3 : 0, timed ? seen.latency[timed * 99 / 100] / 1e3 : 0);
    return 0;
}
