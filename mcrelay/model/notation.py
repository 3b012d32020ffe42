"""The one parser and the one formatter of streams: ``[SOURCE@]GROUP[/LEN][:PORT][%LINK]``."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from typing import TYPE_CHECKING, Literal, NoReturn

from mcrelay.errors import NotationError
from mcrelay.model.stream import Stream

if TYPE_CHECKING:
    from mcrelay.model.stream import Address

EXAMPLE = "233.252.0.1:5000%eth0"
NAME = re.compile("[A-Za-z0-9][A-Za-z0-9_-]{0,62}")  # of a rule, and of an instance
NAME_REMEDY = "it has 1 to 63 letters, digits, - or _, and begins with a letter or digit"
LINK_NAME_BYTES = 15  # IFNAMSIZ less the closing NUL
SHORTEST_LENGTH = 20  # a range holds 4096 groups at most

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_QUAD = re.compile(r"[0-9]+(\.[0-9]+){3}")
_QUAD_AND_PORT = re.compile(r"([0-9]+(?:\.[0-9]+){3})\.([0-9]+)")  # as tcpdump prints it
_ADDRESSED = re.compile(r"[0-9]+(?:\.[0-9]+)+(?:/[0-9]+)?(?::[0-9a-z]+)?")
FIRST_LIKELY_PORT = 100  # what follows a link's name and is less is the number of an alias: eth0:1
_LINK = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,14}")  # what hints take for a link; check_link is the rule
_RANGE = "233.252.0.0/24:5000%eth0"


def parse_stream(text: str) -> Stream:
    """Read a stream as people write it, also as a pasted ``udp://`` or ``rtp://`` URL.

    Raises NotationError, which names the faulty part and what would be right.
    """
    rest, pasted = _without_scheme(text.strip())
    ends, percent, link = rest.partition("%")
    if pasted:  # players write a closing slash
        ends = ends.removesuffix("/")
    if not ends:
        _refuse("no address is given", f"write GROUP:PORT%LINK, e.g. {EXAMPLE}")
    _refuse_ipv6(ends)
    left, at, destination = ends.rpartition("@")
    if at:
        _refuse_misplaced(left, destination)
    address, length, port = _destination(destination)
    source = None
    if left or (at and not pasted):
        source = _source(left, address, destination)
    if percent:
        _refuse_port_after_link(link, ends)
        check_link(link)
    return Stream(address=address, port=port, link=link or None, source=source, length=length)


def format_stream(stream: Stream) -> str:
    """Write a stream so that ``parse_stream`` gives the same one back."""
    source = f"{_host(stream.source)}@" if stream.source is not None else ""
    length = f"/{stream.length}" if stream.length is not None else ""
    port = f":{stream.port}" if stream.port is not None else ""
    link = f"%{stream.link}" if stream.link is not None else ""
    return f"{source}{_host(stream.address)}{length}{port}{link}"


def parse_address(text: str) -> IPv4Address:
    """Read a dotted quad, strictly: four decimal numbers to 255 without leading zeros."""
    if match := _QUAD_AND_PORT.fullmatch(text):
        _refuse(f"{shown(text)} has five numbers", f"a port stands after a colon: {match[1]}:{match[2]}")
    if not _QUAD.fullmatch(text):
        _refuse(
            f"{shown(text)} is not an IPv4 address", "write four numbers, e.g. 233.252.0.1 (names are not looked up)"
        )
    for octet in text.split("."):
        if len(octet) > 1 and octet[0] == "0":
            _refuse(f"{shown(octet)} in {shown(text)} has a leading zero", f"write {octet.lstrip('0') or '0'}")
        if len(octet) > 3 or int(octet) > 255:
            _refuse(f"{shown(octet)} in {shown(text)} is more than 255", "each of the four numbers is 0 to 255")
    return IPv4Address(text)


def parse_network(text: str) -> IPv4Network:
    """Read ``ADDRESS/LENGTH``, or an address alone as a network of one."""
    quad, slash, digits = text.strip().partition("/")
    address = parse_address(quad)
    if not slash:
        return IPv4Network(address)
    length = _number(digits, 32)
    if length is None:
        _refuse(f"length {shown(digits)} is not a number from 0 to 32", "write e.g. 192.0.2.0/24")
    return _network(address, length)


def check_link(name: str) -> None:
    """Refuse what the kernel would never have as the name of a link."""
    size = len(name.encode(errors="surrogatepass"))
    if not name:
        _refuse("no link follows the %", f"write its name, e.g. {EXAMPLE}")
    if size > LINK_NAME_BYTES:
        _refuse(f"link name {shown(name)} has {size} bytes", f"a link name has {LINK_NAME_BYTES} at most, e.g. eth0")
    if "*" in name or name.endswith("+"):
        _refuse(f"{shown(name)} stands for several links", "a rule has one link: write a rule for each of them")
    if name in {".", ".."} or any(not c.isprintable() or c.isspace() or c in "/:%" for c in name):
        _refuse(f"{shown(name)} is not a link name", "it has no blanks and none of / : %, e.g. eth0")


def shown(text: str) -> str:
    """Quote text for a message, so that it stays on one line whatever it holds."""
    return repr(text if len(text) <= 48 else f"{text[:45]}...")


def _refuse(problem: str, remedy: str) -> NoReturn:
    raise NotationError(problem, remedy)


def _host(address: Address) -> str:
    return f"[{address}]" if isinstance(address, IPv6Address) else str(address)


def _number(digits: str, highest: int) -> int | None:
    """Return 0 to *highest* (of five digits at most), or None for anything else, a leading zero among it."""
    if not re.fullmatch("0|[1-9][0-9]{0,4}", digits) or int(digits) > highest:
        return None
    return int(digits)


def _network(address: IPv4Address, length: int) -> IPv4Network:
    network = IPv4Network((address, length), strict=False)
    if network.network_address != address:
        _refuse(f"{address}/{length} has host bits set", f"the network is {network}, one address alone is {address}")
    return network


def _without_scheme(text: str) -> tuple[str, bool]:
    """Take ``udp://`` or ``rtp://`` off, and tell whether it was there."""
    match = _SCHEME.match(text)
    if match is None:
        return text, False
    if match[1].lower() not in {"udp", "rtp"}:
        _refuse(f"{shown(match[0])} is not understood", f"paste a udp:// or rtp:// URL, or write {EXAMPLE}")
    rest, _, query = text[match.end() :].partition("?")
    if query.startswith("%"):
        return rest + query, True
    if query:
        remedy = f"leave it out, and name the link after %: {EXAMPLE}"
        _refuse(f"URL option {shown('?' + query)} is not understood", remedy)
    return rest, True


def _refuse_ipv6(ends: str) -> None:
    for end in ends.split("@"):
        try:
            IPv6Address(end.removeprefix("[").partition("]")[0])
        except ValueError:
            if "[" in end or "]" in end:
                _refuse(f"{shown(end)} is not an address", f"brackets are for IPv6, so write e.g. {EXAMPLE}")
            if "::" not in end or end[0].isdigit():
                continue
        _refuse(f"IPv6 is not supported yet: {shown(end)}", f"name an IPv4 group, e.g. {EXAMPLE}")


def _refuse_misplaced(left: str, right: str) -> None:
    """Say where a link belongs if it stands on either side of the @."""
    if "@" in left:
        if all(map(_ADDRESSED.fullmatch, left.split("@"))) and _LINK.fullmatch(right):
            _refuse(f"{shown('@' + right)} names no address", f"a link stands after %: {left}%{right}")
        _refuse("there is more than one @", "write SOURCE@GROUP:PORT%LINK, e.g. 192.0.2.1@233.252.0.1:5000%eth0")
    if _ADDRESSED.fullmatch(left) and _LINK.fullmatch(right):
        _refuse(f"{shown('@' + right)} names no address", f"a link stands after %: {left}%{right}")
    if _ADDRESSED.fullmatch(right) and _LINK.fullmatch(left):
        _refuse(f"{shown(left + '@')} is no source address", f"a link stands after %: {right}%{left}")


def _refuse_port_after_link(link: str, ends: str) -> None:
    name, colon, port = link.partition(":")
    if colon and _LINK.fullmatch(name) and (":" in ends or not port.isdigit() or int(port) < FIRST_LIKELY_PORT):
        label = f"{shown(link)} is a label of an address, not a link"
        _refuse(label, f"name the link, {ends}%{name}; which address an output sends from is source_address")
    if colon and _LINK.fullmatch(name) and _ADDRESSED.fullmatch(f"{ends}:{port}"):
        _refuse(f"{shown(':' + port)} follows the link", f"the link comes last: {ends}:{port}%{name}")


def _destination(text: str) -> tuple[IPv4Address, int | None, int | Literal["any"] | None]:
    """Read ``GROUP[/LEN][:PORT]``."""
    host, colon, digits = text.partition(":")
    quad, slash, bits = host.partition("/")
    if not quad:
        _refuse("no address is given", f"write GROUP:PORT%LINK, e.g. {EXAMPLE}")
    address = parse_address(quad)
    length = _length(address, bits) if slash else None
    if length is None:
        _refuse_class(address)
    return address, length, _port(quad, digits) if colon else None


def _refuse_class(address: IPv4Address) -> None:
    """Refuse destinations that no datagram can have."""
    right = "groups are 224.0.0.1 to 239.255.255.255"
    if address == IPv4Address("224.0.0.0"):
        _refuse("224.0.0.0 is the base of the multicast addresses and never a group", right)
    if address == IPv4Address("255.255.255.255"):
        _refuse("255.255.255.255 is the broadcast address", right)
    if int(address) >> 28 == 0xF:
        _refuse(f"{address} is reserved (240.0.0.0/4)", right)
    if int(address) >> 24 == 0:
        _refuse(f"{address} is neither a group nor a host (0.0.0.0/8)", right)


def _port(quad: str, digits: str) -> int | Literal["any"]:
    if digits == "any":
        return "any"
    port = _number(digits, 65535)
    if port:
        return port
    before, slash, bits = digits.partition("/")
    if slash and _number(before, 65535) and _number(bits, 32) is not None:
        _refuse(f"{shown('/' + bits)} follows the port", f"the length stands before it: {quad}/{bits}:{before}")
    if not digits:
        _refuse("no port follows the colon", f"a port is 1 to 65535, e.g. {quad}:5000")
    if port == 0:
        _refuse("port 0 cannot be used", f"a port is 1 to 65535, e.g. {quad}:5000")
    remedy = f"a port is 1 to 65535 or any, e.g. {quad}:5000"
    if _LINK.fullmatch(digits) and digits.lower() != "any":
        remedy += f", and a link stands after %: {quad}:5000%{digits}"
    _refuse(f"{shown(digits)} is not a port", remedy)


def _length(address: IPv4Address, bits: str) -> int | None:
    length = _number(bits, 32)
    if length is None:
        _refuse(f"length {shown(bits)} is not a number from 20 to 32", f"write a range as {_RANGE}")
    if not address.is_multicast:
        _refuse(f"{address}/{length} is a range of hosts", f"only groups have ranges, so name one host: {address}")
    if length < SHORTEST_LENGTH:
        _refuse(f"/{length} is more than 4096 groups", f"a range is /20 at most, e.g. {_RANGE}")
    _network(address, length)
    return None if length == 32 else length


def _source(text: str, address: IPv4Address, destination: str) -> IPv4Address:
    quad = re.split("[/:]", text, maxsplit=1)[0]
    if not text:
        _refuse("no source stands before the @", f"write e.g. 192.0.2.1@{destination}, or {destination} for any source")
    source = parse_address(quad)
    if source.is_multicast:
        if address.is_multicast:
            _refuse(f"source {source} is a group", f"a source is one host, e.g. 192.0.2.1@{destination}")
        port = next((p for end in (text, destination) if _number(p := end.partition(":")[2], 65535)), "5000")
        _refuse(f"source {source} is a group", f"the source stands before the @: {address}@{source}:{port}")
    if text != quad:
        remedy = "and networks stand under allow" if text[len(quad)] == "/" else "and the port stands after the group"
        _refuse(f"{shown(text)} before the @ is more than an address", f"a source is one host, {remedy}")
    if int(source) >> 28 == 0xF or int(source) >> 24 == 0:
        _refuse(f"source {source} never sends", f"a source is one host, e.g. 192.0.2.1@{destination}")
    if not address.is_multicast:
        _refuse(f"source {source} stands before a host", f"only groups have sources, so write {destination}")
    return source
