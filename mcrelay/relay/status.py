"""How every rule stands, from what was planned and what the kernel refused: pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mcrelay.model.link import Membership
    from mcrelay.model.plan import InputSpec, OutputSpec, PlanSpec, RuleSpec, RuleState


@dataclass(frozen=True, slots=True)
class RuleStatus:
    """One rule as it is: the spec, with the states that the kernel's answers have changed."""

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
) -> list[RuleStatus]:
    """Overlay the plan with what failed: reasons by ifindex, by (rule, output), by membership."""
    return [_rule_status(rule, rings, outputs, joins) for rule in spec.rules]


def _rule_status(
    rule: RuleSpec,
    rings: Mapping[int, str],
    refused: Mapping[tuple[str, str], str],
    joins: Mapping[Membership, str],
) -> RuleStatus:
    inputs = tuple(_input_status(each, rings, joins) for each in rule.inputs)
    outputs = tuple(
        replace(each, state="error", reason=refused[rule.name, each.to]) if (rule.name, each.to) in refused else each
        for each in rule.outputs
    )
    state, reason = _overall(rule, inputs, outputs)
    return RuleStatus(rule, state, reason, inputs, outputs)


def _input_status(each: InputSpec, rings: Mapping[int, str], joins: Mapping[Membership, str]) -> InputSpec:
    if not each.live:
        return each
    reason = rings.get(each.ifindex) or joins.get(each.membership)
    return replace(each, state="error", reason=reason) if reason else each


def _overall(rule: RuleSpec, inputs: tuple[InputSpec, ...], outputs: tuple[OutputSpec, ...]) -> tuple[RuleState, str]:
    """A rule is active as long as something can pass; else the worst of what stops it is its state.

    An active one has a reason where something will stop it.
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
