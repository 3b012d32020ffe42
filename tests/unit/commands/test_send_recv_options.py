"""How send and recv read rates, sizes and streams."""

from __future__ import annotations

import pytest

from mcrelay.commands.send import Sizes, consecutive, pace_of, parse_sizes
from mcrelay.errors import SettingError, UsageError


@pytest.mark.parametrize(
    ("text", "values", "random"),
    [
        ("1316", (1316,), False),
        ("0", (0,), False),
        ("65507", (65507,), False),
        ("64,570,1400", (64, 570, 1400), False),
        ("80-400", (80, 400), True),
        ("80-80", (80, 80), True),
    ],
)
def test_sizes(text: str, values: tuple[int, ...], random: bool) -> None:
    assert parse_sizes(text) == Sizes(values, random)


@pytest.mark.parametrize("text", ["", "-1", "65508", "1k", "64,", "64,,70", "400-80", "1-2-3", "1.5", "٣"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(SettingError, match="--size"):
        parse_sizes(text)


@pytest.mark.parametrize(
    ("text", "size", "rate"),
    [
        ("20000", "1316", 20000),
        ("20kpps", "1316", 20000),
        ("1.5Mpps", "64", 1_500_000),
        ("0.5", "64", 0.5),
        ("2k", "64", 2000),
        ("500Mbit", "1250", 50000),
        ("10 kbit", "100-150", 10),
        ("8Mbps", "500,1500", 1000),
        ("1Gbit/s", "1250", 100_000),
    ],
)
def test_rates(text: str, size: str, rate: float) -> None:
    assert pace_of(text, parse_sizes(size)) == pytest.approx(rate)


@pytest.mark.parametrize("text", ["", "0", "0pps", "-5", "fast", "20 thousand", "1e6", "5Tbit", "nan"])
def test_bad_rates(text: str) -> None:
    with pytest.raises(SettingError, match="--rate"):
        pace_of(text, parse_sizes("1316"))


def test_bits_of_nothing() -> None:
    with pytest.raises(SettingError, match="pps"):
        pace_of("5Mbit", parse_sizes("0"))


def test_consecutive_groups_carry_over() -> None:
    streams = consecutive("192.0.2.1@233.252.0.254:5000%eth0", 3)
    assert [str(stream.address) for stream in streams] == ["233.252.0.254", "233.252.0.255", "233.252.1.0"]
    assert {(str(stream.source), stream.port, stream.link) for stream in streams} == {("192.0.2.1", 5000, "eth0")}


def test_range_names_its_groups() -> None:
    streams = consecutive("233.252.0.4/30:5000%eth0", None)
    assert [str(stream.address) for stream in streams] == [f"233.252.0.{i}" for i in range(4, 8)]
    assert {stream.length for stream in streams} == {None}


@pytest.mark.parametrize(
    ("text", "streams", "says"),
    [
        ("233.252.0.1:5000", None, "%LINK"),
        ("233.252.0.1%eth0", None, "names no port"),
        ("233.252.0.1:any%eth0", None, "names no port"),
        ("233.252.0.0/30:5000%eth0", 2, "leave --streams out"),
        ("192.0.2.1:5000", 2, "one host"),
        ("239.255.255.255:5000%eth0", 2, "start lower"),
    ],
)
def test_streams_that_cannot_be(text: str, streams: int | None, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        consecutive(text, streams)


def test_streams_of_ipv6_are_consecutive_too() -> None:
    assert [str(each.address) for each in consecutive("[ff1e::1]:5000%eth0", 3)] == ["ff1e::1", "ff1e::2", "ff1e::3"]
    assert len(consecutive("[ff1e::]/118:5000%eth0", None)) == 1024
    with pytest.raises(UsageError, match="go beyond ff1e:ffff"):
        consecutive("[ff1e:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:5000%eth0", 2)
