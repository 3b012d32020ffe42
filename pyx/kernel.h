/* The only C in mcrelay: what Cython cannot say. Atomics, byte order, kernel names, and the layouts we rely on. */
#ifndef MCRELAY_KERNEL_H
#define MCRELAY_KERNEL_H

#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <linux/errqueue.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103 /* linux/udp.h, which clashes with netinet/udp.h */
#endif
#ifndef IPV6_MULTICAST_ALL
#define IPV6_MULTICAST_ALL 29 /* linux/in6.h, which clashes with netinet/in.h */
#endif
#ifndef VIRTIO_NET_HDR_GSO_UDP_L4
#define VIRTIO_NET_HDR_GSO_UDP_L4 5 /* linux/virtio_net.h since 6.2 */
#endif

/* Shared words. Acquire pairs with the kernel's (or another thread's) release; relaxed words have one writer. */
static inline uint32_t load_acquire_u32(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void store_release_u32(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline void *load_acquire_ptr(void *const *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void store_release_ptr(void **p, void *v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline uint64_t load_acquire_u64(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void store_release_u64(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline uint32_t load_relaxed_u32(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline void store_relaxed_u32(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
static inline uint64_t load_relaxed_u64(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline void store_relaxed_u64(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }

/* The memory is the kernel's or the wire's: any alignment, any order. */
static inline uint16_t read_be16(const uint8_t *p) { uint16_t v; memcpy(&v, p, sizeof v); return ntohs(v); }
static inline uint32_t read_be32(const uint8_t *p) { uint32_t v; memcpy(&v, p, sizeof v); return ntohl(v); }
static inline uint64_t read_be64(const uint8_t *p) { return (uint64_t)read_be32(p) << 32 | read_be32(p + 4); }
static inline void write_be16(uint8_t *p, uint16_t v) { v = htons(v); memcpy(p, &v, sizeof v); }
static inline void write_be32(uint8_t *p, uint32_t v) { v = htonl(v); memcpy(p, &v, sizeof v); }
static inline void write_be64(uint8_t *p, uint64_t v) { write_be32(p, (uint32_t)(v >> 32)); write_be32(p + 4, (uint32_t)v); }
static inline uint32_t read_raw32(const uint8_t *p) { uint32_t v; memcpy(&v, p, sizeof v); return v; }
static inline uint16_t read_raw16(const uint8_t *p) { uint16_t v; memcpy(&v, p, sizeof v); return v; }
static inline uint64_t read_raw64(const uint8_t *p) { uint64_t v; memcpy(&v, p, sizeof v); return v; }
static inline void write_raw64(uint8_t *p, uint64_t v) { memcpy(p, &v, sizeof v); }

/* Two such words never become one of a vector: to make that of them costs more than all of a look-up. */
static inline uint64_t in_register(uint64_t v) { __asm__("" : "+r"(v)); return v; }

/* Inside a wait that spins: lets the other thread of the core go first. */
static inline void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static inline uint32_t ones_u32(uint32_t v) { return (uint32_t)__builtin_popcount(v); }
static inline uint32_t log2_u64(uint64_t v) { return 63 - (uint32_t)__builtin_clzll(v); } /* v is not 0 */

/* linux/if_packet.h: the walk over a ring relies on these. */
enum { BLOCK_STATUS_AT = offsetof(struct tpacket_block_desc, hdr.bh1.block_status) };
_Static_assert(sizeof(struct virtio_net_hdr) == 10, "the header before each frame's MAC header");
_Static_assert(offsetof(struct tpacket_block_desc, hdr) == 8, "block status follows version and offset");
_Static_assert(offsetof(struct tpacket_hdr_v1, block_status) == 0, "the status word is the first of its header");
_Static_assert(offsetof(struct tpacket2_hdr, tp_status) == 0, "the status word is the first of a slot");
_Static_assert(sizeof(struct tpacket_req) == 16 && offsetof(struct tpacket_req3, tp_frame_nr) == 12, "V2 takes the first four");
_Static_assert(offsetof(struct tpacket3_hdr, tp_next_offset) == 0, "frames are chained by their first word");
_Static_assert(sizeof(struct tpacket_stats_v3) == 12, "packets, drops, freezes");

#endif
