"""The table that finds a datagram's input."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.frames import number

pytestmark = pytest.mark.core

GROUP = number("226.2.2.2")
SOURCE = number("192.168.168.55")
STRANGER = number("192.0.2.9")
ANY_VLAN = 0x1000  # of demux.pxd


def test_an_empty_table_holds_nothing(probe):
    assert probe.Demux([]).find((GROUP, 2068, SOURCE, 0)) is None


def test_a_key_without_a_source_takes_every_source(probe):
    table = probe.Demux([(GROUP, 2068, 0, 0)])
    assert table.find((GROUP, 2068, SOURCE, 0)) == 0
    assert table.find((GROUP, 2068, STRANGER, 0)) == 0


def test_a_key_with_a_source_takes_that_source_alone(probe):
    table = probe.Demux([(GROUP, 2068, SOURCE, 0)])
    assert table.find((GROUP, 2068, SOURCE, 0)) == 0
    assert table.find((GROUP, 2068, STRANGER, 0)) is None


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_a_named_source_goes_before_none_in_any_order(probe, order):
    keys = [(GROUP, 2068, SOURCE, 0), (GROUP, 2068, 0, 0)]
    table = probe.Demux([keys[i] for i in order])
    assert order[table.find((GROUP, 2068, SOURCE, 0))] == 0
    assert order[table.find((GROUP, 2068, STRANGER, 0))] == 1


@pytest.mark.parametrize(
    "other",
    [
        (GROUP + 1, 2068, SOURCE, 0),
        (GROUP, 2069, SOURCE, 0),
        (GROUP, 2068, SOURCE, 1),
        (GROUP, 2068 ^ 0x8000, SOURCE, 0),
    ],
)
@pytest.mark.parametrize("source", [0, SOURCE])
def test_group_port_and_vlan_must_all_be_the_same(probe, source, other):
    table = probe.Demux([(GROUP, 2068, source, 0)])
    assert table.find(other) is None


def test_vlans_of_one_group_are_told_apart(probe):
    table = probe.Demux([(GROUP, 2068, 0, vlan) for vlan in range(4095)])
    for vlan in range(4095):
        assert table.find((GROUP, 2068, SOURCE, vlan)) == vlan


@pytest.mark.parametrize("key", [(GROUP, 2068, 0, 0), (GROUP, 2068, SOURCE, 7)])
def test_two_inputs_with_one_key_are_refused(probe, key):
    with pytest.raises(ValueError, match="two inputs with one key"):
        probe.Demux([key, (GROUP, 1, 0, 0), key])


def test_no_source_is_not_the_source_0_0_0_0(probe):
    """An IPv4 address stands in the key as ::ffff:a.b.c.d, so even 0.0.0.0 is not "any"."""
    table = probe.Demux([(GROUP, 2068, 0, 0)])
    mapped = 0xFFFF << 32
    assert table.six_find((0, mapped | GROUP), (0, mapped), 2068) == 0
    assert table.six_find((0, GROUP), (0, mapped), 2068) is None


def test_4096_random_keys_are_all_found_and_others_are_not(probe):
    chance = random.Random(4096)
    universe = list(
        {
            (number("224.0.0.0") + chance.getrandbits(28), chance.getrandbits(16), chance.getrandbits(32) or 1, 0)
            for _ in range(8200)
        }
    )
    keys, others = universe[:4096], universe[4096:8192]
    table = probe.Demux(keys)
    assert table.slots == 8192
    assert [table.find(key) for key in keys] == list(range(4096))
    assert {table.find(key) for key in others} == {None}


def test_4096_neighbouring_groups_spread_over_the_table(probe):
    """Real plans number their groups upwards: linear probing must not pile them up."""
    homes = {probe.key_hash((GROUP + i, 5000, 0, 0)) & 8191 for i in range(4096)}
    assert len(homes) > 2800  # 4096 throws at 8192 places hit 3223 on average


def test_keys_that_share_a_place_are_all_found(probe):
    """Chosen so that every key's home is the last place of the table: probing must wrap around."""
    homeless = []
    for i in range(1 << 20):
        key = (GROUP + i, 2068, 0, 0)
        if probe.key_hash(key) & 31 == 31:
            homeless.append(key)
        if len(homeless) == 17:
            break
    *keys, absent = homeless
    table = probe.Demux(keys)
    assert table.slots == 32
    assert [table.find((*key[:2], SOURCE, 0)) for key in keys] == list(range(16))
    assert table.find((*absent[:2], SOURCE, 0)) is None


def test_keys_with_one_hash_are_told_apart(probe):
    """32 bits of hash meet by chance among 200 000 keys: some four pairs."""
    chance = random.Random(32)
    seen, pairs = {}, []
    for _ in range(200_000):
        key = (number("232.0.0.0") + chance.getrandbits(24), chance.getrandbits(16), chance.getrandbits(32) or 1, 0)
        twin = seen.setdefault(probe.key_hash(key), key)
        if twin != key:
            pairs.append((twin, key))
    assert pairs
    for one, other in pairs:
        assert probe.Demux([one]).find(other) is None
        both = probe.Demux([one, other])
        assert (both.find(one), both.find(other)) == (0, 1)


few = st.tuples(
    st.sampled_from([GROUP, GROUP + 1, GROUP + 256]),
    st.sampled_from([1, 2068, 65535]),
    st.sampled_from([0, SOURCE, STRANGER, 0xFFFFFFFF]),
    st.sampled_from([0, 1, 4094, ANY_VLAN]),
)
one_source = few.filter(lambda key: key[2] != 0 and key[3] != ANY_VLAN)


@given(st.lists(few, unique=True, max_size=108), st.lists(one_source, max_size=30))
def test_the_table_finds_what_a_dict_finds(probe, keys, asked):
    """A named source goes before none, then a VLAN before any."""
    model = {key: i for i, key in enumerate(keys)}
    table = probe.Demux(keys)
    for group, port, source, vlan in [*asked, *(key for key in keys if key[2] and key[3] != ANY_VLAN)]:
        order = itertools.product((source, 0), (vlan, ANY_VLAN))
        fits = [model[group, port, *rest] for rest in order if (group, port, *rest) in model]
        assert table.find((group, port, source, vlan)) == (fits[0] if fits else None)
