"""GRO as a receive accelerator (``[links.NAME] gro = true``): many datagrams of a flow in one frame, one ring slot.

The settings are restored when the link is no longer an input, and when the relay stops. The last of several relays
restores what the first of them found. A relay that is killed leaves GRO on. The next relay recognises the odd flush
time, reads from it what the killed relay had found, and restores that at its own end. Main thread.
"""

from __future__ import annotations

import errno
import logging
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mcrelay.links import offload
from mcrelay.links.claims import Claims
from mcrelay.links.offload import Timers
from mcrelay.linux import capabilities, procfs
from mcrelay.linux.genl import GenericNetlink
from mcrelay.model.state import FeatureState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mcrelay.links.offload import Netlink
    from mcrelay.model.link import LinkId

log = logging.getLogger(__name__)

GRO, UDP = "rx-gro", "rx-udp-gro-forwarding"  # names of ethtool; rx-gro is generic-receive-offload
FLUSH_NS = 50_016  # 50 us, odd enough to be recognised; the features found are added to it
NOTES = {frozenset(): 0, frozenset({GRO}): 1, frozenset({UDP}): 2, frozenset({GRO, UDP}): 3}
OURS = {
    Timers(defer=2, flush_ns=FLUSH_NS + note): on for on, note in NOTES.items()
}  # features that were on, by the flush time
DEFAULT = Timers(0, 0)  # the kernel's default
LEAST_KERNEL = (6, 2)  # older kernels: a packet socket cannot describe such a frame and drops it (docs/linux.md, L9)

NO_CAPABILITY = capabilities.no_net_admin("gro = true")


@dataclass(slots=True)
class _Held:
    """A link whose offloads we have set, and their former state. NAPI instances come and go with the link's state."""

    name: str
    on: set[str]  # those of our features that were on
    incarnation: int = 0
    timers: dict[int, Timers] = field(default_factory=dict)


class Gro:
    """Sets the offloads of input links that ask for it. ``states`` gives the result of each by name."""

    def __init__(
        self,
        open_netlink: Callable[[], GenericNetlink] = GenericNetlink,
        release: str | None = None,
        claims: Claims | None = None,
    ) -> None:
        self._claims = claims or Claims()
        self.states: dict[str, FeatureState] = {}
        self._open = open_netlink
        self._netlink: GenericNetlink | None = None
        self._held: dict[int, _Held] = {}
        self._kernel = release or os.uname().release

    def reconcile(self, wanted: Mapping[LinkId, str]) -> None:
        """Switch GRO on for these links (by name) and restore all others. A link that was made anew is left alone."""
        for ifindex, incarnation in wanted:
            held = self._held.get(ifindex)
            if held is not None and held.incarnation != incarnation:
                del self._held[ifindex]
                self._claims.drop(f"gro-{ifindex}")
        for ifindex in self._held.keys() - {each.ifindex for each in wanted}:
            self._put_back(ifindex)
        states = {name: self._keep(link, name) for link, name in wanted.items()}
        for name, standing in states.items():
            if self.states.get(name) != standing:
                level = logging.WARNING if standing.reason else logging.INFO
                reason = f" reason={standing.reason!r}" if standing.reason else ""
                log.log(level, "changed link=%s gro=%s%s", name, standing.state, reason)
        self.states = states

    def close(self) -> None:
        """Restore every link."""
        self.reconcile({})
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None

    def _keep(self, link: LinkId, name: str) -> FeatureState:
        release = re.match(r"(\d+)\.(\d+)", self._kernel)
        if release is None or tuple(map(int, release.groups())) < LEAST_KERNEL:
            return FeatureState(
                "refused", f"Linux {self._kernel} drops frames of many datagrams at the ring: 6.2 or newer"
            )
        if capabilities.CAP_NET_ADMIN not in capabilities.capabilities():
            return FeatureState("refused", NO_CAPABILITY)
        try:
            if self._netlink is None:
                self._netlink = self._open()
            return self._switch_on(self._netlink, link, name)
        except OSError as error:
            return FeatureState("refused", f"the kernel refuses it: {error.strerror or error}")

    def _switch_on(self, netlink: Netlink, link: LinkId, name: str) -> FeatureState:
        ifindex = link.ifindex
        active = offload.features(netlink, ifindex)
        held = self._held.get(ifindex)
        if held is None:
            held = self._held[ifindex] = _Held(
                name, self._found(netlink, ifindex, active & {GRO, UDP}), link.incarnation
            )
            self._claims.make(f"gro-{ifindex}", str(NOTES[frozenset(held.on)]))
        if not {GRO, UDP} <= active:
            offload.set_features(netlink, ifindex, {GRO: True, UDP: True})
            if missing := {GRO, UDP} - offload.features(netlink, ifindex):
                return FeatureState("refused", f"the device keeps {' and '.join(sorted(missing))} off")
        reason = self._hold_frames(netlink, ifindex, held)
        return FeatureState("on", reason)

    def _found(self, netlink: Netlink, ifindex: int, active: set[str]) -> set[str]:
        """The features that were on before any relay: from another relay's note, or a killed relay's flush time."""
        others = self._claims.of_others(f"gro-{ifindex}")
        for on, note in NOTES.items():
            if str(note) in others:
                return set(on)
        left = [timers for timers in (offload.napis(netlink, ifindex) or {}).values() if timers in OURS]
        return set(OURS[left[0]]) if left else active

    def _hold_frames(self, netlink: Netlink, ifindex: int, held: _Held) -> str:
        """Let GRO hold frames for more of their flow, unless somebody has set the time. Returns why it does not."""
        napis = offload.napis(netlink, ifindex)
        if napis is None:
            return "" if _set_by_hand(held.name, ifindex) else _by_hand(held.name, "Linux before 6.13 lets only root")
        for napi, timers in napis.items():
            if timers.flush_ns:
                continue
            try:
                offload.set_timers(netlink, napi, Timers(2, FLUSH_NS + NOTES[frozenset(held.on)]))
            except OSError as error:
                if error.errno != errno.EPERM:
                    raise
                return _by_hand(held.name, "the kernel does not let a user namespace")
            held.timers[napi] = timers
        return ""

    def _put_back(self, ifindex: int) -> None:
        held = self._held.pop(ifindex)
        self._claims.drop(f"gro-{ifindex}")
        if self._netlink is None:
            return
        if self._claims.of_others(f"gro-{ifindex}"):
            log.info("keeps gro on link=%s: another relay uses it", held.name)
            return
        try:
            for napi, timers in (offload.napis(self._netlink, ifindex) or {}).items():
                if timers in OURS:
                    offload.set_timers(self._netlink, napi, held.timers.get(napi, DEFAULT))
            if off := {GRO, UDP} - held.on:
                offload.set_features(self._netlink, ifindex, dict.fromkeys(sorted(off), False))
            log.info("changed link=%s gro=off", held.name)
        except OSError as error:
            if error.errno != errno.ENODEV:  # a deleted link has no settings left
                log.warning("cannot restore link=%s: GRO stays on: %s", held.name, error.strerror or error)


def _set_by_hand(name: str, ifindex: int) -> bool:
    """Whether root has set the time; /sys may show another network namespace than ours."""
    folder = f"class/net/{name}"
    ours = procfs.read(f"{folder}/ifindex", 0, Path("/sys")) == ifindex
    return ours and procfs.read(f"{folder}/gro_flush_timeout", 0, Path("/sys")) > 0


def _by_hand(name: str, who: str) -> str:
    folder = f"/sys/class/net/{name}"
    return (
        f"{who} set how long frames are held for more of their flow, so little is merged: as root of the host,"
        f" echo 50000 > {folder}/gro_flush_timeout; echo 2 > {folder}/napi_defer_hard_irqs"
    )
