from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcrelay.errors import SettingError
from mcrelay.model.rate import Rate, format_rate, parse_rate


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("20000", Rate(20_000, "pps")),
        ("20kpps", Rate(20_000, "pps")),
        ("1.5 Mpps", Rate(1_500_000, "pps")),
        ("500Mbit", Rate(500_000_000, "bit")),
        ("1Gbit/s", Rate(1_000_000_000, "bit")),
        ("20KPPS", Rate(20_000, "pps")),
        ("5mbit", Rate(5_000_000, "bit")),
        ("8gBPS", Rate(8_000_000_000, "bit")),
    ],
)
def test_rates_are_read_as_people_write_them(text, rate):
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "0", "fast", "-1", "5Tbit", "1e6", "nan"])
def test_what_is_no_rate_is_refused_with_an_example(text):
    with pytest.raises(SettingError, match="500Mbit"):
        parse_rate(text)


@pytest.mark.parametrize("text", ["20M", "1 G", "3m"])
def test_a_bare_m_or_g_is_refused_because_nobody_knows_of_what(text):
    with pytest.raises(SettingError, match=r"does not say of what; write .*pps or .*bit"):
        parse_rate(text)


@given(st.integers(1, 90_000_000_000), st.sampled_from(["pps", "bit"]))
def test_what_is_written_is_read_again(number, unit):
    assert parse_rate(format_rate(Rate(number, unit))) == Rate(number, unit)


def test_a_limit_may_be_a_bare_number_of_datagrams():
    from mcrelay.model.values import limit

    assert limit(20_000) == limit("20000") == Rate(20_000, "pps")
    for wrong in (True, 0, 1.5, [1]):
        with pytest.raises(SettingError):
            limit(wrong)
