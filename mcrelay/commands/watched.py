"""What `mcrelay top` knows of the relay: what it said last, and how it went for a minute. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any

from mcrelay.commands.trends import Trends

Record = dict[str, Any]


@dataclass(slots=True)
class Seen:
    """The last answers of the relay, as `show -j` has them, and why it does not answer now."""

    rules: dict[str, Record] = field(default_factory=dict)  # by name
    stats: Record = field(default_factory=lambda: {"time": 0.0, "rules": [], "links": []})
    links: list[Record] = field(default_factory=list)
    groups: dict[tuple[str, str, str | None], Record] = field(default_factory=dict)  # by link, group and source
    trends: Trends = field(default_factory=Trends)
    trouble: str = ""

    def take(self, answers: dict[str, Any]) -> None:
        """Take what it has answered, by noun; nouns that it was not asked for stay as they were."""
        self.trouble = ""
        if "rules" in answers:
            self.rules = {each["name"]: each for each in answers["rules"]}
        if "groups" in answers:
            self.groups = {(each["ifname"], each["group"], each["source"]): each for each in answers["groups"]}
        self.links = answers.get("links", self.links)
        self.trends.take(answers["stats"])
        self.stats = answers["stats"]

    def lose(self, why: str) -> None:
        """It does not answer: what it said last stays, and what it says next is a beginning."""
        self.trouble = why
        self.trends.forget()

    def state(self, rule: Record) -> str:
        """How a rule (of `show stats`) stands, in one word."""
        known = self.rules.get(rule["name"])
        if known is None:
            return "?"
        return "losing" if known.get("losing") else str(known["state"])

    def memberships(self, rule: Record) -> list[Record]:
        """What its inputs have joined, every group of a range."""
        inputs = self.rules.get(rule["name"], {}).get("inputs", ())
        wanted = [(each["iif"], str(group), each["source"]) for each in inputs for group in ip_network(each["group"])]
        return [self.groups[each] for each in wanted if each in self.groups]
