"""Rules of every kind, for hypothesis: each is what the parser makes of a table."""

from __future__ import annotations

from hypothesis import strategies as st

from mcrelay.config.parse import parse_rule
from mcrelay.errors import ConfigError

ADDRESSES = st.integers(1, 254).map(lambda n: f"192.0.2.{n}")
GROUPS = st.integers(1, 254).map(lambda n: f"233.252.0.{n}")
PORTS = st.integers(1, 65535)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
OUTPUT_OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "source_address": st.sampled_from(["auto"]) | ADDRESSES,
        "source_port": st.sampled_from(["auto"]) | PORTS,
        "ttl": st.integers(1, 255) | st.sampled_from([16, 64]),
        "dscp": st.sampled_from(["keep"]) | st.integers(0, 63),
        "df": st.booleans(),
        "burst": st.integers(1, 64),
    },
)
RULE_OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "description": TEXTS,
        "vlan": st.just("none"),
        "allow": st.lists(st.sampled_from(["192.0.2.0/24", "0.0.0.0/0", "198.51.100.7"]), min_size=1, max_size=3),
        "limit": st.sampled_from(["1", "20000", "20kpps", "1.5Mpps", "500Mbit", "33bit", "90Gpps"]),
        "exclusive": st.booleans(),
        "enabled": st.booleans(),
        "shared": st.booleans(),
        "reflect": st.booleans(),
    },
)


@st.composite
def tables(draw):
    """A table of ``[rules.NAME]``, that may have complaints."""
    source = draw(st.just("") | ADDRESSES.map(lambda address: f"{address}@"))
    ends = draw(
        st.lists(
            st.one_of(
                st.builds("10.9.0.{}".format, st.integers(1, 9)),
                st.builds("10.9.0.{}:{}%out1".format, st.integers(1, 9), PORTS),
                st.builds("239.9.0.{}:{}%out0".format, st.integers(1, 9), PORTS),
            ),
            min_size=1,
            max_size=4,
        )
    )
    outputs = [draw(st.just(to) | OUTPUT_OPTIONS.map(lambda options, to=to: {"to": to, **options})) for to in ends]
    table = {"input": f"{source}{draw(GROUPS)}:{draw(PORTS)}%in0", "outputs": outputs}
    return table | draw(OUTPUT_OPTIONS) | draw(RULE_OPTIONS)


@st.composite
def rules(draw, name="x"):
    """A rule without complaints."""

    def parsed(table):
        try:
            return parse_rule(name, table, {})
        except ConfigError:
            return None

    return draw(tables().map(parsed).filter(lambda rule: rule is not None))
