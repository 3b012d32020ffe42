"""When the drop is made, and when it is let go of: an nft of our own making that remembers."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import pytest

from mcrelay.config.parse import parse_config
from mcrelay.errors import DropError
from mcrelay.exclusive import listeners, policy
from mcrelay.exclusive.listeners import Listeners
from mcrelay.exclusive.nft import NftSession, explain
from mcrelay.exclusive.policy import Exclusive
from mcrelay.linux import capabilities
from mcrelay.model.link import Link
from mcrelay.model.state import FeatureState
from mcrelay.relay.compile import compile_plan

RULE = '[rules.{0}]\ninput = "239.1.1.{1}:5000%{2}"\noutputs = ["10.9.0.7:700{1}"]\nexclusive = true\n'
TWO = RULE.format("a", 1, "in0") + RULE.format("b", 2, "in1")
ON = FeatureState("on")


def links(**changes) -> dict[str, Link]:
    made = [Link(name, i, up=True, carrier=True, operstate="UP", mtu=1500) for i, name in ((7, "in0"), (8, "in1"))]
    return {link.name: replace(link, **changes.get(link.name, {})) for link in made}


class FakeNft:
    """What the table would hold; ``refuses`` is a text that no transaction may contain."""

    refuses = "nothing is refused"
    started = 0

    def __init__(self) -> None:
        self.alive = True
        self.table = ""

    @classmethod
    async def start(cls, path, ended):
        FakeNft.started += 1
        cls.last = cls()
        return cls.last

    async def run(self, line):
        if self.refuses in line:
            raise DropError(f"refused {self.refuses}")
        self.table = line

    async def close(self):
        self.alive, self.table = False, ""


@pytest.fixture(autouse=True)
def host(monkeypatch):
    """A host where nothing stands in the way; tests change it."""
    monkeypatch.setattr(FakeNft, "refuses", "nothing is refused")
    monkeypatch.setattr(FakeNft, "started", 0)
    monkeypatch.setattr(policy, "NftSession", FakeNft)
    monkeypatch.setattr(policy, "find_nft", lambda: "/usr/sbin/nft")
    monkeypatch.setattr(capabilities, "capabilities", lambda: {capabilities.CAP_NET_ADMIN})
    monkeypatch.setattr(listeners, "read", lambda: Listeners({}, {}))


def plan(text: str, known=None):
    return compile_plan(parse_config([("f.toml", text)]).config, links() if known is None else known)


def look(held: Exclusive, text: str, *, known=None, broken=(), retry=False) -> tuple[str, str]:
    """One look: the table as the worker sees it when the plan is published, and at the end."""

    async def turn():
        known_links = links() if known is None else known
        spec = plan(text, known_links)
        await held.narrow(spec)
        between = FakeNft.last.table if FakeNft.started else ""
        await held.widen(spec, broken, known_links, {}, retry=retry)
        return between, FakeNft.last.table if FakeNft.started else ""

    return asyncio.run(turn())


def test_the_drop_comes_after_the_plan_and_goes_before_it():
    held = Exclusive("mcrelay", lambda: None)
    before, after = look(held, TWO)
    assert before == ""
    assert "239.1.1.1 . 5000" in after
    assert "239.1.1.2 . 5000" in after
    assert held.states == {"a": ON, "b": ON}
    before, after = look(held, TWO.replace("239.1.1.2:5000", "239.1.1.3:5000"))
    assert "239.1.1.1 . 5000" in before
    assert "239.1.1.2" not in before
    assert "239.1.1.3" not in before
    assert "239.1.1.3 . 5000" in after
    assert look(held, TWO.replace("exclusive = true", "")) == ("", "")
    assert held.states == {}
    assert FakeNft.started == 1


def test_nothing_is_done_where_nothing_changes():
    held = Exclusive("mcrelay", lambda: None)
    look(held, TWO)
    FakeNft.last.table = "untouched"
    assert look(held, TWO, retry=True) == ("untouched", "untouched")


def test_what_died_or_has_no_ring_is_not_dropped():
    held = Exclusive("mcrelay", lambda: None)
    look(held, TWO)
    before, after = look(held, TWO, known=links(in1={"incarnation": 1}), broken={8: "no memory"})
    assert "link8" not in before + after
    assert held.states == {"a": ON, "b": FeatureState("off")}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"capabilities": set()}, policy.NO_CAPABILITY),
        ({"nft": None}, policy.NO_NFT),
        ({"listeners": None}, policy.NO_PROC),
        ({"listeners": Listeners({(7, plan(TWO).rules[0].inputs[0].group): 1}, {})}, "another program of this host"),
        ({"in0": {"master": "br0"}}, "in0 is a port of br0, which takes its frames: take the input from br0"),
        ({"in0": {"hardware": 65534}}, "in0 carries no Ethernet frames, which the drop table tells datagrams by"),
        ({"in0": {"upper": "m0"}}, "m0 takes its frames from in0 and would lose them"),
    ],
)
def test_a_refusal_is_told_once_and_taken_back_when_its_reason_has_gone(monkeypatch, caplog, change, reason):
    caplog.set_level(logging.INFO)
    held = Exclusive("mcrelay", lambda: None)
    one = RULE.format("a", 1, "in0")
    with monkeypatch.context() as patch:
        patch.setattr(capabilities, "capabilities", lambda: change.get("capabilities", {capabilities.CAP_NET_ADMIN}))
        patch.setattr(policy, "find_nft", lambda: change.get("nft", "/usr/sbin/nft"))
        patch.setattr(listeners, "read", lambda: change.get("listeners", Listeners({}, {})))
        known = links(**{name: what for name, what in change.items() if name == "in0"})
        for _ in range(3):
            assert look(held, one, known=known) == ("", "")
    (standing,) = held.states.values()
    assert standing.state == "refused"
    assert standing.reason.startswith(reason)
    assert "239.1.1.1 . 5000" in look(held, one)[1]
    assert len(caplog.messages) == 2
    assert caplog.messages[1] == "changed rule=a exclusive=on"


def test_a_link_that_nft_refuses_does_not_disturb_another():
    held = Exclusive("mcrelay", lambda: None)
    FakeNft.refuses = "link7"
    assert "link8" in look(held, TWO)[1]
    assert held.states == {"a": FeatureState("refused", "refused link7"), "b": ON}
    FakeNft.refuses = "nothing"
    assert "link7" not in look(held, TWO)[1]  # not at every look
    assert "link7" in look(held, TWO, retry=True)[1]
    assert held.states == {"a": ON, "b": ON}


def test_when_letting_go_is_refused_the_table_goes():
    held = Exclusive("mcrelay", lambda: None)
    look(held, TWO)
    FakeNft.refuses = "link7"
    assert look(held, RULE.format("a", 1, "in0")) == ("", "")
    assert held.states["a"].state == "refused"


def test_an_nft_that_ends_is_started_again_but_not_for_ever(caplog):
    held = Exclusive("mcrelay", lambda: None)
    look(held, TWO)
    FakeNft.last.alive = False
    assert "link7" in look(held, TWO)[1]
    assert FakeNft.started == 2
    FakeNft.last.alive = False
    look(held, TWO)
    assert FakeNft.started == 2
    assert held.states["a"] == FeatureState("refused", policy.ENDED)
    look(held, TWO, retry=True)
    assert FakeNft.started == 3
    assert held.states["a"] == ON
    assert sum("nft has ended" in each for each in caplog.messages) == 4  # twice for all, once for each rule


SHELL_NFT = """#!/bin/sh
while read -r line; do
    case $line in
        mcrelay-mark*) printf 'Error: syntax error, unexpected newline\\n%s\\n        ^\\n' "$line" >&2 ;;
        wrong*) printf 'Error: Could not process rule: No such file\\n%s\\n^^^\\nError: more\\n' "$line" >&2 ;;
        slow*) exec sleep 10 ;;
        end*) echo "Error: I will not" >&2; exit 1 ;;
    esac
done
"""


@pytest.fixture
def shell(tmp_path, monkeypatch):
    path = tmp_path / "nft"
    path.write_text(SHELL_NFT)
    path.chmod(0o755)
    monkeypatch.setattr(capabilities, "_prctl", lambda *_: 1)  # as if it were ambient already
    return str(path)


def test_an_answer_belongs_to_its_line(shell):
    async def turn():
        nft = await NftSession.start(shell, lambda: None)
        for _ in range(3):
            await nft.run("fine")
            with pytest.raises(DropError, match=r"refuses the drop table \(nft: Could not process rule: No such file"):
                await nft.run("wrong " + "x" * 300_000)
        assert nft.alive
        await nft.close()
        assert not nft.alive

    asyncio.run(turn())


def test_an_nft_that_ends_or_is_silent_is_no_nft(shell, monkeypatch):
    monkeypatch.setattr("mcrelay.exclusive.nft.ANSWER_SECONDS", 0.2)
    monkeypatch.setattr("mcrelay.exclusive.nft.END_SECONDS", 0.2)
    ends = []

    async def turn():
        nft = await NftSession.start(shell, lambda: ends.append("end"))
        with pytest.raises(DropError, match="nft: I will not"):
            await nft.run("end")
        while not ends:
            await asyncio.sleep(0.01)
        assert not nft.alive
        with pytest.raises(DropError, match="nft: I will not"):
            await nft.run("fine")
        await nft.close()
        nft = await NftSession.start(shell, lambda: ends.append("silence"))
        with pytest.raises(DropError, match="no answer within"):
            await nft.run("slow")
        assert not nft.alive
        with pytest.raises(DropError, match="cannot be started"):
            await NftSession.start("/nonexistent", lambda: None)

    asyncio.run(turn())
    assert ends == ["end"]


def test_what_nft_says_is_explained():
    assert "nftables 0.9.9 or newer" in explain("syntax error, unexpected string")
    assert "another process" in explain("Could not process rule: Operation not permitted")
    assert "Linux 5.12" in explain("Could not process rule: Operation not supported")
    assert explain("odd") == "nft refuses the drop table (nft: odd)"
