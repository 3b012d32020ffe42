"""Exclusive rules: what they take is dropped in the kernel once it is captured, as long as nobody else listens to it.

The drop follows the plan. What the next plan may not take is let go of before it is published, what it takes is
dropped only after the worker goes by it: nothing is ever dropped that is not relayed. Where there can be no drop the
rule relays all the same, and says why.
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
from mcrelay.model.state import FeatureState

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from ipaddress import IPv4Address

    from mcrelay.exclusive.droptable import DropMatch
    from mcrelay.exclusive.listeners import Listeners
    from mcrelay.model.link import Link
    from mcrelay.model.plan import PlanSpec

log = logging.getLogger(__name__)

STEADY_SECONDS = 60.0  # nft is started again at once, but not when it has ended twice within so long

NO_CAPABILITY = capabilities.no_net_admin("an exclusive rule")
ENDED = "nft has ended; it is started again within a minute"
NO_NFT = "nft is not installed: install nftables"
NO_PROC = "/proc is not mounted, so nobody can tell whether another program of this host listens"

Users: TypeAlias = "Mapping[tuple[int, IPv4Address], int]"


class Exclusive:
    """Keeps the drop table as the plan and the host allow it.

    ``states`` tells of every rule that asks for it: ``off`` while it takes nothing, ``refused`` where it relays
    without the drop. ``ended`` is called when nft ends by itself: look again. Main thread.
    """

    def __init__(self, table: str, ended: Callable[[], None]) -> None:
        self.states: dict[str, FeatureState] = {}
        self._table = table
        self._ended = ended
        self._nft: NftSession | None = None
        self._last_end = float("-inf")  # of an nft that ended by itself; monotonic seconds
        self._on: frozenset[DropMatch] = frozenset()
        self._asked: frozenset[DropMatch] = frozenset()  # of nft, the last time
        self._trouble: dict[int, str] = {}  # why nft did not, by ifindex

    async def narrow(self, spec: PlanSpec) -> None:
        """Before a plan is published: let go of what it does not take, and of links that have died."""
        taken = frozenset(each for rule in droptable.wanted(spec).values() for each in rule)
        if not self._on <= taken:
            await self._drop(self._on & taken)

    async def widen(
        self, spec: PlanSpec, broken: Collection[int], links: Mapping[str, Link], users: Users, *, retry: bool
    ) -> None:
        """After the worker goes by a plan: drop what its exclusive rules take, and nobody else on this host wants.

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
        """DropMatch nothing more; the table is gone when this returns."""
        nft, self._nft, self._on = self._nft, None, frozenset()
        if nft is not None:
            await nft.close()

    async def _bury(self) -> None:
        """Notice that nft has ended by itself, and the table with it."""
        if self._nft is None or self._nft.alive:
            return
        await self.close()
        before, self._last_end = self._last_end, time.monotonic()
        steady = self._last_end - before >= STEADY_SECONDS
        self._trouble = {} if steady else {each.ifindex: ENDED for each in self._asked}
        again = "" if steady else " within a minute"
        log.warning("nft has ended: nothing is dropped, exclusive rules relay on without; it is started again%s", again)

    async def _drop(self, drops: frozenset[DropMatch]) -> None:
        """Make the table hold these and nothing else; what cannot be is in ``_trouble``."""
        self._asked, self._trouble = drops, {}
        if not drops:
            await self.close()
            return
        try:
            await self._hold(drops)
        except DropError as error:
            await self.close()  # whatever is in the table, it is not what it should be
            await self._drop_by_link(drops, str(error))

    async def _drop_by_link(self, drops: frozenset[DropMatch], reason: str) -> None:
        """One link that is refused is no reason to refuse another."""
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
        """Log what has changed, one line a rule."""
        for name, standing in states.items():
            if self.states.get(name) == standing or (name not in self.states and standing.state == "off"):
                continue
            level = logging.WARNING if standing.state == "refused" else logging.INFO
            reason = f" reason={standing.reason!r}" if standing.reason else ""
            log.log(level, "rule=%s exclusive=%s%s", name, standing.state, reason)
        self.states = states


def _unfit() -> str:
    """Why there can be no drop at all."""
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
    """Why these datagrams must not be dropped; nothing if they may."""
    link = links.get(drop.link)
    if not droptable.can_be_named(drop.link):
        return f"nft cannot write the name of link {drop.link}"
    if link is not None and link.master:
        return f"{drop.link} is a port of {link.master}, which takes its frames: take the input from {link.master}"
    if link is not None and link.upper:
        return f"{link.upper} takes its frames from {drop.link} and would lose them"
    if heard is None:
        return NO_PROC
    return heard.of(drop, users.get((drop.ifindex, drop.group), 0), own_inodes)
