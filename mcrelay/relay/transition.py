"""From one plan to the next, in the one order in which nothing is lost that both of them relay.

1. drops that the next plan does not take are let go of: nothing may be dropped that is not relayed;
2. GRO is switched on where a ring is to be opened for it;
3. the engine opens what is new, lets the groups of both in, publishes the plan, gives up what only the old one used;
4. groups are joined and left: whoever sends from now on is heard;
5. drops that the plan takes are made, in the nftables table and by the engine that has the originals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcrelay.model.link import LinkId
from mcrelay.model.memo import Memo
from mcrelay.model.plan import PlanSpec
from mcrelay.model.state import Refusals
from mcrelay.relay.compile import LEAST_MTU

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mcrelay.engine import Engine
    from mcrelay.exclusive.policy import Exclusive
    from mcrelay.igmp.membership import Memberships
    from mcrelay.links.gro import Gro
    from mcrelay.model.link import Link, Membership


class Transition:
    """Makes engine, joins, drops and GRO go by a plan: ``spec``, of which the kernel has ``refused`` so much.

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
        self._joined_for: tuple[frozenset[Membership], frozenset[LinkId]] | None = None  # the last time

    async def go_by(
        self, spec: PlanSpec, links: Mapping[str, Link], *, changed: bool, retry: bool, drops: bool = True
    ) -> None:
        """Go by a plan for these links; ``spec`` is the same object as before where the plan is the same.

        *changed* says that the links are others, *retry* that what was refused is due again. Without *drops* step 5 is
        left for later: somebody else still has our joins.
        """
        await self._exclusive.narrow(spec)
        self._gro.reconcile(
            {LinkId(number, ring.incarnation): ring.ifname for number, ring in spec.rings.items() if ring.settings.gro}
        )
        if changed or retry:
            self._engine.ask_again()
        refused = self.refused.rings or self.refused.outputs
        if spec is not self.spec or (refused and (retry or changed)) or self._engine.rerouted():
            self.refused = await self._engine.apply(spec)
            self.spec = spec
        self._join(spec, links, retry=retry)
        if drops:
            users = self._memberships.users
            await self._exclusive.widen(spec, self.refused.rings, links, users, retry=retry)
            states = self._exclusive.states
            self._engine.drop_originals({name for name, standing in states.items() if standing.state == "on"})

    def _join(self, spec: PlanSpec, links: Mapping[str, Link], *, retry: bool) -> None:
        """Join and leave. Where nothing can have changed since the last time, thousands of joins are not looked at."""
        existing = frozenset(link.id for link in links.values() if link.mtu >= LEAST_MTU)
        wanted = self._wanted(spec, existing, frozenset(self.refused.rings))
        if (wanted, existing) != self._joined_for or (retry and self._memberships.failed):
            self._memberships.reconcile(wanted, existing, retry=retry)
            self._joined_for = (wanted, existing)


def _wanted(spec: PlanSpec, existing: frozenset[LinkId], refused: frozenset[int]) -> frozenset[Membership]:
    """The joins of a plan on links that exist and have their ring."""
    return frozenset(each for each in spec.memberships if each.link in existing and each.ifindex not in refused)
