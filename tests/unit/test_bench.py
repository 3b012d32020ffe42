"""The pure parts of bench/: the search, sums, targets, configurations and readers. Nothing here measures anything."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tomllib
from dataclasses import replace

import pytest
import targets
from book import Book, spread
from hotspots import STAGES, read_stages
from hotspots import read as read_profile
from hypothesis import given
from hypothesis import strategies as st
from microbench import read as read_micro
from product import Variant, configuration
from report import as_json, other_lines, rate_table, target_table
from search import TOLERANCE, highest
from targets import NOT_MEASURED, rows
from trial import Probe
from workloads import FANOUT_10, ONE, RANGE, RULES_100, THIN, V4_TO_V4, V4_TO_V6, V6_TO_V4, V6_TO_V6

from mcrelay.config.parse import parse_config

SETTINGS = {
    "soak.backlog": ("LENGTH", ["netdev_max_backlog"]),
    "neighbours": ("FOLDER", ["gc_thresh1", "gc_thresh2", "gc_thresh3"]),
}


@pytest.mark.parametrize("module", SETTINGS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_settings_of_the_machine_are_put_back_whatever_ends_a_run(tmp_path, module, number):
    where, names = SETTINGS[module]
    for name in names:
        (tmp_path / name).write_text("1000")
    place = tmp_path / names[0] if where == "LENGTH" else tmp_path
    code = f"""
import importlib, pathlib, time
module = importlib.import_module({module!r})
module.{where} = pathlib.Path({str(place)!r})
with module.room():
    print("in", flush=True)
    time.sleep(60)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "in\n"
    assert {(tmp_path / name).read_text() for name in names}.isdisjoint({"1000"})
    child.send_signal(number)
    child.communicate(timeout=30)
    assert child.returncode != 0
    assert {(tmp_path / name).read_text() for name in names} == {"1000"}


@given(limit=st.floats(1e3, 1e7), off=st.floats(0.25, 4))
def test_the_search_finds_the_limit_from_a_poor_guess(limit, off):
    found = highest(lambda rate: rate <= limit, limit * off)
    assert limit / (1 + TOLERANCE) * 0.999 <= found <= limit


def test_the_search_gives_up_where_nothing_passes():
    asked = []
    assert highest(lambda rate: asked.append(rate), 1000) == 0
    assert len(asked) < 20


@pytest.mark.parametrize("limit", [1001, 999])
def test_the_search_needs_two_probes_around_a_good_guess(limit):
    asked = []
    highest(lambda rate: asked.append(rate) or rate <= limit, 1000)
    assert len(asked) == 2


def probe(**changes):
    usual = {
        "offered": 1000, "sent": 1000, "delivered": 1000.0, "backlog": 0, "exact": True, "seconds": 1.0,
        "sender_ns": 0.0, "threads_ns": 0.0, "worker_ns": 0.0, "accounted_ns": 0.0, "cores_ns": 0.0,
    }  # fmt: skip
    return Probe(**usual | changes)


@pytest.mark.parametrize(
    ("changes", "passed"),
    [
        ({}, True),
        ({"exact": False}, False),
        ({"sent": 979}, False),  # the sender could not: the rate was not tried
        ({"sent": 981}, True),
        ({"backlog": 21}, False),  # a ring is filling up
        ({"backlog": 19}, True),
    ],
)
def test_a_rate_passes_when_it_was_offered_and_all_arrived_in_time(changes, passed):
    assert probe(**changes).loss_free is passed


def test_ratios_are_taken_within_a_round():
    book = Book()
    for ours, theirs in ((10, 5), (20, 10), (None, 10), (90, 30), (5, -1)):
        book.add("1316", "a", "rate", ours)
        book.add("1316", "b", "rate", theirs)
    assert book.ratio(("1316", "a", "rate"), ("1316", "b", "rate")) == spread([2.0, 2.0, 3.0])
    assert book.ratio(("1316", "a", "rate"), ("1316", "c", "rate")) is None


def test_an_empty_book_has_every_row_and_meets_nothing():
    found = rows(Book())
    assert len(found) > 30
    assert {row.met for row in found} == {None}
    assert {row.measured for row in found} == {NOT_MEASURED}


@pytest.mark.parametrize(("ours", "met"), [(10, True), (9, False)])
def test_a_target_is_met_or_not(ours, met):
    book = Book()
    book.add("1316", "mcrelay", "rate", ours)
    book.add("1316", "smcroute", "rate", 10)
    verdicts = {row.figure.strip(): row.met for row in rows(book)}
    assert verdicts["against smcroute, plain"] is met
    assert verdicts["against smcroute, exclusive"] is None


def test_one_inexact_run_is_enough():
    book = Book()
    book.exact = [{"path": "workers-1", "workload": "1316", "exact": exact} for exact in (True, False)]
    (row,) = (row for row in rows(book) if row.figure.endswith("1 worker"))
    assert (row.measured, row.met) == ("1 of 2 runs", False)


def test_one_lost_datagram_of_a_burst_is_enough():
    book = Book()
    for lost in (0, 0, 1):
        book.add("1316", "latency", "lost@burst", lost)
    (row,) = (row for row in rows(book) if row.figure.startswith("latency profile, bursts"))
    assert row.met is False


def test_a_report_holds_what_was_measured():
    book = Book()
    book.add("1316", "mcrelay", "rate", 123456.0)
    book.profile = {"rate": 1, "kernel_percent": 90.0, "top": [{"percent": 9.0, "kernel": True, "symbol": "veth_xmit"}]}
    book.note("socat is not installed")
    assert rate_table(book, {}).row_count == 1
    assert target_table(book).row_count > 10
    text = "\n".join(other_lines(book))
    for expected in ("veth_xmit", "socat is not installed"):
        assert expected in text
    assert '"123456' not in as_json(book, {}, {}, [])  # a number stays one
    assert "123456.0" in as_json(book, {}, {}, [])


FAMILIES = (V4_TO_V4, V6_TO_V6, V4_TO_V6, V6_TO_V4)


@pytest.mark.parametrize("work", [ONE, THIN, FANOUT_10, RULES_100, *FAMILIES])
def test_a_configuration_is_one_that_mcrelay_takes(work):
    text = configuration(work, Variant(burst=1, ring="64MiB"))
    config = parse_config([("bench.toml", text)]).config
    assert len(config.rules) == work.streams + work.idle_rules
    assert sum(len(rule.outputs) for rule in config.rules.values()) == work.streams * work.outputs + work.idle_rules
    assert {each.stream.address.version for rule in config.rules.values() for each in rule.inputs} == {work.ingress}
    assert {each.stream.address.version for rule in config.rules.values() for each in rule.outputs} == {work.egress}


def test_every_direction_between_ip_versions_has_its_rows():
    assert {each.name for each in FAMILIES} == set(targets.FAMILIES)
    book = Book()
    for work in FAMILIES:
        book.add(work.name, "mcrelay", "rate", 100.0 if work is V4_TO_V4 else 80.0 if work is V6_TO_V4 else 95.0)
        book.exact.append({"path": "workers-1", "workload": work.name, "exact": work is not V4_TO_V6})
    verdicts = {row.figure: row.met for row in rows(book) if row.met is not None}
    assert verdicts == {
        "IPv6 to IPv6, ring, 1316 B, equal cores, against IPv4": True,
        "IPv4 to IPv6, ring, 1316 B, equal cores, against IPv4": True,
        "IPv6 to IPv4, ring, 1316 B, equal cores, against IPv4": False,
        "exact at 80 % of the highest rate, IPv4 and IPv6 to either, ring": False,
    }


@pytest.mark.parametrize("work", [RANGE, replace(RANGE, ingress=6, egress=6)])
def test_a_range_is_one_rule_of_as_many_groups(work):
    (rule,) = parse_config([("bench.toml", configuration(work, Variant()))]).config.rules.values()
    assert rule.inputs[0].stream.group_count == rule.outputs[0].stream.group_count == RANGE.streams


def test_a_variant_says_only_what_is_unusual_about_it():
    assert set(tomllib.loads(configuration(ONE, Variant()))) == {"rules"}
    found = tomllib.loads(configuration(ONE, Variant(exclusive=True, gro=True, latency=True, workers=2)))
    assert found["relay"] == {"workers": 2}
    assert found["links"] == {"in0": {"profile": "latency", "gro": True}}
    assert found["defaults"] == {"exclusive": True}


def test_a_profile_is_read():
    text = """# Overhead;Shared Object;Symbol
 60.00% ;[kernel.kallsyms]   ;[k] udp_sendmsg
 30.50% ;worker.so ;[.] turn
 9.50%  ;[kernel.kallsyms]   ;[k] veth_xmit
"""
    found = read_profile(text)
    assert found["kernel_percent"] == 69.5
    assert [row["symbol"] for row in found["top"]] == ["udp_sendmsg", "turn", "veth_xmit"]
    assert [row["kernel"] for row in found["top"]] == [True, False, True]


def test_a_profile_of_the_kernel_engine_has_its_stages_with_all_that_they_call():
    text = """# Overhead; Self;Symbol
 76.80% ; 0.13%  ;[k] do_syscall_64
 18.75% ; 1.81%  ;[k] bpf_prog_cc0bd4e7d407fee2_relay
 13.31% ; 0.62%  ;[k] bpf_clone_redirect
 10.54% ; 0.96%  ;[k] ip_rcv
  0.10% ; 0.05%  ;[k] ip_rcv
  5.15% ; 1.43%  ;[k] tpacket_rcv
"""
    found = read_stages(text)
    assert found == dict.fromkeys(STAGES, 0) | {
        "relay": 18.75, "bpf_clone_redirect": 13.31, "ip_rcv": 10.54, "tpacket_rcv": 5.15,
    }  # fmt: skip
    assert read_stages("") == {}
    book = Book()
    book.stages["the engine"] = {"rate": 500_000, "percent": found}
    assert "   18.8 %  the program, all of it (relay)" in other_lines(book)


def test_microbenchmarks_are_nanoseconds_of_one_operation():
    data = [2e-6] * 30
    report = {"benchmarks": [{"name": "test_push", "extra_info": {"operations": 1000}, "stats": {"data": data}}]}
    assert read_micro(report)["push"] == pytest.approx([2.0] * 10)
