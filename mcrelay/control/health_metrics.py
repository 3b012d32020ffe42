"""The health of streams under Prometheus' names: of the rules that ask for it, at 0 from the start. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcrelay.control.exposition import Counter, Gauge
from mcrelay.model.state import no_health

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mcrelay.control.exposition import Family
    from mcrelay.model.state import HealthCount, RtpCount, TransportCount
    from mcrelay.relay.state import RelayState

LABELS = ["rule", "input"]
OF_STREAMS: tuple[tuple[type[Family], str, str, Callable[[HealthCount], float]], ...] = (
    (Gauge, "silent", "1 while nothing has come for a second.", lambda each: int(each.silent)),
    (Counter, "silences", "Times of more than a second without a datagram.", lambda each: each.silences),
    (Counter, "silence_seconds", "Their sum.", lambda each: each.silence_seconds),
    (Counter, "unrecognised", "Datagrams not of what is looked for.", lambda each: each.unrecognised),
)
OF_RTP: tuple[tuple[type[Family], str, str, Callable[[RtpCount], float]], ...] = (
    (Counter, "rtp_packets", "Datagrams of the RTP stream.", lambda each: each.packets),
    (Counter, "rtp_lost", "Datagrams that never came, by their numbers.", lambda each: each.lost),
    (Counter, "rtp_duplicated", "Datagrams that came twice.", lambda each: each.duplicated),
    (Counter, "rtp_reordered", "Datagrams that came after a later one.", lambda each: each.reordered),
    (Counter, "rtp_restarts", "New sequences of the same SSRC.", lambda each: each.restarts),
    (Counter, "rtp_ssrc_changes", "Changes of the stream's SSRC.", lambda each: each.ssrc_changes),
    (Counter, "rtp_foreign", "Single datagrams of another SSRC.", lambda each: each.foreign),
    (Gauge, "rtp_jitter_seconds", "Jitter of RFC 3550; 0 before.", lambda each: each.jitter or 0),
)
OF_TRANSPORT: tuple[tuple[type[Family], str, str, Callable[[TransportCount], float]], ...] = (
    (Counter, "ts_packets", "Packets of the transport stream.", lambda each: each.packets),
    (
        Counter,
        "ts_continuity_errors",
        "Continuity errors of all its PIDs.",
        lambda each: each.continuity_errors,
    ),
    (Counter, "ts_sync_errors", "Packets without a sync byte.", lambda each: each.sync_errors),
    (
        Counter,
        "ts_transport_errors",
        "Packets marked as damaged by who sent them.",
        lambda each: each.transport_errors,
    ),
    (Counter, "ts_pcr_gaps", "Steps of more than 100 ms between PCRs.", lambda each: each.pcr_gaps),
    (Gauge, "ts_bits_per_second", "Bit rate by its own clock; 0 before.", lambda each: each.bit_rate or 0),
    (Gauge, "ts_pcr_jitter_seconds", "Jitter of the PCR; 0 before.", lambda each: each.pcr_jitter or 0),
)


def health_families(relay: RelayState) -> Iterator[Family]:
    """Every metric of health, with a series for each input that is looked at for it."""
    found = {
        (status.rule.name, each.text): relay.health.get((status.rule.name, each.text)) or no_health(status.rule.health)
        for status in relay.rules
        if status.rule.health != "none"
        for each in status.inputs
    }
    for kind, name, text, of in OF_STREAMS:
        yield _family(kind, name, text, {slot: of(each) for slot, each in found.items()})
    for kind, name, text, of_rtp in OF_RTP:
        yield _family(kind, name, text, {slot: of_rtp(each.rtp) for slot, each in found.items() if each.rtp})
    for kind, name, text, of_transport in OF_TRANSPORT:
        values = {slot: of_transport(each.transport) for slot, each in found.items() if each.transport}
        yield _family(kind, name, text, values)


def _family(kind: type[Family], name: str, text: str, values: dict[tuple[str, str], float]) -> Family:
    family = kind(f"mcrelay_health_{name}", text, labels=LABELS)
    for slot, value in values.items():
        family.add_metric(slot, value)
    return family
