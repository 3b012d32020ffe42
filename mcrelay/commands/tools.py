"""What other programs know of this host: ip(8), bridge(8), nft(8). Nothing where they are missing or may not tell."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from mcrelay.commands.evidence import Bridge, Dropping, Way
from mcrelay.linux.programs import search_path

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from mcrelay.model.stream import Address

Row = dict[str, Any]

WAYS_MAX = 1024  # routes that are asked for


def made_of(name: str) -> Row:
    """What ip(8) says of a link."""
    return next(iter(_json("ip", "-d", "-j", "link", "show", "dev", name)), {})


def kind_of(made: Row) -> str:
    """What a link is where it is made of another one: "macvlan of eth0 (bridge)"; "" for any other."""
    info = made.get("linkinfo", {})
    if not made.get("link") or not info.get("info_kind") or info["info_kind"] == "veth":
        return ""
    mode = info.get("info_data", {}).get("mode")
    return f"{info['info_kind']} of {made['link']}{f' ({mode})' if mode else ''}"


def bridge_of(made: Row) -> Bridge | None:
    """How a link of this host snoops and what it passes on, if it is a bridge."""
    info, name = made.get("linkinfo", {}), str(made.get("ifname"))
    if info.get("info_kind") != "bridge":
        return None
    data = info.get("info_data", {})
    entries = [entry for part in _json("bridge", "-j", "mdb", "show", "dev", name) for entry in part.get("mdb", [])]
    groups = frozenset(group for entry in entries if entry.get("port") == name for group in _group_of(entry["grp"]))
    return Bridge(bool(data.get("mcast_snooping")), bool(data.get("mcast_querier")), groups)


def _group_of(text: str) -> Iterator[Address]:
    """The group of an entry; none of one that is a MAC address."""
    with contextlib.suppress(ValueError):
        yield ip_address(text)


def ways(wanted: Collection[tuple[str, str]]) -> dict[tuple[str, str], Way]:
    """Where the routes to these addresses lead, each by a link or, with "", by any. Those without one are missing."""
    lines = [f"route get {address}{f' oif {link}' if link else ''}" for link, address in sorted(wanted)[:WAYS_MAX]]
    answer = _said(["ip", "-j", "-force", "-batch", "-"], "\n".join(lines), check=False) if lines else ""
    found = {}
    for line in answer.splitlines():
        with contextlib.suppress(ValueError, LookupError):
            (row,) = json.loads(line)
            for key in ((row["dev"], row["dst"]), ("", row["dst"])):
                if key in wanted:
                    found[key] = Way(row["dev"], row.get("gateway", ""))
    return found


def firewall() -> dict[tuple[str, int], Dropping]:
    """What nft(8) says may drop what comes in, iptables-nft's rules among it; nothing without CAP_NET_ADMIN."""
    ruleset: Any = _json("nft", "-j", "list", "ruleset")
    entries: list[Row] = ruleset.get("nftables", []) if isinstance(ruleset, dict) else []
    chains = {_place(row): row for entry in entries if (row := entry.get("chain"))}
    tables = {row["table"] for row in chains.values() if row.get("hook") in {"input", "prerouting", "ingress"}}
    found = [
        Dropping(place, 0)
        for place, row in chains.items()
        if row.get("hook") in {"input", "prerouting", "ingress"} and row.get("policy") == "drop"
    ]
    for entry in entries:
        row = entry.get("rule")
        if not row or row["table"] not in tables:
            continue
        if chains.get(_place(row), {}).get("hook", "input") not in {"input", "prerouting", "ingress"}:
            continue
        words = [word for word in row.get("expr", []) if isinstance(word, dict)]
        if any("drop" in word or "reject" in word for word in words):
            counters = [word["counter"]["packets"] for word in words if isinstance(word.get("counter"), dict)]
            found.append(Dropping(_place(row), row["handle"], counters[0] if counters else None))
    return {(each.place, each.handle): each for each in found}


def _place(row: Row) -> str:
    return f"{row['family']} {row['table']} {row.get('chain', row.get('name'))}"


def more(before: Mapping[tuple[str, int], Dropping], now: Dropping) -> int | None:
    """By how much its counter has grown; None where it has none."""
    was = before.get((now.place, now.handle))
    return None if now.packets is None else now.packets - ((was.packets if was else None) or 0)


def _json(*command: str) -> Any:
    with contextlib.suppress(ValueError):
        return json.loads(_said(command) or "[]")
    return []


def _said(command: Sequence[str], text: str = "", *, check: bool = True) -> str:
    """What a command prints when it is told *text*; nothing where it is missing or, with *check*, fails."""
    environment = {**os.environ, "PATH": search_path()}
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, check=check, timeout=10, env=environment
        )
        return done.stdout
    return ""
