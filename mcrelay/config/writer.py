"""A configuration written as a file has it: values to plain tables, plain tables to TOML. Pure; the way back is config.

What a built-in default says already is left out, so that a rule is written about as a person would write it.
"""

from __future__ import annotations

import json
import re
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

from mcrelay.config.schema import CHOICES, FLAGS, INPUT, MIB, MOST_RATE, OUTPUT, RELAY
from mcrelay.model.notation import format_stream
from mcrelay.model.rate import Rate, format_rate
from mcrelay.model.rule import DEFAULT_LINK, Input, Output, RelaySettings, Rule

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from mcrelay.model.rule import Config

Table = dict[str, Any]

# What to write where [defaults] limits something and a rule does not: it has no word for "not at all".
_EVERYTHING = {"allow": ["0.0.0.0/0"], "limit": format_rate(Rate(MOST_RATE, "pps"))}
_BARE_KEY = re.compile("[A-Za-z0-9_-]+")


def flag_default(key: str) -> bool:
    """Give what a flag of a rule or of its outputs is where nothing is said."""
    return bool((_DEFAULTS[Output] | _DEFAULTS[Rule])[key])


def rule_table(rule: Rule, said: Collection[str] = ()) -> Table:
    """Write the table ``[rules.NAME]`` of a rule; *said* are keys of ``[defaults]``, which it must not inherit."""
    (taken,) = rule.inputs  # `inputs` with several is reserved
    outputs = [_differing(each, OUTPUT, _output_defaults(each), said) for each in rule.outputs]
    common = {k: v for k, v in outputs[0].items() if all(k in each and each[k] == v for each in outputs)}
    own = [{k: v for k, v in each.items() if k not in common} for each in outputs]
    ends = [format_stream(each.stream) for each in rule.outputs]
    return {
        **_differing(rule, ("description",), _DEFAULTS[Rule], said),
        "input": format_stream(taken.stream),
        "outputs": [{"to": to, **options} if options else to for to, options in zip(ends, own, strict=True)],
        **_differing(taken, INPUT, _DEFAULTS[Input], said),
        **common,
        **_differing(rule, (*FLAGS, *CHOICES), _DEFAULTS[Rule], said),
    }


def config_tables(config: Config) -> Table:
    """Write all that runs: the tables of a file that would make the relay run the same."""
    relay = _differing(config.relay, RELAY, _DEFAULTS[RelaySettings], ("control",))
    links = {}
    for name, settings in config.links.items():
        size = settings.ring_bytes
        ring = f"{size // MIB}MiB" if size % MIB == 0 else size
        links[name] = {"profile": settings.profile, "ring": ring}
        if settings.gro or config.link(DEFAULT_LINK).gro:
            links[name]["gro"] = settings.gro
    return {"relay": relay, "links": links, "rules": {name: rule_table(rule) for name, rule in config.rules.items()}}


def facts(rule: Rule) -> dict[str, dict[str, str]]:
    """Write all that a rule says, defaults too: by part of it (an output, or "" for the rule itself), then by key."""
    own = {"description": toml_value(rule.description)}
    for taken in rule.inputs:
        own["input"] = toml_value(format_stream(taken.stream))
        own |= {key: _shown(getattr(taken, key)) for key in INPUT}
    own |= {key: _shown(getattr(rule, key)) for key in (*FLAGS, *CHOICES)}
    outputs = {format_stream(each.stream): each for each in rule.outputs}
    return {"": own} | {
        f"output {to}": {key: _shown(getattr(each, key)) for key in OUTPUT} for to, each in outputs.items()
    }


def toml_text(tables: Mapping[str, Any]) -> str:
    """Write tables of ``[relay]``, ``[links.NAME]``, ``[rules.NAME]`` as TOML."""
    parts = []
    for top, table in tables.items():
        if all(isinstance(value, dict) for value in table.values()):
            parts += [toml_table((top, name), value) for name, value in table.items()]
        else:
            parts.append(toml_table((top,), table))
    return "\n".join(parts)


def toml_table(path: tuple[str, ...], table: Mapping[str, Any]) -> str:
    """Write one table with its header; tables within it are written inline."""
    lines = [f"[{'.'.join(map(_key, path))}]"]
    lines += [f"{_key(key)} = {toml_value(value)}" for key, value in table.items()]
    return "\n".join(lines) + "\n"


def toml_value(value: Any) -> str:
    """Write a value as TOML, on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # JSON lets DEL stand, TOML does not
    if isinstance(value, list):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, dict):
        pairs = ", ".join(f"{_key(key)} = {toml_value(each)}" for key, each in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    return str(value)


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else toml_value(key)


def _shown(value: Any) -> str:
    return "unset" if value is None else toml_value(_plain(value))


def _differing(value: Any, keys: Collection[str], defaults: Mapping[str, Any], said: Collection[str]) -> Table:
    """Write the options that are not as they would be if nothing was said."""
    table = {}
    for key in keys:
        held = getattr(value, key)
        if held is None:
            if key in said and key in _EVERYTHING:
                table[key] = _EVERYTHING[key]
        elif held != defaults[key] or key in said:
            table[key] = _plain(held)
    return table


def _plain(value: Any) -> Any:
    """Give the value that a file has for one of the model."""
    if isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Rate):
        return format_rate(value)
    return str(value)  # addresses and networks


def _output_defaults(output: Output) -> dict[str, Any]:
    return _DEFAULTS[Output] | {"ttl": 16 if output.stream.address.is_multicast else 64}


def _defaults(*kinds: type[Any]) -> dict[type[Any], dict[str, Any]]:
    return {kind: {each.name: each.default for each in fields(kind) if each.default is not MISSING} for kind in kinds}


_DEFAULTS = _defaults(Rule, Input, Output, RelaySettings)
