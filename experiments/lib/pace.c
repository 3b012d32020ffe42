/* Test datagrams at a steady rate, or as fast as they go: pace FD RUN_ID SIZE RATE COUNT BURST
 *
 * FD is a connected UDP socket, opened by the caller in whichever namespace it likes. Each datagram begins with
 * the run id, a sequence number and CLOCK_MONOTONIC in ns. RATE 0 sends without a pause. Prints one JSON line;
 * ns_per_datagram is the median over bursts of the time to send one, receive path of a veth included, for a veth
 * hands the frame over on the sender's own time.
 */
#define _GNU_SOURCE
#include <endian.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { MAX_BURST = 1024, MAX_SIZE = 9000 };

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    if (argc != 7)
        return 2;
    int fd = atoi(argv[1]);
    uint64_t run_id = htobe64(strtoull(argv[2], NULL, 16)), rate = strtoull(argv[4], NULL, 10);
    uint64_t count = strtoull(argv[5], NULL, 10), sent = 0, refused = 0;
    unsigned size = atoi(argv[3]), burst = atoi(argv[6]);
    if (size < 24 || size > MAX_SIZE || burst < 1 || burst > MAX_BURST || !count)
        return 2;

    static struct mmsghdr messages[MAX_BURST];
    static struct iovec parts[MAX_BURST];
    uint8_t *payloads = calloc(burst, size);
    double *costs = calloc(count / burst + 1, sizeof *costs);
    size_t bursts = 0;
    if (!payloads || !costs)
        return 2;
    for (unsigned i = 0; i < burst; i++) {
        memcpy(payloads + i * size, &run_id, 8);
        parts[i] = (struct iovec){payloads + i * size, size};
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &parts[i], .msg_iovlen = 1};
    }

    uint64_t start = now(), due = start;
    while (sent < count) {
        unsigned batch = count - sent < burst ? count - sent : burst, done = 0;
        if (rate) {
            struct timespec wake = {due / 1000000000, due % 1000000000};
            clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &wake, NULL);
            due += batch * 1000000000ull / rate;
        }
        uint64_t began = now();
        for (unsigned i = 0; i < batch; i++) {
            uint64_t stamp[2] = {sent + i, began};
            memcpy(payloads + i * size + 8, stamp, sizeof stamp);
        }
        while (done < batch) {
            int n = sendmmsg(fd, messages + done, batch - done, 0);
            if (n < 0 && errno != ENOBUFS && errno != EAGAIN) {
                perror("sendmmsg");
                return 1;
            }
            refused += n < 0;
            done += n > 0 ? n : 0;
        }
        if (batch == burst)
            costs[bursts++] = (double)(now() - began) / batch;
        sent += batch;
    }
    double seconds = (now() - start) / 1e9;
    qsort(costs, bursts, sizeof *costs, by_value);
    printf("{\"sent\": %llu, \"refused\": %llu, \"seconds\": %.3f, \"rate\": %.0f, \"ns_per_datagram\": %.1f}\n",
           (unsigned long long)sent, (unsigned long long)refused, seconds, sent / seconds,
           bursts ? costs[bursts / 2] : 0);
    return 0;
}
