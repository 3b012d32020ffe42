"""The shapes of the JSON of ``show``, key by key with a text each: views makes them, docs/json.md is made from them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from mcrelay.model.plan import OutputState, RuleState

Names = dict[str, int]  # counters by name

InputRow = TypedDict(
    "InputRow",
    {
        "from": Annotated[str, "the stream, as the configuration spells it"],
        "iif": Annotated[str, "link that it arrives on"],
        "group": Annotated[str, "destination address, or a range as ADDRESS/LENGTH"],
        "source": Annotated[str | None, "the one source that is taken; null: any"],
        "port": Annotated[int | str, 'UDP destination port; of several as they are spelled, or "any"'],
        "vlan": Annotated[int | str, 'VLAN that it arrives in; "none": untagged; "any": tagged or not'],
        "own": Annotated[bool, "whether what this host itself sends there is taken too"],
        "state": Annotated[RuleState, "how the input stands: reading-show.md"],
        "reason": Annotated[str | None, "why it stands so"],
    },
)


class OutputRow(TypedDict):
    """One output of a rule."""

    to: Annotated[str, "the stream, as the configuration spells it; of one with a VLAN, `STREAM vlan N`"]
    oif: Annotated[str | None, "link that it leaves by; null: the route decides"]
    vlan: Annotated[int | str, 'VLAN whose tag it is sent with; "none": untagged']
    source_address: Annotated[str | None, 'source address of what is sent, or "keep"; null: not known yet']
    source_port: Annotated[int | str, 'source port of what is sent, or "keep"']
    ttl: Annotated[int | str, 'TTL of what is sent, "keep" or "decrement"']
    dscp: Annotated[int | str, 'DSCP of what is sent, or "keep"']
    state: Annotated[OutputState, "how the output stands: reading-show.md"]
    reason: Annotated[str | None, "why it stands so"]


class FeatureRow(TypedDict):
    """Something that a rule or a link asks for, and may not get."""

    state: Annotated[
        Literal["on", "off", "refused"], "on; off: there is nothing to apply it to; refused: it cannot be had"
    ]
    reason: Annotated[str | None, "why it is refused, or works only partly"]


class RuleRow(TypedDict):
    """One rule, how it stands and why."""

    name: Annotated[str, "name of the rule"]
    description: Annotated[str, "what the configuration says of it"]
    origin: Annotated[Literal["file", "runtime"], "whether a file or a command made it"]
    state: Annotated[RuleState, "how the rule stands: reading-show.md"]
    reason: Annotated[str | None, "why it stands so, or what will stop its stream"]
    engine: Annotated[Literal["ring", "kernel"], "what forwards it now"]
    engine_reason: Annotated[str | None, 'why the ring has a rule that asks for engine = "kernel"']
    losing: Annotated[bool, "whether something of it is lost now"]
    exclusive: Annotated[FeatureRow | None, "null: the rule does not ask for it"]
    inputs: Annotated[list[InputRow], "what it takes in"]
    outputs: Annotated[list[OutputRow], "where it sends"]


class OutputStatsRow(TypedDict):
    """Counters of one output."""

    to: Annotated[str, "the stream, as the configuration spells it"]
    since_packets: Annotated[int, "what the rule had let through before this output began"]
    tx_packets: Annotated[int, "datagrams that the kernel took"]
    tx_bytes: Annotated[int, "their UDP payload"]
    tx_fragmented: Annotated[int, "those of tx_packets that left in fragments: the MTU of the way out is smaller"]
    tx_rate: Annotated[float, "datagrams a second, over the last second"]
    tx_bit_rate: Annotated[int, "bits of payload a second, over the last second"]
    tx_rate_10s: Annotated[float, "datagrams a second, over the last ten seconds"]
    tx_errors: Annotated[Names, "datagrams that were not sent, by reason: reading-show.md"]


class AnswersRow(TypedDict):
    """Answers by unicast to who searched."""

    passed: Annotated[int, "given to who searched"]
    failed: Annotated[int, "not to be given: no way to who searched"]
    late: Annotated[int, "after the time that the search allows, and not given any more"]
    waiting: Annotated[int, "sockets that wait for answers now"]


class RtpRow(TypedDict):
    """An RTP stream as it arrived: monitoring.md says how each figure is counted."""

    packets: Annotated[int, "datagrams of the stream, duplicates and late ones too"]
    lost: Annotated[int, "datagrams that never came"]
    duplicated: Annotated[int, "datagrams that came once more"]
    reordered: Annotated[int, "datagrams that came after a later one"]
    restarts: Annotated[int, "new sequences of the same SSRC"]
    ssrc_changes: Annotated[int, "times that another SSRC took the place of the stream's"]
    foreign: Annotated[int, "single datagrams of another SSRC"]
    ssrc: Annotated[int | None, "of the stream; null: there is none yet"]
    payload_type: Annotated[int | None, "of the stream; null: there is none yet"]
    clock_rate: Annotated[int | None, "Hz, of its time stamps; null: not known"]
    jitter_seconds: Annotated[float | None, "jitter now (RFC 3550); null while the clock is not known"]
    jitter_max_seconds: Annotated[float | None, "the most that it was"]


class TransportRow(TypedDict):
    """An MPEG transport stream as it arrived: monitoring.md says how each figure is counted."""

    packets: Annotated[int, "packets of 188 bytes"]
    continuity_errors: Annotated[int, "continuity counters that were not the next"]
    continuity_errors_by_pid: Annotated[Names, "the same by PID, of the first 32 PIDs that had any"]
    sync_errors: Annotated[int, "packets without a sync byte, and bytes left over in a datagram"]
    transport_errors: Annotated[int, "packets that their sender marked as damaged"]
    bit_rate: Annotated[int | None, "bits a second, by the stream's own clock; null: not known"]
    pcr_gaps: Annotated[int, "steps of more than 100 ms from one PCR to the next"]
    pcr_jitter_seconds: Annotated[float | None, "jitter of the PCR now; null: there was none to compare"]
    pcr_jitter_max_seconds: Annotated[float | None, "the most that it was"]


class HealthRow(TypedDict):
    """What the stream of a rule was found to be."""

    silent: Annotated[bool, "nothing has come for a second, or nothing at all"]
    silences: Annotated[int, "times of more than a second without a datagram"]
    silence_seconds: Annotated[float, "their sum"]
    unrecognised: Annotated[int, "datagrams that are nothing that is looked for"]
    rtp: Annotated[RtpRow | None, "null: not looked for"]
    ts: Annotated[TransportRow | None, "null: not looked for"]


class RelayTimesRow(TypedDict):
    """How long datagrams were in the relay, from the ring's time stamp until they were sent."""

    count: Annotated[int, "datagrams"]
    sum: Annotated[float, "their seconds"]
    buckets: Annotated[Names, "datagrams that took at most so many seconds, by that number"]


class GroupOutputRow(TypedDict):
    """Counters of one group of a range, as an output has it."""

    to: Annotated[str, "the group that it is sent to"]
    tx_packets: Annotated[int, "datagrams that the kernel took"]
    tx_bytes: Annotated[int, "their UDP payload"]
    tx_errors: Annotated[Names, "datagrams that were not sent, by reason: reading-show.md"]


class GroupStatsRow(TypedDict):
    """Counters of one group of a rule's range. What inputs counted that the rule had before is in the rule's alone."""

    group: Annotated[str, "the group that is received"]
    rx_packets: Annotated[int, "datagrams received"]
    rx_bytes: Annotated[int, "their UDP payload"]
    drops: Annotated[Names, "datagrams received and not let through, by reason: reading-show.md"]
    outputs: Annotated[list[GroupOutputRow], "in the order of the rule"]


class RuleStatsRow(TypedDict):
    """Counters of one rule. They survive a reload, and begin at 0 after a restart."""

    name: Annotated[str, "name of the rule"]
    rx_packets: Annotated[int, "datagrams received; a superframe of 40 counts 40"]
    rx_bytes: Annotated[int, "their UDP payload"]
    rx_rate: Annotated[float, "datagrams a second, over the last second"]
    rx_bit_rate: Annotated[int, "bits of payload a second, over the last second"]
    rx_rate_10s: Annotated[float, "datagrams a second, over the last ten seconds"]
    rx_bit_rate_10s: Annotated[int, "bits of payload a second, over the last ten seconds"]
    last_packet_time: Annotated[float | None, "when the last datagram came; null: none has"]
    drops: Annotated[Names, "datagrams received and not let through, by reason: reading-show.md"]
    health: Annotated[HealthRow | None, "null: the rule does not ask for it"]
    relay_seconds: Annotated[RelayTimesRow, "time in the relay"]
    answers: NotRequired[
        Annotated[AnswersRow, "of a rule of a preset for SSDP or WS-Discovery: what came back to who searched"]
    ]
    outputs: Annotated[list[OutputStatsRow], "in the order of the rule"]
    groups: Annotated[list[GroupStatsRow], "of a rule with a range: its groups that have counted anything"]


class NearMissRow(TypedDict):
    """Frames of a rule's group that no rule took, alike but for their source."""

    group: Annotated[str, "destination address"]
    port: Annotated[int | None, "destination port; null: the frame names none (a fragment)"]
    source: Annotated[str, "source address of the last one"]
    vlan: Annotated[int | str, 'VLAN, or "none"']
    verdict: Annotated[str, "why no rule took it: reading-show.md"]
    packets: Annotated[int, "how many"]
    last_time: Annotated[float, "when the last one came"]
    rule: Annotated[str | None, "the rule that it almost met"]


class LinkStatsRow(TypedDict):
    """Counters of one link."""

    ifname: Annotated[str, "name of the link"]
    filter: Annotated[
        Literal["exact", "coarse"] | None,
        "coarse: its groups are too many for an exact filter; null: no rule listens there",
    ]
    sndbuf: Annotated[int | None, "bytes that a send buffer has; null: no rule sends there"]
    rx_frames: Annotated[int, "frames that the ring captured"]
    frames: Annotated[Names, "the same frames, by verdict: reading-show.md"]
    refused_fragments: Annotated[Names, "those of the verdict fragment, by reason"]
    ring_dropped_frames: Annotated[int, "frames that found no room in the ring"]
    kernel_frames: Annotated[int, "frames that the kernel engine took; no ring has seen them"]
    near_misses: Annotated[list[NearMissRow], "the last few kinds of frames that no rule took"]
    outgoing_frames: Annotated[int, "frames that this host itself sent there to groups of rules; they are not captured"]


class WorkerRow(TypedDict):
    """One thread that forwards."""

    id: Annotated[int, "its number"]
    cpu_seconds: Annotated[float, "CPU time of the thread"]
    generation: Annotated[int, "number of the plan that it goes by"]


class StatsRow(TypedDict):
    """Every counter, read at one moment."""

    time: Annotated[float, "the moment"]
    uptime_seconds: Annotated[float, "since the relay began"]
    rules: Annotated[list[RuleStatsRow], "each rule"]
    links: Annotated[list[LinkStatsRow], "each link that rules name"]
    workers: Annotated[list[WorkerRow], "each thread that forwards"]


class QuerierRow(TypedDict):
    """Who asks for memberships on a link."""

    address: Annotated[str, "source address of the queries"]
    version: Annotated[int, "version of IGMP or MLD"]
    last_seen_time: Annotated[float, "when the last query came"]


class WarningRow(TypedDict):
    """Something that will stop streams."""

    kind: Annotated[
        str,
        "port, no-address, tentative-address, refused-address, ipv6-disabled, older-querier, forced-version, "
        "silent-querier or unanswered-query",
    ]
    text: Annotated[str, "what was seen, and the command that mends it"]


class LinkRow(TypedDict):
    """One link of this host."""

    ifname: Annotated[str, "name of the link"]
    ifindex: Annotated[int, "its number"]
    operstate: Annotated[str, "UP, DOWN, …: as `ip link` has it"]
    mtu: Annotated[int, "bytes"]
    addresses: Annotated[list[str], "addresses that can be used, with prefix length: IPv4, then IPv6"]
    querier: Annotated[QuerierRow | None, "of IGMP; null: none was heard, or no rule listens to a group of IPv4 there"]
    mld_querier: Annotated[QuerierRow | None, "of MLD; null: none was heard, or no rule listens to one of IPv6 there"]
    warnings: Annotated[list[WarningRow], "what is wrong with IGMP or MLD there"]
    gro: Annotated[FeatureRow | None, "null: the link does not ask for it"]


class GroupRow(TypedDict):
    """One membership that the rules want."""

    ifname: Annotated[str, "link that it is joined on"]
    group: Annotated[str, "the group"]
    source: Annotated[str | None, "the one source that is joined; null: any"]
    state: Annotated[Literal["joined", "error", "pending"], "pending: its link does not exist"]
    reason: Annotated[str | None, "what the kernel said"]
    version: Annotated[int | None, "version of IGMP or MLD that the kernel speaks on that link; null: not known"]
    warnings: Annotated[list[WarningRow], "what is wrong with IGMP or MLD there"]


SHAPES: dict[str, Any] = {
    "rules": list[RuleRow],
    "stats": StatsRow,
    "links": list[LinkRow],
    "groups": list[GroupRow],
}
