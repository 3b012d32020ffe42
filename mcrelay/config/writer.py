"""A configuration written as a file has it: values to plain tables, plain tables to TOML. Pure; the way back is config.

Values equal to the built-in default are left out, so that a rule looks as a person would write it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mcrelay.config.lines import BARE_KEY
from mcrelay.config.schema import COMMON, INPUT, LINK, OUTPUT, OWN, RELAY, RULE, TEXTS
from mcrelay.model.notation import format_stream, name_output
from mcrelay.model.rule import DEFAULT_LINK
from mcrelay.model.values import flag

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from mcrelay.model.option import Option
    from mcrelay.model.rule import Config, Rule
    from mcrelay.model.stream import Stream

Table = dict[str, Any]


def rule_table(rule: Rule, said: Collection[str] = ()) -> Table:
    """Write the table ``[rules.NAME]`` of a rule; *said* are keys of ``[defaults]``, which it must not inherit."""
    (taken,) = rule.inputs  # `inputs` with several is reserved
    outputs = [_differing(each, OUTPUT, [key for key in said if key in COMMON], each.stream) for each in rule.outputs]
    shared = {k: v for k, v in outputs[0].items() if k in COMMON}
    common = {k: v for k, v in shared.items() if all(k in each and each[k] == v for each in outputs)}
    own = [{k: v for k, v in each.items() if k not in common} for each in outputs]
    ends = [format_stream(each.stream) for each in rule.outputs]
    options = _differing(rule, OWN, said) | _differing(taken, INPUT, said) | common
    return {
        **{key: options[key] for key in TEXTS if key in options},
        "input": format_stream(taken.stream),
        "outputs": [{"to": to, **options} if options else to for to, options in zip(ends, own, strict=True)],
        **{key: options[key] for key in RULE if key in options and key not in TEXTS},
    }


def config_tables(config: Config) -> Table:
    """Write the whole running configuration as the tables of one file."""
    relay = _differing(config.relay, RELAY, ("control",))
    raised = {key for key, row in LINK.items() if row.check is flag and getattr(config.link(DEFAULT_LINK), row.field)}
    spoken = raised | {key for key, row in LINK.items() if row.check is not flag}
    links = {name: _differing(settings, LINK, spoken) for name, settings in config.links.items()}
    return {"relay": relay, "links": links, "rules": {name: rule_table(rule) for name, rule in config.rules.items()}}


def facts(rule: Rule) -> dict[str, dict[str, str]]:
    """Write every key of a rule, defaults too: by part (an output, or "" for the rule itself), then by key."""
    held = {key: _shown(row, rule) for key, row in OWN.items()}
    own = {key: held[key] for key in TEXTS}
    for taken in rule.inputs:
        own["input"] = toml_value(format_stream(taken.stream))
        own |= {key: _shown(row, taken) for key, row in INPUT.items()}
    own |= held
    outputs = {name_output(each): each for each in rule.outputs}
    return {"": own} | {
        f"output {to}": {key: _shown(row, each) for key, row in OUTPUT.items()} for to, each in outputs.items()
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
    return key if BARE_KEY.fullmatch(key) else toml_value(key)


def _shown(row: Option, holder: Any) -> str:
    value = getattr(holder, row.field)
    return "unset" if value is None else toml_value(row.check.write(value))


def _differing(holder: Any, rows: Mapping[str, Option], said: Collection[str], stream: Stream | None = None) -> Table:
    """Write the options that differ from the default."""
    table = {}
    for key, row in rows.items():
        held = getattr(holder, row.field)
        if held is None:
            if key in said and row.unlimited is not None:
                table[key] = row.unlimited
        elif held != row.default_of(stream) or key in said:
            table[key] = row.check.write(held)
    return table
