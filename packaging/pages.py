"""Write what the .deb documents: man pages, completions, changelog, copyright; from the command itself where it can be.

pages.py SHARE LICENSES.json CHANGELOG.md VERSION MAINTAINER COPYRIGHT.in
"""

from __future__ import annotations

import datetime as dt
import email.utils
import json
import os
import re
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import get_completion_class

from mcrelay.cli import COMMANDS, cli
from mcrelay.config import schema
from mcrelay.config.writer import toml_value
from mcrelay.model.values import flag

if TYPE_CHECKING:
    from mcrelay.model.option import Option

DATE = dt.datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), dt.UTC)

FILES = [
    ("/etc/mcrelay/mcrelay.toml, /etc/mcrelay/conf.d/*.toml", "The configuration: mcrelay.toml(5)."),
    ("/run/mcrelay/mcrelay.sock", "Control socket, for root and the group mcrelay-admin."),
    ("/run/mcrelay/mcrelay-ro.sock", "The same for looking only, for the group mcrelay."),
]
CODES = [
    ("0", "Done."),
    ("1", "It failed, or Ctrl-C ended it before its work was done."),
    ("2", "Used wrongly, or a bad configuration."),
]
PRIVILEGES = """\
Relaying needs CAP_NET_RAW and nothing else. Started by root, the relay goes on as user mcrelay (nobody where there is
no such user) with that capability alone before its first thread starts, and logs what it kept. CAP_NET_ADMIN, for
exclusive rules, links with gro and send buffers beyond net.core.wmem_max, is kept only where the configuration asks
for it or where it was put into the ambient set: see net-admin.conf among the examples in /usr/share/doc/mcrelay.
CAP_NET_BIND_SERVICE is kept likewise, for source ports below net.ipv4.ip_unprivileged_port_start."""
CONFIGURATION = """\
TOML. All files are merged; a name that is defined twice is an error. Nothing is applied unless all of it can be:
`mcrelay check` lists every complaint with file, line and remedy. An instance NAME (mcrelay@NAME.service) reads
NAME.toml and NAME.conf.d/*.toml instead.

A stream is written [SOURCE@]GROUP:PORT%LINK; without SOURCE@ any source. A unicast output is written ADDRESS:PORT. An
output without a port keeps the input's. GROUP/LENGTH is a range of at most 4096 groups (/20), which goes to ranges of
the same length; PORT may be several (5000,5002 or 6906-6941), which an output keeps or names as many of, or any."""
LINKS = "A network link; default in place of NAME: every link that does not say otherwise."
OUTPUTS = """\
`outputs` is a list of streams, or of tables with `to` and these keys. They may stand on the rule too, or under
[defaults]."""


def quote(text: str) -> str:
    """Spell text so that roff takes none of it for a request."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join(f"\\&{line}" if line.startswith((".", "'")) else line for line in text.split("\n"))


def header(name: str, section: int, what: str) -> list[str]:
    title = f'.TH {name.upper()} {section} {DATE:%Y-%m-%d} "mcrelay {VERSION}" mcrelay'
    return [title, ".SH NAME", f"{quote(name)} \\- {quote(what)}"]


def terms(pairs) -> list[str]:
    return [line for term, text in pairs for line in (".TP", f".B {quote(term)}", quote(text))]


def paragraphs(text: str) -> list[str]:
    """Join the lines of each paragraph, as --help does."""
    parts = re.split(r"\n\s*\n", text.strip())
    return [line for part in parts for line in (".PP", quote(" ".join(part.split())))]


def example(epilog: str | None) -> list[str]:
    lines = [line.strip() for line in (epilog or "").replace("\b", "").strip().splitlines()[1:]]
    return [".PP", ".nf", *(f".RS 4\n{quote(line)}\n.RE" for line in lines), ".fi"] if lines else []


def command_page() -> str:
    lines = [*header("mcrelay", 1, "relay UDP multicast that a router refuses to forward")]
    lines += [".SH SYNOPSIS", ".B mcrelay", ".I COMMAND", "[OPTIONS] [ARGUMENTS]", ".SH DESCRIPTION"]
    lines += paragraphs(cli.help or "") + example(cli.epilog) + [".SH COMMANDS"]
    context = click.Context(cli, info_name="mcrelay")
    for name in COMMANDS:
        command = cli.get_command(context, name)
        inner = click.Context(command, info_name=name, parent=context)
        usage = " ".join(command.collect_usage_pieces(inner))
        lines += [f'.SS "{quote(name)} {quote(usage)}"', *paragraphs(command.help or "")]
        records = [
            record for each in command.get_params(inner) if (record := each.get_help_record(inner)) and record[1]
        ]
        lines += terms(records) + example(command.epilog)
    lines += [".SH PRIVILEGES", *paragraphs(PRIVILEGES)]
    lines += [".SH FILES", *terms(FILES), ".SH EXIT STATUS", *terms(CODES)]
    lines += [".SH ENVIRONMENT", *terms([
        ("MCRELAY_SOCKET", "Control socket to use where no --socket is given."),
        ("NO_COLOR", "Print without colour, also on a terminal."),
        ("TMPDIR", "Where the one-file executable unpacks itself; it has to allow execution."),
    ])]  # fmt: skip
    return "\n".join([*lines, ".SH SEE ALSO", ".BR mcrelay.toml (5)", ""])


def configuration_page() -> str:
    lines = [*header("mcrelay.toml", 5, "configuration of mcrelay"), ".SH SYNOPSIS"]
    lines += [quote(each) + "\n.br" for each in ("/etc/mcrelay/mcrelay.toml", "/etc/mcrelay/conf.d/*.toml")]
    lines += [".SH DESCRIPTION", *paragraphs(CONFIGURATION)]
    lines += [".nf", *(quote(line) for line in EXAMPLE.splitlines()), ".fi"]
    own = {key: row for key, row in schema.OWN.items() if key not in schema.TEXTS}
    flags = {key: row for key, row in own.items() if row.check is flag}
    sections = [
        ("[relay]", schema.RELAY, "The relay as a whole; a change needs a restart."),
        ("[links.NAME]", schema.LINK, LINKS),
        ("[rules.NAME]: the input", schema.INPUT, "Beside `input`, the stream that is relayed."),
        ("[rules.NAME]: outputs", schema.OUTPUT, OUTPUTS),
        ("[rules.NAME]: the rule", schema.TEXTS | flags, "A text, and what is true or false."),
        ("[rules.NAME]: other keys of the rule", {key: row for key, row in own.items() if key not in flags}, ""),
    ]  # fmt: skip
    for title, rows, text in sections:
        lines += [f'.SH "{quote(title)}"', *paragraphs(text), *terms((key, manual(row)) for key, row in rows.items())]
    return "\n".join([*lines, ".SH SEE ALSO", ".BR mcrelay (1)", ""])


def manual(row: Option) -> str:
    """What there is to say of a key, its default, and what the relay knows of it and does not do yet."""
    default = row.default_words or toml_value(row.check.write(row.default))
    later = ", ".join(each.what.replace("{}", "other than the default") for each in row.not_yet)
    return f"{row.manual} [{default}]{f' Not supported yet: {later}.' if later else ''}"


EXAMPLE = """\
[rules.hdmi-lobby]
input   = "192.168.168.55@226.2.2.2:2068%eth1"
outputs = ["239.10.0.1:5004%eth0", { to = "192.0.2.7:7000", ttl = 32 }]
"""


def changelog(text: str, maintainer: str) -> str:
    """Make one Debian entry of what CHANGELOG.md has on top."""
    top = re.split(r"(?m)^## .*$", text)[1].strip()
    entries = [" ".join(each.split()) for each in re.split(r"(?m)^(?:### .*|- )", top) if each.strip()]
    lines = [textwrap.fill(each, 79, initial_indent="  * ", subsequent_indent="    ") for each in entries]
    date = email.utils.format_datetime(DATE)
    return "\n".join([f"mcrelay ({VERSION}) stable; urgency=medium", "", *lines, "", f" -- {maintainer}  {date}", ""])


# What stands in a full text, and where Debian has that text
COMMON = {
    "TERMS AND CONDITIONS FOR USE, REPRODUCTION": "Apache-2.0",
    "TERMS AND CONDITIONS FOR COPYING, DISTRIBUTION": "GPL-2",
    "GNU LESSER GENERAL PUBLIC LICENSE\n": "LGPL-2.1",
}


def copyright_(head: str, components: list[dict[str, str]]) -> str:
    """Append every component with its texts to the file that Debian wants."""
    parts = [head.rstrip()]
    for each in components:
        if each["name"] == "mcrelay":
            continue
        text = each.get("text", "")
        common = [file for sign, file in COMMON.items() if sign in text]
        if common:
            text = "On Debian systems: " + ", ".join(f"/usr/share/common-licenses/{file}" for file in common)
            text += "\nThe texts as distributed, exceptions included: mcrelay version --licenses -j"
        text = "\n".join(f" {line.rstrip()}" if line.strip() else " ." for line in text.splitlines())
        parts.append(
            f"Files: usr/lib/mcrelay/*\nCopyright: as in the text below\nComment: {each['name']} {each['version']}\n"
            f"License: {each['license']}\n{text or ' See the component.'}"
        )
    return "\n\n".join(parts) + "\n"


def main(share: Path, licenses: Path, changes: Path, maintainer: str, head: Path) -> None:
    def write(path: str, text: str) -> None:
        target = share / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    write("man/man1/mcrelay.1", command_page())
    write("man/man5/mcrelay.toml.5", configuration_page())
    for shell, path in (
        ("bash", "bash-completion/completions/mcrelay"),
        ("zsh", "zsh/vendor-completions/_mcrelay"),
        ("fish", "fish/vendor_completions.d/mcrelay.fish"),
    ):
        found = get_completion_class(shell)
        found._check_version = staticmethod(lambda: None)  # it would ask a bash that need not be on this machine
        write(path, found(cli, {}, "mcrelay", "_MCRELAY_COMPLETE").source())
    write("doc/mcrelay/changelog", changelog(changes.read_text(), maintainer))
    write("doc/mcrelay/copyright", copyright_(head.read_text(), json.loads(licenses.read_text())))


if __name__ == "__main__":
    VERSION = sys.argv[4]
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[5], Path(sys.argv[6]))
