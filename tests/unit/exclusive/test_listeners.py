"""Who else listens on this host: what /proc/net says, and what of it is ours."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address

import pytest

from mcrelay.exclusive.droptable import DropMatch
from mcrelay.exclusive.listeners import own_inodes, read

DROP = DropMatch(2, "in0", IPv4Address("239.1.1.1"), 5000)
IGMP = """Idx	Device    : Count Querier	Group    Users Timer	Reporter
1	lo        :     1      V3
				010000E0     1 0:00000000		0
2	in0       :     2      V3
				{group}     {users} 0:00000000		1
				010000E0     1 0:00000000		0
3	out0      :     1      V3
				010101EF     7 0:00000000		0
"""
HEAD = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


def entry(local: str, inode: int = 77) -> str:
    return f"  123: {local} 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 {inode} 2 0000 0\n"


def refusal(folder, *, igmp=None, udp="", udp6=None, raw="", users=1, own=()) -> str:
    (folder / "igmp").write_text(IGMP.format(group="010101EF", users=1) if igmp is None else igmp)
    (folder / "udp").write_text(HEAD + udp)
    (folder / "raw").write_text(HEAD + raw)
    if udp6 is not None:
        (folder / "udp6").write_text(HEAD + udp6)
    return read(folder).of(DROP, users, lambda: own)


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ({}, ""),
        ({"igmp": IGMP.format(group="010101EF", users=2)}, "another program of this host has joined 239.1.1.1 on in0"),
        ({"igmp": IGMP.format(group="010101EF", users=2), "users": 2}, ""),
        ({"igmp": IGMP.format(group="020101EF", users=2)}, ""),
        ({"igmp": IGMP.format(group="010101EF", users=1), "users": 0}, "another program of this host has joined"),
        ({"udp": entry("00000000:1388")}, "a socket of another program is bound to port 5000"),
        ({"udp": entry("010101EF:1388")}, "bound to port 5000"),
        ({"udp": entry("010101EF:1388"), "own": [77]}, ""),
        ({"udp": entry("00000000:1388") + entry("00000000:1388", 78), "own": [77]}, "bound to port 5000"),
        ({"udp": entry("00000000:1389") + entry("0100007F:1388") + entry("020101EF:1388")}, ""),
        ({"udp6": entry(f"{'0' * 32}:1388")}, "bound to port 5000"),
        ({"udp6": entry(f"{'0' * 16}FFFF0000010101EF:1388")}, "bound to port 5000"),
        ({"udp6": entry("000080FE0000000000000000010101EF:1388")}, ""),
        ({"raw": entry("00000000:0011")}, "a raw UDP socket of another program"),
        ({"raw": entry("00000000:0002") + entry("0100007F:0011")}, ""),
    ],
)
def test_a_listener_is_a_reason_not_to_drop(tmp_path, what, reason):
    found = refusal(tmp_path, **what)
    assert found.startswith(reason) if reason.startswith("a") else reason in found
    assert bool(found) is bool(reason)


@pytest.mark.parametrize("missing", ["igmp", "udp", "raw"])
def test_what_cannot_be_read_is_not_taken_for_nobody(tmp_path, missing):
    refusal(tmp_path)
    (tmp_path / missing).unlink()
    assert read(tmp_path) is None


def test_the_host_itself_can_be_read_and_knows_our_own_sockets():
    group = IPv4Address("239.255.77.1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", 0))
        drop = DropMatch(1, "lo", group, sock.getsockname()[1])
        assert read().of(drop, 0, own_inodes) == ""
        assert "is bound to port" in read().of(drop, 0, set)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group.packed + socket.inet_aton("127.0.0.1"))
        assert "has joined 239.255.77.1" in read().of(drop, 0, own_inodes)
        assert read().of(drop, 1, own_inodes) == ""


IGMP6 = "2    in0             {group}     {users} 00000004 0\n"
SIX = DropMatch(2, "in0", IPv6Address("ff15::1"), 5000)
SIX_WORDS = "000015FF000000000000000001000000"


def test_listeners_of_ipv6_are_a_reason_too(tmp_path):
    group = IPv6Address("ff15::1").packed.hex()

    def said(*, users=1, udp6="", raw6=""):
        for name in ("igmp", "udp", "raw"):
            (tmp_path / name).write_text(HEAD)
        (tmp_path / "igmp6").write_text(IGMP6.format(group=group, users=users))
        (tmp_path / "udp6").write_text(HEAD + udp6)
        (tmp_path / "raw6").write_text(HEAD + raw6)
        return read(tmp_path).of(SIX, 1, list)

    assert said() == ""
    assert "has joined ff15::1 on in0" in said(users=2)
    assert "bound to port 5000" in said(udp6=entry(f"{'0' * 32}:1388"))
    assert "bound to port 5000" in said(udp6=entry(f"{SIX_WORDS}:1388"))
    assert said(udp6=entry(f"{SIX_WORDS}:1389")) == ""
    assert "a raw UDP socket" in said(raw6=entry(f"{'0' * 32}:0011"))
