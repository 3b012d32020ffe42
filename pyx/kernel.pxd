"""What kernel.h offers, under Cython names. Only the fields we use are listed; the C compiler knows the rest."""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "kernel.h" nogil:
    uint32_t load_acquire_u32(const uint32_t *p)
    void store_release_u32(uint32_t *p, uint32_t v)
    void *load_acquire_ptr(void **p)
    void store_release_ptr(void **p, void *v)
    uint64_t load_acquire_u64(const uint64_t *p)
    void store_release_u64(uint64_t *p, uint64_t v)
    uint32_t load_relaxed_u32(const uint32_t *p)
    void store_relaxed_u32(uint32_t *p, uint32_t v)
    uint64_t load_relaxed_u64(const uint64_t *p)
    void store_relaxed_u64(uint64_t *p, uint64_t v)

    uint16_t read_be16(const uint8_t *p)
    uint32_t read_be32(const uint8_t *p)
    uint64_t read_be64(const uint8_t *p)
    void write_be16(uint8_t *p, uint16_t v)
    void write_be32(uint8_t *p, uint32_t v)
    void write_be64(uint8_t *p, uint64_t v)
    uint16_t read_raw16(const uint8_t *p)
    uint32_t read_raw32(const uint8_t *p)
    uint64_t read_raw64(const uint8_t *p)
    void write_raw64(uint8_t *p, uint64_t v)
    uint64_t in_register(uint64_t v)
    void relax()
    uint32_t ones_u32(uint32_t v)
    uint32_t log2_u64(uint64_t v)

    int errno
    void *aligned_alloc(size_t alignment, size_t size)
    void *calloc(size_t count, size_t size)
    void *realloc(void *memory, size_t size)
    void free(void *memory)
    void *memset(void *memory, int byte, size_t size)
    void *memcpy(void *to, const void *source, size_t size)
    int memcmp(const void *a, const void *b, size_t size)
    size_t strnlen(const char *text, size_t most)
    int close(int fd)
    ssize_t read(int fd, void *buffer, size_t size)

    # mmap(2)
    void *mmap(void *address, size_t size, int protection, int flags, int fd, long offset)
    int munmap(void *address, size_t size)
    void *MAP_FAILED
    enum: PROT_READ, PROT_WRITE, MAP_SHARED, MAP_LOCKED

    # clock_gettime(2)
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *now)
    int clock_nanosleep(int clock, int flags, const timespec *until, timespec *rest)
    enum: CLOCK_MONOTONIC, CLOCK_REALTIME, TIMER_ABSTIME

    # poll(2)
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *fds, unsigned long count, int timeout_ms)
    enum: POLLIN, POLLOUT, POLLERR, POLLHUP, POLLNVAL

    # epoll(7)
    union epoll_data_t:
        uint32_t u32
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int operation, int fd, epoll_event *event)
    int epoll_wait(int epoll, epoll_event *events, int count, int timeout_ms)
    enum: EPOLLIN, EPOLL_CTL_ADD, EPOLL_CLOEXEC

    # prctl(2)
    int prctl(int option, unsigned long value)
    enum: PR_SET_TIMERSLACK

    # errno(3)
    enum: EAGAIN, EINTR, EIO, EINVAL, EMSGSIZE, ENOBUFS, ENOMEM, ENETDOWN, ENODEV, ENXIO, EADDRNOTAVAIL
    enum: ENETUNREACH, EHOSTUNREACH, EHOSTDOWN, ECONNREFUSED, EPERM, EACCES, EADDRINUSE, EPROTO, ENONET, EOPNOTSUPP
    enum: ENOPROTOOPT

    # socket(2), packet(7), udp(7), ip(7)
    int socket(int family, int kind, int protocol)
    struct sockaddr:
        pass
    int bind(int fd, const sockaddr *address, unsigned int size)
    int connect(int fd, const sockaddr *address, unsigned int size)
    int getsockname(int fd, sockaddr *address, unsigned int *size)
    int setsockopt(int fd, int level, int option, const void *value, unsigned int size)
    int getsockopt(int fd, int level, int option, void *value, unsigned int *size)
    uint16_t htons(uint16_t v)
    uint32_t htonl(uint32_t v)
    uint16_t ntohs(uint16_t v)
    uint32_t ntohl(uint32_t v)
    enum: AF_INET, AF_INET6, AF_PACKET, SOCK_RAW, SOCK_DGRAM, SOCK_CLOEXEC, SOCK_NONBLOCK, SOL_SOCKET, SOL_PACKET
    enum: IPPROTO_IP, IPPROTO_UDP, SO_ERROR, SO_ATTACH_FILTER, SO_RCVBUF, SO_RCVBUFFORCE, SO_SNDBUF, SO_SNDBUFFORCE
    enum: SO_REUSEADDR, SO_BINDTODEVICE, SO_DONTROUTE, SO_BROADCAST, SO_MEMINFO
    enum: IP_MULTICAST_IF, IP_MULTICAST_TTL, IP_MULTICAST_LOOP, IP_MULTICAST_ALL, IP_TTL, IP_TOS, IP_RECVERR, IP_MTU
    enum: IP_MTU_DISCOVER, IP_PMTUDISC_DONT, IP_PMTUDISC_DO, IP_PKTINFO, IP_TRANSPARENT
    enum: IPPROTO_IPV6, IPV6_MULTICAST_IF, IPV6_MULTICAST_HOPS, IPV6_MULTICAST_ALL, IPV6_UNICAST_HOPS, IPV6_TCLASS
    enum: IPV6_HOPLIMIT, IPV6_RECVERR, IPV6_MTU, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DONT, IPV6_PMTUDISC_DO, IPV6_PKTINFO
    enum: IPV6_TRANSPARENT, IPV6_V6ONLY, IPV6_AUTOFLOWLABEL
    enum: UDP_SEGMENT
    enum: ETH_P_ALL, PACKET_VERSION, PACKET_VNET_HDR, PACKET_RX_RING, PACKET_STATISTICS, PACKET_IGNORE_OUTGOING
    enum: PACKET_FANOUT, PACKET_FANOUT_DATA, PACKET_FANOUT_CBPF, PACKET_FANOUT_FLAG_UNIQUEID, BLOCK_STATUS_AT
    enum: TPACKET_V2, TPACKET_V3, TP_STATUS_KERNEL, TP_STATUS_USER, TP_STATUS_VLAN_VALID, TP_STATUS_CSUMNOTREADY
    enum: TP_STATUS_CSUM_VALID, TP_STATUS_COPY, PACKET_COPY_THRESH
    enum: MSG_DONTWAIT, MSG_ERRQUEUE, MSG_TRUNC, MSG_WAITFORONE
    enum: SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6

    struct iovec:
        void *iov_base
        size_t iov_len
    struct msghdr:
        void *msg_name
        unsigned int msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags
    struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    size_t CMSG_SPACE(size_t size)
    size_t CMSG_LEN(size_t size)
    uint8_t *CMSG_DATA(cmsghdr *header)
    cmsghdr *CMSG_FIRSTHDR(msghdr *message)
    cmsghdr *CMSG_NXTHDR(msghdr *message, cmsghdr *header)
    int sendmmsg(int fd, mmsghdr *messages, unsigned int count, int flags)
    int recvmmsg(int fd, mmsghdr *messages, unsigned int count, int flags, timespec *timeout)
    ssize_t recv(int fd, void *buffer, size_t size, int flags)
    ssize_t recvmsg(int fd, msghdr *message, int flags)
    ssize_t sendmsg(int fd, const msghdr *message, int flags)
    struct sock_extended_err:
        uint32_t ee_errno
        uint8_t ee_origin

    struct in_addr:
        uint32_t s_addr
    struct sockaddr_in:
        uint16_t sin_family
        uint16_t sin_port
        in_addr sin_addr
    struct in6_addr:
        uint8_t s6_addr[16]
    struct sockaddr_in6:
        uint16_t sin6_family
        uint16_t sin6_port
        in6_addr sin6_addr
        uint32_t sin6_scope_id
    struct in6_pktinfo:
        in6_addr ipi6_addr
        unsigned int ipi6_ifindex
    struct ip_mreqn:
        in_addr imr_multiaddr
        in_addr imr_address
        int imr_ifindex
    struct in_pktinfo:
        int ipi_ifindex
        in_addr ipi_spec_dst
    struct sockaddr_ll:
        uint16_t sll_family
        uint16_t sll_protocol
        int sll_ifindex

    # linux/filter.h
    struct sock_filter:
        uint16_t code
        uint8_t jt
        uint8_t jf
        uint32_t k
    struct sock_fprog:
        uint16_t len
        sock_filter *filter

    # linux/if_packet.h, linux/virtio_net.h
    struct tpacket_req3:
        unsigned int tp_block_size
        unsigned int tp_block_nr
        unsigned int tp_frame_size
        unsigned int tp_frame_nr
        unsigned int tp_retire_blk_tov
        unsigned int tp_sizeof_priv
        unsigned int tp_feature_req_word
    struct tpacket_stats_v3:
        unsigned int tp_packets
        unsigned int tp_drops
    struct tpacket_hdr_v1:
        uint32_t block_status
        uint32_t num_pkts
        uint32_t offset_to_first_pkt
    union tpacket_bd_header_u:
        tpacket_hdr_v1 bh1
    struct tpacket_block_desc:
        tpacket_bd_header_u hdr
    struct tpacket2_hdr:
        uint32_t tp_status
        uint32_t tp_len
        uint32_t tp_snaplen
        uint16_t tp_mac
        uint16_t tp_net
        uint32_t tp_sec
        uint32_t tp_nsec
        uint16_t tp_vlan_tci
    struct tpacket_hdr_variant1:
        uint32_t tp_vlan_tci
    struct tpacket3_hdr:
        uint32_t tp_next_offset
        uint32_t tp_sec
        uint32_t tp_nsec
        uint32_t tp_snaplen
        uint32_t tp_len
        uint32_t tp_status
        uint16_t tp_mac
        uint16_t tp_net
        tpacket_hdr_variant1 hv1
    struct virtio_net_hdr:
        uint8_t flags
        uint8_t gso_type
        uint16_t gso_size
        uint16_t csum_start
        uint16_t csum_offset
    enum: VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_NONE, VIRTIO_NET_HDR_GSO_UDP_L4, TP_FT_REQ_FILL_RXHASH


cdef inline void add(uint64_t *counter, uint64_t count) noexcept nogil:
    """Advance a counter that this thread alone writes; any thread may read it."""
    store_relaxed_u64(counter, load_relaxed_u64(counter) + count)


cdef inline uint64_t now_ns(int clock) noexcept nogil:
    cdef timespec now
    clock_gettime(clock, &now)  # void: both clocks always exist
    return <uint64_t>now.tv_sec * 1000000000 + <uint64_t>now.tv_nsec
