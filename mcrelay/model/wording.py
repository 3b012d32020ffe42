"""Values and numbers as messages show them."""

from __future__ import annotations

import json


def counted(number: int, noun: str) -> str:
    """Write a number of things: 1 rule, 2 rules."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def written(value: object) -> str:
    """Show a value about as TOML writes it, on one line and not too long."""
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    text = text if len(text) <= 48 else f"{text[:45]}..."
    if not isinstance(value, str):
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in json.dumps(text, ensure_ascii=False))
