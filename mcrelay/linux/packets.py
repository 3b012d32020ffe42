"""A packet socket on one link, for commands that look: frames with time, direction and VLAN tag (packet(7))."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import socket
import struct
from typing import TYPE_CHECKING, Self

from mcrelay.errors import LinkError, OperationError
from mcrelay.model.frame import Frame

if TYPE_CHECKING:
    from collections.abc import Iterator

# linux/if_packet.h, linux/socket.h, linux/virtio_net.h
ETH_P_ALL = 3
SOL_PACKET = 263
PACKET_ADD_MEMBERSHIP, PACKET_STATISTICS, PACKET_AUXDATA, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING = 1, 6, 8, 15, 23
PACKET_MR_ALLMULTI = 2
PACKET_OUTGOING = 4
TP_STATUS_VLAN_VALID, TP_STATUS_VLAN_TPID_VALID = 0x10, 0x40
SO_ATTACH_FILTER, SO_TIMESTAMPNS, SO_RCVBUFFORCE = 26, 35, 33
GSO_UDP_L4 = 5
DOT1Q = 0x8100

_AUXDATA = struct.Struct("=IIIHHHH")  # status, len, snaplen, mac, net, vlan_tci, vlan_tpid
_TIME = struct.Struct("@ll")
_VIRTIO = struct.Struct("=BBHHHH")  # flags, gso_type, hdr_len, gso_size, csum_start, csum_offset
BUFFER_BYTES = 16 << 20
FRAME_BYTES = 1 << 17  # more than any superframe
BATCH = 256  # frames read in a row from one socket


def attach(sock: socket.socket, program: bytes) -> None:
    """Give a socket a filter, as ``bpf`` makes it (socket(7), SO_ATTACH_FILTER). Raises OSError."""
    held = ctypes.create_string_buffer(program)
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(held))  # struct sock_fprog
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, header)


class PacketSocket:
    """Needs CAP_NET_RAW. It changes nothing that others on this host receive.

    With *all_groups* the link accepts every group, joined or not, while the socket is open. With *sent* False it has
    nothing of what this host sends: the kernel copies each sent frame before the filter sees it, at the sender's cost,
    and is asked not to.
    """

    def __init__(self, link: str, program: bytes, *, all_groups: bool = False, sent: bool = True) -> None:
        """*program* is a filter as ``bpf`` makes it. Raises LinkError, OperationError."""
        self.link = link
        self._buffer = bytearray(FRAME_BYTES)
        self._dropped = 0
        try:
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        except PermissionError as error:
            raise OperationError(f"looking at the frames of {link} needs CAP_NET_RAW: run as root") from error
        try:
            attach(self._socket, program)
            for option in (SO_RCVBUFFORCE, socket.SO_RCVBUF):
                with contextlib.suppress(PermissionError):
                    self._socket.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
                    break
            self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            self._socket.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
            self._socket.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
            if not sent:
                self._socket.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
            self._socket.bind((link, ETH_P_ALL))
            if all_groups:
                request = struct.pack("=iHH8x", socket.if_nametoindex(link), PACKET_MR_ALLMULTI, 0)
                self._socket.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, request)
        except OSError as error:
            self._socket.close()
            if error.errno in {errno.ENODEV, errno.ENXIO}:
                raise LinkError(f"there is no link {link}; `ip link` lists those that there are") from error
            raise LinkError(f"the frames of {link} cannot be had: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def fileno(self) -> int:
        """For select(2)."""
        return self._socket.fileno()

    def read(self) -> Iterator[Frame]:
        """The waiting frames, at most a batch; none once the link is gone."""
        space = socket.CMSG_SPACE(_AUXDATA.size) + socket.CMSG_SPACE(_TIME.size)
        for _ in range(BATCH):
            try:
                size, extra, _, address = self._socket.recvmsg_into([self._buffer], space)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.EINVAL:  # a superframe that this kernel cannot describe: before Linux 6.2
                    continue
                return
            yield self._frame(bytes(self._buffer[:size]), extra, outgoing=address[2] == PACKET_OUTGOING)

    @staticmethod
    def _frame(data: bytes, extra: list[tuple[int, int, bytes]], *, outgoing: bool) -> Frame:
        _, kind, _, segment_bytes, _, _ = _VIRTIO.unpack_from(data)
        data = data[_VIRTIO.size :]
        time_ns, length = 0, len(data)
        for level, what, value in extra:
            if level == SOL_PACKET and what == PACKET_AUXDATA:
                status, length, _, _, _, tci, tpid = _AUXDATA.unpack_from(value)
                if status & TP_STATUS_VLAN_VALID:
                    tag = struct.pack("!HH", tpid if status & TP_STATUS_VLAN_TPID_VALID else DOT1Q, tci)
                    data, length = data[:12] + tag + data[12:], length + len(tag)
            elif level == socket.SOL_SOCKET and what == SO_TIMESTAMPNS:
                seconds, nanoseconds = _TIME.unpack_from(value)
                time_ns = seconds * 1_000_000_000 + nanoseconds
        return Frame(data, time_ns, length, outgoing, segment_bytes if kind & 0x7F == GSO_UDP_L4 else 0)

    def dropped(self) -> int:
        """Number of frames for which this socket had no room. They are missing only here."""
        with contextlib.suppress(OSError):
            _, dropped = struct.unpack("=II", self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
            self._dropped += dropped
        return self._dropped
