"""Several workers: every group on one of them and in order, nothing twice, and the end of one is the end of all."""

from __future__ import annotations

import subprocess

import pytest
from support.relay import GROUP, RelayUnderTest, assert_adds_up, both_engines, every_way, relaying, service_in
from support.traffic import MCRELAY, assert_exact, memberships, receiver, report, send
from support.ways import way

from mcrelay.commands.lab import standard_lab
from mcrelay.linux.features import Features
from mcrelay.relay import views

pytestmark = [pytest.mark.net, pytest.mark.alone]

STREAMS, COUNT, RATE = 16, 2_000, 20_000


def rules(workers: int, *, profile: str = "throughput", extra: str = "") -> str:
    """Sixteen groups from 226.2.2.2 on, to 239.10.0.1 on."""
    head = f'[relay]\nworkers = {workers}\n{extra}\n[links.in0]\nprofile = "{profile}"\nring = "64MiB"\n'
    return head + "".join(
        f'[rules.r{i}]\ninput = "226.2.2.{2 + i}:2068%in0"\noutputs = ["239.10.0.{1 + i}:5004%out0"]\n'
        for i in range(STREAMS)
    )


def relay_all(lab, *options: object) -> None:
    """Send all streams at once, and check every one of them."""
    sink = receiver(lab.sink, "239.10.0.1:5004%eth0", "--streams", STREAMS, "--count", COUNT)
    send(lab.source, f"{GROUP}:2068%eth0", "--streams", STREAMS, "--count", COUNT, "--rate", RATE, *options)
    got = report(sink)
    assert_exact(got, STREAMS * COUNT)


def cpu(relay) -> list[float]:
    return [each["cpu_seconds"] for each in relay.show("stats")["workers"]]


@every_way
@pytest.mark.parametrize("profile", ["throughput", "latency"])
def test_two_workers_share_the_groups_and_lose_reorder_and_double_nothing(profile):
    with relaying(rules(2, profile=profile)) as relay:
        before = cpu(relay)
        relay_all(relay.lab)
        stats = relay.at_rest()
        assert_adds_up(stats)
        assert [each["rx_packets"] for each in stats["rules"]] == [COUNT] * STREAMS
        assert {each["id"] for each in stats["workers"]} == {0, 1}
        assert len({each["generation"] for each in stats["workers"]}) == 1
        if relay.engine == "ring":
            assert all(now - then > 0.01 for now, then in zip(cpu(relay), before, strict=True)), "both have worked"
        assert memberships(relay.lab.relay, "in0")[way().source(GROUP)] == 1, (
            "a group is joined once, however many workers there are"
        )


@every_way
def test_superframes_of_a_group_stay_with_their_worker_and_in_order():
    with relaying(rules(2)) as relay:
        relay_all(relay.lab, "--gso", 8)
        assert_adds_up(relay.at_rest())


@every_way
def test_a_link_that_is_down_at_the_start_and_flaps_later_is_shared_as_well(tmp_path):
    with standard_lab(ipv6=way().has_ipv6) as lab:
        lab.settle()
        relay = RelayUnderTest(lab, rules(2), tmp_path)
        lab.relay.ip("link set in0 down")
        relay.start()
        for _ in range(2):
            assert relay.state("r0") == "parked"
            lab.relay.ip("link set in0 up")
            lab.relay.wait_until_up()
            relay.wait_for(lambda: relay.state("r0") == "active", "the link to be seen up")
            relay.heard_by_switch()
            relay_all(lab)
            lab.relay.ip("link set in0 down")
            relay.wait_for(lambda: relay.state("r0") == "parked", "the link to be seen down")
        assert_adds_up(relay.at_rest())
        relay.stop()


@every_way
def test_a_kernel_without_fanout_has_the_filters_share_the_groups():
    with standard_lab(ipv6=way().has_ipv6) as lab:
        lab.settle()
        with service_in(lab.relay, way().config(rules(3)), Features(fanout=False)) as service:
            relay_all(lab)
            stats = views.stats(service.state())
            assert_adds_up(stats)
            assert stats["links"][0]["frames"]["no_match"] == 0


@both_engines
def test_a_cpu_that_is_not_there_is_named_and_nothing_starts(tmp_path):
    config = tmp_path / "x.toml"
    config.write_text(rules(1, extra="cpus = [8000]"))
    command = [*MCRELAY, "run", "-c", str(config), "--socket", str(tmp_path / "run" / "x.sock")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 2, done.stderr
    assert "relay.cpus: no worker can run on CPU 8000" in done.stderr
    assert "Traceback" not in done.stderr


@both_engines
def test_workers_run_on_the_cpus_that_were_named():
    with relaying(rules(2, extra="cpus = [1, 0]")) as relay:
        tasks = relay.lab.relay.run(
            "sh", "-c", f"grep -H Cpus_allowed_list /proc/{relay.process.pid}/task/*/status"
        ).stdout
        allowed = [line.split()[-1] for line in tasks.splitlines()]
        assert allowed[-2:] == ["1", "0"], tasks  # the main thread and that of the log were there before the workers
