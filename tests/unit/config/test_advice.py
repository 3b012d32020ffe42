"""Advice holds: what a complaint tells people to write is taken when they write it."""

from __future__ import annotations

import re
import tomllib

import pytest

from mcrelay.config.parse import parse_config
from mcrelay.config.schema import LINK, RELAY, RULE, never, not_yet
from mcrelay.config.writer import toml_value
from mcrelay.errors import ConfigError

IN, OUT = "233.252.0.1:5000%eth1", "233.252.0.2:5000%eth0"
WRONG = [
    "",
    "x",
    "1",
    "0",
    "on",
    "EF",
    "16M",
    "1.2.3.4.5",
    "239.1.1.1",
    "0.0.0.0",
    "127.0.0.1",
    -1,
    0,
    100_000,
    1e9,
    [],
    ["x"],
    [-1],
]
LITERAL = re.compile(r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]|(?<![\w.:-])\d+(?![\w.-])|\b(?:true|false)\b')
STREAM = re.compile(r"[\d.@/]+(?::\w+)?%\w+|(?<=e\.g\. )\d+\.\d+\.\d+\.\d+:\d+")

G = "233.252.0.1"
INPUTS = [
    "", G, f"{G}:5000", f"{G}%eth1", "10.9.0.07:5000%eth1", f"@{IN}", f"{G}:0%eth1", f"{G}:5000%", f"{G}.5000%eth1",
    f"a@b@{IN}", f"192.0.2.1:9@{IN}", "host:5000%eth1", f"{G}%eth1:5000", f"udp://{G}:5000", f"{G}:5000@eth1",
    f"192.0.2.0/24@{IN}", f"{G}:70000%eth1",
]  # fmt: skip
OUTPUTS = [
    "",
    "233.252.0.2:5000",
    "192.0.2.1@233.252.0.2:5000%eth0",
    "233.252.0.2:any%eth0",
    "233.252.0.2:0%eth0",
    "x:1",
    IN,
]


def complaints(text):
    try:
        parse_config([("f.toml", text)])
    except ConfigError as error:
        return [each for each in error.complaints if not each.warning]
    return []


def rule(source=IN, output=OUT, more=""):
    sent = output if output.startswith("{") else toml_value(output)
    return f"[rules.x]\ninput = {toml_value(source)}\noutputs = [{sent}]\n{more}\n"


PLACES = [("relay", row) for row in RELAY.values()] + [("links.eth1", row) for row in LINK.values()]
PLACES += [("rules.x", row) for row in RULE.values() if not never(row)]


@pytest.mark.parametrize(("table", "row"), PLACES, ids=lambda each: getattr(each, "key", None))
def test_a_value_that_is_advised_is_taken(table, row):
    def config(value):
        line = f"{row.key} = {value}\n"
        return rule(more=line) if table == "rules.x" else f"[{table}]\n{line}{rule()}"

    advised = set()
    for wrong in WRONG:
        for found in complaints(config(toml_value(wrong))):
            assert found.remedy, found
            advised |= set(LITERAL.findall(found.remedy.replace(f"{row.key} = ", "")))
    for value in advised:
        held = value if not value.startswith("{") else None
        if held and complaints(config(held)):
            # One element of a list, or a word within a sentence about another key.
            assert not complaints(config(f"[{held}]")), f"{value} is advised, and refused"


@pytest.mark.parametrize("source", INPUTS)
def test_a_stream_that_is_advised_for_an_input_is_taken(source):
    for found in complaints(rule(source)):
        for advised in STREAM.findall(found.remedy):
            whole = advised if "%" in advised else f"{advised}%eth1"  # the advice is about what stands before the link
            again = [each for each in complaints(rule(whole)) if each.key.startswith("rules.x.input")]
            assert again == [], f"{found.remedy}"


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_stream_that_is_advised_for_an_output_is_taken(output):
    for found in complaints(rule(output=output)):
        for advised in re.findall(r"\{[^}]*\}", found.remedy) or STREAM.findall(found.remedy):
            whole = advised if "%" in advised else f"{advised}%eth0"
            again = [each for each in complaints(rule(output=whole)) if each.key.startswith("rules.x.outputs")]
            assert again == [], f"{found.remedy}"


@pytest.mark.parametrize("key", ["tll", "Dscp", "burts", "source-port", "worker", "exclusiv", "profil", "outptus"])
def test_a_key_that_is_meant_is_one_where_it_is_said_to_belong(key):
    (found,) = [each for each in complaints(rule(more=f"{key} = 1")) if each.key.endswith(key)]
    meant = re.search(r"did you mean (\w+)\?", found.remedy)
    assert meant is None or meant[1] in RULE | RELAY | LINK | {"input": None, "outputs": None}


def test_no_advice_offers_what_is_not_built():
    every = [*(RELAY | LINK | RULE).values()]
    for row in every:
        for each in row.not_yet:
            for value in LITERAL.findall(each.remedy):
                held = tomllib.loads(f"value = {value}")["value"]
                assert not_yet(row.key, held) is None, f"{row.key}: {each.remedy}"
