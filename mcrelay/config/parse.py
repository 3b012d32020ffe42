"""TOML to a Config, or to every complaint there is about it. Pure: texts come in, values go out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mcrelay.config import checks as config_checks
from mcrelay.config import lines as toml_lines
from mcrelay.config import presets
from mcrelay.config.ends import rule_key
from mcrelay.config.reader import Draft, FileReader, parent
from mcrelay.config.schema import LINK, RELAY, RULE
from mcrelay.errors import COMMAND_LINE, Complaint, ConfigError
from mcrelay.model.notation import check_link
from mcrelay.model.rule import DEFAULT_CONTROL, DEFAULT_LINK, Config, LinkSettings, PresetRule, RelaySettings
from mcrelay.model.wording import counted, written

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mcrelay.config.ends import Place, Where
    from mcrelay.model.rule import Rule

RUNTIME: Place = (COMMAND_LINE, 0)  # the place of a rule that a command gave

_TABLES = {"relay": "[relay]", "links": "[links.NAME]", "defaults": "[defaults]", "rules": "[rules.NAME]"}


@dataclass(frozen=True, slots=True)
class Parsed:
    """A configuration without errors. ``where`` gives the file and line of a key path such as ``rules.x.input``.

    ``defaults`` are the keys that stand under ``[defaults]``; the rules have them already.
    """

    config: Config
    warnings: tuple[Complaint, ...]
    where: Where
    defaults: frozenset[str]


def parse_config(files: Sequence[tuple[str, str]], control: str = DEFAULT_CONTROL) -> Parsed:
    """Read files, given as (name, text), into one configuration; *control* is the socket unless they name one.

    Raises ConfigError with all complaints, warnings too, if one of them is an error.
    """
    complaints: list[Complaint] = []
    sheets: list[tuple[FileReader, dict[str, Any]]] = []
    for name, text in files:
        try:
            data, lines = toml_lines.read(name, text)
        except ConfigError as error:
            complaints += error.complaints
        else:
            places = {toml_lines.key_text(path): line for path, line in lines.items()}
            sheets.append((FileReader(name, places, complaints), data))
    reading = _Reading(complaints)
    for reader, data in sheets:
        reading.settings(reader, data)
    for reader, data in sheets:
        reading.rules(reader, data)
    relay = RelaySettings(**{"control": control, **reading.relay})
    reading.complain_of_cpus(relay)
    drafts = reading.drafts
    rules = {name: draft.rule for name, draft in drafts.items()}
    kept = {name: draft.output_indexes for name, draft in drafts.items()}
    complaints += config_checks.find(rules, reading.where, kept)
    return Parsed(
        Config(relay, reading.link_settings(), rules), _warnings(complaints), reading.where, frozenset(reading.defaults)
    )


def parse_rule(name: str, table: Mapping[str, Any], others: Mapping[str, Rule], where: Where | None = None) -> Rule:
    """Read one rule that a command gives, with the keys of ``[rules.NAME]``, and check it against the *others*.

    *others* are the rules that run beside it; one with the same name is ignored. Raises ConfigError.
    """
    return parse_rules({name: table}, others, where)[name]


def parse_rules(
    tables: Mapping[str, Mapping[str, Any]], others: Mapping[str, Rule], where: Where | None = None
) -> dict[str, Rule]:
    """Read several rules at once, and check them against each other too. Raises ConfigError with all complaints."""
    complaints: list[Complaint] = []
    reader = FileReader(RUNTIME[0], {}, complaints)
    drafts = {name: reader.rule(name, table, {}, "runtime") for name, table in tables.items()}
    beside = {n: rule for n, rule in others.items() if n not in drafts}
    known = where or (lambda _: RUNTIME)
    mine = tuple(f"{rule_key(name)}." for name in drafts)

    def place(key: str) -> Place:
        return RUNTIME if key.startswith(mine) else known(key)

    read = {name: draft.rule for name, draft in drafts.items()}
    kept = {name: draft.output_indexes for name, draft in drafts.items()}
    complaints += config_checks.find({**beside, **read}, place, kept)
    _warnings(complaints)
    return read


def _warnings(complaints: Sequence[Complaint]) -> tuple[Complaint, ...]:
    """Return the complaints if all are warnings, else raise them."""
    ordered = sorted(set(complaints))
    if all(complaint.warning for complaint in ordered):
        return tuple(ordered)
    raise ConfigError(ordered)


def _link_settings(read: Mapping[str, Any]) -> LinkSettings:
    return LinkSettings(**{LINK[key].field: value for key, value in read.items()})


class _Reading:
    """The configuration collected from the files so far, and where each name stood first."""

    def __init__(self, complaints: list[Complaint]) -> None:
        self.relay: dict[str, Any] = {}
        self.links: dict[str, dict[str, Any]] = {}
        self.defaults: dict[str, Any] = {}
        self.drafts: dict[str, Draft] = {}
        self._complaints = complaints
        self._owners: dict[str, FileReader] = {}  # a name such as rules.x -> the file that defines it

    def where(self, key: str) -> Place:
        """Give the place of a key: a file and line, or the command line."""
        name = key
        while name and name not in self._owners:
            name = parent(name)
        return self._owners[name].place(key) if name else RUNTIME

    def settings(self, reader: FileReader, data: dict[str, Any]) -> None:
        """Read everything but the rules, which need the defaults of every file."""
        for key, value in data.items():
            if key not in _TABLES:
                reader.unknown(toml_lines.key_text((key,)), key, _TABLES)
            elif not isinstance(value, dict):
                reader.complain(key, f"{written(value)} is not a table", f"write {_TABLES[key]} on a line of its own")
        for name, rows, target in (("relay", RELAY, self.relay), ("defaults", RULE, self.defaults)):
            table = _table(data, name)
            for key, value in reader.keys(name, table, rows).items():
                if self._claim(reader, f"{name}.{key}"):
                    target[key] = value
        for name, value in _table(data, "links").items():
            path = toml_lines.key_text(("links", name))
            if not isinstance(value, dict):
                reader.stray(path, name, "[links.NAME]")
                continue
            reader.attempt(path, check_link, name)
            for key in [key for key, inner in value.items() if isinstance(inner, dict)]:
                whole = toml_lines.key_text(("links", f"{name}.{key}"))
                reader.complain(f"{path}.{toml_lines.key_text((key,))}", "is a table in a table", f"write [{whole}]")
            read = reader.keys(path, {k: v for k, v in value.items() if not isinstance(v, dict)}, LINK)
            if self._claim(reader, path):
                self.links[name] = read

    def link_settings(self) -> dict[str, LinkSettings]:
        """Give the settings of each link; a missing key comes from ``[links.default]`` of any file."""
        common = self.links.get(DEFAULT_LINK, {})
        return {name: _link_settings(common | read) for name, read in self.links.items()}

    def rules(self, reader: FileReader, data: dict[str, Any]) -> None:
        """Read the rules; a rule that stands twice is still checked."""
        for name, value in _table(data, "rules").items():
            path = rule_key(name)
            if not isinstance(value, dict):
                reader.stray(path, name, "[rules.NAME]")
                continue
            if any(key in value for key in presets.KEYS):
                drafts = reader.preset(name, value, self.defaults)
            else:
                drafts = [reader.rule(name, value, self.defaults, "file")]
            if self._claim(reader, path):
                for draft in drafts:
                    self._keep(reader, draft)

    def _keep(self, reader: FileReader, draft: Draft) -> None:
        """Keep a rule, unless one of that name is there: a preset makes rules that the file does not name."""
        name = draft.rule.name
        if name in self.drafts:
            made = [rule.preset for rule in (draft.rule, self.drafts[name].rule) if isinstance(rule, PresetRule)]
            key = rule_key(made[0] if isinstance(draft.rule, PresetRule) else name)
            reader.complain(key, f"preset {made[0]} and another rule both make {name}", "rename one of the two")
        elif self._claim(reader, rule_key(name)):
            self.drafts[name] = draft

    def complain_of_cpus(self, relay: RelaySettings) -> None:
        """Warn where workers and the CPUs for them differ in number."""
        if relay.cpus and len(relay.cpus) != relay.workers:
            file, line = self.where("relay.cpus")
            problem = f"{counted(len(relay.cpus), 'CPU')} for {counted(relay.workers, 'worker')}"
            remedy = "name as many CPUs as there are workers"
            self._complaints.append(Complaint(file, line, "relay.cpus", problem, remedy, warning=True))

    def _claim(self, reader: FileReader, key: str) -> bool:
        """Note the place where a name is defined; the second one gets a complaint that names the first."""
        owner = self._owners.setdefault(key, reader)
        if owner is reader:
            return True
        file, line = owner.place(key)
        remedy = "rename one of the two" if key.startswith("rules.") else "remove one of the two"
        reader.complain(key, f"stands already at {file}:{line}", remedy)
        return False


def _table(data: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = data.get(name)
    return value if isinstance(value, dict) else {}
