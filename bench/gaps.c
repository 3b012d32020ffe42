/* How bursty it arrives: gaps LINK GROUP PORT GAP_NS MILLISECONDS watches LINK and prints the longest run of datagrams to
 * GROUP:PORT that follow each other by less than GAP_NS, and how many there were. A superframe counts its datagrams.
 *
 * The times are the kernel's, taken where the frame enters the receiving end.
 */
#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>

#ifndef VIRTIO_NET_HDR_GSO_UDP_L4
#define VIRTIO_NET_HDR_GSO_UDP_L4 5
#endif

enum { BLOCK = 1 << 20, BLOCKS = 64, HEADERS = 42 };

static struct {
    uint64_t last, gap, count, run, longest;
    uint32_t group;
    uint16_t port;
} seen;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void frame(const struct tpacket3_hdr *head) {
    const uint8_t *eth = (const uint8_t *)head + head->tp_mac;
    uint32_t group;
    uint16_t port;
    if (head->tp_snaplen < HEADERS)
        return;
    memcpy(&group, eth + 30, 4);
    memcpy(&port, eth + 36, 2);
    if (eth[12] != 8 || eth[13] || eth[23] != IPPROTO_UDP || group != seen.group || port != seen.port)
        return;
    struct virtio_net_hdr how;
    memcpy(&how, eth - sizeof how, sizeof how);
    unsigned datagrams = 1;
    if (how.gso_type == VIRTIO_NET_HDR_GSO_UDP_L4 && how.gso_size)
        datagrams = (head->tp_len - HEADERS + how.gso_size - 1) / how.gso_size;
    uint64_t at = head->tp_sec * 1000000000ull + head->tp_nsec;
    seen.run = seen.count && at - seen.last < seen.gap ? seen.run + datagrams : datagrams;
    seen.last = at;
    seen.count += datagrams;
    if (seen.run > seen.longest)
        seen.longest = seen.run;
}

int main(int argc, char **argv) {
    struct in_addr group;
    if (argc != 6 || !inet_aton(argv[2], &group))
        return 2;
    seen.group = group.s_addr;
    seen.port = htons(atoi(argv[3]));
    seen.gap = strtoull(argv[4], NULL, 10);
    int fd = socket(AF_PACKET, SOCK_RAW, 0), version = TPACKET_V3, yes = 1;
    struct tpacket_req3 ring = {BLOCK, BLOCKS, 2048, BLOCK / 2048 * BLOCKS, 10, 0, 0};
    struct sockaddr_ll at = {
        .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = if_nametoindex(argv[1])};
    if (fd < 0 || setsockopt(fd, SOL_PACKET, PACKET_VERSION, &version, sizeof version) ||
        setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &yes, sizeof yes) ||
        setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &ring, sizeof ring) || bind(fd, (void *)&at, sizeof at))
        die(argv[1]);
    uint8_t *map = mmap(NULL, (size_t)BLOCK * BLOCKS, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        die("mmap");
    printf("ready\n");
    fflush(stdout);

    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    uint64_t end = t.tv_sec * 1000ull + t.tv_nsec / 1000000 + strtoull(argv[5], NULL, 10);
    for (unsigned next = 0;; next = (next + 1) % BLOCKS) {
        struct tpacket_block_desc *block = (void *)(map + (size_t)next * BLOCK);
        while (!(__atomic_load_n(&block->hdr.bh1.block_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER)) {
            struct pollfd wait = {.fd = fd, .events = POLLIN};
            poll(&wait, 1, 20);
            clock_gettime(CLOCK_MONOTONIC, &t);
            if (t.tv_sec * 1000ull + t.tv_nsec / 1000000 > end)
                goto done;
        }
        const uint8_t *head = (uint8_t *)block + block->hdr.bh1.offset_to_first_pkt;
        for (unsigned n = block->hdr.bh1.num_pkts; n; n--) {
            frame((const void *)head);
            head += ((const struct tpacket3_hdr *)head)->tp_next_offset;
        }
        __atomic_store_n(&block->hdr.bh1.block_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
    }
done:;
    struct tpacket_stats_v3 lost = {0};
    socklen_t size = sizeof lost;
    getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &lost, &size);
    printf("{\"datagrams\": %llu, \"longest\": %llu, \"lost\": %u}\n",
           (unsigned long long)seen.count, (unsigned long long)seen.longest, lost.tp_drops);
    return 0;
}
