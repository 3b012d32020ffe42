"""The state of every rule, from the plan and from the kernel's refusals. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mcrelay.model.ports import names_port

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mcrelay.model.link import Membership
    from mcrelay.model.plan import HostPort, InputSpec, OutputSpec, PlanSpec, RuleSpec, RuleState


@dataclass(frozen=True, slots=True)
class RuleStatus:
    """The state of one rule: the spec, with the states that the kernel's answers have changed."""

    rule: RuleSpec
    state: RuleState
    reason: str
    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]


def rule_statuses(
    spec: PlanSpec,
    rings: Mapping[int, str],
    outputs: Mapping[tuple[str, str], str],
    joins: Mapping[Membership, str],
    ports: Mapping[HostPort, str] | None = None,
) -> list[RuleStatus]:
    """Overlay the plan with the failures: reasons by ifindex, by (rule, output), by membership, by address and port."""
    return [_rule_status(rule, rings, outputs, joins, ports or {}) for rule in spec.rules]


def _rule_status(
    rule: RuleSpec,
    rings: Mapping[int, str],
    refused: Mapping[tuple[str, str], str],
    joins: Mapping[Membership, str],
    ports: Mapping[HostPort, str],
) -> RuleStatus:
    inputs = tuple(_input_status(each, rings, joins, ports) for each in rule.inputs)
    outputs = tuple(
        replace(each, state="error", reason=refused[rule.name, each.to]) if (rule.name, each.to) in refused else each
        for each in rule.outputs
    )
    state, reason = _overall(rule, inputs, outputs)
    return RuleStatus(rule, state, reason, inputs, outputs)


def _input_status(
    each: InputSpec, rings: Mapping[int, str], joins: Mapping[Membership, str], ports: Mapping[HostPort, str]
) -> InputSpec:
    """A port that cannot be held does not stop the relay: it may stop who sends."""
    if not each.live:
        return each
    reason = rings.get(each.ifindex) or (each.own and rings.get(-each.ifindex)) or _refused_join(each, joins)
    if reason:
        return replace(each, state="error", reason=reason)
    closed = _closed_port(each, ports) if ports and each.unicast and each.state == "active" else ""
    return replace(each, reason=closed) if closed else each


def _closed_port(each: InputSpec, ports: Mapping[HostPort, str]) -> str:
    """Why this host answers that a port of the input is closed, of the first that it cannot hold open."""
    return next(
        (why for (address, port), why in ports.items() if address == each.group and names_port(each.port, port)), ""
    )


def _refused_join(each: InputSpec, joins: Mapping[Membership, str]) -> str:
    """Why an input does not arrive, or not all of its range."""
    refused = [join for join in each.memberships if join in joins] if joins else []
    if not refused:
        return ""
    part = "" if len(refused) == each.group_count else f"{len(refused)} of {each.group_count} groups: "
    return part + joins[refused[0]]


def _overall(rule: RuleSpec, inputs: tuple[InputSpec, ...], outputs: tuple[OutputSpec, ...]) -> tuple[RuleState, str]:
    """A rule is active as long as something can pass; else its state is the worst of those that stop it.

    An active rule has a reason if something will stop it.
    """
    if not rule.enabled:
        return "disabled", ""
    for state in ("error", "pending", "parked"):
        stopped = [each for each in inputs if each.state == state]
        if stopped:
            return state, stopped[0].reason
    if all(each.state != "active" for each in outputs):
        failed = [each for each in outputs if each.state == "error"]
        return ("error", failed[0].reason) if failed else ("parked", outputs[0].reason)
    return "active", next((each.reason for each in inputs if each.reason), "")
