"""The stages that ``mcrelay doctor`` walks through, in the order in which a datagram meets them: pure.

A stage is broken only by what was seen to be wrong there. What a stage cannot say because an earlier one is broken, or
because nobody looked, is skipped, and says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcrelay.commands import stages_frames, stages_host, stages_igmp, stages_output
from mcrelay.commands.walk import Finding, Index, Walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mcrelay.commands.evidence import Evidence, Subject
    from mcrelay.commands.walk import Found, State

WORST: tuple[State, ...] = ("broken", "warning", "ok", "skipped")


STAGES: dict[str, Callable[[Walk], Iterator[Found]]] = {
    "relay": stages_host.relay,
    "privileges": stages_host.privileges,
    "link": stages_host.link,
    "offloads": stages_host.offloads,
    "membership": stages_igmp.membership,
    "report": stages_igmp.report,
    "query": stages_igmp.query,
    "bridge": stages_igmp.bridge,
    "frames": stages_frames.frames,
    "sender": stages_frames.sender,
    "match": stages_frames.match,
    "ring": stages_frames.ring,
    "send": stages_output.send,
    "egress": stages_output.egress,
    "echo": stages_output.echo,
}


def diagnose(subject: Subject, evidence: Evidence, index: Index | None = None) -> list[Finding]:
    """One finding a stage at least, in order; more where several links or outputs differ."""
    walk = Walk(subject, evidence, index or Index(evidence))
    findings: list[Finding] = []
    for stage, function in STAGES.items():
        found = [Finding(stage, *each) for each in function(walk)]
        worst = [each for each in found if each.state in {"broken", "warning"}]
        shown = worst or found[:1] or [Finding(stage, "skipped", "there is nothing to look at")]
        findings += dict.fromkeys(shown)
        if any(each.state == "broken" for each in found):
            walk.broken.append(stage)
    return findings


def worst_of(findings: list[Finding]) -> State:
    """How a walk ended: skipped stages alone harm nobody."""
    states = {each.state for each in findings} - {"skipped"}
    return next((state for state in WORST if state in states), "ok")
