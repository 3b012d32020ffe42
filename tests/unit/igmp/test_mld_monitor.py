"""The monitor with MLD: what it does as with IGMP, and what IPv6 has of its own."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address, IPv6Interface

import pytest
from support.monitoring import BACK, LINK, NO_CARRIER, REPEATS, Scene

from mcrelay.igmp import advice
from mcrelay.igmp.advice import Seen
from mcrelay.igmp.messages import IS_EXCLUDE, IS_INCLUDE, Query, Record, Report
from mcrelay.igmp.needs import Limits
from mcrelay.igmp.protocol import MLD
from mcrelay.linux import procfs

ASM, SSM, NODES = IPv6Address("ff15::1"), IPv6Address("ff35::2"), IPv6Address("ff02::1")
MDNS, OWN_HOST = IPv6Address("ff02::fb"), IPv6Address("ff01::99")
SOURCE, QUERIER = IPv6Address("2001:db8::5"), IPv6Address("fe80::ff")
HOST = IPv6Interface("fe80::1/64")
OF_IPV6 = {"addresses": (), "addresses6": (IPv6Interface("2001:db8::1/64"), HOST)}
LINK6, NO_CARRIER6, BACK6 = (replace(each, **OF_IPV6) for each in (LINK, NO_CARRIER, BACK))


class Scene6(Scene):
    """The same scene, in IPv6."""

    def __init__(self, joined=None, limits=Limits(), version=None, **host):  # noqa: B008
        super().__init__({ASM: ()} if joined is None else joined, limits, version, MLD, **host)

    def settle(self):
        self.link(LINK6)
        self.clock.run(100)
        self.wire.sent.clear()
        return self

    def return_of_carrier(self):
        self.link(NO_CARRIER6)
        self.clock.run(7)
        self.wire.sent.clear()
        self.link(BACK6)
        return self.clock.now

    def query(self, version=2, group=None, allowed=10.0, outgoing=False, **fields):
        self.monitor.on_message(Query(QUERIER, version, group, allowed, **fields), outgoing)

    def answer(self, *groups, version=2, kind=IS_EXCLUDE):
        records = tuple(Record(kind, group) for group in groups or self.joined)
        self.monitor.on_message(Report(HOST.ip, version, records), True)


def test_carrier_that_returns_is_answered_by_reports_from_the_link_local_address():
    scene = Scene6({ASM: (), SSM: (SOURCE,)}).settle()
    begin = scene.return_of_carrier()
    scene.clock.run(200)
    assert scene.wire.times(begin) == REPEATS
    records = (Record(IS_EXCLUDE, ASM), Record(IS_INCLUDE, SSM, (SOURCE,)))
    assert set(scene.wire.reports()) == {Report(HOST.ip, 2, records)}


def test_an_answered_query_ends_the_reports():
    scene = Scene6().settle()
    begin = scene.return_of_carrier()
    scene.clock.run(5)
    scene.query()
    scene.answer()
    scene.clock.run(200)
    assert scene.wire.times(begin) == [0, 1, 3]
    assert scene.monitor.spoken == 2


def test_a_querier_of_version_1_is_answered_in_its_version():
    scene = Scene6({SSM: (SOURCE,)}).settle()
    scene.query(1)
    scene.return_of_carrier()
    (report,) = scene.wire.reports()
    assert (report.version, report.answers, report.records[0].sources) == (1, {SSM}, ())


def test_groups_that_switches_pass_in_any_case_are_not_reported():
    scene = Scene6({NODES: (), OWN_HOST: (), MDNS: (), ASM: ()}).settle()
    scene.return_of_carrier()
    assert scene.wire.reports()[0].answers == {MDNS, ASM}


@pytest.mark.parametrize(
    ("fields", "kind", "words"),
    [
        ({}, "no-address", "ip -6 address add fe80::1:1/64 dev in0"),
        ({"tentative": (HOST.ip,)}, "tentative-address", "duplicate address detection still looks"),
        ({"refused": (HOST.ip,)}, "refused-address", "another host of in0 has fe80::1"),
    ],
)
def test_without_a_link_local_address_nothing_is_reported_and_the_reason_is_named(fields, kind, words):
    scene = Scene6().settle()
    bare = {"addresses": LINK.addresses, "addresses6": OF_IPV6["addresses6"][:1], **fields}
    scene.link(replace(NO_CARRIER6, **bare))
    scene.link(replace(BACK6, **bare))
    assert scene.wire.sent == []
    (warning,) = scene.monitor.warnings
    assert warning.kind == kind
    assert words in warning.text
    scene.link(BACK6)
    assert [report.host for report in scene.wire.reports()] == [HOST.ip]
    assert scene.kinds() == set()


def test_a_tentative_address_is_no_warning_of_the_log(caplog):
    scene = Scene6().settle()
    scene.link(replace(LINK6, addresses6=(), tentative=(HOST.ip,)))
    assert scene.kinds() == {"tentative-address"}
    assert not [each for each in caplog.records if each.levelname == "WARNING"]
    scene.link(replace(LINK6, addresses6=(), refused=(HOST.ip,)))
    assert [each.levelname for each in caplog.records] == ["WARNING"]


def test_ipv6_that_is_switched_off_is_the_one_cause_that_is_named():
    off = [False]
    scene = Scene6(disabled=lambda: off[0]).settle()
    off[0] = True
    scene.link(replace(LINK6, addresses6=()))
    (warning,) = scene.monitor.warnings
    assert warning.kind == "ipv6-disabled"
    assert warning.text.endswith(". Switch it on: sysctl -w net/ipv6/conf/in0/disable_ipv6=0")
    scene.query(allowed=1)
    scene.clock.run(5)
    assert scene.monitor.unexplained is None
    off[0] = False
    scene.link(LINK6)
    assert scene.kinds() == set()


def test_an_older_querier_is_a_warning_where_a_join_has_a_source():
    scene = Scene6({ASM: (), SSM: (SOURCE,)}).settle()
    scene.query(2)
    assert scene.kinds() == set()
    scene.query(1)
    (warning,) = scene.monitor.warnings
    assert warning.kind == "older-querier"
    assert f"{QUERIER} queries in MLD version 1, so the kernel joins {SSM} from any source" in warning.text
    assert warning.text.endswith("sysctl -w net/ipv6/conf/in0/force_mld_version=2")
    scene.version = 2  # which is what that setting does
    scene.monitor.tick()
    assert scene.kinds() == set()


def test_a_version_that_the_host_is_told_to_speak():
    key = "net/ipv6/conf/in0/force_mld_version"
    scene = Scene6({SSM: (SOURCE,)}, version=1, forced=lambda: (1, key))
    scene.link(LINK6)
    (warning,) = scene.monitor.warnings
    assert warning.kind == "forced-version"
    assert warning.text.endswith(f"Let the querier decide: sysctl -w {key}=0")


def test_a_querier_that_falls_silent():
    scene = Scene6(limits=Limits(silence=20)).settle()
    scene.query()
    scene.answer()
    scene.clock.run(21)
    (warning,) = scene.monitor.warnings
    assert f"no MLD query for 20 s; the last came from {QUERIER} (version 2)" in warning.text


def test_a_neighbour_answers_for_us_in_version_1_alone():
    for version, excused in ((1, True), (2, False)):
        scene = Scene6().settle()
        scene.query(version, allowed=1)
        scene.monitor.on_message(Report(IPv6Address("fe80::9"), version, (Record(IS_EXCLUDE, ASM),)), False)
        scene.clock.run(5)
        assert (scene.monitor.unexplained is None) is excused


@pytest.mark.parametrize(
    ("querier", "seen", "says", "remedy"),
    [
        ("fe80::ff", Seen(False, None), "A firewall of this host drops them", "mld-listener-query accept"),
        ("fe80::ff", Seen(True, None), "delivered to the kernel's MLD, and nothing was seen", ""),
        ("fe80::ff", Seen(True, None, True), "refuses to let MLD out", "mld2-listener-report }' accept"),
        ("2001:db8::1", Seen(True, None), "not link-local", ""),
    ],
)
def test_a_remedy_is_given_only_for_a_cause_that_was_seen(querier, seen, says, remedy):
    text = advice.unanswered_mld_query("in0", Query(IPv6Address(querier), 2, None), seen=seen)
    assert says in text
    assert ("nft insert rule" in text) is bool(remedy)
    assert text.endswith(remedy)


def test_settings_of_ipv6_are_read_where_they_can_be(tmp_path):
    for name, key, value in (
        ("all", "force_mld_version", "0"),
        ("in0", "force_mld_version", "1"),
        ("in0", "disable_ipv6", "1"),
    ):
        folder = tmp_path / "net/ipv6/conf" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / key).write_text(value)
    assert procfs.forced_mld_version("in0", tmp_path) == (1, "net/ipv6/conf/in0/force_mld_version")
    assert procfs.forced_mld_version("in1", tmp_path) == (0, "")
    (tmp_path / "net/ipv6/conf/all/force_mld_version").write_text("2")
    assert procfs.forced_mld_version("in0", tmp_path) == (2, "net/ipv6/conf/all/force_mld_version")
    assert procfs.without_ipv6("in0", tmp_path)
    assert not procfs.without_ipv6("in1", tmp_path)
