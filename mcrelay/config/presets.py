"""Presets: what a discovery protocol needs of a relay between a set of links, as rules. Pure.

A preset is a template. It becomes one ordinary rule for each link, which takes what arrives there and sends it on all
the other links; each is named after the preset's rule and its link, and `show` lists them like any others.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any, Literal

from mcrelay.errors import SettingError
from mcrelay.model.notation import NAME, check_link
from mcrelay.model.rate import Rate
from mcrelay.model.rule import Input, Output, PresetRule
from mcrelay.model.stream import Stream
from mcrelay.model.wording import written

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mcrelay.model.stream import Address

KEYS = ("preset", "links")
MAY_STAND = ("description", "enabled", "allow", "limit")  # beside a preset; all else it says itself
# Discovery is a few datagrams a second. What goes round between two relays with the same preset ends here.
LIMIT = Rate(1000, "pps")
EXAMPLE = 'links = ["eth0.10", "eth0.20"]'


@dataclass(frozen=True, slots=True)
class Preset:
    """What a protocol's datagrams are sent to, and with which TTL and source port."""

    title: str
    group: Address
    port: int
    ttl: int
    source_port: int | Literal["auto"] = "auto"
    searches: bool = False  # questions are answered by unicast to who asked


PRESETS = {
    "mdns": Preset("mDNS", IPv4Address("224.0.0.251"), 5353, 255, 5353),  # RFC 6762, 3, 6 and 11
    "mdns6": Preset("mDNS over IPv6", IPv6Address("ff02::fb"), 5353, 255, 5353),
    "ssdp": Preset("SSDP", IPv4Address("239.255.255.250"), 1900, 2, searches=True),  # UPnP DA 2.0, 1.2 and 1.3
    "ssdp6": Preset("SSDP over IPv6", IPv6Address("ff02::c"), 1900, 1, searches=True),  # the same, annex A.3
    "ssdp6-site": Preset("SSDP over IPv6, of the site", IPv6Address("ff05::c"), 1900, 2, searches=True),
    "wsd": Preset("WS-Discovery", IPv4Address("239.255.255.250"), 3702, 1, searches=True),  # OASIS WS-Discovery 1.1
    "wsd6": Preset("WS-Discovery over IPv6", IPv6Address("ff02::c"), 3702, 1, searches=True),
}


def read_preset(value: object) -> Preset:
    """Find a preset by its name. Raises SettingError."""
    if isinstance(value, str) and value in PRESETS:
        return PRESETS[value]
    raise SettingError(f"{written(value)} is no preset", f"write one of {', '.join(map(written, PRESETS))}")


def read_links(value: object) -> tuple[str, ...]:
    """Check the set of links. Raises SettingError."""
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise SettingError(f"{written(value)} is not a list of links", f"write e.g. {EXAMPLE}")
    for each in value:
        check_link(each)
    twice = sorted({each for each in value if value.count(each) > 1})
    if twice:
        raise SettingError(f"link {twice[0]} stands in it twice", "name each link once")
    if len(value) < 2:
        raise SettingError("a preset relays between links, and here is one at most", f"name two or more: {EXAMPLE}")
    return tuple(value)


def rules_of(name: str, preset: Preset, links: tuple[str, ...], options: Mapping[str, Any]) -> dict[str, PresetRule]:
    """Make the rules of a preset, by name. *options* are its other keys (MAY_STAND). Raises SettingError."""
    made = {}
    for own, link in _names(name, links):
        if not NAME.fullmatch(own):
            raise SettingError(f"its rule for {link} would be called {own}", "give the preset's rule a shorter name")
        others = [each for each in links if each != link]
        said = options.get("description") or f"{preset.title} of {link} for {', '.join(others)}"
        made[own] = PresetRule(
            own,
            (Input(_stream(preset, link), allow=options.get("allow"), limit=options.get("limit", LIMIT)),),
            tuple(Output(_stream(preset, each), source_port=preset.source_port, ttl=preset.ttl) for each in others),
            description=said,
            enabled=options.get("enabled", True),
            shared=True,
            reflect=True,
            preset=name,
            searches=preset.searches,
        )
    return made


def _stream(preset: Preset, link: str) -> Stream:
    return Stream(preset.group, preset.port, link)


def _names(name: str, links: Iterable[str]) -> list[tuple[str, str]]:
    """Name a rule for each link: what a rule's name cannot hold becomes a dash, and what is the same then a number."""
    found: dict[str, str] = {}
    for link in links:
        own = base = f"{name}-{re.sub('[^A-Za-z0-9_-]', '-', link)}"
        number = 2
        while own in found:
            own = f"{base}-{number}"
            number += 1
        found[own] = link
    return list(found.items())
