"""BPF_PROG_TEST_RUN (bpf(2)): a program on a packet that is on no link."""

from __future__ import annotations

import ctypes
import os
import struct

PROG_TEST_RUN = 10  # enum bpf_cmd of linux/bpf.h
CHECKSUM_COMPLETE = 4  # BPF_F_TEST_SKB_CHECKSUM_COMPLETE there, since Linux 6.16: EINVAL before
LOOPBACK = 1
SYSCALL = {"x86_64": 321, "aarch64": 280}[os.uname().machine]

_libc = ctypes.CDLL(None, use_errno=True)


def run(
    program: int, data: bytes, *, ifindex: int = LOOPBACK, gso_size: int = 0, gso_segs: int = 0, summed: bool = False
):
    """(what it returned, the packet afterwards). ``data`` begins with an Ethernet header.

    *summed*: the kernel has a sum of the packet, and compares it with what the packet is afterwards. Raises OSError:
    EBADMSG where the sum did not follow a change.
    """
    context = bytearray(192)  # struct __sk_buff of linux/bpf.h
    struct.pack_into("=I", context, 40, ifindex)
    struct.pack_into("=I", context, 164, gso_segs)
    struct.pack_into("=I", context, 176, gso_size)
    given, taken = ctypes.create_string_buffer(data, len(data)), ctypes.create_string_buffer(len(data) + 256)
    held = ctypes.create_string_buffer(bytes(context), len(context))
    attributes = ctypes.create_string_buffer(
        struct.pack(
            "=IIIIQQIIIIQQIII", program, 0, len(data), len(taken), ctypes.addressof(given), ctypes.addressof(taken),
            1, 0, len(context), 0, ctypes.addressof(held), 0, CHECKSUM_COMPLETE if summed else 0, 0, 0,
        )
    )  # fmt: skip
    if _libc.syscall(SYSCALL, PROG_TEST_RUN, attributes, len(attributes) - 1) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"BPF_PROG_TEST_RUN: {os.strerror(code)}")
    _, returned, _, size = struct.unpack_from("=IIII", attributes)
    return returned, taken.raw[:size]
