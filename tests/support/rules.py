"""Rules of every kind, for hypothesis: each is what the parser makes of a table."""

from __future__ import annotations

from hypothesis import strategies as st
from support.keys import values

from mcrelay.config.parse import parse_rule
from mcrelay.config.schema import INPUT, OUTPUT, OWN
from mcrelay.errors import ConfigError

ADDRESSES = st.integers(1, 254).map(lambda n: f"192.0.2.{n}")
GROUPS = st.integers(1, 254).map(lambda n: f"233.252.0.{n}")
PORTS = st.integers(1, 65535)
OUTPUT_OPTIONS = st.fixed_dictionaries({}, optional={key: values(row) for key, row in OUTPUT.items()})
RULE_OPTIONS = st.fixed_dictionaries({}, optional={key: values(row) for key, row in (INPUT | OWN).items()})


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
