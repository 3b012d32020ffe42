"""Changes to what runs, by clients and by SIGHUP: one at a time, each logged in one line with who made it.

A refused change changes nothing. The reply is sent when every worker uses the new plan.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import pwd
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from mcrelay.config import checks, diff
from mcrelay.config.files import load
from mcrelay.config.parse import RUNTIME, parse_rule, parse_rules
from mcrelay.config.writer import rule_table
from mcrelay.control.protocol import Command, Nothing
from mcrelay.errors import ConfigError, McrelayError, OperationError, UsageError
from mcrelay.linux.aside import aside
from mcrelay.model.address import shown
from mcrelay.model.rule import Config

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from mcrelay.config.diff import Difference
    from mcrelay.config.ends import Place, Where
    from mcrelay.config.parse import Parsed
    from mcrelay.control.protocol import Peer
    from mcrelay.linux.systemd import Notifier
    from mcrelay.model.rule import Rule
    from mcrelay.relay.service import Service

log = logging.getLogger(__name__)

USER_SECONDS = 1.0
READ_SECONDS = 4.0  # for a file that does not answer; a client waits 5 s

# The values of TOML, as deep as a rule goes: it has no null.
_Plain: TypeAlias = bool | int | float | str
_Inner: TypeAlias = dict[str, _Plain | list[_Plain]]
_Table: TypeAlias = dict[str, _Plain | list[_Plain | _Inner] | _Inner]


class Put(msgspec.Struct, forbid_unknown_fields=True):
    """A whole rule, with the keys of ``[rules.NAME]``."""

    name: str
    rule: _Table


class PutAll(msgspec.Struct, forbid_unknown_fields=True):
    """Rules to add together: all of them or none."""

    rules: list[Put]


class Named(msgspec.Struct, forbid_unknown_fields=True):
    """A rule that runs."""

    name: str


class Reload(msgspec.Struct, forbid_unknown_fields=True):
    """How to reload the files."""

    keep_runtime: bool = False
    dry_run: bool = False


class Changer:
    """The only place where the configuration of a running service changes. *parsed* is its first configuration."""

    def __init__(
        self, service: Service, parsed: Parsed, paths: tuple[Path, ...], instance: str | None, notifier: Notifier
    ) -> None:
        self._service = service
        self._started = parsed.config
        self._files = parsed  # as last read
        self.needs_restart: tuple[str, ...] = ()  # keys whose value in the files differs from the one at the start
        self._paths = tuple(path.absolute() for path in paths)
        self._instance = instance
        self._notifier = notifier
        self._lock = asyncio.Lock()
        self.reload_successful = True  # the files that it was started with were accepted
        self.reload_time = time.time()
        self._users: dict[int, str] = {}  # names by uid, looked up once
        self.reads = {"changes": Command(self._changes)}
        self.changes = {
            "add": Command(self._add, Put),
            "add_all": Command(self._add_all, PutAll),
            "replace": Command(self._replace, Put),
            "delete": Command(self._delete, Named),
            "enable": Command(functools.partial(self._enable, enabled=True), Named),
            "disable": Command(functools.partial(self._enable, enabled=False), Named),
            "reload": Command(self._reload, Reload),
        }

    async def _add(self, peer: Peer, put: Put) -> dict[str, Any]:
        async with self._change("add", await self._of(peer), put.name):
            if put.name in self._service.config.rules:
                remedy = f"take another name, or say mcrelay replace {put.name}"
                raise UsageError(f"there is a rule {shown(put.name)} already; {remedy}")
            return await self._put(put)

    async def _add_all(self, peer: Peer, put: PutAll) -> dict[str, Any]:
        names = [each.name for each in put.rules]
        async with self._change("add", await self._of(peer), ",".join(names)):
            running = self._service.config
            twice = [name for name in names if name in running.rules or names.count(name) > 1]
            if twice:
                raise UsageError(
                    f"there is a rule {shown(twice[0])} already; nothing was added, rename or leave it out"
                )
            tables = {each.name: each.rule for each in put.rules}
            wanted = running
            rules = parse_rules(tables, running.rules, self._files.where)
            await self._refuse_ports(rules, _nowhere)
            for rule in rules.values():
                wanted = diff.with_rule(wanted, self._files.config, rule)
            await self._go_by(wanted)
            return {"rules": [self._standing(wanted.rules[name]) for name in names]}

    async def _replace(self, peer: Peer, put: Put) -> dict[str, Any]:
        async with self._change("replace", await self._of(peer), put.name):
            diff.find_rule(self._service.config, put.name)
            return await self._put(put)

    async def _put(self, put: Put) -> dict[str, Any]:
        running = self._service.config
        rule = parse_rule(put.name, put.rule, running.rules, self._files.where)
        await self._refuse_ports({rule.name: rule}, _nowhere)
        await self._go_by(diff.with_rule(running, self._files.config, rule))
        return self._standing(rule)

    async def _delete(self, peer: Peer, named: Named) -> dict[str, Any]:
        async with self._change("delete", await self._of(peer), named.name):
            running = self._service.config
            diff.find_rule(running, named.name)
            await self._go_by(diff.without_rule(running, named.name))
            return {"rule": named.name, "in_files": named.name in self._files.config.rules}

    async def _enable(self, peer: Peer, named: Named, *, enabled: bool) -> dict[str, Any]:
        async with self._change("enable" if enabled else "disable", await self._of(peer), named.name):
            running = self._service.config
            rule = replace(diff.find_rule(running, named.name), enabled=enabled)
            await self._refuse_ports({rule.name: rule}, self._files.where)
            await self._go_by(diff.with_rule(running, self._files.config, rule))
            return self._standing(rule)

    async def _reload(self, peer: Peer, how: Reload) -> dict[str, Any]:
        return await self._go_by_the_files(await self._of(peer), how)

    async def reload_on_signal(self) -> None:
        """SIGHUP: the log has the result."""
        with contextlib.suppress(McrelayError):
            await self._go_by_the_files("by=SIGHUP", Reload())

    async def _go_by_the_files(self, by: str, how: Reload) -> dict[str, Any]:
        if how.dry_run:
            return (await self._plan(how)).told()
        async with self._change("reload", by) as said:
            self.reload_successful, self.reload_time = False, time.time()
            plan = await self._plan(how)
            for warning in plan.parsed.warnings:
                log.warning("warns of %s", warning)
            running = self._service.config
            self._notifier.reloading()
            try:
                await self._go_by(Config(running.relay, running.links, plan.after.rules))
            finally:
                self._notifier.send("READY=1")
            self._files = plan.parsed
            self.reload_successful = True
            self.needs_restart = plan.difference.restart
            for name, command in plan.gone.items():
                log.warning("lost a run-time change rule=%s: to have it again, run %s", name, command)
            for key in plan.difference.restart:
                log.warning("needs a restart key=%s: the former value holds until then", key)
            difference = plan.difference
            for what, names in (
                ("added", difference.added), ("removed", difference.removed), ("changed", difference.changed)
            ):  # fmt: skip
                said.append(f"{what}={','.join(names) or 'none'}")
            return plan.told() | {"states": self._service.states()}

    async def _go_by(self, config: Config) -> None:
        """Forward by another configuration; if that fails, by the one before."""
        before = self._service.config
        try:
            await self._service.update(config)
        except BaseException:
            self._service.config = before
            raise

    async def _read(self) -> Parsed:
        """Read the files, but do not wait for one that does not answer. Raises ConfigError, OperationError."""
        return await aside("reading the configuration", lambda: load(self._paths, self._instance), READ_SECONDS)

    async def _plan(self, how: Reload) -> _Plan:
        """Say what a reload would do. Raises ConfigError if a run-time change cannot be kept, or an input is a port."""
        parsed = await self._read()
        running = self._service.config
        made = diff.runtime_changes(self._files.config, running)
        after = diff.keep(parsed.config, made, parsed.where) if how.keep_runtime else parsed.config
        changed = {name: rule for name, rule in after.rules.items() if running.rules.get(name) != rule}
        await self._refuse_ports(changed, parsed.where)
        gone = {each.name: diff.command(each, running.relay.control) for each in diff.lost(made, after)}
        return _Plan(parsed, after, diff.compare(running, after, self._started), gone)

    async def _refuse_ports(self, rules: dict[str, Rule], where: Where) -> None:
        """Raise ConfigError for an input on a port of a bridge or the like, before anything is changed.

        A rule that runs already goes on where its link becomes one, and a reload changes the others: it loses nothing
        before switches forget this host, and its trouble is not theirs.
        """
        links = await self._service.links_of(Config(rules=rules))
        if refused := checks.master_complaints(rules.values(), where, links):
            raise ConfigError(sorted(refused))

    async def _changes(self, _: Peer, __: Nothing) -> dict[str, Any]:
        """The facts that `save` needs: the files of this relay, and the rules that run differently."""
        found = diff.runtime_changes(self._files.config, self._service.config)
        return {
            "paths": [str(path) for path in self._paths],
            "instance": self._instance,
            "changes": [
                {"kind": each.kind, "name": each.name, "rule": rule_table(each.rule) if each.rule else None}
                for each in found
            ],
        }

    def _standing(self, rule: Rule) -> dict[str, Any]:
        """The state of a rule that was just changed, with the faults that it has."""
        relay = self._service.state()
        status = next(each for each in relay.rules if each.rule.name == rule.name)
        alone = Config(rules={rule.name: rule})
        warnings = checks.find(alone.rules, _nowhere)
        warnings += checks.link_warnings(alone, _nowhere, relay.links)
        exclusive = relay.exclusive.get(rule.name)
        refused = [f"not exclusive: {exclusive.reason}"] if exclusive and exclusive.reason else []
        if reason := relay.engine_reasons.get(rule.name):
            refused.append(f"by the ring: {reason}")
        return {
            "rule": rule.name,
            "state": status.state,
            "reason": status.reason or None,
            "origin": status.rule.origin,
            "warnings": [*map(str, warnings), *refused],
        }

    async def _of(self, peer: Peer) -> str:
        """Name the client for the log; only by uid if the host's name service does not answer soon."""
        if peer.uid not in self._users:
            try:
                found = await aside("looking up a user", lambda: pwd.getpwuid(peer.uid).pw_name, USER_SECONDS)
            except (KeyError, OperationError):
                found = ""
            self._users[peer.uid] = found
        name = self._users[peer.uid]
        return f"uid={peer.uid}{f' user={name}' if name else ''} pid={peer.pid}"

    @contextlib.asynccontextmanager
    async def _change(self, kind: str, by: str, name: str = "") -> AsyncIterator[list[str]]:
        """Allow one change at a time, and log it: the texts appended to the list stand in its line."""
        said = [f"change={kind}"]
        async with self._lock:
            try:
                yield said
            except McrelayError as error:
                for line in str(error).splitlines():
                    log.error("refused %s: %s %s", kind, line, by)
                log.error("refused %s: what ran before goes on unchanged", kind)
                raise
            if name:
                said.insert(1, f"rule={name}")
            log.info("made %s", " ".join([*said, by]))


@dataclass(frozen=True, slots=True)
class _Plan:
    """The effect of a reload; ``gone`` has the command that restores each run-time change it removes."""

    parsed: Parsed
    after: Config
    difference: Difference
    gone: dict[str, str]

    def told(self) -> dict[str, Any]:
        return {
            "rules": len(self.after.rules),
            "added": self.difference.added,
            "removed": self.difference.removed,
            "changed": self.difference.changed,
            "needs_restart": self.difference.restart,
            "gone": self.gone,
            "warnings": [str(each) for each in self.parsed.warnings],
        }


def _nowhere(_: str) -> Place:
    return RUNTIME
