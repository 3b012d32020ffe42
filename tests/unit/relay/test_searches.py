"""For how long answers to a search are waited for, and whose searches are our own."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv6Interface, ip_address

import pytest

from mcrelay.model.link import Link
from mcrelay.relay.searches import own_addresses, patience


def search(*lines: str, end: str = "\r\n") -> bytes:
    return end.join(["M-SEARCH * HTTP/1.1", "HOST: 239.255.255.250:1900", *lines, "", ""]).encode()


@pytest.mark.parametrize(
    ("question", "seconds"),
    [
        (search('MAN: "ssdp:discover"', "MX: 2", "ST: ssdp:all"), 3),
        (search("mx:1"), 2),
        (search("Mx :\t3  "), 4),
        (search("MX: 5", end="\n"), 6),
        (search("MX: 0"), 2),
        (search("MX: 9"), 10),
        (search("MX: 120"), 10),
        (search("MX: " + "9" * 1000), 10),
        (search("ST: ssdp:all"), 10),
        (search("MX: soon"), 10),
        (search("MX: -1"), 10),
        (search("X-MX: 2"), 10),
        (search("ST: a", "", "MX: 2"), 10),
        (b"NOTIFY * HTTP/1.1\r\nMX: 2\r\n\r\n", 10),
        (b"<wsd:Probe>", 10),
        (b"", 10),
        (b"M-SEARCH * HTTP/1.1\r\n" + b"A: b\r\n" * 9000, 10),
    ],
)
def test_a_search_says_for_how_long_in_its_mx(question, seconds):
    assert patience(question) == seconds


def test_a_link_local_address_is_our_own_on_its_link_alone():
    """Another host may have it elsewhere: RFC 4007, 6."""
    links = {
        name: Link(
            name, number, True, True, "UP", 1500, (IPv4Interface(f"192.0.{number}.1/24"),),
            addresses6=(IPv6Interface(f"2001:db8:{number}::1/64"), IPv6Interface(f"fe80::{number}/64")),
        )
        for number, name in enumerate(("in0", "out0"), 2)
    }  # fmt: skip
    everywhere = {"192.0.2.1", "192.0.3.1", "2001:db8:2::1", "2001:db8:3::1"}
    assert own_addresses(links, "in0") == {ip_address(each) for each in everywhere | {"fe80::2"}}
