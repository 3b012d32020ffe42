"""Log lines of what has changed, each said once: states of rules and outputs, links, what a plan will suffer from."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mcrelay.links import neighbours
from mcrelay.relay.losses import narrow_outputs

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mcrelay.model.link import Link
    from mcrelay.model.plan import PlanSpec
    from mcrelay.relay.status import RuleStatus

log = logging.getLogger(__name__)


class Notices:
    """What was said last, so that only what is new is said. Main thread."""

    def __init__(self) -> None:
        self._states: dict[tuple[str, str], tuple[str, str]] = {}
        self._statuses: Sequence[RuleStatus] = ()
        self._plan: tuple[PlanSpec | None, Mapping[str, Link]] = (None, {})
        self._neighbours = ""
        self._narrow: set[str] = set()
        self._cutting: set[tuple[str, str]] = set()

    def states(self, statuses: Sequence[RuleStatus]) -> bool:
        """Say every state that changed, of rules and of outputs; whether there was one."""
        if statuses is self._statuses:
            return False
        self._statuses = statuses
        states: dict[tuple[str, str], tuple[str, str]] = {}
        for status in statuses:
            states[status.rule.name, ""] = (status.state, status.reason)
            for output in status.outputs:
                states[status.rule.name, output.to] = (output.state, output.reason)
        before, self._states = self._states, states
        for (rule, to), (state, reason) in states.items():
            if before.get((rule, to)) == (state, reason):
                continue
            if to and state == "active" and (rule, to) not in before:
                continue  # a new rule's own line says as much
            level = logging.INFO if state in {"active", "disabled"} and not reason else logging.WARNING
            what = f"rule={rule} output={to}" if to else f"rule={rule}"
            log.log(level, "%s state=%s%s", what, state, f" reason={reason!r}" if reason else "")
        for rule, to in before.keys() - states.keys():
            if not to:
                log.info("rule=%s deleted", rule)
        return before != states

    def plan(self, spec: PlanSpec, links: Mapping[str, Link]) -> None:
        """Say what these links will do to this plan: too many groups, a small MTU, a queue that cuts runs."""
        if spec is self._plan[0] and links is self._plan[1]:
            return
        self._plan = (spec, links)
        overflow = neighbours.overflow(spec)
        if overflow and overflow != self._neighbours:
            log.warning("%s", overflow)
        self._neighbours = overflow
        narrow = set(narrow_outputs(spec, links))
        for text in sorted(narrow - self._narrow):
            log.warning("%s", text)
        self._narrow = narrow
        cutting = _cutting(spec, links)
        for name, kind in sorted(cutting - self._cutting):
            log.warning(
                "link=%s outputs send datagram by datagram: its queue (%s) cuts runs and may drop pieces unseen",
                name,
                kind,
            )
        self._cutting = cutting

    def links(self, spec: PlanSpec, before: Mapping[str, Link], now: Mapping[str, Link]) -> None:
        """Say what changed on the links that the rules of a plan name, one line a change."""
        named = {each.iif for rule in spec.rules for each in rule.inputs}
        named |= {each.oif for rule in spec.rules for each in rule.outputs if each.oif}
        for name in sorted(named):
            if change := _change(name, before, now):
                log.info("link=%s %s", name, change)

    def without_runs(self, names: Iterable[str]) -> None:
        """Say which links take no runs any more."""
        for name in names:
            log.warning(
                "link=%s sends datagram by datagram from now on: its device refused UDP_SEGMENT runs (EIO)", name
            )


def _cutting(spec: PlanSpec, links: Mapping[str, Link]) -> set[tuple[str, str]]:
    """Output links whose queueing discipline cuts runs, each with its kind."""
    used = {each.oif for rule in spec.rules for each in rule.outputs}
    if None in used:  # a routed output may leave by any link
        used.update(links)
    return {(name, link.cuts) for name in used if name and (link := links.get(name)) and link.cuts}


def _change(name: str, before: Mapping[str, Link], now: Mapping[str, Link]) -> str:
    """What happened to the link of that name, for the log; nothing if nothing did."""
    old, new = before.get(name), now.get(name)
    if new is None:
        if old is None:
            return ""
        names = [each.name for each in now.values() if each.id == old.id]
        return f"is now called {names[0]}" if names else "gone"
    text = _describe(new)
    if old is None or old.id != new.id:
        return f"{'another one ' if old else ''}{text}"
    if text != _describe(old):
        return text
    flapped = old.carrier_losses != new.carrier_losses and new.carrier
    return f"lost its carrier and has it again {text}" if flapped else ""


def _describe(link: Link) -> str:
    addresses = ",".join(map(str, link.addresses)) or "none"
    up, carrier = ("yes" if flag else "no" for flag in (link.up, link.carrier))
    return f"ifindex={link.ifindex} up={up} carrier={carrier} mtu={link.mtu} addresses={addresses}"
