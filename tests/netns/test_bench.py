"""What measures can be wrong, too: the bench's own meters, on paths that need no relay."""

from __future__ import annotations

import arrivals
import paths
import pytest
import tools
import workloads
from trial import Setting, Trial

pytestmark = [pytest.mark.net, pytest.mark.alone]

FEW = arrivals.Traffic("few", 2_000, count=200)
BURST = arrivals.Traffic("burst", 5e6, count=480)


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    return Setting(folder, tools.compile_all(folder), (), (0,), ())


@pytest.fixture
def start(namespaces, setting):
    """Start a path with a workload; it is stopped after the test."""
    made = []

    def make(path, work):
        made.append(Trial(namespaces, path, work, setting, label=f"{len(made)}"))
        return made[-1]

    yield make
    for trial in made:
        trial.close()


def test_every_paced_datagram_is_timed(start):
    found = arrivals.watch(start(paths.NFT, workloads.ONE), FEW, 0.1)
    assert found["datagrams"] == found["sent"] == 200
    assert found["lost"] == 0
    assert 0 < found["p50"] <= found["p99"] <= found["p99.9"] <= found["max"] < 10e6


@pytest.mark.parametrize("path", [paths.NFT, paths.by_device(paths.NFT)], ids=["frames", "superframes"])
def test_a_superframe_is_so_many_datagrams(start, path):
    found = arrivals.watch(start(path, workloads.SUPERFRAMES), BURST, 0.1)
    assert found["datagrams"] == found["sent"] == 480
    assert found["lost"] == 0
    assert found["longest"] >= (48 if path.device_segments else 1)


def test_a_delay_counts_from_when_a_datagram_was_due(start):
    trial = start(paths.NFT, workloads.ONE)
    # 480 x 1358 bytes at 10 Mbit/s take half a second, the last of them all of it
    trial.site.relay.run(
        *("tc", "qdisc", "replace", "dev", "out0", "root", "tbf", "rate", "10mbit", "burst", "3kb", "limit", "2mb")
    )
    found = arrivals.watch(trial, BURST, 0.1)
    assert (found["datagrams"], found["lost"]) == (480, 0)
    assert found["max"] > 500e3
    assert found["p50"] > 240e3


def test_what_does_not_arrive_is_lost(start):
    trial = start(paths.NFT, workloads.ONE)
    trial.site.relay.run("nft", "insert", "rule", "netdev", "rewrite", "in", "numgen", "inc", "mod", "4", "0", "drop")
    found = arrivals.watch(trial, FEW, 0.1)
    assert (found["datagrams"], found["lost"]) == (150, 50)
