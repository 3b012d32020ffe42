"""``mcrelay check``: every complaint about a configuration, without needing any privilege."""

from __future__ import annotations

import contextlib
import socket
import sys
from typing import TYPE_CHECKING

import click

from mcrelay.commands.options import config_options, json_option
from mcrelay.commands.table import print_json, say
from mcrelay.config import tags
from mcrelay.config.checks import (
    capture_complaints,
    link_warnings,
    master_complaints,
    narrow_warnings,
    port_privileges,
    source_warnings,
)
from mcrelay.config.files import config_paths, parse
from mcrelay.errors import ConfigError
from mcrelay.links.watch import links_now
from mcrelay.linux.process import reserved_ports
from mcrelay.model.wording import counted

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mcrelay.errors import Complaint
    from mcrelay.model.link import Link

EXIT_BAD = 2


@click.command(epilog="\b\nExample:\n  mcrelay check -c site.toml --strict")
@config_options
@click.option("--strict", is_flag=True, help="Let warnings fail the check too.")
@json_option
def check(paths: tuple[Path, ...], instance: str | None, strict: bool, as_json: bool) -> None:
    """Check a configuration and say everything that is wrong with it.

    The exit code is 2 if anything is. It changes nothing, and needs neither privilege nor a running relay.
    """
    files: list[Path] = []
    rules = 0
    complaints: list[Complaint] = []
    try:
        files = config_paths(paths, instance)
        parsed = parse(files, instance)
        rules = len(parsed.config.rules)
        links = {name for _, name in socket.if_nameindex()}
        about_links = link_warnings(parsed.config, parsed.where, links)
        known = _links()
        about_links += master_complaints(parsed.config.rules.values(), parsed.where, known)
        about_links += capture_complaints(parsed.config, parsed.where, known)
        about_links += narrow_warnings(parsed.config, parsed.where, known)
        about_links += tags.warnings(parsed.config, parsed.where)
        about_links += tags.link_complaints(parsed.config, parsed.where, known)
        about_links += source_warnings(parsed.config, parsed.where, known)
        about_links += port_privileges(parsed.config, parsed.where, reserved_ports(parsed.config))
        complaints = sorted([*parsed.warnings, *about_links])
    except ConfigError as error:
        complaints = list(error.complaints)
    bad = any(strict or not complaint.warning for complaint in complaints)
    if as_json:
        print_json({"files": [str(f) for f in files], "rules": rules, "complaints": [*map(_json, complaints)]})
    else:
        for complaint in complaints:
            say(f"warning: {complaint}" if complaint.warning else str(complaint))
        if not bad:
            found = counted(len(complaints), "warning") if complaints else "no complaints"
            click.echo(f"{counted(len(files), 'file')}, {counted(rules, 'rule')}: {found}")
    sys.exit(EXIT_BAD if bad else 0)


def _links() -> Mapping[str, Link]:
    """The links of this machine; none if netlink is closed, and then only the rest is checked."""
    with contextlib.suppress(OSError):
        return links_now()
    return {}


def _json(complaint: Complaint) -> dict[str, str | int | bool]:
    return {
        "file": complaint.file,
        "line": complaint.line,
        "key": complaint.key,
        "problem": complaint.problem,
        "remedy": complaint.remedy,
        "warning": complaint.warning,
    }
