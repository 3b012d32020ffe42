"""The relay's numbers under Prometheus' names (prometheus.io, exposition formats): a pure function of how it stands.

Every series is there from the start, at 0: what is missing cannot be told from what never happened. Names of rules and
streams are labels; they change when a configuration does, and not with traffic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder

from mcrelay.model.plan import OutputState, RuleState
from mcrelay.model.state import InputCount, OutputCount

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client.metrics_core import Metric

    from mcrelay.relay.state import DaemonState, RelayState

RULE_STATES: tuple[str, ...] = get_args(RuleState)
OUTPUT_STATES: tuple[str, ...] = get_args(OutputState)


def exposition(relay: RelayState, daemon: DaemonState, accept: str) -> tuple[bytes, str]:
    """The text for one scrape, and its content type; *accept* is the header that asks for one form or the other."""
    encode, content_type = choose_encoder(accept)
    return encode(_Once(families(relay, daemon))), content_type


class _Once:
    """What an encoder asks for metrics."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def families(relay: RelayState, daemon: DaemonState) -> Iterator[Metric]:
    """Every metric with all its series."""
    yield from _of_process(relay, daemon)
    yield from _of_rules(relay)
    yield from _of_inputs(relay)
    yield from _of_outputs(relay)
    yield from _of_links(relay)
    seconds = CounterMetricFamily("mcrelay_worker_cpu_seconds", "CPU time of a worker thread.", labels=["worker"])
    for worker in relay.counts.workers:
        seconds.add_metric([str(worker.number)], worker.cpu_seconds)
    yield seconds


def _of_process(relay: RelayState, daemon: DaemonState) -> Iterator[Metric]:
    build = GaugeMetricFamily("mcrelay_build_info", "1; the version that runs is a label.", labels=["version"])
    build.add_metric([daemon.version], 1)
    yield build
    start = relay.time - relay.uptime_seconds
    yield GaugeMetricFamily("mcrelay_start_time_seconds", "When the relay started, Unix time.", value=start)
    due = float(daemon.restart_due)
    yield GaugeMetricFamily("mcrelay_restart_due", "1 if another build is installed than the one that runs.", value=due)
    yield GaugeMetricFamily(
        "mcrelay_config_last_reload_successful",
        "1 if the files were accepted when they were read last.",
        value=float(daemon.reload_successful),
    )
    yield GaugeMetricFamily(
        "mcrelay_config_last_reload_timestamp_seconds",
        "When the files were read last, Unix time.",
        value=daemon.reload_time,
    )


def _of_rules(relay: RelayState) -> Iterator[Metric]:
    states = GaugeMetricFamily("mcrelay_rule_state", "1 for the state that a rule is in.", labels=["rule", "state"])
    losing = GaugeMetricFamily("mcrelay_rule_losing", "1 while a rule loses datagrams.", labels=["rule"])
    drops = CounterMetricFamily(
        "mcrelay_rule_drops", "Datagrams that a rule received and did not let through.", labels=["rule", "reason"]
    )
    zeros = dict.fromkeys(relay.counts.names.drops, 0)
    for status in relay.rules:
        name = status.rule.name
        for state in RULE_STATES:
            states.add_metric([name, state], float(state == status.state))
        losing.add_metric([name], float(name in relay.losing))
        for reason, count in _summed(relay, name, [each.text for each in status.inputs], zeros).items():
            drops.add_metric([name, reason], count)
    yield from (states, losing, drops)


def _summed(relay: RelayState, rule: str, inputs: list[str], zeros: dict[str, int]) -> dict[str, int]:
    """Drops of a rule, of the inputs that it had before too."""
    held = [relay.counts.inputs.get((rule, text)) for text in inputs] + [relay.counts.retired.get(rule)]
    return {reason: sum(each.drops[reason] for each in held if each) for reason in zeros}


def _of_inputs(relay: RelayState) -> Iterator[Metric]:
    labels = ["rule", "input"]
    packets = CounterMetricFamily("mcrelay_rx_packets", "Datagrams received for a rule.", labels=labels)
    size = CounterMetricFamily("mcrelay_rx_bytes", "Bytes of UDP payload received for a rule.", labels=labels)
    last = GaugeMetricFamily(
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


def _of_outputs(relay: RelayState) -> Iterator[Metric]:
    labels = ["rule", "output"]
    packets = CounterMetricFamily("mcrelay_tx_packets", "Datagrams that the kernel took.", labels=labels)
    size = CounterMetricFamily("mcrelay_tx_bytes", "Bytes of UDP payload that the kernel took.", labels=labels)
    errors = CounterMetricFamily("mcrelay_tx_errors", "Datagrams that an output did not send.", labels=labels)
    since = GaugeMetricFamily(
        "mcrelay_since_packets", "Datagrams that the rule had let through before the output began.", labels=labels
    )
    states = GaugeMetricFamily(
        "mcrelay_output_state", "1 for the state that an output is in.", labels=["rule", "output", "state"]
    )
    none = OutputCount(0, 0, 0, {})
    for status in relay.rules:
        name = status.rule.name
        for each in status.outputs:
            count = relay.counts.outputs.get((name, each.to), none)
            packets.add_metric([name, each.to], count.tx_packets)
            size.add_metric([name, each.to], count.tx_bytes)
            errors.add_metric([name, each.to], sum(count.tx_errors.values()))
            since.add_metric([name, each.to], count.since_packets)
            for state in OUTPUT_STATES:
                states.add_metric([name, each.to, state], float(state == each.state))
    yield from (packets, size, errors, since, states)


def _of_links(relay: RelayState) -> Iterator[Metric]:
    frames = CounterMetricFamily(
        "mcrelay_frames", "Frames captured on a link, by what became of them.", labels=["link", "verdict"]
    )
    fragments = CounterMetricFamily(
        "mcrelay_refused_fragments", "Of the verdict fragment: why they were not relayed.", labels=["link", "reason"]
    )
    dropped = CounterMetricFamily(
        "mcrelay_ring_dropped_frames", "Frames that found no room in a link's ring.", labels=["link"]
    )
    kernel = CounterMetricFamily(
        "mcrelay_kernel_frames", "Frames of a link that the kernel engine took.", labels=["link"]
    )
    own = CounterMetricFamily(
        "mcrelay_outgoing_frames", "Frames for a rule's group that this host sent on its input link.", labels=["link"]
    )
    querier = GaugeMetricFamily(
        "mcrelay_querier_last_seen_timestamp_seconds",
        "When an IGMP query was heard last, Unix time; 0 before.",
        labels=["link"],
    )
    verdicts = dict.fromkeys(relay.counts.names.verdicts, 0)
    refusals = dict.fromkeys(relay.counts.names.refusals, 0)
    heard = {each.iif for status in relay.rules for each in status.inputs}
    for link in sorted(heard | relay.counts.rings.keys()):
        ring = relay.counts.rings.get(link)
        for verdict, count in (ring.frames if ring else verdicts).items():
            frames.add_metric([link, verdict], count)
        for reason, count in (ring.refused_fragments if ring else refusals).items():
            fragments.add_metric([link, reason], count)
        dropped.add_metric([link], ring.dropped if ring else 0)
        kernel.add_metric([link], ring.kernel_frames if ring else 0)
        own.add_metric([link], relay.outgoing_frames.get(link, 0))
        igmp = relay.igmp.get(link)
        querier.add_metric([link], igmp.querier.last_seen_time if igmp and igmp.querier else 0.0)
    yield from (frames, fragments, dropped, kernel, own, querier)
