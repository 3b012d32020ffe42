"""`python -m mcrelay` is the command."""

from __future__ import annotations

from .cli import main

main()
