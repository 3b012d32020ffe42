/* An open-loop, paced UDP sender that costs as little as the kernel lets it.
 *
 *   blast LINK GROUP PORT STREAMS SIZES RATE MILLISECONDS UNTIL RUN SOURCE_PORT RUNS
 *
 * STREAMS consecutive groups from GROUP on, of IPv4 or IPv6, get datagrams in turn; SIZES is 1316, a cycle 64,570,1400 or a random range
 * 80-400. RATE is datagrams a second of all streams together, 0 as fast as it goes. RUN datagrams are handed over at
 * once: as one UDP_SEGMENT message where there is one stream of one size, else by sendmmsg. RUNS 1 gives each run of
 * several streams to one of them, as one message too.
 *
 * Unit i is due at start + i * RUN / RATE whatever became of the ones before it, for MILLISECONDS, and nothing is sent
 * after UNTIL (also milliseconds): offered is what was due, sent is what the kernel took. The checksums are the
 * kernel's, and valid. Each payload has a stamp that says when it was due (stamp.h), and is made of packets of an MPEG
 * transport stream as far as its size allows.
 *
 * Prints "go" when the first is about to leave, "end" when the last has left, and then one JSON line.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "stamp.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif

enum { RUN_MAX = 64, SIZES_MAX = 64, BYTES_MAX = 65507, PACKET_BYTES = 188 };

/* ISO/IEC 13818-1, 2.4.3.2: sync byte, PID 256, no payload, so that the continuity counter stands still. */
static const uint8_t PACKET_HEADER[4] = {0x47, 0x01, 0x00, 0x00};

typedef union {
    char bytes[CMSG_SPACE(sizeof(uint16_t))];
    struct cmsghdr align;
} Control;

typedef union {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
} Address;

static struct {
    Address *to;                /* one a stream */
    socklen_t address_size;
    unsigned streams, stream;   /* the next one's index */
    unsigned sizes[SIZES_MAX], size_count, size;
    int random, segment, connected, runs;
    uint64_t draws;
    unsigned run, room;         /* room: bytes of payload from one datagram of a run to the next */
    uint8_t *payload;
    Stamp stamp;                /* of the next datagram */
    int fd;
} load;

static struct mmsghdr messages[RUN_MAX];
static struct iovec parts[RUN_MAX];
static Control control;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static uint64_t clock_ns(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

/* splitmix64: the same sizes in every run */
static uint64_t draw(void) {
    uint64_t v = load.draws += 0x9e3779b97f4a7c15u;
    v = (v ^ (v >> 30)) * 0xbf58476d1ce4e5b9u;
    v = (v ^ (v >> 27)) * 0x94d049bb133111ebu;
    return v ^ (v >> 31);
}

static unsigned take_size(void) {
    if (load.random)
        return load.sizes[0] + (draw() >> 32) * (load.sizes[1] - load.sizes[0] + 1) / (1ull << 32);
    unsigned size = load.sizes[load.size];
    if (++load.size == load.size_count)
        load.size = 0;
    return size;
}

static int read_sizes(char *text) {
    char *dash = strchr(text, '-');
    load.random = dash != NULL;
    for (char *at = strtok(text, ",-"); at; at = strtok(NULL, ",-")) {
        unsigned size = atoi(at);
        if (size < sizeof(Stamp) || size > BYTES_MAX || load.size_count == SIZES_MAX)
            return -1;
        load.sizes[load.size_count++] = size;
    }
    return load.size_count && (!load.random || load.size_count == 2) ? 0 : -1;
}

static void open_socket(const char *link, unsigned source_port) {
    int ttl = 16, buffer = 4 << 20, family = load.to->any.sa_family, index = if_nametoindex(link);
    struct ip_mreqn via = {.imr_ifindex = index};
    Address at = {.v4 = {.sin_family = family, .sin_port = htons(source_port)}};
    if (family == AF_INET6)
        at.v6 = (struct sockaddr_in6){.sin6_family = family, .sin6_port = htons(source_port)};
    load.fd = socket(family, SOCK_DGRAM, 0);
    if (load.fd < 0 || (family == AF_INET6 ? setsockopt(load.fd, IPPROTO_IPV6, IPV6_MULTICAST_IF, &index, sizeof index)
                                           : setsockopt(load.fd, IPPROTO_IP, IP_MULTICAST_IF, &via, sizeof via)))
        die(link);
    if (family == AF_INET6)
        setsockopt(load.fd, IPPROTO_IPV6, IPV6_MULTICAST_HOPS, &ttl, sizeof ttl);
    else
        setsockopt(load.fd, IPPROTO_IP, IP_MULTICAST_TTL, &ttl, sizeof ttl);
    setsockopt(load.fd, SOL_SOCKET, SO_SNDBUFFORCE, &buffer, sizeof buffer);
    if (bind(load.fd, &at.any, load.address_size))
        die("bind");
    load.connected = load.streams == 1;
    if (load.connected && connect(load.fd, &load.to->any, load.address_size))
        die("connect");
}

static void prepare(void) {
    load.segment = (load.connected || load.runs) && load.size_count == 1 && load.run > 1;
    for (unsigned i = 0; i < load.size_count; i++)
        load.room = load.sizes[i] > load.room ? load.sizes[i] : load.room;
    load.payload = malloc((size_t)load.room * load.run);
    if (!load.payload)
        die("malloc");
    for (unsigned i = 0; i < load.room * load.run; i++)
        load.payload[i] = draw();
    for (unsigned i = 0; i < load.run; i++) {
        for (unsigned at = 0; at + PACKET_BYTES <= load.room; at += PACKET_BYTES)
            memcpy(load.payload + (size_t)i * load.room + at, PACKET_HEADER, sizeof PACKET_HEADER);
        parts[i].iov_base = load.payload + (size_t)i * load.room;
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &parts[i], .msg_iovlen = 1};
    }
    if (!load.segment)
        return;
    struct msghdr *message = &messages[0].msg_hdr;
    parts[0].iov_len = load.sizes[0] * load.run;
    message->msg_control = control.bytes;
    message->msg_controllen = sizeof control.bytes;
    struct cmsghdr *cmsg = CMSG_FIRSTHDR(message);
    cmsg->cmsg_level = IPPROTO_UDP;
    cmsg->cmsg_type = UDP_SEGMENT;
    cmsg->cmsg_len = CMSG_LEN(sizeof(uint16_t));
    uint16_t size = load.sizes[0];
    memcpy(CMSG_DATA(cmsg), &size, sizeof size);
}

static void to_next_stream(struct msghdr *message) {
    if (load.connected)
        return;
    message->msg_name = &load.to[load.stream];
    message->msg_namelen = load.address_size;
    if (++load.stream == load.streams)
        load.stream = 0;
}

/* Fill in the next run; returns its bytes. */
static uint64_t fill(void) {
    uint64_t bytes = 0;
    for (unsigned i = 0; i < load.run; i++, load.stamp.index++)
        memcpy(load.payload + (size_t)i * load.room + STAMP_AT, &load.stamp, sizeof load.stamp);
    if (load.segment) {
        to_next_stream(&messages[0].msg_hdr);
        return parts[0].iov_len;
    }
    for (unsigned i = 0; i < load.run; i++) {
        bytes += parts[i].iov_len = take_size();
        to_next_stream(&messages[i].msg_hdr);
    }
    return bytes;
}

/* The groups, one a stream. Returns false if there is no such address. */
static int read_groups(const char *text, unsigned port) {
    struct in_addr v4;
    struct in6_addr v6;
    uint32_t last;
    if (inet_pton(AF_INET6, text, &v6) == 1) {
        load.address_size = sizeof(struct sockaddr_in6);
        memcpy(&last, v6.s6_addr + 12, sizeof last);
    } else if (inet_pton(AF_INET, text, &v4) == 1) {
        load.address_size = sizeof(struct sockaddr_in);
        last = v4.s_addr;
    } else {
        return 0;
    }
    load.to = calloc(load.streams, sizeof *load.to);
    for (unsigned i = 0; load.to && i < load.streams; i++) {
        uint32_t next = htonl(ntohl(last) + i);
        if (load.address_size == sizeof(struct sockaddr_in)) {
            load.to[i].v4 = (struct sockaddr_in){
                .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = next};
            continue;
        }
        load.to[i].v6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = v6};
        memcpy(load.to[i].v6.sin6_addr.s6_addr + 12, &next, sizeof next);
    }
    return load.to != NULL;
}

/* Returns the errno of a failure that ends the run, or 0. A full queue is waited for. */
static int hand_over(uint64_t *refused) {
    unsigned at = 0, count = load.segment ? 1 : load.run;
    while (at < count) {
        int taken = sendmmsg(load.fd, messages + at, count - at, 0);
        if (taken > 0)
            at += taken;
        else if (errno == ENOBUFS || errno == EAGAIN)
            ++*refused;
        else if (errno != EINTR)
            return errno;
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 12 || read_sizes(argv[5]))
        return 2;
    load.streams = atoi(argv[4]);
    load.run = atoi(argv[9]);
    load.runs = atoi(argv[11]);
    double rate = atof(argv[6]);
    uint64_t duration = atof(argv[7]) * 1e6, until = atof(argv[8]) * 1e6;
    if (!load.streams || !load.run || load.run > RUN_MAX || !duration)
        return 2;
    if (!read_groups(argv[2], atoi(argv[3])))
        return 2;
    open_socket(argv[1], atoi(argv[10]));
    prepare();
    prctl(PR_SET_TIMERSLACK, 1);
    printf("go\n");
    fflush(stdout);

    double unit_ns = rate > 0 ? load.run * 1e9 / rate : 0;
    uint64_t sent = 0, bytes = 0, refused = 0, late_max = 0, units = 0, now;
    uint64_t cpu = clock_ns(CLOCK_THREAD_CPUTIME_ID), start = clock_ns(CLOCK_MONOTONIC);
    load.stamp = (Stamp){clock_ns(CLOCK_REALTIME), unit_ns, load.run, load.segment ? 1 : load.streams, 0};
    int failure = 0;
    while (!failure && (now = clock_ns(CLOCK_MONOTONIC)) - start < until) {
        uint64_t due = start + (uint64_t)(units * unit_ns);
        if (due >= start + duration)
            break;
        if (now < due) {
            struct timespec wake = {due / 1000000000, due % 1000000000};
            clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &wake, NULL);
            continue;
        }
        if (rate > 0 && now - due > late_max)
            late_max = now - due;
        uint64_t filled = fill();
        failure = hand_over(&refused);
        if (!failure)
            sent += load.run, bytes += filled;
        units++;
    }
    now = clock_ns(CLOCK_MONOTONIC);
    cpu = clock_ns(CLOCK_THREAD_CPUTIME_ID) - cpu;
    printf("end\n");
    fflush(stdout);
    double offered = rate > 0 ? (uint64_t)(duration / unit_ns + 0.999999) * (double)load.run : sent;
    printf("{\"offered\": %.0f, \"sent\": %llu, \"bytes\": %llu, \"seconds\": %.6f, \"cpu_ns\": %llu, "
           "\"refused\": %llu, \"late_max_us\": %.1f, \"errno\": %d}\n",
           offered, (unsigned long long)sent, (unsigned long long)bytes, (now - start) / 1e9, (unsigned long long)cpu,
           (unsigned long long)refused, late_max / 1e3, failure);
    return failure != 0;
}
