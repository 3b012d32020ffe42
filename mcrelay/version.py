"""``mcrelay version``."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict

import click

from . import __version__
from .features import probe


@click.command(epilog="\b\nExample:\n  mcrelay version -j")
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
def version(as_json: bool) -> None:
    """Show version, build and the kernel features found."""
    facts = {
        "version": __version__,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "features": asdict(probe()),
    }
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    click.echo(f"mcrelay {__version__}")
    click.echo(f"python {facts['python']}, kernel {facts['kernel']}, {facts['machine']}")
    for name, found in asdict(probe()).items():
        click.echo(f"{name}: {'yes' if found else 'no'}")
