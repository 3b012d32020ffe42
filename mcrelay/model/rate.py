"""Rates as people write them: ``20000``, ``20kpps``, ``500Mbit``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from mcrelay.errors import SettingError


@dataclass(frozen=True, slots=True)
class Rate:
    """So many a second: datagrams (``unit`` pps), or bits of UDP payload (``unit`` bit)."""

    number: float
    unit: Literal["pps", "bit"]


_RATE = re.compile(r"(?i)([0-9]+(?:\.[0-9]+)?)\s*([kMG]?)(pps|bit|bps|bit/s)?")
_SCALE = {"": 1, "k": 1_000, "M": 1_000_000, "G": 1_000_000_000}


def parse_rate(text: str) -> Rate:
    """Read a rate, in upper or lower case; a bare number is datagrams a second. Raises SettingError."""
    match = _RATE.fullmatch(text.strip())
    if match is None:
        raise SettingError(f"{text!r} is not a rate", "write e.g. 20000, 20kpps or 500Mbit")
    prefix = match[2].lower() if match[2] in {"k", "K"} else match[2].upper()
    if prefix in {"M", "G"} and match[3] is None:
        raise SettingError(f"{text!r} does not say of what", f"write {match[1]}{prefix}pps or {match[1]}{prefix}bit")
    number = float(match[1]) * _SCALE[prefix]
    if not number:
        raise SettingError(f"{text!r} lets nothing through", "write e.g. 20000, 20kpps or 500Mbit")
    return Rate(number, "bit" if (match[3] or "pps").lower() != "pps" else "pps")


def format_rate(rate: Rate) -> str:
    """Write a rate so that ``parse_rate`` reads the same again, with the largest unit that divides it."""
    prefix = next((prefix for prefix in "GMk" if rate.number % _SCALE[prefix] == 0), "")
    return f"{rate.number / _SCALE[prefix]:.15g}{prefix}{rate.unit}"
