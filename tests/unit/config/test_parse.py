"""Configuration texts, and what is said about them."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mcrelay.config import schema
from mcrelay.config.parse import parse_config, parse_rule
from mcrelay.errors import ConfigError
from mcrelay.model.notation import format_stream, parse_stream
from mcrelay.model.rule import Config, Input, LinkSettings, Output, RelaySettings, Rule
from mcrelay.model.wording import written

DESIGN = """
[relay]                        # everything in these tables is optional
workers = 1                    # threads; each group belongs to one worker and keeps its order
cpus    = [2]
control = "/run/mcrelay/mcrelay.sock"

[links.eth1]
profile = "throughput"
ring    = "32MiB"              # in all, divided among workers

[defaults]                     # any rule or output key below

[rules.hdmi-lobby]             # [A-Za-z0-9][A-Za-z0-9_-]{0,62}
description = "HDMI extender in the lobby"
input   = "192.168.168.55@226.2.2.2:2068%eth1"
outputs = ["239.10.0.1:5004%eth0", { to = "10.9.0.7:7000", ttl = 65 }]
source_address = "auto"
source_port    = "auto"
dscp    = "keep"
burst   = 16
vlan    = "none"
allow   = ["192.168.168.0/24"]
exclusive = false
enabled = true
shared = false
reflect = false
"""


def said(*files, name="f.toml"):
    """Every complaint about the texts, as lines."""
    named = (
        [(name, files[0])] if len(files) == 1 else [(f"{n}.toml", text) for n, text in zip("ab", files, strict=True)]
    )
    try:
        return [str(c) for c in parse_config(named).warnings]
    except ConfigError as error:
        return [str(c) for c in error.complaints]


def rule_said(text):
    """Complaints about the body of one rule that is right otherwise; line 1 is the first of the body."""
    text = text if "input" in text else f'{text}\ninput = "233.252.0.1:5000%eth0"'
    text = text if "outputs" in text else f'{text}\noutputs = ["233.252.0.2:5000%eth1"]'
    found = said(f"[rules.x]\n{text}")
    return [line.removeprefix("f.toml:").partition(" rules.x.")[2] for line in found]


def config(text):
    return parse_config([("f.toml", text)]).config


def test_the_configuration_of_the_design_is_taken_as_it_stands():
    assert config(DESIGN) == Config(
        relay=RelaySettings(workers=1, cpus=(2,), control="/run/mcrelay/mcrelay.sock"),
        links={"eth1": LinkSettings("throughput", 32 << 20)},
        rules={
            "hdmi-lobby": Rule(
                name="hdmi-lobby",
                description="HDMI extender in the lobby",
                inputs=(
                    Input(parse_stream("192.168.168.55@226.2.2.2:2068%eth1"), allow=(IPv4Network("192.168.168.0/24"),)),
                ),
                outputs=(
                    Output(parse_stream("239.10.0.1:5004%eth0"), ttl=16),
                    Output(parse_stream("10.9.0.7:7000"), ttl=65),
                ),
            )
        },
    )


def test_no_text_at_all_is_a_configuration_without_rules():
    assert config("") == Config()


def test_the_control_socket_comes_from_the_caller_unless_a_file_names_it():
    assert parse_config([("f", "")], "/run/x/mcrelay.sock").config.relay.control == "/run/x/mcrelay.sock"
    named = parse_config([("f", '[relay]\ncontrol = "/run/y.sock"')], "/run/x/mcrelay.sock")
    assert named.config.relay.control == "/run/y.sock"


RULE = '[rules.x]\ninput = "233.252.0.1:5000%eth0"\noutputs = '


@pytest.mark.parametrize(
    ("outputs", "ttls"),
    [
        ('["233.252.0.2%eth1", "10.9.0.7"]', [16, 64]),
        ('["233.252.0.2%eth1", "10.9.0.7"]\nttl = 3', [3, 3]),
        ('["233.252.0.2%eth1", { to = "10.9.0.7", ttl = 9 }]\nttl = 3', [3, 9]),
        ('["233.252.0.2%eth1", "10.9.0.7"]\n[defaults]\nttl = 5', [5, 5]),
        ('["233.252.0.2%eth1", "10.9.0.7"]\nttl = 3\n[defaults]\nttl = 5', [3, 3]),
    ],
)
def test_an_output_key_comes_from_the_output_then_the_rule_then_the_defaults(outputs, ttls):
    assert [output.ttl for output in config(RULE + outputs).rules["x"].outputs] == ttls


def test_an_output_without_a_port_keeps_the_inputs():
    rule = config(RULE + '["233.252.0.2%eth1", "10.9.0.7", "10.9.0.8:7"]').rules["x"]
    assert [format_stream(o.stream) for o in rule.outputs] == ["233.252.0.2:5000%eth1", "10.9.0.7:5000", "10.9.0.8:7"]


def test_every_output_key_is_taken():
    table = (
        '[{ to = "10.9.0.7", source_address = "192.0.2.1", source_port = 9, ttl = 2, dscp = 46, burst = 1, df = true }]'
    )
    assert config(RULE + table).rules["x"].outputs[0] == Output(
        parse_stream("10.9.0.7:5000"), IPv4Address("192.0.2.1"), 9, 2, 46, 1, df=True
    )


def test_every_flag_is_taken_also_from_defaults():
    text = RULE + '["10.9.0.7"]\nenabled = false\ndescription = "d"\n[defaults]\nshared = true\nallow = ["192.0.2.7"]'
    rule = config(text).rules["x"]
    assert (rule.enabled, rule.shared, rule.description) == (False, True, "d")
    assert rule.inputs[0].allow == (IPv4Network("192.0.2.7/32"),)


def test_an_input_table_goes_before_the_rule():
    text = """
    [rules.x]
    allow = ["192.0.2.0/24"]
    outputs = ["10.9.0.7"]
    [rules.x.input]
    from = "233.252.0.1:5000%eth0"
    allow = ["198.51.100.0/24"]
    """
    assert config(text).rules["x"].inputs[0].allow == (IPv4Network("198.51.100.0/24"),)


def test_outputs_may_be_an_array_of_tables():
    text = """
    [rules.x]
    input = "233.252.0.1:5000%eth0"
    [[rules.x.outputs]]
    to = "10.9.0.7"
    [[rules.x.outputs]]
    to = "10.9.0.8"
    """
    assert [str(o.stream.address) for o in config(text).rules["x"].outputs] == ["10.9.0.7", "10.9.0.8"]


@pytest.mark.parametrize(
    ("ring", "size"), [('"1MiB"', 1 << 20), ('"1024 KiB"', 1 << 20), ('"1GiB"', 1 << 30), ("1048576", 1 << 20)]
)
def test_ring_sizes_are_bytes_or_have_a_unit(ring, size):
    assert config(f"[links.eth1]\nring = {ring}").links["eth1"].ring_bytes == size


EG = "e.g. 233.252.0.1:5000%eth0"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("ttl = 0", 'ttl: 0 is not a number from 1 to 255 or "keep" or "decrement"; write e.g. 16'),
        ("ttl = 256", 'ttl: 256 is not a number from 1 to 255 or "keep" or "decrement"; write e.g. 16'),
        ("ttl = true", 'ttl: true is not a number from 1 to 255 or "keep" or "decrement"; write e.g. 16'),
        ("ttl = 16.0", 'ttl: 16.0 is not a number from 1 to 255 or "keep" or "decrement"; write e.g. 16'),
        ('ttl = "16"', 'ttl: "16" is not a number from 1 to 255 or "keep" or "decrement"; write 16, without quotes'),
        ('ttl = "high"', 'ttl: "high" is not a number from 1 to 255 or "keep" or "decrement"; write e.g. 16'),
        ("dscp = 64", 'dscp: 64 is not a number from 0 to 63 or "keep"; write e.g. 46 (which is EF)'),
        ('dscp = "AF41"', 'dscp: "AF41" is a name, and only numbers are known; write 34'),
        ('dscp = "cs5"', 'dscp: "cs5" is a name, and only numbers are known; write 40'),
        ('dscp = "ef"', 'dscp: "ef" is a name, and only numbers are known; write 46'),
        ("burst = 65", "burst: 65 is not a number from 1 to 64; write e.g. 16"),
        ("burst = 0", "burst: 0 is not a number from 1 to 64; write e.g. 16"),
        (
            "source_port = 0",
            'source_port: 0 is not a number from 1 to 65535 or "auto" or "keep"; write "auto" or e.g. 20000',
        ),
        (
            'source_address = "224.0.0.9"',
            (
                "source_address: 224.0.0.9 is a group, and no host sends from one; "
                'write "auto" or an address of this host, e.g. "192.0.2.1"'
            ),
        ),
        (
            'source_address = "127.0.0.1"',
            (
                "source_address: 127.0.0.1 is a loopback address, which receivers drop; "
                'write "auto" or an address of this host, e.g. "192.0.2.1"'
            ),
        ),
        (
            'source_address = "0.0.0.0"',
            (
                "source_address: 0.0.0.0 is no host's address; "
                'write "auto" or an address of this host, e.g. "192.0.2.1"'
            ),
        ),
        (
            'source_address = "255.255.255.255"',
            (
                "source_address: 255.255.255.255 is no host's address; "
                'write "auto" or an address of this host, e.g. "192.0.2.1"'
            ),
        ),
        (
            "source_address = 5",
            'source_address: 5 is not an address; write "auto" or an address of this host in quotes',
        ),
        (
            'source_address = "eth0"',
            (
                "source_address: 'eth0' is not an IPv4 address; "
                "write four numbers, e.g. 233.252.0.1 (names are not looked up)"
            ),
        ),
        ("vlan = 0", 'vlan: VLAN 0 means untagged; write "none"'),
        ("vlan = 4095", 'vlan: 4095 is not a number from 1 to 4094 or "none" or "any"; write "none"'),
        ("allow = []", "allow: an empty list lets no source in; list networks, or leave it out to let every source in"),
        ('allow = "192.0.2.0/24"', 'allow: "192.0.2.0/24" is not a list; write allow = ["192.0.2.0/24"]'),
        (
            'allow = ["192.0.2.5/24"]',
            "allow[0]: 192.0.2.5/24 has host bits set; the network is 192.0.2.0/24, one address alone is 192.0.2.5",
        ),
        (
            'allow = ["239.0.0.0/8"]',
            'allow[0]: 239.0.0.0/8 holds groups, and no source is one; list networks of senders, e.g. "192.0.2.0/24"',
        ),
        ("enabled = 1", "enabled: 1 is neither true nor false; write true or false, without quotes"),
        ('shared = "yes"', 'shared: "yes" is neither true nor false; write true or false, without quotes'),
        ("description = 5", "description: 5 is not text; text stands in double quotes"),
        ("tll = 5", "tll: unknown key; did you mean ttl?"),
        ("ring = 5", "ring: cannot stand here; it belongs in [links.NAME]"),
        (
            "zzz = 5",
            (f"zzz: unknown key; known here: input, outputs, {', '.join(schema.RULE)}"),
        ),
        (
            "outputs = []",
            (
                "outputs: an empty list sends nothing; write outputs = "
                '["233.252.0.1:5000%eth0"], or enabled = false to pause the rule'
            ),
        ),
        ('outputs = "10.9.0.7"', 'outputs: "10.9.0.7" is not a list; write outputs = ["10.9.0.7"]'),
        ("outputs = [5]", 'outputs[0]: 5 is not a stream; write it in double quotes, e.g. "233.252.0.1:5000%eth0"'),
        ("outputs = [{ ttl = 5 }]", 'outputs[0].to: is missing; write to = "233.252.0.1:5000%eth0"'),
        ('outputs = [{ tto = "10.9.0.7" }]', "outputs[0].tto: unknown key; did you mean to?"),
        (
            'outputs = [{ to = "10.9.0.7", own = true }]',
            "outputs[0].own: cannot stand here; it belongs in [rules.NAME]",
        ),
        (
            'outputs = [{ to = "10.9.0.7:0" }]',
            "outputs[0].to: port 0 cannot be used; a port is 1 to 65535, e.g. 10.9.0.7:5000",
        ),
        ("input = 5", 'input: 5 is not a stream; write it in double quotes, e.g. "233.252.0.1:5000%eth0"'),
        ("input = {}", 'input.from: is missing; write from = "233.252.0.1:5000%eth0"'),
        ('inptu = "233.252.0.1:5000%eth0"\noutputs=["10.9.0.7"]#input', "inptu: unknown key; did you mean input?"),
        ('outputs = ["10.9.0.7"] # no input', 'input: is missing; write input = "233.252.0.1:5000%eth0"'),
    ],
)
def test_one_fault_in_a_rule_is_one_complaint(text, complaint):
    assert rule_said(text) == [complaint]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("workers = 0", "relay.workers: 0 is not a number from 1 to 256; write workers = 1"),
        ("workers = 300", "relay.workers: 300 is not a number from 1 to 256; write workers = 1"),
        ("cpus = 2", "relay.cpus: 2 is not a list; write cpus = [2]"),
        ("cpus = [-1]", "relay.cpus[0]: -1 is not a number from 0 to 8191; write the number of a CPU, e.g. 2"),
        ("cpus = [2, 2]", "relay.cpus: CPU 2 stands in it twice; name each CPU once"),
        ("cpus = [2, 3]", "relay.cpus: 2 CPUs for 1 worker; name as many CPUs as there are workers"),
        (
            'control = "mcrelay.sock"',
            'relay.control: "mcrelay.sock" is not the full path of a socket; write e.g. "/run/mcrelay/mcrelay.sock"',
        ),
        (
            f'control = "/{"x" * 104}"',
            (
                "relay.control: the path has 105 bytes, a socket's has 104 at most; "
                'write e.g. "/run/mcrelay/mcrelay.sock"'
            ),
        ),
        (
            'metrics = "here"',
            ('relay.metrics: "here" has no port from 1 to 65535; write ADDRESS:PORT, e.g. "127.0.0.1:19736"'),
        ),
        (
            'metrics = "::1:19736"',
            'relay.metrics: "::1:19736" has no brackets; write [ADDRESS]:PORT, e.g. "[::1]:19736"',
        ),
        (
            'metrics = "2001:db8:1:2:3:4:5:6:19736"',
            'relay.metrics: "2001:db8:1:2:3:4:5:6:19736" has no brackets; write [ADDRESS]:PORT, e.g. "[::1]:19736"',
        ),
        (
            'metrics = "[::1]"',
            'relay.metrics: "[::1]" has no port from 1 to 65535; write ADDRESS:PORT, e.g. "127.0.0.1:19736"',
        ),
        (
            'metrics = "[fe80::1]:19736"',
            (
                "relay.metrics: fe80::1 is an address of one link alone; "
                'write an address that this host has on any link, e.g. "[::1]:19736"'
            ),
        ),
        ("wrokers = 1", "relay.wrokers: unknown key; did you mean workers?"),
        ("ttl = 1", "relay.ttl: cannot stand here; it belongs in [rules.NAME]"),
    ],
)
def test_one_fault_in_relay_is_one_complaint(text, complaint):
    assert said(f"[relay]\n{text}") == [f"f.toml:2: {complaint}"]


def test_the_longest_control_path_leaves_room_for_the_read_only_socket():
    path = "/" + "x" * 103
    assert len(path.replace("x", "x-ro", 1)) == 107  # sun_path has 108 with its NUL
    assert config(f'[relay]\ncontrol = "{path}"').relay.control == path


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('ring = "512KiB"', '"512KiB" is out of range; a ring has from "1MiB" to "1GiB", e.g. "32MiB"'),
        ("ring = 1073741825", '1073741825 is out of range; a ring has from "1MiB" to "1GiB", e.g. "32MiB"'),
        ('ring = "32MB"', '"32MB" is not a size; write "32MiB"'),
        ('ring = "32m"', '"32m" is not a size; write "32MiB"'),
        ("ring = true", 'true is not a size; write e.g. "32MiB"'),
    ],
)
def test_a_faulty_ring_size_is_refused(text, complaint):
    assert said(f"[links.eth1]\n{text}") == [f"f.toml:2: links.eth1.ring: {complaint}"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("workers = 2", "f.toml:1: workers: cannot stand here; it belongs in [relay]"),
        ("worker = 2", "f.toml:1: worker: unknown key; did you mean workers? It belongs in [relay]"),
        ('[rule.x]\ninput="y"', "f.toml:1: rule: unknown key; did you mean rules?"),
        ("rules = 5", "f.toml:1: rules: 5 is not a table; write [rules.NAME] on a line of its own"),
        ('[rules]\ninput = "x"', "f.toml:2: rules.input: is not a table; write [rules.NAME] on a line of its own"),
        ("[rules]\nx = 5", "f.toml:2: rules.x: is not a table; write [rules.x] on a line of its own"),
        ('[links]\nprofile = "x"', "f.toml:2: links.profile: is not a table; write [links.NAME] on a line of its own"),
        (
            '[links."eth 1"]',
            "f.toml:1: links.\"eth 1\": 'eth 1' is not a link name; it has no blanks and none of / : %, e.g. eth0",
        ),
        (
            '[links.eth1]\nprofile = "quick"',
            'f.toml:2: links.eth1.profile: "quick" is not known; write "throughput" or "latency"',
        ),
        ('[defaults]\ninput = "x"', "f.toml:2: defaults.input: cannot stand here; it belongs in [rules.NAME]"),
        ("[defaults]\noutputs = []", "f.toml:2: defaults.outputs: cannot stand here; it belongs in [rules.NAME]"),
        (
            "[defaults]\nttl = 0",
            'f.toml:2: defaults.ttl: 0 is not a number from 1 to 255 or "keep" or "decrement"; write e.g. 16',
        ),
    ],
)
def test_what_stands_in_the_wrong_table_is_told_where_it_belongs(text, complaint):
    assert said(text) == [complaint]


@pytest.mark.parametrize("name", ["a" * 63, "0", "hdmi-lobby", "a_b"])
def test_a_rule_name_has_letters_digits_dash_and_underscore(name):
    assert list(config(f'[rules.{name}]\ninput = "233.252.0.1:5%a"\noutputs = ["10.9.0.7"]').rules) == [name]


@pytest.mark.parametrize("name", ["a" * 64, "-a", "_a", "a b", "a.b", "é", ""])
def test_any_other_rule_name_is_refused_and_the_rule_checked_further(name):
    found = said(f'[rules."{name}"]\ninput = "233.252.0.1:5"\noutputs = ["10.9.0.7"]')
    assert len(found) == 2
    assert found[0].endswith(
        "cannot be a rule's name; it has 1 to 63 letters, digits, - or _, and begins with a letter or digit"
    )
    assert "names no link" in found[1]


REFUSED = [
    (
        'inputs = ["233.252.0.0:5000%eth0"]',
        (
            "write one rule for each input, with shared = true where they share an output (where two inputs carry the "
            "same datagrams, receivers then get each of them twice: name one of the two)"
        ),
        "inputs",
    ),
]


@pytest.mark.parametrize(("text", "remedy", "what"), REFUSED)
def test_what_is_not_built_yet_is_refused_once_with_a_way_round(text, remedy, what):
    found = rule_said(text)
    assert len(found) == 1
    assert found[0].endswith(f": {what} is not supported yet; {remedy}")


def test_a_link_has_the_profile_that_it_is_given():
    text = '[links.eth1]\nprofile = "latency"\n[links.eth2]\nprofile = "throughput"'
    links = parse_config([("f.toml", text)]).config.links
    assert {name: each.profile for name, each in links.items()} == {"eth1": "latency", "eth2": "throughput"}


def test_what_a_link_does_not_say_is_as_the_default_for_all_links_has_it():
    common = '[links.default]\nring = "4MiB"\nprofile = "latency"\ngro = true\n'
    own = '[links.eth1]\nring = "64MiB"\n[links.eth2]\nprofile = "throughput"\ngro = false\n'
    for files in ([("f.toml", common + own)], [("a.toml", own), ("b.toml", common)]):
        found = parse_config(files).config
        assert found.link("eth1") == LinkSettings("latency", 64 << 20, gro=True)
        assert found.link("eth2") == LinkSettings("throughput", 4 << 20, gro=False)
        assert found.link("eth3") == LinkSettings("latency", 4 << 20, gro=True)
    assert parse_config([("f.toml", own)]).config.link("eth3") == LinkSettings()


def test_deleting_a_line_of_the_table_is_what_allows_a_feature(monkeypatch):
    monkeypatch.setattr(schema, "NOT_YET", ())
    text = RULE + '[{ to = "10.9.0.7", ttl = "decrement", source_address = "keep" }]\nvlan = 100'
    rule = config(text).rules["x"]
    assert (rule.outputs[0].ttl, rule.outputs[0].source_address) == ("decrement", "keep")
    assert rule.inputs[0].vlan == 100


def test_a_key_at_its_default_is_accepted_everywhere():
    defaults = """
    [defaults]
    source_address = "auto"
    source_port = "auto"
    dscp = "keep"
    burst = 16
    vlan = "none"
    df = false
    exclusive = false
    enabled = true
    shared = false
    reflect = false
    engine = "ring"
    health = "none"
    description = ""
    [relay]
    workers = 1
    cpus = []
    [links.eth0]
    profile = "throughput"
    """
    assert config(defaults + RULE + '["10.9.0.7"]').rules == config(RULE + '["10.9.0.7"]').rules


def test_all_faults_of_a_rule_are_told_at_once():
    assert said(
        """[rules.x]
input = "233.252.0.1:5000"
outputs = [
  "233.252.0.2%eth1",
  { to = "10.9.0.7:0",
    ttl = 0 },
]
burst = 99
oops = 1
""".replace(",\n    ttl", ", ttl")
    ) == [
        f"f.toml:2: rules.x.input: 233.252.0.1:5000 names no link; add the link that it arrives on, {EG}",
        "f.toml:5: rules.x.outputs[1].to: port 0 cannot be used; a port is 1 to 65535, e.g. 10.9.0.7:5000",
        'f.toml:5: rules.x.outputs[1].ttl: 0 is not a number from 1 to 255 or "keep" or "decrement"; write e.g. 16',
        "f.toml:7: rules.x.burst: 99 is not a number from 1 to 64; write e.g. 16",
        f"f.toml:8: rules.x.oops: unknown key; known here: input, outputs, {', '.join(schema.RULE)}",
    ]


def test_a_rule_with_a_faulty_key_is_still_compared_with_the_others():
    text = RULE + '["10.9.0.7"]\nttl = 0\n' + RULE.replace("rules.x", "rules.y") + '["10.9.0.8"]\n'
    assert said(text) == [
        'f.toml:4: rules.x.ttl: 0 is not a number from 1 to 255 or "keep" or "decrement"; write e.g. 16',
        "f.toml:6: rules.y.input: rules.x (f.toml:2) has the same input; put all outputs into one rule",
    ]


def test_an_output_after_a_faulty_one_is_named_by_its_place_in_the_file():
    assert said(RULE + '[\n5,\n"233.252.0.9"]') == [
        'f.toml:4: rules.x.outputs[0]: 5 is not a stream; write it in double quotes, e.g. "233.252.0.1:5000%eth0"',
        (
            "f.toml:5: rules.x.outputs[1]: 233.252.0.9:5000 names no link; "
            "add the link to send on, e.g. 233.252.0.9:5000%eth0"
        ),
    ]


def test_a_faulty_allow_does_not_make_the_source_a_fault_as_well():
    text = (
        '[defaults]\nallow = ["10.0.0.0/8"]\n[rules.x]\ninput = "192.0.2.1@233.252.0.1:5%a"\noutputs = ["10.9.0.7"]\n'
    )
    assert len(said(text)) == 1
    assert said(text + "allow = [5]") == ['f.toml:6: rules.x.allow[0]: 5 is not a network; write e.g. "192.0.2.0/24"']


def test_files_are_merged():
    first = "[defaults]\nttl = 9\n[relay]\nworkers = 1\n[links.eth0]\n" + RULE + '["10.9.0.7"]'
    second = (
        '[rules.y]\ninput = "233.252.0.9:5000%eth0"\noutputs = ["10.9.0.8"]\n[relay]\ncpus = [1]\n[defaults]\nburst = 1'
    )
    merged = parse_config([("a", second), ("b", first)]).config
    assert list(merged.rules) == ["y", "x"]
    assert [(r.outputs[0].ttl, r.outputs[0].burst) for r in merged.rules.values()] == [(9, 1), (9, 1)]
    assert merged.relay == RelaySettings(workers=1, cpus=(1,))


def test_a_name_defined_in_two_files_is_told_with_both_places():
    text = "[defaults]\nttl = 9\n[relay]\nworkers = 1\n[links.eth0]\n" + RULE + '["10.9.0.7"]'
    assert said(text, "\n" + text) == [
        "b.toml:3: defaults.ttl: stands already at a.toml:2; remove one of the two",
        "b.toml:5: relay.workers: stands already at a.toml:4; remove one of the two",
        "b.toml:6: links.eth0: stands already at a.toml:5; remove one of the two",
        "b.toml:7: rules.x: stands already at a.toml:6; rename one of the two",
    ]


def test_a_rule_defined_twice_is_checked_both_times():
    good, bad = RULE + '["10.9.0.7"]', RULE + '["10.9.0.7:0"]'
    assert len(said(good, bad)) == 2
    assert len(said(bad, good)) == 2


def test_a_file_that_is_not_toml_keeps_none_of_the_others_from_being_checked():
    assert said("[rules.x\n", "ttl = 1") == [
        (
            "a.toml:1: TOML: cannot be read: expected ']' at the end of a table declaration; "
            "see https://toml.io for how to write it"
        ),
        "b.toml:1: ttl: cannot stand here; it belongs in [rules.NAME]",
    ]


def test_warnings_come_with_a_good_configuration_and_with_errors():
    warning = (
        "f.toml:2: rules.x.input: 232.1.1.1 is for source-specific multicast, and routers ignore a join there "
        "without a source; name the source, e.g. 192.0.2.1@232.1.1.1:5000%eth0"
    )
    text = '[rules.x]\ninput = "232.1.1.1:5000%eth0"\noutputs = ["10.9.0.7"]\n'
    parsed = parse_config([("f.toml", text)])
    assert [str(c) for c in parsed.warnings] == [warning]
    assert all(c.warning for c in parsed.warnings)
    assert said(text + "ttl = 0") == [
        warning,
        'f.toml:4: rules.x.ttl: 0 is not a number from 1 to 255 or "keep" or "decrement"; write e.g. 16',
    ]


def test_the_place_of_any_key_can_be_asked_for():
    where = parse_config([("f.toml", DESIGN)]).where
    assert where("rules.hdmi-lobby.outputs[1].ttl") == ("f.toml", 16)
    assert where("rules.hdmi-lobby.shared") == ("f.toml", 25)
    assert where("rules.hdmi-lobby.nothing") == ("f.toml", 13)
    assert where("relay.cpus") == ("f.toml", 4)
    assert where("rules.added") == ("command line", 0)


def test_a_rule_from_a_command_is_read_like_one_from_a_file():
    table = {"input": "233.252.0.1:5000%eth0", "outputs": ["10.9.0.7"], "ttl": 3}
    rule = parse_rule("new", table, {})
    assert rule == Rule(
        "new",
        (Input(parse_stream("233.252.0.1:5000%eth0")),),
        (Output(parse_stream("10.9.0.7:5000"), ttl=3),),
        origin="runtime",
    )
    assert parse_rule("new", table, {"new": rule}) == rule


def test_a_rule_from_a_command_is_checked_against_those_that_run():
    parsed = parse_config([("f.toml", RULE + '["10.9.0.7"]')])
    table = {"input": "233.252.0.1:5000%eth0", "outputs": ["10.9.0.8"], "ttl": 0}
    with pytest.raises(ConfigError) as caught:
        parse_rule("new", table, parsed.config.rules, parsed.where)
    assert [str(c) for c in caught.value.complaints] == [
        "command line: rules.new.input: rules.x (f.toml:2) has the same input; put all outputs into one rule",
        'command line: rules.new.ttl: 0 is not a number from 1 to 255 or "keep" or "decrement"; write e.g. 16',
    ]


NAMES = st.sampled_from(
    [
        "relay",
        "links",
        "defaults",
        "rules",
        "x",
        "input",
        "outputs",
        "from",
        "to",
        "ttl",
        "vlan",
        "allow",
        "cpus",
        "ring",
        "control",
        "dscp",
        "inputs",
        "zz",
    ]
)
ANYTHING = st.recursive(
    st.one_of(
        st.integers(-1, 300), st.booleans(), st.floats(), st.sampled_from(["", "keep", "any", "233.252.0.1:5%a", "é\n"])
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


def spelt(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {spelt(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(spelt, value)) + "]"
    return written(value).replace("\\xe9", "é")


@given(st.dictionaries(NAMES, ANYTHING, max_size=4), st.dictionaries(NAMES, ANYTHING, max_size=5))
@hypothesis_settings(max_examples=300, deadline=None)
def test_any_toml_is_taken_or_complained_of_and_never_a_crash(top, rule):
    text = "".join(f"{key} = {spelt(value)}\n" for key, value in top.items() if key != "rules")
    text += f"[rules.x]\n{''.join(f'{key} = {spelt(value)}{chr(10)}' for key, value in rule.items())}"
    lines = text.count("\n") + 1
    complaints = ()
    try:
        parse_config([("f.toml", text)])
    except ConfigError as error:
        complaints = error.complaints
        assert any(not c.warning for c in complaints)
    for complaint in complaints:
        assert str(complaint).isprintable()
        assert 1 <= complaint.line <= lines


@pytest.mark.parametrize("name", ["eth0.100", "br-lan.7"])
def test_a_link_s_name_with_a_dot_in_it_is_to_be_quoted(name):
    with pytest.raises(ConfigError) as refused:
        parse_config([("f.toml", f'[links.{name}]\nring = "8MiB"\n')])
    (said,) = map(str, refused.value.complaints)
    assert said.endswith(f'is a table in a table; write [links."{name}"]')
