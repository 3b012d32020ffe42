"""Log lines for changes, each logged once: states of rules and outputs, links, and warnings about a plan."""

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
    """Remembers the last lines, so that only new facts are logged. Main thread."""

    def __init__(self) -> None:
        self._states: dict[tuple[str, str], tuple[str, str]] = {}
        self._statuses: Sequence[RuleStatus] = ()
        self._plan: tuple[PlanSpec | None, Mapping[str, Link]] = (None, {})
        self._neighbours = ""
        self._narrow: set[str] = set()
        self._cutting: set[tuple[str, str]] = set()

    def states(self, statuses: Sequence[RuleStatus]) -> bool:
        """Log every changed state of rules and outputs. Returns whether there was one."""
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
                continue  # the new rule's own line says it
            level = logging.INFO if state in {"active", "disabled"} and not reason else logging.WARNING
            what = f"rule={rule} output={to}" if to else f"rule={rule}"
            log.log(level, "changed %s state=%s%s", what, state, f" reason={reason!r}" if reason else "")
        for rule, to in before.keys() - states.keys():
            if not to:
                log.info("deleted rule=%s", rule)
        return before != states

    def plan(self, spec: PlanSpec, links: Mapping[str, Link]) -> None:
        """Log the warnings about this plan on these links: too many groups, a small MTU, a queue that cuts runs."""
        if spec is self._plan[0] and links is self._plan[1]:
            return
        self._plan = (spec, links)
        overflow = neighbours.overflow(spec)
        if overflow and overflow != self._neighbours:
            log.warning("needs room for neighbours: %s", overflow)
        self._neighbours = overflow
        narrow = set(narrow_outputs(spec, links))
        for text in sorted(narrow - self._narrow):
            log.warning("warns %s", text)
        self._narrow = narrow
        cutting = _cutting(spec, links)
        for name, kind in sorted(cutting - self._cutting):
            log.warning(
                "sends datagram by datagram link=%s: its queue (%s) cuts runs and may drop pieces unseen",
                name,
                kind,
            )
        self._cutting = cutting

    def links(self, spec: PlanSpec, before: Mapping[str, Link], now: Mapping[str, Link]) -> None:
        """Log the changes of the links that the rules of a plan name, one line for each."""
        named = {each.iif for rule in spec.rules for each in rule.inputs}
        named |= {each.oif for rule in spec.rules for each in rule.outputs if each.oif}
        for name in sorted(named):
            _tell_change(name, before, now)

    def without_runs(self, names: Iterable[str]) -> None:
        """Log the links that no longer take runs."""
        for name in names:
            log.warning("sends datagram by datagram link=%s: its device refused UDP_SEGMENT runs (EIO)", name)


def _cutting(spec: PlanSpec, links: Mapping[str, Link]) -> set[tuple[str, str]]:
    """Output links whose queueing discipline cuts runs, each with its kind."""
    used = {each.oif for rule in spec.rules for each in rule.outputs}
    if None in used:  # a routed output may leave by any link
        used.update(links)
    return {(name, link.cuts) for name in used if name and (link := links.get(name)) and link.cuts}


def _tell_change(name: str, before: Mapping[str, Link], now: Mapping[str, Link]) -> None:
    """Log the change of the link with that name, if there was one."""
    old, new = before.get(name), now.get(name)
    if new is None:
        if old is not None:
            names = [each.name for each in now.values() if each.id == old.id]
            log.info("lost link=%s%s", name, f": it is now called {names[0]}" if names else "")
        return
    text = _describe(new)
    if old is None:
        log.info("found link=%s %s", name, text)
    elif old.id != new.id:
        log.info("found link=%s %s: it is another one", name, text)
    elif text != _describe(old):
        log.info("changed link=%s %s", name, text)
    elif old.carrier_losses != new.carrier_losses and new.carrier:
        log.info("changed link=%s %s: it lost its carrier and has it again", name, text)


def _describe(link: Link) -> str:
    addresses = ",".join(map(str, (*link.addresses, *link.addresses6))) or "none"
    up, carrier = ("yes" if flag else "no" for flag in (link.up, link.carrier))
    return f"ifindex={link.ifindex} up={up} carrier={carrier} mtu={link.mtu} addresses={addresses}"
