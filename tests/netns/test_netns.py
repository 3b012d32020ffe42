"""The lab itself: a test bed that leaks or that does not prune proves nothing."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from support.traffic import wait_for

from mcrelay.commands.lab import SOURCE_ADDRESS, LabError, standard_lab
from mcrelay.commands.receivers import open_receiver
from mcrelay.commands.senders import open_sender
from mcrelay.model.notation import parse_stream

if TYPE_CHECKING:
    from mcrelay.commands.lab import Lab, StandardLab

pytestmark = pytest.mark.net
GROUP = "226.2.2.2"


def listed() -> str:
    """The namespaces that this process made: others run tests beside it."""
    names = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    return "\n".join(name for name in names.splitlines() if name.startswith(f"mcr-{os.getpid()}-"))


def arrivals(lab: StandardLab) -> int:
    """How many of five datagrams from the source reach the relay's link, joined or not."""
    with (
        lab.relay.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0) as tap,
        lab.source.call(lambda: open_sender(parse_stream(f"{GROUP}:2068%eth0"), None, 0, None)) as sender,
    ):
        tap.bind(("in0", 0x0800))
        tap.settimeout(0.3)
        for _ in range(5):
            sender.send(b"probe")
        seen = 0
        try:
            while True:
                seen += tap.recv(2048)[16:20] == socket.inet_aton(GROUP)
        except TimeoutError:
            return seen


def test_nothing_is_left(namespaces: Lab) -> None:
    """Namespaces, links and children are gone after the block, also when it ends by Ctrl-C."""
    before = listed()
    children = []

    def interrupted() -> None:
        with standard_lab(sinks=2) as lab:
            assert lab.relay.name in listed()
            children.append(lab.sinks[1].popen("sleep", "60"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert listed() == before
    assert children[0].returncode == -9


def test_set_up_is_quick(namespaces: Lab) -> None:
    """The standard lab stands within half a second."""
    start = time.monotonic()
    with standard_lab():
        assert time.monotonic() - start < 0.5


def test_bridge_prunes_before_a_join_and_delivers_after(lab: StandardLab) -> None:
    """The control of every test that claims a join made the traffic come."""
    assert arrivals(lab) == 0
    assert GROUP not in lab.mdb().get("to-relay", set())
    with lab.relay.call(lambda: open_receiver(parse_stream(f"{GROUP}:2068%in0"), 1)):
        wait_for(lambda: GROUP in lab.mdb().get("to-relay", set()), "the report")
        assert arrivals(lab) == 5


def test_ssm_join_is_reported_as_such(lab: StandardLab) -> None:
    """With IGMPv3 the bridge learns the source, and mdb() shows no any-source entry beside it."""
    stream = parse_stream(f"{SOURCE_ADDRESS}@232.1.1.1:5000%in0")
    with lab.relay.call(lambda: open_receiver(stream, 1)):
        shown = wait_for(lambda: lab.mdb().get("to-relay"), "the report")
        assert shown == {f"{SOURCE_ADDRESS}@232.1.1.1"}


def test_bridge_that_speaks_v2_hears_v2(namespaces: Lab) -> None:
    """An old querier turns an SSM join into an any-source one."""
    with standard_lab(igmp_version=2) as lab:
        lab.settle()
        stream = parse_stream(f"{SOURCE_ADDRESS}@232.1.1.1:5000%in0")
        with lab.relay.call(lambda: open_receiver(stream, 1)):
            shown = wait_for(lambda: lab.mdb().get("to-relay"), "the report")
            assert shown == {"232.1.1.1"}


def test_without_a_querier_the_bridge_floods(namespaces: Lab) -> None:
    """What a snooping bridge does when nobody asks."""
    with standard_lab(querier=False) as lab:
        lab.settle()
        assert arrivals(lab) == 5


def test_options_reach_the_links(namespaces: Lab) -> None:
    """MTU and segmentation are those asked for."""
    with standard_lab(mtu=9000, segmentation=False) as lab:
        assert "mtu 9000" in lab.relay.run("ip", "link", "show", "in0").stdout
        assert "tx-udp-segmentation: off" in lab.relay.run("ethtool", "-k", "out0").stdout


def test_failing_command_is_named(namespaces: Lab) -> None:
    """LabError holds the one line that failed and what ip said of it."""
    (namespace,) = namespaces.add("a")
    with pytest.raises(LabError, match=r"link set nosuch up` failed: Cannot find device"):
        namespace.ip("link set lo up", "link set nosuch up")
    with pytest.raises(LabError, match="exit code 1"):
        namespace.run("false")


def test_call_leaves_the_caller_where_it_was(namespaces: Lab) -> None:
    """Only the helper thread moves; an exception inside comes out."""
    (namespace,) = namespaces.add("a")
    namespace.ip("link add only-here type veth peer name other")
    assert namespace.ifindex("only-here")
    with pytest.raises(OSError, match="no interface"):
        socket.if_nametoindex("only-here")
    with pytest.raises(ZeroDivisionError):
        namespace.call(lambda: 1 // 0)
