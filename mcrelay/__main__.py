"""`python -m mcrelay` is the command."""

from __future__ import annotations

from mcrelay.start import main

main()
