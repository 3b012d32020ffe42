"""Streams as people write them."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mcrelay.errors import NotationError
from mcrelay.model.address import parse_address, parse_network
from mcrelay.model.notation import check_link, format_stream, parse_stream
from mcrelay.model.ports import Ports
from mcrelay.model.stream import Stream


def ip(text):
    return IPv4Address(text)


def six(text):
    return IPv6Address(text)


GOOD = [
    ("233.252.0.1:5000%eth0", Stream(ip("233.252.0.1"), 5000, "eth0")),
    ("192.168.168.55@226.2.2.2:2068%eth1", Stream(ip("226.2.2.2"), 2068, "eth1", ip("192.168.168.55"))),
    ("224.0.0.0/24:5000%eth0", Stream(ip("224.0.0.0"), 5000, "eth0", None, 24)),
    ("239.1.0.0/24:5000%eth0", Stream(ip("239.1.0.0"), 5000, "eth0", None, 24)),
    ("239.0.0.0/20:5000%eth0", Stream(ip("239.0.0.0"), 5000, "eth0", None, 20)),
    ("192.0.2.1@232.1.0.0/24:5000%eth0", Stream(ip("232.1.0.0"), 5000, "eth0", ip("192.0.2.1"), 24)),
    ("239.1.1.1:any%eth0", Stream(ip("239.1.1.1"), "any", "eth0")),
    ("239.1.1.1:5000,5002%eth0", Stream(ip("239.1.1.1"), Ports(((5000, 5000), (5002, 5002))), "eth0")),
    ("239.1.1.1:5002,5000", Stream(ip("239.1.1.1"), Ports(((5002, 5002), (5000, 5000))))),
    ("239.1.1.1:6906-6941%eth0", Stream(ip("239.1.1.1"), Ports(((6906, 6941),)), "eth0")),
    ("239.1.0.0/24:1-2,9,7-8", Stream(ip("239.1.0.0"), Ports(((1, 2), (9, 9), (7, 8))), None, None, 24)),
    ("10.9.0.7:1-65535", Stream(ip("10.9.0.7"), Ports(((1, 65535),)))),
    ("239.1.1.1%eth0.100", Stream(ip("239.1.1.1"), None, "eth0.100")),
    ("239.1.1.1", Stream(ip("239.1.1.1"))),
    ("10.9.0.7:7000%eth2", Stream(ip("10.9.0.7"), 7000, "eth2")),
    ("10.9.0.7:65535", Stream(ip("10.9.0.7"), 65535)),
    ("127.0.0.1:1", Stream(ip("127.0.0.1"), 1)),
    ("255.255.255.255:6454%eth0", Stream(ip("255.255.255.255"), 6454, "eth0")),
    ("127.0.0.1@239.1.1.1:5000%lo", Stream(ip("239.1.1.1"), 5000, "lo", ip("127.0.0.1"))),
    ("224.0.0.1:1%a", Stream(ip("224.0.0.1"), 1, "a")),
    ("239.255.255.255:1%fifteen-letters", Stream(ip("239.255.255.255"), 1, "fifteen-letters")),
    ("239.1.1.1:5000%?@[]", Stream(ip("239.1.1.1"), 5000, "?@[]")),
    ("[2001:db8::5]@[ff3e::1234]:5000%eth0", Stream(six("ff3e::1234"), 5000, "eth0", six("2001:db8::5"))),
    ("[ff3e::1000]/116:5000%eth0", Stream(six("ff3e::1000"), 5000, "eth0", None, 116)),
    ("[ff02::fb]:5353%eth0", Stream(six("ff02::fb"), 5353, "eth0")),
    ("[ff15::1]:5000,5002%?@[]", Stream(six("ff15::1"), Ports(((5000, 5000), (5002, 5002))), "?@[]")),
    ("[fe80::7]:7000%eth0", Stream(six("fe80::7"), 7000, "eth0")),
    ("[2001:db8::7]:7000", Stream(six("2001:db8::7"), 7000)),
    ("[::1]:1", Stream(six("::1"), 1)),
    ("[ff15::1]", Stream(six("ff15::1"))),
]


@pytest.mark.parametrize(("text", "stream"), GOOD)
def test_a_stream_is_read_and_written_alike(text, stream):
    assert parse_stream(text) == stream
    assert format_stream(stream) == text


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("  233.252.0.1:5000%eth0\n", "233.252.0.1:5000%eth0"),
        ("233.252.0.1/32:5000%eth0", "233.252.0.1:5000%eth0"),
        ("udp://233.252.0.1:5000", "233.252.0.1:5000"),
        ("udp://@233.252.0.1:5000", "233.252.0.1:5000"),
        ("UDP://@233.252.0.1:5000/", "233.252.0.1:5000"),
        ("rtp://@233.252.0.1:5000?", "233.252.0.1:5000"),
        ("rtp://233.252.0.1:5000/?%eth0", "233.252.0.1:5000%eth0"),
        ("udp://192.0.2.1@233.252.0.1:5000", "192.0.2.1@233.252.0.1:5000"),
        ("udp://192.0.2.1@233.252.0.1:5000/%eth0", "192.0.2.1@233.252.0.1:5000%eth0"),
        ("udp://10.9.0.7:7000", "10.9.0.7:7000"),
        ("rtp://@233.252.0.1:5000-5001/", "233.252.0.1:5000-5001"),
        ("233.252.0.1:5000-5000", "233.252.0.1:5000"),
        ("233.252.0.1:5000,5001-5001", "233.252.0.1:5000,5001"),
        ("udp://@[ff3e::1]:5000", "[ff3e::1]:5000"),
        ("udp://[2001:db8::5]@[ff3e::1]:5000/%eth0", "[2001:db8::5]@[ff3e::1]:5000%eth0"),
        ("[FF3E:0:0::0001]/128:5", "[ff3e::1]:5"),
    ],
)
def test_other_spellings_mean_the_same(text, same):
    assert format_stream(parse_stream(text)) == same


EG = "e.g. 233.252.0.1:5000%eth0"
SCOPES = (
    "its fourth digit is one of 1 interface-local, 2 link-local, 3 realm-local, 4 admin-local, 5 site-local, "
    "8 organization-local, e global"
)
GROUPS = "groups are 224.0.0.1 to 239.255.255.255"
BAD = [
    ("239.1.1.1:5002-5000", "'5002-5000' runs backwards; the lower port comes first: 239.1.1.1:5000-5002"),
    ("239.1.1.1:5,7,5", "port 5 stands twice in '5,7,5'; name each port once"),
    ("239.1.1.1:5-9,7-12", "port 7 stands twice in '5-9,7-12'; name each port once"),
    ("239.1.1.1:5000,0", "port 0 cannot be used; a port is 1 to 65535, e.g. 239.1.1.1:5000"),
    ("239.1.1.1:5000-65536", "'65536' is not a port; a port is 1 to 65535 or any, e.g. 239.1.1.1:5000"),
    ("239.1.1.1:5000-", "'5000-' is not a port; a port is 1 to 65535 or any, e.g. 239.1.1.1:5000"),
    ("239.1.1.1:1-2-3", "'1-2-3' is not a port; a port is 1 to 65535 or any, e.g. 239.1.1.1:5000"),
    (
        "239.1.1.1:5000, 5002",
        (
            "'5000, 5002' is not a port; several ports are written without blanks, "
            "e.g. 239.1.1.1:5000,5002 or 239.1.1.1:6906-6941"
        ),
    ),
    ("239.1.1.1%eth0:5000,5002", "':5000,5002' follows the link; the link comes last: 239.1.1.1:5000,5002%eth0"),
    ("", f"no address is given; write GROUP:PORT%LINK, {EG}"),
    ("%eth0", f"no address is given; write GROUP:PORT%LINK, {EG}"),
    (":5000", f"no address is given; write GROUP:PORT%LINK, {EG}"),
    ("udp://", f"no address is given; write GROUP:PORT%LINK, {EG}"),
    ("udp://@:5000", f"no address is given; write GROUP:PORT%LINK, {EG}"),
    (
        "media.example:5000",
        "'media.example' is not an IPv4 address; write four numbers, e.g. 233.252.0.1 (names are not looked up)",
    ),
    ("239.1.1:5", "'239.1.1' is not an IPv4 address; write four numbers, e.g. 233.252.0.1 (names are not looked up)"),
    ("239.01.1.1:5", "'01' in '239.01.1.1' has a leading zero; write 1"),
    ("239.00.1.1:5", "'00' in '239.00.1.1' has a leading zero; write 0"),
    ("239.1.1.256:5", "'256' in '239.1.1.256' is more than 255; each of the four numbers is 0 to 255"),
    ("239.1.1.1.5000", "'239.1.1.1.5000' has five numbers; a port stands after a colon: 239.1.1.1:5000"),
    ("239.1.1.1:", "no port follows the colon; a port is 1 to 65535, e.g. 239.1.1.1:5000"),
    ("239.1.1.1:0%eth0", "port 0 cannot be used; a port is 1 to 65535, e.g. 239.1.1.1:5000"),
    ("239.1.1.1:65536", "'65536' is not a port; a port is 1 to 65535 or any, e.g. 239.1.1.1:5000"),
    ("239.1.1.1:0500", "'0500' is not a port; a port is 1 to 65535 or any, e.g. 239.1.1.1:5000"),
    ("239.1.1.1:ANY", "'ANY' is not a port; a port is 1 to 65535 or any, e.g. 239.1.1.1:5000"),
    (
        "239.1.1.1:eth0",
        (
            "'eth0' is not a port; a port is 1 to 65535 or any, e.g. 239.1.1.1:5000, "
            "and a link stands after %: 239.1.1.1:5000%eth0"
        ),
    ),
    ("239.1.1.1:x/24", "'x/24' is not a port; a port is 1 to 65535 or any, e.g. 239.1.1.1:5000"),
    ("239.1.1.1:5/", "'5/' is not a port; a port is 1 to 65535 or any, e.g. 239.1.1.1:5000"),
    ("239.1.1.1::5000", "':5000' is not a port; a port is 1 to 65535 or any, e.g. 239.1.1.1:5000"),
    ("239.1.1.1:5000@eth0", "'@eth0' names no address; a link stands after %: 239.1.1.1:5000%eth0"),
    ("192.0.2.1@239.1.1.1:5@eth0", "'@eth0' names no address; a link stands after %: 192.0.2.1@239.1.1.1:5%eth0"),
    ("udp://eth0@239.1.1.1:5000", "'eth0@' is no source address; a link stands after %: 239.1.1.1:5000%eth0"),
    ("239.1.1.1%eth0:5000", "':5000' follows the link; the link comes last: 239.1.1.1:5000%eth0"),
    ("239.1.0.0:5000/24", "'/24' follows the port; the length stands before it: 239.1.0.0/24:5000"),
    (
        "239.1.1.5/24:5000",
        "239.1.1.5/24 has host bits set; the network is 239.1.1.0/24, one address alone is 239.1.1.5",
    ),
    ("239.0.0.0/19:5", "/19 is more than 4096 groups; a range is /20 at most, e.g. 233.252.0.0/24:5000%eth0"),
    (
        "239.0.0.0/33:5",
        "length '33' is not a number from 20 to 32; write a range as 233.252.0.0/24:5000%eth0",
    ),
    ("10.0.0.0/24:5", "10.0.0.0/24 is a range of hosts; only groups have ranges, so name one host: 10.0.0.0"),
    ("224.0.0.0:5", f"224.0.0.0 is the base of the multicast addresses and never a group; {GROUPS}"),
    ("240.1.1.1:5", f"240.1.1.1 is reserved (240.0.0.0/4); {GROUPS}"),
    ("255.255.255.254:5", f"255.255.255.254 is reserved (240.0.0.0/4); {GROUPS}"),
    ("0.0.0.0:5", f"0.0.0.0 is neither a group nor a host (0.0.0.0/8); {GROUPS}"),
    ("[fe80::1%eth0]:5000", "'%eth0' stands in brackets; the link comes last, e.g. [fe80::1]:5000%eth0"),
    ("[fe80::5%a]@[ff02::1%a]:5%a", "'%a' stands in brackets; the link comes last, e.g. [fe80::5]:5000%a"),
    ("ff3e::1", "'ff3e::1' stands without brackets; write IPv6 as [ff3e::1]:5000"),
    ("ff3e::1000/116:5000", "'ff3e::1000/116:5000' stands without brackets; write IPv6 as [ff3e::1000]/116:5000"),
    ("2001:db8::5@[ff3e::1]:5", "'2001:db8::5' stands without brackets; write IPv6 as [2001:db8::5]:5000"),
    ("[eth0]:5000", "'eth0' is not an IPv6 address; write e.g. 2001:db8::5 (names are not looked up)"),
    ("[233.252.0.1]:5000", "'233.252.0.1' is not an IPv6 address; write e.g. 2001:db8::5 (names are not looked up)"),
    ("[::ffff:233.252.0.1]:5000", "'::ffff:233.252.0.1' holds an IPv4 address; write 233.252.0.1"),
    ("[ff3e::1", "'[ff3e::1' is not an address and a port; write e.g. [ff15::1234]:5000%eth0"),
    ("[ff3e::1]5000", "'[ff3e::1]5000' is not an address and a port; write e.g. [ff15::1234]:5000%eth0"),
    ("[ff3e::1]:", "no port follows the colon; a port is 1 to 65535, e.g. [ff3e::1]:5000"),
    ("[ff15::]/115:5", "/115 is more than 4096 groups; a range is /116 at most, e.g. [ff15::1000]/116:5000%eth0"),
    ("[ff15::]/24:5", "/24 is more than 4096 groups; a range is /116 at most, e.g. [ff15::1000]/116:5000%eth0"),
    ("[ff15::1]/129:5", "length '129' is not a number from 116 to 128; write a range as [ff15::1000]/116:5000%eth0"),
    (
        "[ff15::1]/116:5",
        "ff15::1/116 has host bits set; the network is ff15::/116, one address alone is ff15::1",
    ),
    ("[ff15::]:5000/116", "'/116' follows the port; the length stands before it: [ff15::]/116:5000"),
    (
        "[2001:db8::]/120:5",
        "2001:db8::/120 is a range of hosts; only groups have ranges, so name one host: [2001:db8::]",
    ),
    ("[::]:5000", ":: is no address of a group or host; write e.g. [ff15::1234]:5000%eth0"),
    ("[ff10::1]:5000", f"scope 0 of ff10::1 is reserved; {SCOPES}"),
    ("[ff1f::1]:5000", f"scope f of ff1f::1 is reserved; {SCOPES}"),
    ("[::]@[ff3e::1]:5", "source :: never sends; a source is one host, e.g. [2001:db8::5]@[ff3e::1]:5"),
    ("[ff3e::2]@[ff3e::1]:5", "source ff3e::2 is a group; a source is one host, e.g. [2001:db8::5]@[ff3e::1]:5"),
    (
        "[ff3e::1]:5@[2001:db8::5]",
        "source ff3e::1 is a group; the source stands before the @: [2001:db8::5]@[ff3e::1]:5",
    ),
    (
        "192.0.2.1@[ff3e::1]:5",
        "source 192.0.2.1 is of IPv4, and ff3e::1 of IPv6; both are of one family, e.g. [2001:db8::5]@[ff3e::1]:5",
    ),
    (
        "[2001:db8::5]@239.1.1.1:5",
        "source 2001:db8::5 is of IPv6, and 239.1.1.1 of IPv4; both are of one family, e.g. 192.0.2.1@239.1.1.1:5",
    ),
    ("[ff3e::1]:5000@eth0", "'@eth0' names no address; a link stands after %: [ff3e::1]:5000%eth0"),
    ("[ff3e::1]%eth0:5000", "':5000' follows the link; the link comes last: [ff3e::1]:5000%eth0"),
    ("@239.1.1.1:5", "no source stands before the @; write e.g. 192.0.2.1@239.1.1.1:5, or 239.1.1.1:5 for any source"),
    (
        "226.2.2.2:2068@192.168.168.55",
        "source 226.2.2.2 is a group; the source stands before the @: 192.168.168.55@226.2.2.2:2068",
    ),
    ("239.1.1.1@239.1.1.2:5", "source 239.1.1.1 is a group; a source is one host, e.g. 192.0.2.1@239.1.1.2:5"),
    (
        "192.0.2.1:99@239.1.1.1:5",
        (
            "'192.0.2.1:99' before the @ is more than an address; "
            "a source is one host, and the port stands after the group"
        ),
    ),
    (
        "192.0.2.0/24@239.1.1.1:5",
        "'192.0.2.0/24' before the @ is more than an address; a source is one host, and networks stand under allow",
    ),
    ("192.0.2.1@10.0.0.1:5", "source 192.0.2.1 stands before a host; only groups have sources, so write 10.0.0.1:5"),
    ("0.0.0.0@239.1.1.1:5", "source 0.0.0.0 never sends; a source is one host, e.g. 192.0.2.1@239.1.1.1:5"),
    (
        "a@b@c",
        "there is more than one @; write SOURCE@GROUP:PORT%LINK, e.g. 192.0.2.1@233.252.0.1:5000%eth0",
    ),
    ("239.1.1.1:5000%", f"no link follows the %; write its name, {EG}"),
    ("239.1.1.1:5000%eth 0", "'eth 0' is not a link name; it has no blanks and none of / : %, e.g. eth0"),
    ("239.1.1.1:5000%..", "'..' is not a link name; it has no blanks and none of / : %, e.g. eth0"),
    (
        "239.1.1.1:5000%sixteen-letters-",
        "link name 'sixteen-letters-' has 16 bytes; a link name has 15 at most, e.g. eth0",
    ),
    ("239.1.1.1:5000%ääääääää", "link name 'ääääääää' has 16 bytes; a link name has 15 at most, e.g. eth0"),
    (
        "udp://239.1.1.1:5000?localaddr=192.0.2.1",
        (
            "URL option '?localaddr=192.0.2.1' is not understood; "
            "leave it out, and name the link after %: 233.252.0.1:5000%eth0"
        ),
    ),
    ("srt://192.0.2.1:5", "'srt://' is not understood; paste a udp:// or rtp:// URL, or write 233.252.0.1:5000%eth0"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_a_faulty_stream_is_refused_with_what_would_be_right(text, message):
    with pytest.raises(NotationError) as caught:
        parse_stream(text)
    assert str(caught.value) == message
    assert f"{caught.value.problem}; {caught.value.remedy}" == message


@st.composite
def several_ports(draw):
    edges = sorted(draw(st.lists(st.integers(1, 65535), min_size=2, max_size=12, unique=True)))
    if draw(st.booleans()):
        spans = [(edge, edge) for edge in edges]
    else:
        spans = list(zip(edges[::2], edges[1::2], strict=False))
    return Ports(tuple(draw(st.permutations(spans))))


LINKS = st.text(
    st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters="/:%*"), min_size=1
).filter(lambda name: len(name.encode()) <= 15 and name not in {".", ".."} and not name.endswith("+"))
PORTS = st.one_of(st.none(), st.just("any"), st.integers(1, 65535), several_ports())
HOSTS = st.integers(1 << 24, (224 << 24) - 1).map(IPv4Address)
GROUP_ADDRESSES = st.integers((224 << 24) + 1, (240 << 24) - 1).map(IPv4Address)

SIX_HOSTS = st.integers(1 << 48, (0xFF << 120) - 1).map(IPv6Address)
SIX_GROUPS = st.builds(
    lambda flags, scope, rest: IPv6Address(0xFF << 120 | flags << 116 | scope << 112 | rest),
    st.integers(0, 15),
    st.integers(1, 14),
    st.integers(0, (1 << 112) - 1),
)


@st.composite
def streams(draw):
    port, link = draw(PORTS), draw(st.none() | LINKS)
    hosts, groups, most = draw(st.sampled_from([(HOSTS, GROUP_ADDRESSES, 32), (SIX_HOSTS, SIX_GROUPS, 128)]))
    if draw(st.booleans()):
        return Stream(draw(hosts), port, link)
    length = draw(st.none() | st.integers(most - 12, most - 1))
    group = draw(groups)
    if length is not None:
        group = ip_network((group, length), strict=False).network_address
    return Stream(group, port, link, draw(st.none() | hosts), length)


@given(streams())
@settings(max_examples=300)
def test_what_is_written_is_read_back_the_same(stream):
    assert parse_stream(format_stream(stream)) == stream


PIECES = st.lists(
    st.sampled_from(
        [
            "239.1.1.1",
            "10.0.0.1",
            "224.0.0.0",
            "5000",
            "0",
            "any",
            ",",
            "-",
            "eth0",
            "@",
            ":",
            "/",
            "%",
            ".",
            "[",
            "]",
            "::",
            "[ff3e::1]",
            "fe80::1%",
            "116",
            "ff3e::1",
            "udp://",
            "rtp://",
            "?",
            "24",
            "33",
            "\n",
            "é",
        ]
    )
)


@given(st.one_of(st.text(), PIECES.map("".join)))
@example("1.2.3.4:" + "9" * 5000)
@example("9" * 5000 + ".1.1.1")
@example("[::%\x1f0")
@settings(max_examples=500)
def test_any_text_is_read_or_refused_in_one_printable_line(text):
    message = ""
    try:
        stream = parse_stream(text)
    except NotationError as error:
        message = str(error)
    if message:
        assert message.isprintable()
        assert len(message) < 250
    else:
        assert parse_stream(format_stream(stream)) == stream


@pytest.mark.parametrize("text", ["1.2.3.4 ", " 1.2.3.4", "1.2.3", "1.2.3.4.5", "1.2.3.٤", "0x1.2.3.4", "1..2.3", ""])
def test_an_address_is_four_plain_numbers(text):
    with pytest.raises(NotationError):
        parse_address(text)


def test_a_network_may_be_one_address():
    assert parse_network("192.0.2.7") == IPv4Network("192.0.2.7/32")
    assert parse_network("192.0.2.0/24") == IPv4Network("192.0.2.0/24")
    assert parse_network("0.0.0.0/0") == IPv4Network("0.0.0.0/0")
    assert parse_network("2001:db8::7") == IPv6Network("2001:db8::7/128")
    assert parse_network("2001:db8::/32") == IPv6Network("2001:db8::/32")
    assert parse_network("::/0") == IPv6Network("::/0")


@pytest.mark.parametrize(
    "text",
    [
        "192.0.2.0/255.255.255.0",
        "192.0.2.0/33",
        "192.0.2.0/",
        "192.0.2.1/24",
        "192.0.2.0/024",
        "2001:db8::/129",
        "2001:db8::1/32",
        "[2001:db8::]/32",
    ],
)
def test_a_network_has_a_length_in_bits_and_no_host_bits(text):
    with pytest.raises(NotationError):
        parse_network(text)


@pytest.mark.parametrize("name", ["eth0", "br-lan", "eth1.100", "veth@x", "é"])
def test_what_the_kernel_allows_is_a_link_name(name):
    check_link(name)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("239.1.1.1:5000%eth0:1", "'eth0:1' is a label of an address, not a link; name the link, 239.1.1.1:5000%eth0;"),
        ("239.1.1.1%eth0:1", "'eth0:1' is a label of an address, not a link; name the link, 239.1.1.1%eth0;"),
        ("239.1.1.1%eth0:web", "'eth0:web' is a label of an address, not a link;"),
        ("239.1.1.1%eth0:5000", "':5000' follows the link; the link comes last: 239.1.1.1:5000%eth0"),
        ("239.1.1.1:5000%eth+", "'eth+' stands for several links; a rule has one link: write a rule for each of them"),
        ("239.1.1.1:5000%ppp*", "'ppp*' stands for several links; a rule has one link: write a rule for each of them"),
    ],
)
def test_what_other_tools_take_for_links_is_told_apart(text, said):
    with pytest.raises(NotationError) as refused:
        parse_stream(text)
    assert str(refused.value).startswith(said)
