"""The one parser and the one formatter of streams: ``[SOURCE@]GROUP[/LEN][:PORTS][%LINK]``.

IPv6 addresses stand in brackets: ``[2001:db8::5]@[ff3e::1234]:5000%eth0``, ``[ff15::1000]/116:5000%eth0``.
PORTS is a number, several (``5000,5002``), a range (``6906-6941``), or any.
"""

from __future__ import annotations

import itertools
import re
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from mcrelay.errors import NotationError
from mcrelay.model.address import SCOPES, host, network, number, parse_quad, parse_six, refuse, scope_of, shown, six
from mcrelay.model.ports import HIGHEST_PORT, Ports
from mcrelay.model.stream import Stream

if TYPE_CHECKING:
    from mcrelay.model.ports import Port, Span
    from mcrelay.model.rule import Output
    from mcrelay.model.stream import Address

EXAMPLE = "233.252.0.1:5000%eth0"
EXAMPLE_SIX = "[ff15::1234]:5000%eth0"
NAME = re.compile("[A-Za-z0-9][A-Za-z0-9_-]{0,62}")  # of a rule, and of an instance
NAME_REMEDY = "it has 1 to 63 letters, digits, - or _, and begins with a letter or digit"
LINK_NAME_BYTES = 15  # IFNAMSIZ less the closing NUL
RANGE_BITS = 12  # a range holds 4096 groups at most: /20, or /116 of IPv6

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_ADDRESSED = re.compile(r"(?:[0-9]+(?:\.[0-9]+)+|\[[0-9a-fA-F:]+\])(?:/[0-9]+)?(?::[0-9a-z,-]+)?")
_SEVERAL = re.compile(r"(?=.*[,-])[0-9]+(?:-[0-9]+)?(?:,[0-9]+(?:-[0-9]+)?)*")  # ports: a list, a range
FIRST_LIKELY_PORT = 100  # a smaller number after a link's name is an alias: eth0:1
_LENGTH_AND_PORTS = re.compile(r"[0-9]{1,3}(?::[0-9a-z,-]{1,20})?")
_LINK = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,14}")  # used by hints only; check_link decides
_RANGES = {4: "233.252.0.0/24:5000%eth0", 6: "[ff15::1000]/116:5000%eth0"}
_EVERYBODY = IPv4Address("255.255.255.255")  # RFC 919: of the link, and it needs one


def parse_stream(text: str) -> Stream:
    """Read a stream as people write it, also as a pasted ``udp://`` or ``rtp://`` URL.

    Raises NotationError, which names the faulty part and what would be right.
    """
    rest, pasted = _without_scheme(text.strip())
    ends, percent, link = _without_zone(rest).partition("%")
    if pasted:  # players write a closing slash
        ends = ends.removesuffix("/")
    if not ends:
        refuse("no address is given", f"write GROUP:PORT%LINK, e.g. {EXAMPLE}")
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
    source = f"{host(stream.source)}@" if stream.source is not None else ""
    length = f"/{stream.length}" if stream.length is not None else ""
    port = f":{stream.port}" if stream.port is not None else ""
    link = f"%{stream.link}" if stream.link is not None else ""
    return f"{source}{host(stream.address)}{length}{port}{link}"


def name_output(output: Output) -> str:
    """Call an output by its stream, and by the VLAN that it is sent with: a rule may send the same to several."""
    stream = format_stream(output.stream)
    return stream if output.vlan == "none" else f"{stream} vlan {output.vlan}"


def stream_of(name: str) -> Stream:
    """Read the stream in an output's name."""
    return parse_stream(name.partition(" ")[0])


def check_link(name: str) -> None:
    """Refuse names that the kernel would not give to a link."""
    size = len(name.encode(errors="surrogatepass"))
    if not name:
        refuse("no link follows the %", f"write its name, e.g. {EXAMPLE}")
    if size > LINK_NAME_BYTES:
        refuse(f"link name {shown(name)} has {size} bytes", f"a link name has {LINK_NAME_BYTES} at most, e.g. eth0")
    if "*" in name or name.endswith("+"):
        refuse(f"{shown(name)} stands for several links", "a rule has one link: write a rule for each of them")
    if name in {".", ".."} or any(not c.isprintable() or c.isspace() or c in "/:%" for c in name):
        refuse(f"{shown(name)} is not a link name", "it has no blanks and none of / : %, e.g. eth0")


def _without_scheme(text: str) -> tuple[str, bool]:
    """Take ``udp://`` or ``rtp://`` off, and tell whether it was there."""
    match = _SCHEME.match(text)
    if match is None:
        return text, False
    if match[1].lower() not in {"udp", "rtp"}:
        refuse(f"{shown(match[0])} is not understood", f"paste a udp:// or rtp:// URL, or write {EXAMPLE}")
    rest, _, query = text[match.end() :].partition("?")
    if query.startswith("%"):
        return rest + query, True
    if query:
        remedy = f"leave it out, and name the link after %: {EXAMPLE}"
        refuse(f"URL option {shown('?' + query)} is not understood", remedy)
    return rest, True


def _without_zone(rest: str) -> str:
    """Refuse a link inside brackets, where RFC 4007 writes it."""
    for part in re.split("[]@]", rest.partition("]%")[0]):
        bracket, percent, link = part.removeprefix("[").partition("%")
        if part.startswith("[") and percent and six(bracket) is not None:
            name = link if _LINK.fullmatch(link) else "eth0"
            refuse(f"{shown('%' + link)} stands in brackets", f"the link comes last, e.g. [{bracket}]:5000%{name}")
    return rest


def _refuse_misplaced(left: str, right: str) -> None:
    """Say where a link belongs if it stands on either side of the @."""
    if "@" in left:
        if all(map(_ADDRESSED.fullmatch, left.split("@"))) and _LINK.fullmatch(right):
            refuse(f"{shown('@' + right)} names no address", f"a link stands after %: {left}%{right}")
        refuse("there is more than one @", "write SOURCE@GROUP:PORT%LINK, e.g. 192.0.2.1@233.252.0.1:5000%eth0")
    if _ADDRESSED.fullmatch(left) and _LINK.fullmatch(right):
        refuse(f"{shown('@' + right)} names no address", f"a link stands after %: {left}%{right}")
    if _ADDRESSED.fullmatch(right) and _LINK.fullmatch(left):
        refuse(f"{shown(left + '@')} is no source address", f"a link stands after %: {right}%{left}")


def _refuse_port_after_link(link: str, ends: str) -> None:
    name, colon, port = link.partition(":")
    if colon and _LINK.fullmatch(name) and (":" in ends.rpartition("]")[2] or not _likely(port)):
        label = f"{shown(link)} is a label of an address, not a link"
        refuse(label, f"name the link, {ends}%{name}; which address an output sends from is source_address")
    if colon and _LINK.fullmatch(name) and _ADDRESSED.fullmatch(f"{ends}:{port}"):
        refuse(f"{shown(':' + port)} follows the link", f"the link comes last: {ends}:{port}%{name}")


def _likely(port: str) -> bool:
    """Whether what follows a link's name and a colon is meant for ports, and not for the label of an address."""
    return _SEVERAL.fullmatch(port) is not None or (port.isdigit() and int(port) >= FIRST_LIKELY_PORT)


def _apart(text: str) -> tuple[str, str]:
    """Divide an end into its address, with brackets if it has them, and what follows."""
    if text.startswith("["):
        inside, bracket, rest = text.partition("]")
        if not bracket or (rest and rest[0] not in "/:"):
            refuse(f"{shown(text)} is not an address and a port", f"write e.g. {EXAMPLE_SIX}")
        return inside + bracket, rest
    if text.count(":") > 1 and (bare := _bare_six(text)):
        refuse(f"{shown(text)} stands without brackets", f"write IPv6 as {bare}")
    match = re.search("[/:]", text)
    return (text[: match.start()], text[match.start() :]) if match else (text, "")


def _bare_six(text: str) -> str:
    """Give what is meant by IPv6 without brackets: a port cannot be told from the address then."""
    written, slash, rest = text.partition("/")
    if six(written) is None:
        return ""
    if not _LENGTH_AND_PORTS.fullmatch(rest):
        return f"[{written}]:5000"
    return f"[{written}]{slash}{rest}" + ("" if ":" in rest else ":5000")


def _address(text: str) -> Address:
    """Read an address as it stands in a stream: IPv6 in brackets."""
    if text.startswith("["):
        return parse_six(text[1:-1])
    return parse_quad(text)


def _destination(text: str) -> tuple[Address, int | None, Port | None]:
    """Read ``GROUP[/LEN][:PORTS]``."""
    written, rest = _apart(text)
    if not written:
        refuse("no address is given", f"write GROUP:PORT%LINK, e.g. {EXAMPLE}")
    address = _address(written)
    before, colon, digits = rest.partition(":")
    length = _length(address, before.removeprefix("/")) if before else None
    if isinstance(address, IPv6Address):
        _refuse_class_six(address)
    elif length is None:
        _refuse_class(address)
    return address, length, _port(written, digits) if colon else None


def _refuse_class(address: IPv4Address) -> None:
    """Refuse destinations that no datagram can have."""
    right = "groups are 224.0.0.1 to 239.255.255.255"
    if address == IPv4Address("224.0.0.0"):
        refuse("224.0.0.0 is the base of the multicast addresses and never a group", right)
    if int(address) >> 28 == 0xF and address != _EVERYBODY:
        refuse(f"{address} is reserved (240.0.0.0/4)", right)
    if int(address) >> 24 == 0:
        refuse(f"{address} is neither a group nor a host (0.0.0.0/8)", right)


def _refuse_class_six(address: IPv6Address) -> None:
    """The same of IPv6: RFC 4291, 2.5.2 and 2.7."""
    if not int(address):
        refuse(f"{address} is no address of a group or host", f"write e.g. {EXAMPLE_SIX}")
    if address.is_multicast and scope_of(address) in {0, 15}:
        named = ", ".join(f"{digit:x} {name}" for digit, name in SCOPES.items())
        refuse(f"scope {scope_of(address):x} of {address} is reserved", f"its fourth digit is one of {named}")


def _port(quad: str, digits: str) -> Port:
    if digits == "any":
        return "any"
    if _SEVERAL.fullmatch(digits):
        return _ports(quad, digits)
    port = number(digits, HIGHEST_PORT)
    if port:
        return port
    before, slash, bits = digits.partition("/")
    if slash and number(before, 65535) and number(bits, 128) is not None:
        refuse(f"{shown('/' + bits)} follows the port", f"the length stands before it: {quad}/{bits}:{before}")
    if not digits:
        refuse("no port follows the colon", f"a port is 1 to 65535, e.g. {quad}:5000")
    if port == 0:
        refuse("port 0 cannot be used", f"a port is 1 to 65535, e.g. {quad}:5000")
    remedy = f"a port is 1 to 65535 or any, e.g. {quad}:5000"
    if _LINK.fullmatch(digits) and digits.lower() != "any":
        remedy += f", and a link stands after %: {quad}:5000%{digits}"
    if re.fullmatch("[0-9, -]+", digits) and " " in digits:
        remedy = f"several ports are written without blanks, e.g. {quad}:5000,5002 or {quad}:6906-6941"
    raise NotationError(f"{shown(digits)} is not a port", remedy)


def _ports(quad: str, text: str) -> Port:
    """Read a list of ports and of ranges of ports."""
    spans: list[Span] = []
    for part in text.split(","):
        low, dash, high = part.partition("-")
        first = _port(quad, low)
        last = _port(quad, high) if dash else first
        assert isinstance(first, int)
        assert isinstance(last, int)
        if last < first:
            refuse(f"{shown(part)} runs backwards", f"the lower port comes first: {quad}:{last}-{first}")
        spans.append((first, last))
    ordered = sorted(spans)
    for (_, before), (after, _) in itertools.pairwise(ordered):
        if after <= before:
            refuse(f"port {after} stands twice in {shown(text)}", "name each port once")
    if len(spans) == 1 and spans[0][0] == spans[0][1]:
        return spans[0][0]
    return Ports(tuple(spans))


def _length(address: Address, bits: str) -> int | None:
    most = address.max_prefixlen
    shortest = most - RANGE_BITS
    length = number(bits, most)
    if length is None:
        problem = f"length {shown(bits)} is not a number from {shortest} to {most}"
        refuse(problem, f"write a range as {_RANGES[address.version]}")
    if not address.is_multicast:
        refuse(f"{address}/{length} is a range of hosts", f"only groups have ranges, so name one host: {host(address)}")
    if length < shortest:
        refuse(
            f"/{length} is more than 4096 groups", f"a range is /{shortest} at most, e.g. {_RANGES[address.version]}"
        )
    network(address, length)
    return None if length == most else length


def _source(text: str, address: Address, destination: str) -> Address:
    example = "192.0.2.1" if address.version == 4 else "[2001:db8::5]"
    if not text:
        refuse("no source stands before the @", f"write e.g. {example}@{destination}, or {destination} for any source")
    written, rest = _apart(text)
    source = _address(written)
    if source.is_multicast:
        if address.is_multicast:
            refuse(f"source {source} is a group", f"a source is one host, e.g. {example}@{destination}")
        port = next((p for end in (rest, destination) if number(p := end.rpartition(":")[2], 65535)), "5000")
        refuse(f"source {source} is a group", f"the source stands before the @: {host(address)}@{host(source)}:{port}")
    if rest:
        remedy = "and networks stand under allow" if rest[0] == "/" else "and the port stands after the group"
        refuse(f"{shown(text)} before the @ is more than an address", f"a source is one host, {remedy}")
    if _never_sends(source):
        refuse(f"source {source} never sends", f"a source is one host, e.g. {example}@{destination}")
    if not address.is_multicast:
        refuse(f"source {source} stands before a host", f"only groups have sources, so write {destination}")
    if source.version != address.version:
        families = f"source {source} is of IPv{source.version}, and {address} of IPv{address.version}"
        refuse(families, f"both are of one family, e.g. {example}@{destination}")
    return source


def _never_sends(source: Address) -> bool:
    if isinstance(source, IPv6Address):
        return not int(source)
    return int(source) >> 28 == 0xF or int(source) >> 24 == 0
