"""The options of a rule as flags: every key of ``[rules.NAME]`` is one, so that a new key becomes a flag by itself."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Any

import click

from mcrelay.config.schema import RULE, Each, flag, not_yet
from mcrelay.config.writer import flag_default, rule_table, toml_value
from mcrelay.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mcrelay.config.schema import Check
    from mcrelay.model.rule import Rule

# key: (metavar, help); a key without an entry is a flag all the same
_HELP = {
    "description": ("TEXT", "What the rule is for."),
    "vlan": ("N|none|any", "VLAN that the input arrives in.  [default: none]"),
    "allow": ("NET", "Let only these sources in; may repeat."),
    "limit": ("RATE", "Drop what the input brings beyond this rate, e.g. 20kpps or 500Mbit."),
    "source_address": ("A.B.C.D", "Source address of what is sent.  [default: the link's own]"),
    "source_port": ("N", "Source port of what is sent.  [default: 20000 and more, always the same]"),
    "ttl": ("N", "TTL of what is sent.  [default: 16 multicast, 64 unicast]"),
    "dscp": ("N|keep", "DSCP of what is sent.  [default: keep]"),
    "df": ("", "Set don't-fragment on what is sent; what is larger than the path is counted (mtu)."),
    "burst": ("N", "Longest run of datagrams sent at once.  [default: 16]"),
    "exclusive": ("", "Nothing else on this host listens: the kernel drops what is relayed."),
    "engine": ("ring|kernel", "What forwards.  [default: ring]"),
    "health": ("none|rtp|ts|auto", "What is looked at in the payload.  [default: none]"),
    "enabled": ("", "Define the rule without running it."),
    "shared": ("", "Another rule that says so too may send to the same outputs."),
    "reflect": ("", "Allow rules that feed each other in a circle; own frames are dropped."),
}
_NAMES = {"enabled": "disabled"}  # a flag says the opposite of the default


def rule_arguments(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add INPUT and OUTPUT..., as ``source`` and ``outputs``."""
    outputs = click.argument("outputs", metavar="OUTPUT...", nargs=-1, required=True)
    return click.argument("source", metavar="INPUT")(outputs(function))


def rule_options(*without: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add a flag for every option of a rule but those *without*; ``read_table`` takes what they give."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for key in reversed([key for key in RULE if key not in without]):
            metavar, text = _HELP.get(key, ("VALUE", f"As {key} in a file."))
            settings: dict[str, Any] = {"help": text, "hidden": not_yet(key, "any value") is not None}
            if RULE[key] is flag:
                settings["is_flag"] = True
            else:
                settings |= {"metavar": metavar, "multiple": isinstance(RULE[key], Each)}
            function = click.option(_flag(key), key, **settings)(function)
        return function

    return add


def read_table(source: str, outputs: tuple[str, ...], options: dict[str, Any]) -> dict[str, Any]:
    """Make the table of a rule from what the command line gives. Raises SettingError."""
    table: dict[str, Any] = {"input": source, "outputs": [_output(each) for each in outputs]}
    for key, value in options.items():
        check = RULE[key]
        if check is flag:
            if value:
                table[key] = not flag_default(key)
        elif isinstance(check, Each):
            if value:
                table[key] = [_value(check.item, text) for text in value]
        elif value is not None:
            table[key] = _value(check, value)
    return table


def words(rule: Rule) -> list[str]:
    """Write a rule as the command line takes it: INPUT OUTPUT... and flags."""
    table = rule_table(rule)
    said = [str(table.pop("input"))]
    said += [toml_value(each) if isinstance(each, dict) else each for each in table.pop("outputs")]
    for key, value in table.items():
        if RULE[key] is flag:
            said.append(_flag(key))
            continue
        for each in value if isinstance(value, list) else [value]:
            said += [_flag(key), str(each)]
    return said


def _flag(key: str) -> str:
    return f"--{_NAMES.get(key, key).replace('_', '-')}"


def _value(check: Check, text: str) -> Any:
    """Give a number where the key takes numbers and the text is one; what is wrong with it, the relay says."""
    if not re.fullmatch("-?[0-9]{1,18}", text):
        return text
    try:
        check(text)
    except SettingError:
        return int(text)
    return text


def _output(text: str) -> str | dict[str, Any]:
    """Read an OUTPUT: a stream, or an inline table of TOML where one output has options of its own."""
    if not text.lstrip().startswith("{"):
        return text
    try:
        table: dict[str, Any] = tomllib.loads(f"output = {text}")["output"]
    except ValueError as error:
        raise SettingError(
            f"output {text} cannot be read: {error}", 'write it as in a file: { to = "233.252.0.1:5000%eth0", ttl = 8 }'
        ) from None
    return table
