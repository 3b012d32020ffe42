"""Alert rules and dashboard in a real Prometheus that scrapes a real relay: each alert is provoked, and fires."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from support import prometheus
from support import upgraded as upgraded_program
from support.igmpwire import send_query
from support.prometheus import Prometheus, filled_in, shortened
from support.relay import GROUP, INPUT, SOURCE, relaying
from support.traffic import sender, wait_for

from mcrelay.errors import ConfigError

pytestmark = [
    pytest.mark.net,
    pytest.mark.alone,
    pytest.mark.skipif(not prometheus.installed(), reason="no prometheus here: apt-get install prometheus"),
]

PACKAGING = Path(__file__).parents[2] / "packaging"
ALERTS = PACKAGING / "prometheus" / "alerts.yml"
DASHBOARD = PACKAGING / "grafana" / "mcrelay.json"
TARGET = "127.0.0.1:19736"
RULES = f"""
[relay]
metrics = "{TARGET}"
[links.in0]
ring = "1MiB"
[rules.x]
input = "{INPUT}"
outputs = ["239.10.0.1:5004%out0"]
health = "auto"
[rules.second]
input = "239.7.7.7:5000%in0"
outputs = ["239.11.0.1:5004%out1"]
"""
BLOCKED = "table inet f { chain o { type filter hook output priority 0; udp dport 5004 drop; }; }"


def test_promtool_accepts_the_rules():
    subprocess.run(["promtool", "check", "rules", str(ALERTS)], check=True, capture_output=True)


@pytest.fixture
def open_folder():
    """A folder that the user sees whom the relay becomes."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.timeout(300)
def test_each_alert_is_provoked_and_fires_and_the_dashboard_has_something_to_show(tmp_path, open_folder):
    installed = open_folder / "installed"
    installed.write_text("1")
    program = [sys.executable, upgraded_program.__file__, str(installed)]
    with relaying(RULES, program=program, querier=False, sinks=2) as relay:
        host, source = relay.lab.relay, relay.lab.source
        stream = sender(source, f"{GROUP}:2068%eth0", "--rate", 200)
        relay.wait_for(lambda: relay.rule()["rx_packets"], "stream")
        with Prometheus(host, shortened(ALERTS.read_text()), tmp_path, TARGET) as watching:
            fired = []

            def fires(alert: str, **labels: str) -> None:
                found = wait_for(lambda: watching.firing().get(alert), f"{alert}; {watching.firing()}", 40)
                assert labels.items() <= found.items(), found
                fired.append(alert)

            wait_for(lambda: watching.query("rate(mcrelay_rx_packets_total[5s]) > 0"), "rates", 30)
            assert watching.firing() == {}

            damage(source)
            fires("McrelayStreamDamaged", rule="x", input=INPUT)
            send_query(source, "eth0")
            fires("McrelayQuerierGone", link="in0")
            with pytest.raises(ConfigError):
                relay.reload(RULES + "[rules.bad]\n")
            fires("McrelayReloadFailed")
            relay.reload(RULES)
            installed.write_text("another")
            fires("McrelayRestartDue")
            relay.lab.sinks[1].ip("link set eth0 down")
            fires("McrelayOutputDown", rule="second", output="239.11.0.1:5004%out1", state="parked")
            fires("McrelayRuleDown", rule="second", state="parked")
            host.run("nft", BLOCKED)
            fires("McrelaySendErrors", rule="x", output="239.10.0.1:5004%out0")
            fires("McrelayLosing", rule="x")
            host.run("nft", "flush ruleset")

            flood = sender(source, f"{GROUP}:2068%eth0", "--rate", 20_000, "--size", 1000, "--duration", 5)
            relay.wait_for(lambda: relay.rule()["rx_rate"] > 2000, "a flood")
            relay.process.send_signal(signal.SIGSTOP)
            time.sleep(0.4)
            relay.process.send_signal(signal.SIGCONT)
            fires("McrelayRingDrops", link="in0")  # at once: the drops are soon older than the alert looks back
            flood.wait(timeout=20)

            for panel, expression in expressions():
                assert watching.query(expression.removesuffix(" > 0")), f"{panel}: {expression}"
            stream.send_signal(signal.SIGINT)
            stream.wait(timeout=10)
            fires("McrelayStreamSilent", rule="x", input=INPUT)
            assert sorted(fired) == sorted(
                line.split()[-1] for line in ALERTS.read_text().splitlines() if "- alert:" in line
            )


def damage(source) -> None:
    """RTP with a gap, and enough behind it that the relay no longer waits for what is missing."""
    with source.socket() as out:
        out.bind((SOURCE, 0))
        for number in (0, 1, *range(20, 220)):
            out.sendto(b"\x80\x21" + number.to_bytes(2, "big") + bytes(28), (GROUP, 2068))


def expressions() -> list[tuple[str, str]]:
    """Every query of the dashboard, with All chosen."""
    found = json.loads(DASHBOARD.read_text())
    asked = [(panel["title"], target["expr"]) for panel in found["panels"] for target in panel["targets"]]
    asked += [(each["name"], each["expr"]) for each in found["annotations"]["list"]]
    return [(panel, filled_in(each, "10s")) for panel, each in asked]


def test_no_panel_of_the_dashboard_stands_on_another():
    panels = json.loads(DASHBOARD.read_text())["panels"]
    places = [
        (place["x"] + x, place["y"] + y)
        for place in (each["gridPos"] for each in panels)
        for x in range(place["w"])
        for y in range(place["h"])
    ]
    assert len(set(places)) == len(places)
    assert max(x for x, _ in places) < 24
    assert len({each["id"] for each in panels}) == len(panels)


def test_the_dashboard_asks_for_metrics_that_there_are():
    names = {word.split("{")[0].split("(")[-1] for _, each in expressions() for word in each.split()}
    table = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text()
    for name in names:
        if name.startswith("mcrelay_"):
            written = name.removeprefix("mcrelay_health_").removesuffix("_bucket")
            assert f"`{written}`" in table, name
