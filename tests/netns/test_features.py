"""What a kernel lacks: every fallback, with the feature forced off."""

from __future__ import annotations

import json

import pytest
from support.relay import GROUP, INPUT, assert_adds_up, relaying, service_in
from support.traffic import assert_exact, receiver, report, send

from mcrelay.commands.lab import standard_lab
from mcrelay.linux.features import Features
from mcrelay.relay import views

pytestmark = pytest.mark.net

RULE = f'[rules.x]\ninput = "{INPUT}"\noutputs = ["239.10.0.1:5004%out0"]\n'


@pytest.mark.parametrize("udp_segment", [True, False])
def test_without_udp_segment_everything_goes_singly_and_exactly(udp_segment):
    with standard_lab() as lab:
        lab.settle()
        with service_in(lab.relay, RULE, Features(udp_segment=udp_segment)) as service:
            sink = receiver(lab.sink, "239.10.0.1:5004%eth0", "--count", 20_000)
            send(lab.source, f"{GROUP}:2068%eth0", "--rate", 20_000, "--count", 20_000)
            assert_exact(report(sink), 20_000)
            assert_adds_up(views.stats(service.state()))
            assert service.engine.links_without_runs() == []
        (link,) = json.loads(lab.relay.run("ip", "-s", "-j", "link", "show", "out0").stdout)
        left_singly = link["stats64"]["tx"]["packets"] >= 20_000
        assert left_singly is not udp_segment


def test_where_option_memory_is_small_the_filter_widens_and_the_joins_take_more_sockets():
    rules = "".join(
        f'[rules.r{i}]\ninput = "239.{i % 200}.{i}.7:5000%in0"\noutputs = ["239.20.0.{i}:5000%out0"]\n'
        for i in range(1, 121)
    )
    with relaying(rules, sysctls={"core.optmem_max": 2048}) as relay:
        assert relay.link()["filter"] == "coarse"
        assert {each["state"] for each in relay.show("groups")} == {"joined"}
        sink = receiver(relay.lab.sink, "239.20.0.5:5000%eth0", "--count", 1_000)
        send(relay.lab.source, "239.5.5.7:5000%eth0", "--count", 1_000, "--rate", 5_000)
        assert_exact(report(sink), 1_000)
        assert_adds_up(relay.at_rest())
