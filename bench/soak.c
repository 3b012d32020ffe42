/* What was left idle: soak CORE FILE adds up, at the lowest priority there is, the time that it had CORE to itself.
 *
 * It reads the clock without a pause. Two readings less than a microsecond or two apart mean that nobody else ran in
 * between; a longer gap was a thread, an interrupt or softirq (or the hypervisor), and is not idle time. FILE holds the
 * sum, a u64 in ns, rewritten all the time.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

enum { GAP_NS = 1500 };

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

int main(int argc, char **argv) {
    if (argc != 3)
        return 2;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    cpu_set_t core;
    CPU_ZERO(&core);
    CPU_SET(atoi(argv[1]), &core);
    struct sched_param none = {0};
    int fd = open(argv[2], O_RDWR | O_CREAT, 0600);
    if (sched_setaffinity(0, sizeof core, &core) || sched_setscheduler(0, SCHED_IDLE, &none) || fd < 0 ||
        ftruncate(fd, 4096)) {
        perror("soak");
        return 1;
    }
    uint64_t *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (shared == MAP_FAILED)
        return 1;
    for (uint64_t last = now(), idle = 0;;) {
        uint64_t t = now();
        if (t - last < GAP_NS)
            idle += t - last;
        last = t;
        __atomic_store_n(shared, idle, __ATOMIC_RELAXED);
    }
}
