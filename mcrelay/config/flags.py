"""The options of a rule as flags. Every key of ``[rules.NAME]`` is a flag, so a new key becomes one by itself."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Any

import click

from mcrelay.config.schema import RULE, never
from mcrelay.config.writer import rule_table, toml_value
from mcrelay.errors import SettingError
from mcrelay.model.values import Each, flag

if TYPE_CHECKING:
    from collections.abc import Callable

    from mcrelay.model.option import Option
    from mcrelay.model.rule import Rule
    from mcrelay.model.values import Check


def rule_arguments(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add INPUT and OUTPUT..., as ``source`` and ``outputs``."""
    outputs = click.argument("outputs", metavar="OUTPUT...", nargs=-1, required=True)
    return click.argument("source", metavar="INPUT")(outputs(function))


def rule_options(*without: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add a flag for every option of a rule but those *without*; ``read_table`` takes what they give."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for row in reversed([row for key, row in RULE.items() if key not in without]):
            settings: dict[str, Any] = {"help": row.help + _default(row), "hidden": never(row)}
            if row.check is flag:
                settings["is_flag"] = True
            else:
                settings |= {"metavar": row.metavar, "multiple": isinstance(row.check, Each)}
            function = click.option(f"--{row.flag}", row.key, **settings)(function)
        return function

    return add


def read_table(source: str, outputs: tuple[str, ...], options: dict[str, Any]) -> dict[str, Any]:
    """Make the table of a rule from the command line. Raises SettingError."""
    table: dict[str, Any] = {"input": source, "outputs": [_output(each) for each in outputs]}
    for key, value in options.items():
        check = RULE[key].check
        if check is flag:
            if value:
                table[key] = not RULE[key].default
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
        name = f"--{RULE[key].flag}"
        if RULE[key].check is flag:
            said.append(name)
            continue
        for each in value if isinstance(value, list) else [value]:
            said += [name, str(each)]
    return said


def _default(row: Option) -> str:
    """Name the default for ``--help``. A flag without a value needs none, and neither does an empty text."""
    words = row.default_help or row.default_words or row.default
    return "" if row.check is flag or words == "" else f"  [default: {words}]"


def _value(check: Check, text: str) -> Any:
    """Turn the text into a number if the key takes numbers and the text is one; the relay checks it."""
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
