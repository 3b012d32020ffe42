"""``mcrelay version``."""

from __future__ import annotations

import json
import platform
import re
from dataclasses import asdict
from importlib.metadata import metadata, requires
from pathlib import Path

import click

from mcrelay import __version__
from mcrelay.commands.options import json_option
from mcrelay.commands.table import colourful, columns, print_json, render
from mcrelay.engine.program import BUILT
from mcrelay.linux.features import probe


@click.command(epilog="\b\nExample:\n  mcrelay version -j")
@json_option
@click.option("--licenses", is_flag=True, help="List everything inside with its licence; with -j the full texts too.")
def version(as_json: bool, licenses: bool) -> None:
    """Show version, build and the kernel features found."""
    if licenses:
        print_json(inside()) if as_json else click.echo(show_licenses(inside()))
        return
    features = asdict(probe()) | {"kernel_engine": BUILT}
    facts = {
        "version": __version__,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "features": features,
    }
    if as_json:
        print_json(facts)
        return
    click.echo(f"mcrelay {__version__}")
    click.echo(f"python {facts['python']}, kernel {facts['kernel']}, {facts['machine']}")
    for name, found in features.items():
        click.echo(f"{name}: {'yes' if found else 'no'}")


def inside() -> list[dict[str, str]]:
    """The components of an executable, as its build recorded them; else the packages that pip has installed for us."""
    try:
        listed: list[dict[str, str]] = json.loads((Path(__file__).parents[1] / "licenses.json").read_text("utf-8"))
    except FileNotFoundError:
        return list(map(_installed, _required("mcrelay")))
    return listed


def _required(name: str) -> list[str]:
    """A distribution and what it needs, without extras."""
    found: dict[str, None] = {name: None}
    for requirement in requires(name) or []:
        if ";" not in requirement:
            found |= dict.fromkeys(_required(re.split(r"[^A-Za-z0-9._-]", requirement)[0].rstrip(".")))
    return list(found)


def _installed(name: str) -> dict[str, str]:
    facts = metadata(name)
    license_ = next((facts[key] for key in ("License-Expression", "License") if key in facts), "see its files")
    return {"name": name, "version": facts["Version"], "license": license_.splitlines()[0]}


def show_licenses(components: list[dict[str, str]]) -> str:
    """Draw one line for each component."""
    rows = [[each["name"], each["version"], each["license"]] for each in components]
    return render(["INSIDE", "VERSION", "LICENCE"], rows, colour=colourful(), width=columns())
