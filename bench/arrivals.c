/* When it arrives: arrivals LINK FIRST COUNT PORT GAP_NS watches LINK for what blast.c sent to COUNT groups from FIRST
 * on, until a line comes in or the input ends. A superframe counts its datagrams.
 *
 * Prints "ready", and at the end one JSON line: the delay from when each datagram was due, and the longest run of
 * datagrams that follow each other by less than GAP_NS. The times are the kernel's, taken where a frame enters the receiving end,
 * before this program is woken: it may run at the lowest priority.
 */
#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "stamp.h"

#ifndef VIRTIO_NET_HDR_GSO_UDP_L4
#define VIRTIO_NET_HDR_GSO_UDP_L4 5
#endif

/* A block that is not full is handed over after CLOSE_MS: with so many of them the reader may come seconds later. */
enum { BLOCK = 1 << 16, BLOCKS = 512, HEADERS = 42, KEPT = HEADERS + STAMP_AT + sizeof(Stamp), CLOSE_MS = 5 };

static struct {
    uint64_t last, gap, run, longest;
    uint64_t *delays;
    size_t count, room;
} seen;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void enter(uint64_t delay) {
    if (seen.count == seen.room) {
        seen.room = seen.room ? 2 * seen.room : 1 << 16;
        seen.delays = realloc(seen.delays, seen.room * sizeof *seen.delays);
        if (!seen.delays)
            die("realloc");
    }
    seen.delays[seen.count++] = delay;
}

/* The kernel's filter has let through nothing else than what is wanted. */
static void frame(const struct tpacket3_hdr *head) {
    const uint8_t *eth = (const uint8_t *)head + head->tp_mac;
    struct virtio_net_hdr how;
    Stamp stamp;
    if (head->tp_snaplen < KEPT)
        return;
    memcpy(&how, eth - sizeof how, sizeof how);
    memcpy(&stamp, eth + HEADERS + STAMP_AT, sizeof stamp);
    if (!stamp.run)
        return;
    unsigned datagrams = 1;
    if (how.gso_type == VIRTIO_NET_HDR_GSO_UDP_L4 && how.gso_size)
        datagrams = (head->tp_len - HEADERS + how.gso_size - 1) / how.gso_size;
    uint64_t at = head->tp_sec * 1000000000ull + head->tp_nsec;
    for (unsigned i = 0; i < datagrams; i++) {
        uint64_t due = due_ns(&stamp, stamp.index + i * stamp.streams);
        enter(at > due ? at - due : 0);
    }
    seen.run = seen.last && at - seen.last < seen.gap ? seen.run + datagrams : datagrams;
    seen.last = at;
    if (seen.run > seen.longest)
        seen.longest = seen.run;
}

static void watch(int fd, uint32_t first, uint32_t count, uint16_t port) {
    struct sock_filter wanted[] = {
        BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 12),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ETH_P_IP, 0, 8),
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 23),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_UDP, 0, 6),
        BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 36),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, port, 0, 4),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 30),
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, first, 0, 2),
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, first + count, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, KEPT),
        BPF_STMT(BPF_RET | BPF_K, 0),
    };
    struct sock_fprog filter = {sizeof wanted / sizeof *wanted, wanted};
    if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof filter))
        die("filter");
}

static int ascending(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static double quantile_us(double share) {
    return seen.count ? seen.delays[(size_t)(share * (seen.count - 1))] / 1e3 : 0;
}

int main(int argc, char **argv) {
    struct in_addr first;
    if (argc != 6 || !inet_aton(argv[2], &first))
        return 2;
    seen.gap = strtoull(argv[5], NULL, 10);
    int fd = socket(AF_PACKET, SOCK_RAW, 0), version = TPACKET_V3, yes = 1;
    struct tpacket_req3 ring = {BLOCK, BLOCKS, 2048, BLOCK / 2048 * BLOCKS, CLOSE_MS, 0, 0};
    struct sockaddr_ll at = {
        .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = if_nametoindex(argv[1])};
    if (fd < 0)
        die("socket");
    watch(fd, ntohl(first.s_addr), atoi(argv[3]), atoi(argv[4]));
    if (setsockopt(fd, SOL_PACKET, PACKET_VERSION, &version, sizeof version) ||
        setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &yes, sizeof yes) ||
        setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &ring, sizeof ring) || bind(fd, (void *)&at, sizeof at))
        die(argv[1]);
    uint8_t *map = mmap(NULL, (size_t)BLOCK * BLOCKS, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        die("mmap");
    printf("ready\n");
    fflush(stdout);

    struct pollfd wait[] = {{.fd = fd, .events = POLLIN}, {.fd = STDIN_FILENO, .events = POLLIN}};
    for (unsigned next = 0;; next = (next + 1) % BLOCKS) {
        struct tpacket_block_desc *block = (void *)(map + (size_t)next * BLOCK);
        while (!(__atomic_load_n(&block->hdr.bh1.block_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER)) {
            /* Told to end: what has arrived is in a closed block after CLOSE_MS. */
            int over = wait[1].revents != 0, come = poll(wait, over ? 1 : 2, over ? 4 * CLOSE_MS : -1);
            if (over && come == 0)
                goto done;
        }
        const uint8_t *head = (uint8_t *)block + block->hdr.bh1.offset_to_first_pkt;
        for (unsigned n = block->hdr.bh1.num_pkts; n; n--) {
            frame((const void *)head);
            head += ((const struct tpacket3_hdr *)head)->tp_next_offset;
        }
        __atomic_store_n(&block->hdr.bh1.block_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
    }
done:
    qsort(seen.delays, seen.count, sizeof *seen.delays, ascending);
    struct tpacket_stats_v3 unseen = {0};
    socklen_t size = sizeof unseen;
    getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &unseen, &size);
    printf("{\"datagrams\": %zu, \"unseen\": %u, \"longest\": %llu, \"p50\": %.1f, \"p99\": %.1f, \"p99.9\": %.1f, "
           "\"max\": %.1f}\n",
           seen.count, unseen.tp_drops, (unsigned long long)seen.longest, quantile_us(0.5), quantile_us(0.99),
           quantile_us(0.999), quantile_us(1));
    return 0;
}
