"""Set-up of the queue, so that the loop allocates nothing."""

cimport cython

from .fragments cimport fragments_build, fragments_free
from .kernel cimport calloc, free, memset
from .repeats cimport RECENT, Recent


cdef int queue_build(Queue *queue, Scratch scratch, uint32_t watches, uint32_t chains, uint32_t outputs) except -1:
    """Allocate for a plan of that size, and borrow the rest: the loop itself never allocates."""
    queue[0] = scratch.parts
    queue.watches = <Watch *>calloc(watches + 1, sizeof(Watch))
    queue.chains = <Chain *>calloc(chains + 1, sizeof(Chain))
    queue.touched = <uint32_t *>calloc(chains + 1, sizeof(uint32_t))
    queue.blocked = <Blocked *>calloc(outputs + 1, sizeof(Blocked))
    queue.waiting = <pollfd *>calloc(outputs + 1, sizeof(pollfd))
    if (
        queue.watches == NULL or queue.chains == NULL or queue.touched == NULL
        or queue.blocked == NULL or queue.waiting == NULL
    ):
        queue_free(queue)
        raise MemoryError(f"a queue for {watches} groups, {chains} chains and {outputs} outputs")
    return 0


cdef void queue_free(Queue *queue) noexcept nogil:
    """Give back what belongs to the plan; the Scratch keeps its own."""
    free(queue.watches)
    free(queue.chains)
    free(queue.touched)
    free(queue.blocked)
    free(queue.waiting)
    memset(queue, 0, sizeof(Queue))


@cython.final
cdef class Scratch:
    def __cinit__(self):
        cdef Queue *parts = &self.parts
        parts.entries = <Entry *>calloc(ENTRIES, sizeof(Entry))
        parts.ends = <Ends *>calloc(ENTRIES, sizeof(Ends))
        parts.places = <Place *>calloc(ENTRIES, sizeof(Place))
        parts.names = <sockaddr_in6 *>calloc(MESSAGES, sizeof(sockaddr_in6))
        parts.headers = <mmsghdr *>calloc(MESSAGES, sizeof(mmsghdr))
        parts.messages = <Message *>calloc(MESSAGES, sizeof(Message))
        parts.vectors = <iovec *>calloc(VECTORS, sizeof(iovec))
        parts.controls = <uint8_t *>calloc(MESSAGES, control_bytes())
        parts.heads = <uint8_t *>calloc(MESSAGES, HEAD_BYTES)
        parts.repeats = <Repeats *>calloc(1, sizeof(Repeats))
        parts.fragments = <Fragments *>calloc(1, sizeof(Fragments))
        if parts.repeats != NULL:
            parts.repeats.recent = <Recent *>calloc(RECENT, sizeof(Recent))
        if (
            parts.entries == NULL or parts.places == NULL or parts.names == NULL or parts.headers == NULL
            or parts.messages == NULL or parts.vectors == NULL or parts.controls == NULL or parts.repeats == NULL
            or parts.repeats.recent == NULL or parts.fragments == NULL or parts.ends == NULL
            or parts.heads == NULL
        ):
            raise MemoryError("a queue")
        fragments_build(parts.fragments)

    def __dealloc__(self):
        free(self.parts.entries)
        free(self.parts.ends)
        free(self.parts.places)
        free(self.parts.names)
        free(self.parts.headers)
        free(self.parts.messages)
        free(self.parts.vectors)
        free(self.parts.controls)
        free(self.parts.heads)
        if self.parts.repeats != NULL:
            free(self.parts.repeats.recent)
        free(self.parts.repeats)
        if self.parts.fragments != NULL:
            fragments_free(self.parts.fragments)
        free(self.parts.fragments)
