"""Exclusive rules: the kernel drops their datagrams after capture, as long as nobody else listens to them.

The drop follows the plan. Drops that the next plan does not need end before it is published. New drops begin only
after the workers use it. So nothing is dropped that is not relayed. If there can be no drop, the rule still relays,
and says why.
"""

from __future__ import annotations

import functools
import logging
import time
from typing import TYPE_CHECKING, TypeAlias

from mcrelay.errors import DropError
from mcrelay.exclusive import droptable, listeners
from mcrelay.exclusive.nft import NftSession, find_nft
from mcrelay.linux import capabilities
from mcrelay.model.link_faults import is_bare
from mcrelay.model.state import FeatureState

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from mcrelay.exclusive.droptable import DropMatch
    from mcrelay.exclusive.listeners import Listeners
    from mcrelay.model.link import Link
    from mcrelay.model.plan import PlanSpec
    from mcrelay.model.stream import Address

log = logging.getLogger(__name__)

STEADY_SECONDS = 60.0  # seconds: nft is started again at once, unless it has ended twice within these

NO_CAPABILITY = capabilities.no_net_admin("an exclusive rule")
ENDED = "nft has ended; it is started again within a minute"
NO_NFT = "nft is not installed: install nftables"
NO_PROC = "/proc is not mounted, so nobody can tell whether another program of this host listens"

Users: TypeAlias = "Mapping[tuple[int, Address], int]"


class Exclusive:
    """Keeps the drop table in step with the plan and the host.

    ``states`` has every rule that asks for it: ``off`` while it takes nothing, ``refused`` if it relays without the
    drop. ``ended`` is called when nft ends by itself, so that the caller looks again. Main thread.
    """

    def __init__(self, table: str, ended: Callable[[], None]) -> None:
        self.states: dict[str, FeatureState] = {}
        self._table = table
        self._ended = ended
        self._nft: NftSession | None = None
        self._last_end = float("-inf")  # when nft ended by itself; monotonic seconds
        self._on: frozenset[DropMatch] = frozenset()
        self._asked: frozenset[DropMatch] = frozenset()  # the last commands that nft got
        self._trouble: dict[int, str] = {}  # why nft refused, by ifindex

    async def narrow(self, spec: PlanSpec) -> None:
        """Call before a plan is published: end the drops that it does not need, and those of deleted links."""
        taken = frozenset(each for rule in droptable.wanted(spec).values() for each in rule)
        if not self._on <= taken:
            await self._drop(self._on & taken)

    async def widen(
        self, spec: PlanSpec, broken: Collection[int], links: Mapping[str, Link], users: Users, *, retry: bool
    ) -> None:
        """Call after the workers use a plan: drop what its exclusive rules take and nobody else on this host wants.

        ``broken`` are the links (ifindexes) that have no ring, ``users`` how many of our sockets have joined what.
        """
        wanted = droptable.wanted(spec, broken)
        await self._bury()
        unfit = _unfit() if any(wanted.values()) else ""
        heard = listeners.read() if any(wanted.values()) and not unfit else None
        own = functools.cache(listeners.own_inodes)
        states = {}
        drops: frozenset[DropMatch] = frozenset()
        for name, taken in wanted.items():
            reason = unfit or next(filter(None, (_refusal(each, links, heard, users, own) for each in taken)), "")
            states[name] = FeatureState("refused" if reason else "on" if taken else "off", reason)
            drops |= frozenset() if reason else taken
        if drops != self._asked or (drops != self._on and (retry or not self._trouble)):
            await self._drop(drops)
        for name, standing in states.items():
            missing = wanted[name] - self._on
            if standing.state == "on" and missing:
                states[name] = FeatureState("refused", self._trouble.get(next(iter(missing)).ifindex, ENDED))
        self._say(states)

    async def close(self) -> None:
        """End every drop; the table is gone when this returns."""
        nft, self._nft, self._on = self._nft, None, frozenset()
        if nft is not None:
            await nft.close()

    async def _bury(self) -> None:
        """Note that nft has ended by itself, and the table with it."""
        if self._nft is None or self._nft.alive:
            return
        await self.close()
        before, self._last_end = self._last_end, time.monotonic()
        steady = self._last_end - before >= STEADY_SECONDS
        self._trouble = {} if steady else {each.ifindex: ENDED for each in self._asked}
        again = "" if steady else " within a minute"
        text = "noticed that nft has ended: nothing is dropped, exclusive rules relay on without; it is started again%s"
        log.warning(text, again)

    async def _drop(self, drops: frozenset[DropMatch]) -> None:
        """Make the table hold exactly these; ``_trouble`` has what was refused."""
        self._asked, self._trouble = drops, {}
        if not drops:
            await self.close()
            return
        try:
            await self._hold(drops)
        except DropError as error:
            await self.close()  # the table is not as it should be
            await self._drop_by_link(drops, str(error))

    async def _drop_by_link(self, drops: frozenset[DropMatch], reason: str) -> None:
        """Apply each link by itself: one refused link does not affect another."""
        numbers = sorted({each.ifindex for each in drops})
        if len(numbers) == 1:
            self._trouble = {numbers[0]: reason}
            return
        for ifindex in numbers:
            held = self._on
            try:
                await self._hold(held | {each for each in drops if each.ifindex == ifindex})
            except DropError as error:
                self._trouble[ifindex] = str(error)
                if self._nft is None or not self._nft.alive:
                    await self.close()

    async def _hold(self, drops: frozenset[DropMatch]) -> None:
        if self._nft is None:
            path = find_nft()
            if path is None:
                raise DropError(NO_NFT)
            self._nft = await NftSession.start(path, self._ended)
        await self._nft.run(droptable.transaction(self._table, drops))
        self._on = drops

    def _say(self, states: dict[str, FeatureState]) -> None:
        """Log the changes, one line for each rule."""
        for name, standing in states.items():
            if self.states.get(name) == standing or (name not in self.states and standing.state == "off"):
                continue
            level = logging.WARNING if standing.state == "refused" else logging.INFO
            reason = f" reason={standing.reason!r}" if standing.reason else ""
            log.log(level, "changed rule=%s exclusive=%s%s", name, standing.state, reason)
        self.states = states


def _unfit() -> str:
    """Why no drop is possible at all."""
    if capabilities.CAP_NET_ADMIN not in capabilities.capabilities():
        return NO_CAPABILITY
    return NO_NFT if find_nft() is None else ""


def _refusal(
    drop: DropMatch,
    links: Mapping[str, Link],
    heard: Listeners | None,
    users: Users,
    own_inodes: Callable[[], Collection[int]],
) -> str:
    """Why these datagrams must not be dropped; "" if they may."""
    link = links.get(drop.link)
    if not droptable.can_be_named(drop.link):
        return f"nft cannot write the name of link {drop.link}"
    if link is not None and link.master:
        return f"{drop.link} is a port of {link.master}, which takes its frames: take the input from {link.master}"
    if link is not None and is_bare(link):
        return f"{drop.link} carries no Ethernet frames, which the drop table tells datagrams by"
    if link is not None and link.upper:
        return f"{link.upper} takes its frames from {drop.link} and would lose them"
    if heard is None:
        return NO_PROC
    return heard.of(drop, users.get((drop.ifindex, drop.group), 0), own_inodes)
