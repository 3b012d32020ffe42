"""From one plan to the next, in the one order that loses nothing of what both plans relay.

1. Drops that the next plan does not need end: nothing may be dropped that is not relayed.
2. GRO is switched on for links that get a ring.
3. The engine opens what is new, lets in the groups of both plans, publishes the plan, and closes what only the old one
   used.
4. Groups are joined and left: a sender that begins now is heard.
5. New drops begin, in the nftables table and in the engine that has the originals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcrelay.model.link import LinkId
from mcrelay.model.link_faults import LEAST_MTU
from mcrelay.model.memo import Memo
from mcrelay.model.plan import PlanSpec
from mcrelay.model.state import Refusals

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mcrelay.engine import Engine
    from mcrelay.exclusive.policy import Exclusive
    from mcrelay.igmp.membership import Memberships
    from mcrelay.links.gro import Gro
    from mcrelay.model.link import Link, Membership


class Transition:
    """Applies a plan to engine, joins, drops and GRO: ``spec``, and what the kernel has ``refused`` of it.

    Both are the same objects as long as nothing has been applied. Main thread.
    """

    def __init__(self, engine: Engine, memberships: Memberships, exclusive: Exclusive, gro: Gro) -> None:
        self.spec = PlanSpec()
        self.refused = Refusals()
        self._engine = engine
        self._memberships = memberships
        self._exclusive = exclusive
        self._gro = gro
        self._wanted = Memo(_wanted)
        self._joined_for: tuple[frozenset[Membership], dict[int, frozenset[LinkId]]] | None = None  # of the last plan

    async def go_by(
        self, spec: PlanSpec, links: Mapping[str, Link], *, changed: bool, retry: bool, drops: bool = True
    ) -> None:
        """Apply a plan for these links. The caller passes the same object if the plan is unchanged.

        *changed*: the links have changed. *retry*: what was refused is due again. Without *drops* step 5 waits: the
        process before us still has its joins.
        """
        await self._exclusive.narrow(spec)
        self._gro.reconcile(
            {LinkId(number, ring.incarnation): ring.ifname for number, ring in spec.rings.items() if ring.settings.gro}
        )
        if changed or retry:
            self._engine.ask_again()
        refused = self.refused.rings or self.refused.outputs
        if spec is not self.spec or (refused and (retry or changed)) or self._engine.rerouted():
            self.refused = await self._engine.apply(spec.forwarded)
            self.spec = spec
        self._join(spec, links, retry=retry)
        if drops:
            users = self._memberships.users
            await self._exclusive.widen(spec, self.refused.rings, links, users, retry=retry)
            states = self._exclusive.states
            self._engine.drop_originals({name for name, standing in states.items() if standing.state == "on"})

    def _join(self, spec: PlanSpec, links: Mapping[str, Link], *, retry: bool) -> None:
        """Join and leave. If nothing can have changed, it does not look at the joins: there may be thousands."""
        existing = {
            version: frozenset(link.id for link in links.values() if link.mtu >= least)
            for version, least in LEAST_MTU.items()
        }
        wanted = self._wanted(spec, existing[4] | existing[6], frozenset(self.refused.rings))
        if (wanted, existing) != self._joined_for or (retry and self._memberships.failed):
            self._memberships.reconcile(wanted, existing[4], existing[6], retry=retry)
            self._joined_for = (wanted, existing)


def _wanted(spec: PlanSpec, existing: frozenset[LinkId], refused: frozenset[int]) -> frozenset[Membership]:
    """The joins of a plan on links that exist and have their ring."""
    return frozenset(each for each in spec.memberships if each.link in existing and each.ifindex not in refused)
