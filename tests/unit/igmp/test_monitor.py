"""The monitor of memberships, with time and wire played: when it reports, what it says is wrong, until when."""

from __future__ import annotations

import logging
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface

import pytest
from support.monitoring import ASM, BACK, HOST, LINK, NEIGHBOUR, NO_CARRIER, QUERIER, REPEATS, SOURCE, SSM, Scene

from mcrelay.igmp import advice, messages
from mcrelay.igmp.advice import Seen
from mcrelay.igmp.messages import Query, Record, Report
from mcrelay.igmp.needs import Limits
from mcrelay.igmp.protocol import IGMP
from mcrelay.linux import procfs

LOCAL = IPv4Address("224.0.0.251")


# Reporting again


def test_carrier_that_returns_is_answered_by_reports_at_once_and_later():
    scene = Scene({ASM: (), SSM: (SOURCE,)}).settle()
    begin = scene.return_of_carrier()
    scene.clock.run(200)
    assert scene.wire.times(begin) == REPEATS
    records = (Record(messages.IS_INCLUDE, SSM, (SOURCE,)), Record(messages.IS_EXCLUDE, ASM))
    assert set(scene.wire.reports()) == {Report(HOST.ip, 3, records)}


@pytest.mark.parametrize(
    ("what", "before", "after"),
    [
        ("raised again", replace(LINK, up=False, carrier=False), LINK),
        ("carrier lost and back between two looks", LINK, BACK),
        ("made again with another number", LINK, replace(LINK, ifindex=9)),
        ("made again after it was gone", None, LINK),
    ],
)
def test_other_ways_for_a_link_to_come_back(what, before, after):
    scene = Scene().settle()
    scene.link(before)
    scene.link(after)
    begin = scene.clock.now
    scene.clock.run(200)
    assert scene.wire.times(begin) == REPEATS, what


def test_a_link_that_is_there_at_the_start_is_reported_again_but_not_at_once():
    scene = Scene()
    begin = scene.clock.now
    scene.link(LINK)  # the kernel reports the join; a port still blocked by spanning tree drops that
    scene.clock.run(200)
    assert scene.wire.times(begin) == REPEATS[1:]


def test_a_link_that_gets_its_carrier_after_the_start_is_reported_at_once():
    scene = Scene()
    scene.link(NO_CARRIER)
    scene.clock.run(50)
    begin = scene.clock.now
    scene.link(BACK)
    scene.clock.run(200)
    assert scene.wire.times(begin) == REPEATS


def test_a_link_that_stays_as_it_is_is_left_in_peace():
    scene = Scene().settle()
    for _ in range(100):
        scene.link(replace(LINK, mtu=1500))
        scene.clock.run(5)
    scene.link(replace(LINK, mtu=9000, operstate="UNKNOWN", addresses=(HOST, IPv4Interface("192.0.2.9/24"))))
    scene.clock.run(100)
    assert scene.wire.sent == []


def test_an_answered_query_ends_the_reports():
    scene = Scene().settle()
    begin = scene.return_of_carrier()
    scene.clock.run(5)
    scene.query()
    scene.clock.run(2)
    scene.answer()
    scene.clock.run(200)
    assert scene.wire.times(begin) == [0, 1, 3]


@pytest.mark.parametrize("what", ["query alone", "answer alone", "answer to a query before", "another group", "a join"])
def test_nothing_less_ends_them(what):
    scene = Scene().settle()
    if what == "answer to a query before":
        scene.query()
    begin = scene.return_of_carrier()
    scene.clock.run(5)
    if what == "query alone":
        scene.query()
    elif what == "another group":
        scene.query()
        scene.answer(SSM)
    elif what == "a join":
        scene.query()
        scene.answer(kind=messages.TO_EXCLUDE)
    else:
        scene.answer()
    scene.clock.run(200)
    assert scene.wire.times(begin) == REPEATS


def test_carrier_lost_again_ends_them_too():
    scene = Scene().settle()
    begin = scene.return_of_carrier()
    scene.clock.run(2)
    scene.link(replace(NO_CARRIER, carrier_losses=3))
    scene.clock.run(200)
    assert scene.wire.times(begin) == [0, 1]


def test_what_is_reported_is_what_is_joined_by_then():
    scene = Scene().settle()
    scene.return_of_carrier()
    scene.joined = {SSM: (SOURCE,)}
    scene.link(BACK)
    scene.clock.run(1)
    first, second = scene.wire.reports()
    assert [first.answers, second.answers] == [{ASM}, {SSM}]
    scene.joined = {}
    scene.link(BACK)
    scene.clock.run(200)
    assert len(scene.wire.sent) == 2


@pytest.mark.parametrize(
    ("querier", "kernel", "version"),
    [(None, None, 3), (None, 2, 2), (3, 2, 3), (2, 3, 2), (1, 3, 1), (3, None, 3), (2, None, 2)],
)
def test_the_version_is_that_of_the_querier_else_of_the_kernel_else_3(querier, kernel, version):
    scene = Scene({SSM: (SOURCE,)}, version=kernel).settle()
    if querier:
        scene.query(querier)
    scene.return_of_carrier()
    (report,) = scene.wire.reports()
    assert report.version == version
    assert report.answers == {SSM}
    assert report.records[0].sources == ((SOURCE,) if version == 3 else ())


def test_without_an_address_the_source_is_0_and_the_first_address_is_reported_at_once():
    scene = Scene().settle()
    bare = replace(BACK, addresses=())
    scene.link(replace(NO_CARRIER, addresses=()))
    scene.link(bare)
    assert [report.host for report in scene.wire.reports()] == [IPv4Address("0.0.0.0")]
    scene.clock.run(100)
    scene.wire.sent.clear()
    scene.link(BACK)
    assert [report.host for report in scene.wire.reports()] == [HOST.ip]
    scene.clock.run(100)
    assert len(scene.wire.sent) == 1


def test_groups_that_every_switch_floods_are_not_reported():
    scene = Scene({LOCAL: (), ASM: ()}).settle()
    scene.return_of_carrier()
    assert scene.wire.reports()[0].answers == {ASM}


def test_reports_that_find_no_room_leave_a_little_later():
    scene = Scene({IPv4Address(0xEF000000 + i): () for i in range(25)}, version=2).settle()
    scene.link(NO_CARRIER)
    scene.wire.room = 10
    scene.link(BACK)
    assert len(scene.wire.sent) == 10
    scene.clock.run(0.5)
    assert len({report.records for report in scene.wire.reports()}) == len(scene.wire.sent) == 25


def test_a_link_that_takes_none_is_no_catastrophe():
    scene = Scene().settle()
    scene.link(NO_CARRIER)
    scene.wire.error = OSError(100, "Network is down")
    scene.link(BACK)
    scene.clock.run(5)
    scene.wire.error = None
    scene.clock.run(200)
    assert len(scene.wire.sent) == 3


# A querier of an older version


@pytest.mark.parametrize("version", [1, 2])
def test_an_older_querier_is_a_warning_where_a_join_has_a_source(version, caplog):
    scene = Scene({ASM: (), SSM: (SOURCE,)}, version=3).settle()
    scene.query(version)
    assert scene.kinds() == set()  # the kernel speaks version 3 still: perhaps a firewall kept the query from it
    scene.version = version
    scene.monitor.tick()
    (warning,) = scene.monitor.warnings
    assert warning.kind == "older-querier"
    for part in (str(QUERIER), f"version {version}", str(SSM), 'iifname "in0"', "membership-query"):
        assert part in warning.text
    assert str(ASM) not in warning.text
    scene.query(version)
    assert [each.message for each in caplog.records if "warning=" in each.message] == [
        f"warns link=in0 warning=older-querier: {warning.text}"
    ]
    with caplog.at_level(logging.INFO):
        scene.clock.run(261)
    assert scene.kinds() == {"silent-querier"}
    assert "ended link=in0 warning=older-querier" in caplog.messages


def test_an_older_querier_is_none_without_a_source():
    scene = Scene(version=2).settle()
    scene.query(2)
    assert scene.kinds() == set()


def test_where_proc_is_not_mounted_the_query_is_believed():
    scene = Scene({SSM: (SOURCE,)}).settle()
    scene.query(2)
    assert scene.kinds() == {"older-querier"}


# A querier that falls silent


def test_a_querier_that_falls_silent_is_a_warning_until_the_next_query(caplog):
    scene = Scene(limits=Limits(silence=20)).settle()
    scene.query()
    scene.answer()
    scene.clock.run(19)
    assert scene.kinds() == set()
    scene.clock.run(2)
    (warning,) = scene.monitor.warnings
    assert warning.kind == "silent-querier"
    assert f"for 20 s; the last came from {QUERIER} (version 3)" in warning.text
    scene.clock.run(1000)
    assert sum("warning=silent-querier" in each for each in caplog.messages) == 1
    with caplog.at_level(logging.INFO):
        scene.query(outgoing=True)  # this host has become the querier itself
    assert scene.kinds() == set()
    assert "ended link=in0 warning=silent-querier" in caplog.messages


def test_a_link_that_never_had_a_querier_is_no_warning():
    scene = Scene(limits=Limits(silence=20)).settle()
    scene.clock.run(10_000)
    assert scene.kinds() == set()


def test_time_without_carrier_does_not_count():
    scene = Scene(limits=Limits(silence=20)).settle()
    scene.query()
    scene.answer()
    scene.link(NO_CARRIER)
    scene.clock.run(100)
    assert scene.kinds() == set()
    scene.link(BACK)
    scene.clock.run(19)
    assert scene.kinds() == set()
    scene.clock.run(2)
    assert scene.kinds() == {"silent-querier"}


def test_a_link_made_again_remembers_its_querier():
    scene = Scene(limits=Limits(silence=20)).settle()
    scene.query()
    scene.link(None)
    scene.link(replace(LINK, ifindex=9))
    assert scene.monitor.querier.address == QUERIER
    scene.clock.run(21)
    assert scene.kinds() == {"silent-querier"}


# Queries that are not answered


def test_a_query_is_unanswered_when_its_time_and_a_second_are_over():
    scene = Scene().settle()
    scene.query(allowed=5)
    scene.clock.run(5.9)
    assert scene.monitor.unexplained is None
    scene.clock.run(0.2)
    assert scene.monitor.unexplained == Query(QUERIER, 3, None)
    assert scene.kinds() == set()  # until somebody has found the cause
    scene.monitor.explain("it is the firewall")
    (warning,) = scene.monitor.warnings
    assert (warning.kind, warning.text) == ("unanswered-query", "it is the firewall")
    assert scene.monitor.unexplained is None


def test_it_is_logged_once_a_state_and_over_with_an_answer(caplog):
    caplog.set_level(logging.INFO)
    scene = Scene().settle()
    for cause in ("firewall", "firewall", "rp_filter"):
        scene.query(allowed=1)
        scene.clock.run(125)
        scene.monitor.explain(cause)
    said = [each for each in caplog.messages if "unanswered" in each]
    assert said == [f"warns link=in0 warning=unanswered-query: {each}" for each in ("firewall", "rp_filter")]
    scene.query()
    scene.answer()
    assert scene.kinds() == set()
    assert "ended link=in0 warning=unanswered-query" in caplog.messages


@pytest.mark.parametrize(
    ("what", "query", "groups"),
    [
        ("a query for a group that is not joined", {"group": IPv4Address("239.9.9.9")}, {ASM: ()}),
        ("a query for certain sources", {"group": SSM, "source_count": 1}, {SSM: (SOURCE,)}),
        ("our own query", {"outgoing": True}, {ASM: ()}),
        ("a group that is never reported for sure", {}, {LOCAL: ()}),
        ("nothing joined", {}, {}),
    ],
)
def test_queries_that_want_no_answer(what, query, groups):
    scene = Scene(groups).settle()
    scene.query(**query)
    scene.clock.run(50)
    assert scene.monitor.unexplained is None, what


def test_a_query_for_our_group_wants_one():
    scene = Scene().settle()
    scene.query(group=ASM, allowed=1)
    scene.clock.run(3)
    assert scene.monitor.unexplained is not None


def test_a_neighbour_may_answer_for_us_in_version_2_but_only_for_its_groups():
    scene = Scene({ASM: (), SSM: ()}).settle()
    scene.query(2, allowed=1)
    scene.monitor.on_message(Report(NEIGHBOUR, 2, (Record(messages.IS_EXCLUDE, ASM),)), False)
    scene.monitor.on_message(Report(NEIGHBOUR, 2, (Record(messages.IS_EXCLUDE, SSM),)), False)
    scene.clock.run(5)
    assert scene.monitor.unexplained is None
    scene.query(2, allowed=1)
    scene.monitor.on_message(Report(NEIGHBOUR, 2, (Record(messages.IS_EXCLUDE, ASM),)), False)
    scene.clock.run(5)
    assert scene.monitor.unexplained is not None


def test_a_neighbour_never_answers_for_us_in_version_3():
    scene = Scene().settle()
    scene.query(3, allowed=1)
    scene.monitor.on_message(Report(NEIGHBOUR, 3, (Record(messages.IS_EXCLUDE, ASM),)), False)
    scene.clock.run(5)
    assert scene.monitor.unexplained is not None


def test_older_queries_kept_from_the_kernel_are_no_fault_while_version_3_is_answered():
    scene = Scene({SSM: (SOURCE,)}, version=3).settle()
    scene.query(3)
    scene.answer()
    scene.query(2, allowed=1)
    scene.clock.run(5)
    assert scene.monitor.unexplained is None
    scene.clock.run(300)
    scene.query(2, allowed=1)
    scene.clock.run(5)
    assert scene.monitor.unexplained is not None


def test_a_lost_carrier_excuses():
    scene = Scene().settle()
    scene.query(allowed=1)
    scene.link(NO_CARRIER)
    scene.clock.run(5)
    assert scene.monitor.unexplained is None


def test_queriers_that_take_turns_are_logged_once_each(caplog):
    caplog.set_level(logging.INFO)
    scene = Scene().settle()
    for _ in range(50):
        for address in (QUERIER, IPv4Address("0.0.0.0")):
            scene.monitor.on_message(Query(address, 3, None), False)
            scene.answer()
    assert [each for each in caplog.messages if "querier=" in each] == [
        f"heard link=in0 querier={QUERIER} version=3",
        "heard link=in0 querier=0.0.0.0 version=3",
    ]


def test_a_closed_guardian_leaves_no_timer_behind():
    scene = Scene()
    scene.link(LINK)
    scene.monitor.close()
    assert scene.clock.calls == []


def test_there_is_never_more_than_one_timer():
    scene = Scene()
    for _ in range(20):
        scene.return_of_carrier()
        scene.query()
        scene.query(2)
        assert len(scene.clock.calls) <= 1


# Causes and remedies


@pytest.mark.parametrize(
    ("source", "mode", "route", "fails"),
    [
        (QUERIER, 0, None, False),
        (QUERIER, 1, None, True),
        (QUERIER, 1, 9, True),
        (QUERIER, 1, 4, False),
        (QUERIER, 2, None, True),
        (QUERIER, 2, 9, False),
        (IPv4Address("0.0.0.0"), 1, None, False),
    ],
)
def test_what_the_reverse_path_filter_drops(source, mode, route, fails):
    assert advice.fails_reverse_path(source, 4, mode, route) is fails
    text = advice.unanswered_query(
        "in0", 4, Query(source, 3, None), mode, route, seen=Seen(delivered=False, filtered=True)
    )
    assert ("rp_filter" in text) is fails
    assert ("nft insert rule" in text) is not fails
    assert (f"ip route add {source}/32 dev in0" in text) is fails


REMEDIES = ("ip route add", "sysctl -w", "nft insert rule inet filter input", "nft insert rule inet filter output")


@pytest.mark.parametrize(
    ("seen", "remedies", "says"),
    [
        (Seen(delivered=False, filtered=True), REMEDIES[:2], "The reverse-path filter drops them"),
        (Seen(delivered=False, filtered=False), REMEDIES[2:3], "A firewall of this host drops them between"),
        (Seen(delivered=False, filtered=None), (), "by what was not seen"),
        (Seen(delivered=True, filtered=True), (), "nothing was seen that keeps its reports back"),
        (Seen(delivered=True, filtered=True, refused=True), REMEDIES[3:], "refuses to let IGMP out"),
    ],
)
def test_a_remedy_is_given_only_for_a_cause_that_was_seen(seen, remedies, says):
    """Settings are such that the reverse-path filter would drop the query: what was seen decides."""
    text = advice.unanswered_query("in0", 4, Query(QUERIER, 3, None), 1, 9, seen=seen)
    assert says in text
    assert tuple(each for each in REMEDIES if each in text) == remedies


@pytest.mark.parametrize("order", ["delivered first", "heard first"])
def test_a_query_that_was_delivered_is_known_to_be_so(order):
    scene = Scene().settle()
    calls = [lambda: scene.query(allowed=1), lambda: scene.monitor.deliver(Query(QUERIER, 3, None))]
    for call in calls if order == "heard first" else calls[::-1]:
        call()
    scene.clock.run(3)
    assert scene.monitor.unexplained is not None
    assert scene.monitor.reached
    scene.monitor.explain("x")
    scene.clock.run(125)
    scene.query(allowed=1)  # and another is not
    scene.clock.run(3)
    assert scene.monitor.unexplained is not None
    assert not scene.monitor.reached


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("bridge", "in0 is a port of br0: take the input from br0"),
        ("bond", "in0 is a port of br0: take the input from br0"),
        ("team", "in0 is a port of br0: take the input from br0"),
        ("openvswitch", "in0 is a port of an Open vSwitch: take the input from its bridge (ovs-vsctl port-to-br in0 "),
    ],
)
def test_a_port_is_said_to_be_one_and_no_other_cause_is_looked_for(kind, text):
    scene = Scene().settle()
    scene.link(replace(LINK, master="br0", master_kind=kind))
    assert scene.kinds() == {"port"}
    assert scene.monitor.warnings[0].text.startswith(text)
    scene.query(allowed=1)
    scene.clock.run(3)
    assert scene.monitor.unexplained is None
    scene.link(LINK)
    assert "port" not in scene.kinds()


def test_an_older_querier_that_asked_before_the_start_is_told_by_the_kernel():
    scene = Scene({SSM: (SOURCE,)}, version=2)
    scene.link(LINK)
    (warning,) = scene.monitor.warnings
    assert warning.kind == "older-querier"
    assert warning.text.startswith("a querier on in0 asked in IGMP version 2 before the relay listened, so the kernel ")
    scene.version = 3  # the kernel has heard none for a while
    scene.monitor.tick()
    assert scene.kinds() == set()
    scene.version = 2  # from now on a query is heard here first
    scene.monitor.tick()
    assert scene.kinds() == set()


def test_a_version_that_the_host_is_told_to_speak_is_no_queriers_fault():
    scene = Scene({SSM: (SOURCE,)}, version=2, forced=lambda: (2, "net/ipv4/conf/all/force_igmp_version"))
    scene.link(LINK)
    (warning,) = scene.monitor.warnings
    assert warning.kind == "forced-version"
    assert warning.text.endswith("Let the querier decide: sysctl -w net/ipv4/conf/all/force_igmp_version=0")


def test_a_forced_version_and_the_filters_count_are_read_where_they_can_be(tmp_path):
    for name, value in (("all", "0\n"), ("in0", "2\n")):
        folder = tmp_path / "net/ipv4/conf" / name
        folder.mkdir(parents=True)
        (folder / "force_igmp_version").write_text(value)
    assert procfs.forced_igmp_version("in0", tmp_path) == (2, "net/ipv4/conf/in0/force_igmp_version")
    assert procfs.forced_igmp_version("in1", tmp_path) == (0, "")
    counts = tmp_path / "netstat"
    assert procfs.reverse_path_drops(counts) is None
    counts.write_text("TcpExt: A IPReversePathFilter B\nTcpExt: 1 77 3\nIpExt: X\nIpExt: 1\n")
    assert procfs.reverse_path_drops(counts) == 77


def test_the_higher_rp_filter_counts_and_an_unreadable_one_is_off(tmp_path):
    for name, value in (("all", "1\n"), ("in0", "2\n"), ("eth0.7", "0\n")):
        folder = tmp_path / "net/ipv4/conf" / name
        folder.mkdir(parents=True)
        (folder / "rp_filter").write_text(value)
    assert procfs.rp_filter("in0", tmp_path) == 2
    assert procfs.rp_filter("eth0.7", tmp_path) == 1
    assert procfs.rp_filter("absent", tmp_path) == 1
    assert procfs.rp_filter("in0", tmp_path / "nothing") == 0
    assert procfs.read("net/ipv4/conf/all/rp_filter", 7, tmp_path / "nothing") == 7


def test_many_groups_are_not_all_named():
    text = advice.older_querier(
        IGMP, "in0", Query(QUERIER, 2, None), [IPv4Address(0xE8000001 + i) for i in range(20)], 2
    )
    assert "232.0.0.1, 232.0.0.2, 232.0.0.3 and 17 more" in text


@pytest.mark.parametrize("groups", [(ASM,), (ASM, SSM)])
def test_a_link_without_an_address_is_warned_of_until_it_has_one(groups):
    scene = Scene(dict.fromkeys(groups, ())).settle()
    scene.link(replace(LINK, addresses=()))
    assert scene.kinds() == {"no-address"}
    assert "0.0.0.0" in scene.monitor.warnings[0].text
    scene.link(LINK)
    assert scene.kinds() == set()
