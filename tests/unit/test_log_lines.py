"""Every log line begins with a verb, those of libraries too; then come key=value pairs, a colon, and the rest."""

from __future__ import annotations

import ast
import logging
import re
from pathlib import Path

import pytest

import mcrelay
from mcrelay.linux import logs

PACKAGE = Path(mcrelay.__file__).parent
LEVELS = {"debug", "info", "warning", "warn", "error", "exception", "critical", "fatal", "log"}
VERBS = {
    "began", "cannot", "changed", "deleted", "ended", "failed", "finds", "found", "goes", "heard",
    "keeps", "left", "looks", "lost", "made", "needs", "noticed", "passes", "ready", "refused", "repeats", "reports",
    "sends", "serves", "splits", "started", "stopped", "warns",
}  # fmt: skip


def texts(given: ast.expr, named: dict[str, ast.expr]) -> list[str]:
    """The texts that an expression may stand for, as far as they are written down; "?" for one made elsewhere."""
    match given:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.JoinedStr(values=[ast.Constant(value=str(text)), *_]):
            return [text]
        case ast.IfExp(body=one, orelse=other):
            return texts(one, named) + texts(other, named)
        case ast.Name(id=name) if name in named:
            return texts(named[name], named)
    return ["?"]


def logged(source: str):
    """(line, text) of everything that a module logs, by whatever name it has its logger."""
    nodes = list(ast.walk(ast.parse(source)))
    named = {}
    for node in nodes:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                named[name] = value
    for node in nodes:
        match node:
            case ast.Call(func=ast.Attribute(attr=level), args=[first, *more]) if level in LEVELS:
                given = more[0] if level == "log" and more else first
            case ast.Call(func=ast.Attribute(attr="makeLogRecord"), args=[ast.Dict(keys=keys, values=values)]):
                given = next(value for key, value in zip(keys, values, strict=True) if texts(key, {}) == ["msg"])
            case _:
                continue
        for text in texts(given, named):
            yield node.lineno, text


def faults(source: str) -> list[tuple[int, str]]:
    return [(line, text) for line, text in logged(source) if re.split(r"[ :;,]", text)[0] not in VERBS]


def test_every_log_line_begins_with_a_verb():
    modules = {path: path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}
    assert {f"{path.name}:{line}: {text}" for path, source in modules.items() for line, text in faults(source)} == set()
    said = {re.split(r"[ :;,]", text)[0] for source in modules.values() for _, text in logged(source)}
    assert said >= VERBS - {"passes"}


@pytest.mark.parametrize(
    "call",
    [
        'log.info("rule=%s state=%s", name, state)',
        'log.log(level, "link=%s gro=%s", name, state)',
        'log.warning("%s", text)',
        'log.error(f"{name} is gone")',
        'log.exception("housekeeping failed")',
        'logging.getLogger("x").critical("gone")',
        'log.info("made %s" if made else "rule=%s", name)',
        'text = "link=%s"\nlog.info(text, name)',
        'logging.makeLogRecord({"levelno": 30, "msg": f"{lost} lines"})',
        "log.info(found.text)",
    ],
)
def test_one_that_does_not_is_found(call):
    assert faults(call)


def test_a_line_of_a_library_is_told_as_passed_on(monkeypatch, capsys):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    logs.set_up()
    for handler in logging.getLogger().handlers:
        monkeypatch.setattr(handler, "formatter", logging.Formatter("%(message)s"))
    logging.getLogger("asyncio").error("Task %s was never retrieved", "x")
    logging.getLogger("mcrelay.relay").error("lost %s", "x")
    assert capsys.readouterr().err == "passes on from=asyncio: Task x was never retrieved\nlost x\n"
