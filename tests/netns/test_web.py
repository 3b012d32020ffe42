"""The relay over HTTP: what it serves, what it refuses, and that no client costs the relay anything."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import socket
import time

import pytest
from support.relay import GROUP, INPUT, relaying
from support.traffic import assert_exact, receiver, report, send, sender, wait_for

pytestmark = pytest.mark.net

ADDRESS = "127.0.0.1:19736"
CONFIG = f"""
[relay]
metrics = "{ADDRESS}"
[rules.x]
input = "{INPUT}"
outputs = ["239.10.0.1:5004%out0"]
"""
NOUNS = ("rules", "stats", "links", "groups", "config")


@pytest.fixture(scope="module")
def relay():
    with relaying(CONFIG) as running:
        yield running


def connect(relay, timeout=5) -> http.client.HTTPConnection:
    """A connection from inside the relay's namespace."""
    made = http.client.HTTPConnection("127.0.0.1", 19736, timeout=timeout)
    relay.lab.relay.call(made.connect)
    return made


def get(relay, path, method="GET", **headers):
    """Status, headers and text of an answer."""
    with contextlib.closing(connect(relay)) as held:
        held.request(method, path, headers=headers)
        answer = held.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()


def metric(relay, series: str) -> float:
    _, _, text = get(relay, "/metrics")
    (line,) = [each for each in text.splitlines() if each.startswith(series + " ")]
    return float(line.rpartition(" ")[2])


def test_metrics_count_what_the_sink_got(relay):
    before = metric(relay, 'mcrelay_tx_packets_total{output="239.10.0.1:5004%out0",rule="x"}')
    sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0", "--count", 1000)
    send(relay.lab.source, f"{GROUP}:2068%eth0", "--count", 1000, "--rate", 20_000)
    assert_exact(report(sink), 1000)
    relay.at_rest()
    assert metric(relay, 'mcrelay_tx_packets_total{output="239.10.0.1:5004%out0",rule="x"}') == before + 1000
    assert metric(relay, f'mcrelay_rx_packets_total{{input="{INPUT}",rule="x"}}') == before + 1000
    assert abs(metric(relay, f'mcrelay_last_packet_timestamp_seconds{{input="{INPUT}",rule="x"}}') - time.time()) < 60


def test_a_metric_of_ipv6_names_streams_as_the_configuration_does():
    taken, sent = "[2001:db8:168::55]@[ff35::1234]:5000%in0", "[ff15::99]:5004%out0"
    with relaying(CONFIG.replace(INPUT, taken).replace("239.10.0.1:5004%out0", sent), ipv6=True) as relay:
        sink = receiver(relay.lab.sink, "[ff15::99]:5004%eth0", "--count", 100)
        send(relay.lab.source, "[ff35::1234]:5000%eth0", "--count", 100, "--rate", 2_000)
        assert_exact(report(sink), 100)
        relay.at_rest()
        assert metric(relay, f'mcrelay_rx_packets_total{{input="{taken}",rule="x"}}') == 100
        assert metric(relay, f'mcrelay_tx_packets_total{{output="{sent}",rule="x"}}') == 100


@pytest.mark.parametrize("noun", NOUNS)
def test_the_json_is_that_of_show(relay, noun):
    status, headers, text = get(relay, f"/api/v1/{noun}")
    assert (status, headers["Content-Type"]) == (200, "application/json; charset=utf-8")
    shown = relay.show(noun)
    assert type(json.loads(text)) is type(shown)
    if noun in {"rules", "groups", "config"}:
        assert json.loads(text) == shown


def test_health_readiness_page_and_what_is_not_there(relay):
    assert get(relay, "/healthz")[::2] == (200, "ok\n")
    assert get(relay, "/readyz")[::2] == (200, "ready\n")
    for path, kind in (("/", "text/html"), ("/page.js", "text/javascript"), ("/page.css", "text/css")):
        status, headers, text = get(relay, path)
        assert (status, headers["Content-Type"]) == (200, f"{kind}; charset=utf-8")
        assert text
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
    assert "http://" not in get(relay, "/")[2]
    assert "https://" not in get(relay, "/")[2]
    for path in ("/nothing", "/api/v1/nothing", "/api/v1/", "/page.js/..", "/../etc/passwd"):
        assert get(relay, path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_nothing_can_be_changed(relay, method):
    for path in ("/", "/metrics", "/api/v1/rules", "/readyz"):
        assert get(relay, path, method)[0] == 405


def test_a_reload_that_failed_is_a_metric(relay):
    good = relay.config.read_text()
    assert metric(relay, "mcrelay_config_last_reload_successful") == 1
    with contextlib.suppress(Exception):
        relay.reload(good + "nonsense = 1\n")
    assert metric(relay, "mcrelay_config_last_reload_successful") == 0
    relay.reload(good)
    assert metric(relay, "mcrelay_config_last_reload_successful") == 1


def test_clients_that_say_nothing_or_take_nothing_cost_the_stream_and_other_clients_nothing(relay):
    sink = receiver(relay.lab.sink, "239.10.0.1:5004%eth0", "--count", 40_000)
    stream = sender(relay.lab.source, f"{GROUP}:2068%eth0", "--count", 40_000, "--rate", 10_000)
    with contextlib.ExitStack() as held:
        for number in range(60):
            silent = held.enter_context(relay.lab.relay.socket(socket.AF_INET, socket.SOCK_STREAM))
            silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            silent.connect(("127.0.0.1", 19736))
            if number % 2:
                silent.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 20)  # and read no answer
        assert metric(relay, "mcrelay_config_last_reload_successful") == 1
        assert relay.show("rules")[0]["state"] == "active"
        assert_exact(report(sink), 40_000)
    report(stream)


def test_connections_beyond_the_limit_are_refused_and_there_is_room_again_when_others_have_gone(relay):
    with contextlib.ExitStack() as held:
        made = [held.enter_context(relay.lab.relay.socket(socket.AF_INET, socket.SOCK_STREAM)) for _ in range(100)]
        for each in made:
            each.connect(("127.0.0.1", 19736))
            each.settimeout(0.05)
        refused = 0
        for each in made:
            with contextlib.suppress(TimeoutError):
                with contextlib.suppress(ConnectionResetError):
                    each.recv(1)
                refused += 1
        assert refused == 100 - 64
        assert relay.show("rules")
    wait_for(lambda: _answers(relay), "an answer")


def _answers(relay) -> bool:
    with contextlib.suppress(OSError, http.client.HTTPException):
        return get(relay, "/healthz")[0] == 200
    return False


@pytest.mark.parametrize("address", ["192.0.2.99:19736", "[2001:db8:1::99]:19736"])
def test_an_address_that_is_taken_stops_nothing_and_is_said(address):
    with relaying(CONFIG.replace(ADDRESS, address), ipv6=True) as relay:
        assert f"cannot serve metrics={address}: Cannot assign requested address" in relay.log.read_text()
        assert relay.state() == "active"


@pytest.mark.parametrize(
    ("address", "asked", "answers"),
    [("[::1]:19736", "::1", True), ("[::1]:19736", "127.0.0.1", False), ("[::]:19736", "127.0.0.1", True)],
)
def test_an_ipv6_address_serves_who_asks_there_and_that_of_all_serves_ipv4_too(address, asked, answers):
    with relaying(CONFIG.replace(ADDRESS, address), ipv6=True) as relay:
        asking = http.client.HTTPConnection(asked, 19736, timeout=5)
        with contextlib.closing(asking), contextlib.nullcontext() if answers else pytest.raises(ConnectionRefusedError):
            relay.lab.relay.call(asking.connect)
            asking.request("GET", "/readyz")
            assert asking.getresponse().read() == b"ready\n"


HOSTILE = """
[rules.x]
description = "<img src=x onerror=document.title='broken'> & <script>document.title='broken'</script>"
input = "239.1.1.1:5000%<b>in0"
outputs = ["239.10.0.2:5004%out0"]
"""


def browsed(relay, folder) -> str:
    """The page as a browser shows it after some seconds."""
    command = [
        "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}",
        "--virtual-time-budget=9000", "--dump-dom", f"http://{ADDRESS}/",
    ]  # fmt: skip
    return relay.lab.relay.run(*command, timeout=60).stdout


@pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed")
def test_a_browser_shows_a_thousand_rules_the_worst_first(tmp_path):
    line = '[rules.r{0}]\ninput = "239.1.{1}.{2}:5000%in0"\noutputs = ["239.2.{1}.{2}:5004%out0"]\n'
    many = "".join(line.format(i, i // 250, i % 250) for i in range(999))
    with relaying(CONFIG.partition("[rules.x]")[0] + many + HOSTILE.replace("rules.x", "rules.zzz")) as relay:
        page = browsed(relay, tmp_path)
    assert "1000 rules · 1 pending · 999 active" in page
    rows = page.partition('<table id="rules">')[2].partition("</table>")[0].count('class="name"')
    more = int(page.partition('<p id="more">')[2].partition(" more")[0])
    assert rows + more == 1000
    assert page.index(">zzz<") < page.index(">r0<")


@pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed")
def test_a_browser_shows_rates_states_and_hostile_names_as_text(tmp_path):
    config = CONFIG + HOSTILE.replace("rules.x", "rules.hostile")
    with relaying(config) as relay:
        stream = sender(relay.lab.source, f"{GROUP}:2068%eth0", "--count", 60_000, "--rate", 2_000)
        page = browsed(relay, tmp_path)
        stream.send_signal(2)
        report(stream)
    assert "<title>! mcrelay</title>" not in page
    assert "broken</title>" not in page
    assert "2 rules · 1 pending · 1 active" in page
    assert "&lt;img src=x" in page
    assert "link &lt;b&gt;in0 does not exist" in page
    assert "<polyline" in page
