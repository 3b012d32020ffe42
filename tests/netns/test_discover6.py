"""discover names flows of IPv6 beside those of IPv4, with rules to paste that are right."""

from __future__ import annotations

import json
import subprocess
import tomllib

import pytest
from support.traffic import MCRELAY, sender

from mcrelay.commands.lab import SOURCE_ADDRESS6, standard_lab
from mcrelay.model.notation import parse_stream

pytestmark = pytest.mark.net


def test_flows_of_both_families_and_a_rule_for_each():
    with standard_lab(ipv6=True, querier=False) as lab:
        lab.settle()
        for stream in ("[ff1e::1234]:5000%eth0", "[ff02::fb]:5353%eth0", "239.1.1.1:5000%eth0"):
            sender(lab.source, stream, "--rate", 200)
        child = lab.relay.popen(*MCRELAY, "discover", "in0", "--duration", "2", "-j", stdout=subprocess.PIPE)
        flows = {each["group"]: each for each in json.loads(child.communicate(timeout=20)[0])}
        assert set(flows) >= {"ff1e::1234", "ff02::fb", "239.1.1.1"}
        found = flows["ff1e::1234"]
        assert (found["source"], found["port"], found["ttl"], found["size_max"]) == (SOURCE_ADDRESS6, 5000, 16, 1316)
        assert 150 < found["rate"] < 250
        assert f'input = "[{SOURCE_ADDRESS6}]@[ff1e::1234]:5000%in0"' in found["rule"]
        assert flows["ff02::fb"]["rule"].endswith("ttl = 255\nsource_port = 5353")
        for each in flows.values():
            (rule,) = tomllib.loads(each["rule"])["rules"].values()
            assert str(parse_stream(rule["input"]).address) == each["group"]
        child = lab.relay.popen(*MCRELAY, "discover", "in0", "--duration", "1", stdout=subprocess.PIPE)
        shown = child.communicate(timeout=20)[0]
        assert f"{SOURCE_ADDRESS6}" in shown
        assert "[ff1e::1234]:5000" in shown
