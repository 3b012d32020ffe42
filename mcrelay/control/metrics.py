"""The relay's numbers under Prometheus names (prometheus.io, exposition formats): a pure function of its state.

Every series exists from the start, at 0: nobody can tell a missing series from an event that never happened. Names of
rules and streams are labels; they change with the configuration, and not with traffic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from mcrelay.control.exposition import Counter, Gauge, Histogram, write
from mcrelay.control.health_metrics import health_families
from mcrelay.model.plan import OutputState, RuleState
from mcrelay.model.state import InputCount, OutputCount, RelayTimes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mcrelay.control.exposition import Family
    from mcrelay.relay.state import DaemonState, RelayState

MOST_GROUPS = 256  # of a range that has series of its groups; the JSON of `show stats` has the groups of every range


def _one_of(states: tuple[str, ...]) -> dict[str, dict[str, int]]:
    """What the series of all states are, by the state that something is in."""
    return {now: {state: int(state == now) for state in states} for now in states}


RULE_STATES = _one_of(get_args(RuleState))
OUTPUT_STATES = _one_of(get_args(OutputState))


def exposition(relay: RelayState, daemon: DaemonState, accept: str) -> tuple[bytes, str]:
    """The text for one scrape, and its content type; *accept* is the request header that chooses the format."""
    return write(families(relay, daemon), accept)


def families(relay: RelayState, daemon: DaemonState) -> Iterator[Family]:
    """Every metric with all its series."""
    yield from _of_process(relay, daemon)
    yield from _of_rules(relay)
    yield from _of_inputs(relay)
    yield from _of_outputs(relay)
    yield from _of_groups(relay)
    yield from _of_times(relay)
    yield from health_families(relay)
    yield from _of_links(relay)
    seconds = Counter("mcrelay_worker_cpu_seconds", "CPU time of a worker thread.", labels=["worker"])
    for worker in relay.counts.workers:
        seconds.add_metric([str(worker.number)], worker.cpu_seconds)
    yield seconds


def _of_process(relay: RelayState, daemon: DaemonState) -> Iterator[Family]:
    build = Gauge("mcrelay_build_info", "1; the version that runs is a label.", labels=["version"])
    build.add_metric([daemon.version], 1)
    yield build
    start = relay.time - relay.uptime_seconds
    yield Gauge("mcrelay_start_time_seconds", "When the relay started, Unix time.", value=start)
    due = int(daemon.restart_due)
    yield Gauge("mcrelay_restart_due", "1 if another build is installed than the one that runs.", value=due)
    yield Gauge(
        "mcrelay_config_last_reload_successful",
        "1 if the files were accepted when they were read last.",
        value=int(daemon.reload_successful),
    )
    yield Gauge(
        "mcrelay_config_last_reload_timestamp_seconds",
        "When the files were read last, Unix time.",
        value=daemon.reload_time,
    )


def _of_rules(relay: RelayState) -> Iterator[Family]:
    states = Gauge("mcrelay_rule_state", "1 for the state that a rule is in.", labels=["rule", "state"])
    losing = Gauge("mcrelay_rule_losing", "1 while a rule loses datagrams.", labels=["rule"])
    drops = Counter(
        "mcrelay_rule_drops", "Datagrams that a rule received and did not let through.", labels=["rule", "reason"]
    )
    zeros = dict.fromkeys(relay.counts.names.drops, 0)
    for status in relay.rules:
        name = status.rule.name
        states.add_each([name], RULE_STATES[status.state])
        losing.add_metric([name], int(name in relay.losing))
        drops.add_each([name], _summed(relay, name, [each.text for each in status.inputs], zeros))
    answers = Counter("mcrelay_answers", "Answers by unicast to who searched.", labels=["rule", "result"])
    for name, answered in relay.counts.answers.items():
        answers.add_metric([name, "passed"], answered.passed)
        answers.add_metric([name, "failed"], answered.failed)
        answers.add_metric([name, "late"], answered.late)
    yield from (states, losing, drops, answers)


def _summed(relay: RelayState, rule: str, inputs: list[str], zeros: dict[str, int]) -> dict[str, int]:
    """Drops of a rule, of the inputs that it had before too."""
    found = [relay.counts.inputs.get((rule, text)) for text in inputs] + [relay.counts.retired.get(rule)]
    held = [each.drops for each in found if each is not None]
    if len(held) == 1:
        return held[0]
    return {reason: sum(drops[reason] for drops in held) for reason in zeros}


def _of_inputs(relay: RelayState) -> Iterator[Family]:
    labels = ["rule", "input"]
    packets = Counter("mcrelay_rx_packets", "Datagrams received for a rule.", labels=labels)
    size = Counter("mcrelay_rx_bytes", "Bytes of UDP payload received for a rule.", labels=labels)
    last = Gauge(
        "mcrelay_last_packet_timestamp_seconds", "When the last datagram came, Unix time; 0 before.", labels=labels
    )
    none = InputCount(0, 0, None, {})
    for status in relay.rules:
        name = status.rule.name
        for each in status.inputs:
            count = relay.counts.inputs.get((name, each.text), none)
            packets.add_metric([name, each.text], count.rx_packets)
            size.add_metric([name, each.text], count.rx_bytes)
            stamp = relay.last_packet_times.get(name) if count.last_packet_time is not None else None
            last.add_metric([name, each.text], stamp or 0.0)
    yield from (packets, size, last)


def _of_outputs(relay: RelayState) -> Iterator[Family]:
    labels = ["rule", "output"]
    packets = Counter("mcrelay_tx_packets", "Datagrams that the kernel took.", labels=labels)
    size = Counter("mcrelay_tx_bytes", "Bytes of UDP payload that the kernel took.", labels=labels)
    cut = Counter("mcrelay_tx_fragmented", "Datagrams among them that left in fragments.", labels=labels)
    errors = Counter("mcrelay_tx_errors", "Datagrams that an output did not send.", labels=labels)
    since = Gauge(
        "mcrelay_since_packets", "Datagrams that the rule had let through before the output began.", labels=labels
    )
    states = Gauge("mcrelay_output_state", "1 for the state that an output is in.", labels=["rule", "output", "state"])
    none = OutputCount(0, 0, 0, {})
    for status in relay.rules:
        name = status.rule.name
        for each in status.outputs:
            count = relay.counts.outputs.get((name, each.to), none)
            packets.add_metric([name, each.to], count.tx_packets)
            size.add_metric([name, each.to], count.tx_bytes)
            cut.add_metric([name, each.to], count.tx_fragmented)
            errors.add_metric([name, each.to], sum(count.tx_errors.values()))
            since.add_metric([name, each.to], count.since_packets)
            states.add_each([name, each.to], OUTPUT_STATES[each.state])
    yield from (packets, size, cut, errors, since, states)


def _of_groups(relay: RelayState) -> Iterator[Family]:
    """Of ranges that are not too long: what each group received, and what of it each output sent."""
    received = Counter(
        "mcrelay_group_rx_packets",
        "Datagrams received for one group of a range.",
        labels=["rule", "input", "group"],
    )
    sent = Counter(
        "mcrelay_group_tx_packets",
        "Datagrams of one group of a range that the kernel took.",
        labels=["rule", "output", "group"],
    )
    for status in relay.rules:
        name = status.rule.name
        for each in status.inputs:
            counts = relay.counts.input_groups.get((name, each.text), {})
            for place in range(each.group_count) if 1 < each.group_count <= MOST_GROUPS else ():
                packets = counts[place].rx_packets if place in counts else 0
                received.add_metric([name, each.text, str(each.group + place)], packets)
        for output in status.outputs:
            taken = relay.counts.output_groups.get((name, output.to), {})
            for place in range(output.groups) if 1 < output.groups <= MOST_GROUPS else ():
                packets = taken[place].tx_packets if place in taken else 0
                sent.add_metric([name, output.to, str(output.address + place)], packets)
    yield from (received, sent)


def _of_times(relay: RelayState) -> Iterator[Family]:
    seconds = Histogram(
        "mcrelay_relay_seconds", "From the time stamp of the ring until a datagram was sent.", labels=["rule"]
    )
    none = RelayTimes(dict.fromkeys(relay.counts.names.times, 0), 0.0)
    for status in relay.rules:
        found = relay.relay_times.get(status.rule.name, none)
        seconds.add_buckets([status.rule.name], found.within, found.seconds)
    yield seconds


def _of_links(relay: RelayState) -> Iterator[Family]:
    frames = Counter("mcrelay_frames", "Frames captured on a link, by what became of them.", labels=["link", "verdict"])
    fragments = Counter(
        "mcrelay_refused_fragments", "Of the verdict fragment: why they were not relayed.", labels=["link", "reason"]
    )
    dropped = Counter("mcrelay_ring_dropped_frames", "Frames that found no room in a link's ring.", labels=["link"])
    kernel = Counter("mcrelay_kernel_frames", "Frames of a link that the kernel engine took.", labels=["link"])
    own = Counter(
        "mcrelay_outgoing_frames", "Frames for a rule's group that this host sent on its input link.", labels=["link"]
    )
    querier = Gauge(
        "mcrelay_querier_last_seen_timestamp_seconds",
        "When an IGMP query was heard last, Unix time; 0 before.",
        labels=["link"],
    )
    mld_querier = Gauge(
        "mcrelay_mld_querier_last_seen_timestamp_seconds",
        "When an MLD query was heard last, Unix time; 0 before.",
        labels=["link"],
    )
    verdicts = dict.fromkeys(relay.counts.names.verdicts, 0)
    refusals = dict.fromkeys(relay.counts.names.refusals, 0)
    heard = {each.iif for status in relay.rules for each in status.inputs}
    for link in sorted(heard | relay.counts.rings.keys()):
        ring = relay.counts.rings.get(link)
        frames.add_each([link], ring.frames if ring else verdicts)
        fragments.add_each([link], ring.refused_fragments if ring else refusals)
        dropped.add_metric([link], ring.dropped if ring else 0)
        kernel.add_metric([link], ring.kernel_frames if ring else 0)
        own.add_metric([link], relay.outgoing_frames.get(link, 0))
        for metric, state in ((querier, relay.igmp.get(link)), (mld_querier, relay.mld.get(link))):
            metric.add_metric([link], state.querier.last_seen_time if state and state.querier else 0.0)
    yield from (frames, fragments, dropped, kernel, own, querier, mld_querier)
