"""Log lines as JSON: the message's key=value pairs are its fields, whole and of their type."""

from __future__ import annotations

import json
import logging

import pytest

from mcrelay.linux import logs


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        (
            "began rule=x output=239.10.0.1:5004%out0 losing=mtu: datagrams do not fit",
            {"rule": "x", "output": "239.10.0.1:5004%out0", "losing": "mtu"},
        ),
        ("cannot serve metrics=[::1]:19736: Address in use", {"metrics": "[::1]:19736"}),
        ("heard link=in0 querier=fe80::1 version=2", {"link": "in0", "querier": "fe80::1", "version": 2}),
        ("changed rule=x state=error reason='no address: give it one'", {"rule": "x", "state": "error",
          "reason": "no address: give it one"}),
        ("ended link=in0 losing=ring lost=50", {"link": "in0", "losing": "ring", "lost": 50}),
        ("stopped", {}),
    ],
    ids=lambda each: each.split()[0] if isinstance(each, str) else "",
)  # fmt: skip
def test_a_field_has_its_whole_value_without_the_colon_behind_it(monkeypatch, capsys, message, fields):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    logs.set_up(as_json=True)
    logging.getLogger("mcrelay.test").warning(message)
    assert json.loads(capsys.readouterr().err)["fields"] == fields
