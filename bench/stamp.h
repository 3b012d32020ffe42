/* What blast.c writes into each payload and arrivals.c reads: when the datagram was due. */
#include <stdint.h>

enum { STAMP_AT = 4 }; /* behind the header of the packet of a transport stream that each payload begins with */

typedef struct {
    uint64_t start_ns; /* CLOCK_REALTIME, as the kernel stamps frames */
    double unit_ns;    /* from one handing over to the next */
    uint32_t run;      /* datagrams handed over at a time */
    uint32_t streams;  /* the next one of the same stream is so many later */
    uint32_t index;    /* of this one */
} Stamp;

static inline uint64_t due_ns(const Stamp *stamp, uint32_t index) {
    return stamp->start_ns + (uint64_t)(index / stamp->run * stamp->unit_ns);
}
