"""Names of the services in an MPEG transport stream, from PAT and SDT (ISO/IEC 13818-1, ETSI EN 300 468). Pure."""

from __future__ import annotations

PACKET_BYTES = 188
SYNC = 0x47
PAT, SDT = 0x00, 0x11  # by PID
PAT_TABLE, SDT_TABLE = 0x00, 0x42
SERVICE_DESCRIPTOR = 0x48
SECTION_BYTES = 4096
SERVICES_MAX = 64


def is_transport(payload: bytes) -> bool:
    """Whether a payload is whole transport packets, each with its sync byte."""
    count, rest = divmod(len(payload), PACKET_BYTES)
    return bool(count) and not rest and all(payload[at] == SYNC for at in range(0, len(payload), PACKET_BYTES))


class Services:
    """Collects the services that a stream names. Memory is bounded for any content."""

    def __init__(self) -> None:
        self.programs: list[int] = []
        self.names: dict[int, str] = {}
        self._sections: dict[int, bytearray] = {}

    def feed(self, payload: bytes) -> None:
        """Read the packets of one datagram."""
        for at in range(0, len(payload) - PACKET_BYTES + 1, PACKET_BYTES):
            pid = int.from_bytes(payload[at + 1 : at + 3], "big") & 0x1FFF
            if pid in {PAT, SDT}:
                self._packet(pid, payload[at : at + PACKET_BYTES])

    def __str__(self) -> str:
        """The services by name, else the program numbers."""
        named = [self.names.get(number) or f"program {number}" for number in self.programs or sorted(self.names)]
        more = f" and {len(named) - 4} more" if len(named) > 4 else ""
        return ", ".join(named[:4]) + more

    def _packet(self, pid: int, packet: bytes) -> None:
        begin = 4 + (1 + packet[4] if packet[3] & 0x20 else 0)
        if not packet[3] & 0x10 or begin >= PACKET_BYTES:
            return
        body = packet[begin:]
        if packet[1] & 0x40:  # the first byte says how many bytes stand before a section
            self._sections[pid] = bytearray(body[1 + body[0] :])
        elif pid in self._sections and len(self._sections[pid]) < SECTION_BYTES:
            self._sections[pid] += body
        section = self._sections.get(pid, bytearray())
        if len(section) >= 3:
            length = 3 + (int.from_bytes(section[1:3], "big") & 0x0FFF)
            if len(section) >= length >= 12:
                del self._sections[pid]
                self._section(bytes(section[:length]))

    def _section(self, section: bytes) -> None:
        body = section[8:-4]
        if section[0] == PAT_TABLE:
            found = [int.from_bytes(body[at : at + 2], "big") for at in range(0, len(body) - 3, 4)]
            self.programs = sorted({number for number in found if number})[:SERVICES_MAX]
        elif section[0] == SDT_TABLE:
            at = 3  # original network, reserved
            while at + 5 <= len(body) and len(self.names) < SERVICES_MAX:
                number = int.from_bytes(body[at : at + 2], "big")
                end = at + 5 + (int.from_bytes(body[at + 3 : at + 5], "big") & 0x0FFF)
                if name := _service_name(body[at + 5 : end]):
                    self.names[number] = name
                at = end


def _service_name(descriptors: bytes) -> str:
    at = 0
    while at + 2 <= len(descriptors):
        kind, size = descriptors[at], descriptors[at + 1]
        body = descriptors[at + 2 : at + 2 + size]
        if kind == SERVICE_DESCRIPTOR and len(body) >= 3:
            begin = 3 + body[1]
            if begin <= len(body):
                return _text(body[begin : begin + body[begin - 1]])
        at += 2 + size
    return ""


def _text(data: bytes) -> str:
    """EN 300 468, annex A: a first byte below 0x20 names the alphabet."""
    if data[:1] == b"\x15":
        text = data[1:].decode("utf-8", "replace")
    else:
        text = data.lstrip(bytes(range(0x20))).decode("latin-1")
    return "".join(letter for letter in text if letter.isprintable())
