"""The map from keys to lines, against tomllib."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcrelay.config.lines import Path, key_text, read
from mcrelay.errors import ConfigError

DOCUMENT = """\
# a comment with [brackets] and "quotes"
top = 1
[rules.a]                      # line 3
description = \"\"\"
not = "a key"
[rules.never]
\"\"\"
input = { from = "x", vlan = 100 }
outputs = [                    # line 9
  "one",  # ] not the end
  'two',
  { to = "th#ree", ttl = 64 }, { to = "four" },
  [
    5 ],
]
quiet = '''
it''s'''
[rules."b c"]
"d.e" . f = 1979-05-27 07:32:00 # a blank inside
x.y.z = 3
[[many]]
k = 1
[[many]]
k = 2
[many.sub]
deep = { list = [ "p",
  "q" ] }
"""

LINES = {
    "top": 2,
    "rules": 3,
    "rules.a": 3,
    "rules.a.description": 4,
    "rules.a.input": 8,
    "rules.a.input.from": 8,
    "rules.a.input.vlan": 8,
    "rules.a.outputs": 9,
    "rules.a.outputs[0]": 10,
    "rules.a.outputs[1]": 11,
    "rules.a.outputs[2]": 12,
    "rules.a.outputs[2].to": 12,
    "rules.a.outputs[2].ttl": 12,
    "rules.a.outputs[3]": 12,
    "rules.a.outputs[3].to": 12,
    "rules.a.outputs[4]": 13,
    "rules.a.outputs[4][0]": 14,
    "rules.a.quiet": 16,
    'rules."b c"': 18,
    'rules."b c"."d.e"': 19,
    'rules."b c"."d.e".f': 19,
    'rules."b c".x': 20,
    'rules."b c".x.y': 20,
    'rules."b c".x.y.z': 20,
    "many": 21,
    "many[0]": 21,
    "many[0].k": 22,
    "many[1]": 23,
    "many[1].k": 24,
    "many[1].sub": 25,
    "many[1].sub.deep": 26,
    "many[1].sub.deep.list": 26,
    "many[1].sub.deep.list[0]": 26,
    "many[1].sub.deep.list[1]": 27,
}


QUOTES = 'text stands in double quotes, e.g. "233.252.0.1:5000%eth0"'
MANUAL = "see https://toml.io for how to write it"


def test_every_path_of_a_document_has_its_line():
    _, lines = read("f.toml", DOCUMENT)
    assert {key_text(path): line for path, line in lines.items()} == LINES


def test_the_data_is_what_tomllib_gives():
    assert read("f.toml", DOCUMENT)[0] == tomllib.loads(DOCUMENT)


def test_windows_line_ends_count_as_one_line():
    assert read("f.toml", 'a = """\r\nx"""\r\nb = 2\r\n')[1] == {("a",): 1, ("b",): 3}


def test_a_header_that_comes_after_its_sub_table_has_its_own_line():
    assert read("f.toml", "[a.b]\n[a]\nc = 1\n")[1] == {("a",): 2, ("a", "b"): 1, ("a", "c"): 3}


@pytest.mark.parametrize("inside", ['"" x ""', '""\\"', '\\"\\"\\"', '"', "", "'''", "\\\\"])
@pytest.mark.parametrize("end", ['"""', '""""', '"""""'])
def test_quotes_within_long_text_do_not_end_it(inside, end):
    data, lines = read("f.toml", f'a = """\n{inside}\n{end}\nb = 1\n')
    assert data["b"] == 1
    assert lines == {("a",): 1, ("b",): 4}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            '[rules.a]\ninput = 239.1.1.1:5000%eth0\noutputs = ["10.9.0.7"]\n',
            f"f.toml:2: TOML: '239.1.1.1:5000%eth0' is not a value; {QUOTES}",
        ),
        ("enabled = True\n", "f.toml:1: TOML: 'True' is not a value; write true"),
        ("\n\n[a]\nttl = 1\n\nttl = 2\n", "f.toml:6: a.ttl: already stands on line 4; remove one of the two"),
        (
            '[rules.a]\nx = [1,\n2]\n[rules."b c"]\n[rules."b c"]\n',
            'f.toml:5: rules."b c": already stands on line 4; remove one of the two',
        ),
        (
            "a = [\n  1,\n  x:y,\n]\n",
            'f.toml:3: TOML: cannot be read: invalid value; text stands in double quotes, e.g. "233.252.0.1:5000%eth0"',
        ),
        (
            "[a\nb = 1\n",
            f"f.toml:1: TOML: cannot be read: expected ']' at the end of a table declaration; {MANUAL}",
        ),
    ],
)
def test_what_is_not_toml_is_one_complaint_with_its_line(text, complaint):
    with pytest.raises(ConfigError) as caught:
        read("f.toml", text)
    assert [str(c) for c in caught.value.complaints] == [complaint]


def test_an_unclosed_list_is_blamed_on_the_last_line():
    with pytest.raises(ConfigError) as caught:
        read("f.toml", "a = [\n1,\n2\n\n\n")
    assert caught.value.complaints[0].line == 3


@pytest.mark.parametrize("text", ["a = " + "[" * 100_000, "a = " + "1" * 5000])
def test_hostile_text_is_a_complaint_and_no_crash(text):
    with pytest.raises(ConfigError):
        read("f.toml", text)


@given(st.text(alphabet=st.sampled_from(list("ab.=[]{}\"'\\#, \n1-:T"))))
@settings(max_examples=150, deadline=None)
def test_random_text_is_read_as_tomllib_reads_it_or_refused(text):
    try:
        expected = tomllib.loads(text)
    except ValueError:
        with pytest.raises(ConfigError):
            read("f.toml", text)
    else:
        data, lines = read("f.toml", text)
        assert data == expected
        assert set(paths(data)) == set(lines)


# Random documents: values are written down by one of several spellings each, with their marks in the text.

KEYS = st.one_of(
    st.from_regex("[a-zA-Z0-9_-]{1,4}", fullmatch=True), st.text("ab .=#[]{}\"'\\é\t", min_size=0, max_size=4)
)
TEXTS = st.text("ab \"'\\#[]{}=,\né", max_size=8)
SCALARS = st.one_of(TEXTS, st.integers(-99, 10**9), st.booleans(), st.datetimes(timezones=st.none()))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(KEYS, inner, max_size=3),
        st.lists(st.dictionaries(KEYS, inner, max_size=2), min_size=1, max_size=3),
    ),
    max_leaves=12,
)
DOCUMENTS = st.dictionaries(KEYS, VALUES, max_size=5)


def spell_key(draw: Any, key: str) -> str:
    ways = [json.dumps(key, ensure_ascii=False)]
    if key and all(c.isascii() and (c.isalnum() or c in "_-") for c in key):
        ways += [key, key]
    if "'" not in key and "\n" not in key:
        ways.append(f"'{key}'")
    return draw(st.sampled_from(ways))


def spell_text(draw: Any, text: str) -> str:
    escaped = json.dumps(text, ensure_ascii=False)
    ways = [escaped, f'"""\n{escaped[1:-1]}"""', f'"""{escaped[1:-1].replace(chr(92) + "n", chr(10))}"""']
    if "'" not in text:
        ways += [f"'''\n{text}'''"] + ([f"'{text}'"] if "\n" not in text else [])
    return draw(st.sampled_from(ways))


def spell(draw: Any, value: Any, flat: bool = False) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return spell_text(draw, value)
    if isinstance(value, list):
        gap = draw(st.sampled_from(["", " ", "\n", " # ]\n  "]))
        tail = draw(st.sampled_from(["", ","])) if value else ""
        return f"[{gap}" + f",{gap}".join(spell(draw, item) for item in value) + f"{tail}{gap}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{spell_key(draw, k)} = {spell(draw, v)}" for k, v in value.items()) + "}"
    return value.isoformat(sep=draw(st.sampled_from("T "))) if hasattr(value, "isoformat") else str(value)


@st.composite
def toml_texts(draw: Any) -> str:
    def table(data: dict[str, Any], header: str) -> str:
        """The plain pairs first, then sub-tables under their own headers or, now and then, as dotted keys."""
        pairs, below = "", ""
        for key, value in data.items():
            name = spell_key(draw, key)
            full = f"{header}.{name}" if header else name
            blank = draw(st.sampled_from(["", "\n", "# note\n", "  "]))
            if isinstance(value, dict) and draw(st.booleans()):
                below += f"{blank}[{full}]\n{table(value, full)}"
            elif isinstance(value, dict) and value and draw(st.booleans()):
                pairs += "".join(f"{blank}{name} . {spell_key(draw, k)} = {spell(draw, v)}\n" for k, v in value.items())
            elif isinstance(value, list) and value and all(isinstance(v, dict) for v in value) and draw(st.booleans()):
                below += "".join(f"{blank}[[{full}]] # one more\n{table(item, full)}" for item in value)
            else:
                pairs += f"{blank}{name} = {spell(draw, value)}\n"
        return pairs + below

    return table(draw(DOCUMENTS), "")


def paths(value: Any, above: Path = ()) -> list[Path]:
    found = [above] if above else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += paths(inner, (*above, key))
    return found


def value_at(data: Any, path: Path) -> Any:
    for part in path:
        data = data[part]
    return data


@given(toml_texts())
@settings(max_examples=150, deadline=None)
def test_every_path_tomllib_yields_has_a_line_that_holds_its_key_or_element(text):
    data, lines = read("f.toml", text)
    assert data == tomllib.loads(text)
    assert set(lines) == set(paths(data))
    rows = text.split("\n")
    for path, line in lines.items():
        row, key, value = rows[line - 1], path[-1], value_at(data, path)
        if isinstance(key, str):
            assert key in row or json.dumps(key, ensure_ascii=False)[1:-1] in row, (path, line)
        elif isinstance(value, bool):
            assert str(value).lower() in row, (path, line)
        elif isinstance(value, int):
            assert str(value) in row, (path, line)
        elif isinstance(value, str):
            assert '"' in row or "'" in row, (path, line)
        elif isinstance(value, list):
            assert "[" in row, (path, line)
        elif isinstance(value, dict):
            assert "[[" in row or "{" in row, (path, line)


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.from_regex("[a-z]{1,8}", fullmatch=True)), min_size=1, unique_by=lambda t: t[1]
    )
)
@settings(max_examples=100, deadline=None)
def test_the_line_is_exactly_the_one_it_was_written_on(pairs):
    text, expected = "", {}
    for blanks, key in pairs:
        text += "\n" * blanks + f'{key} = """\nx\n"""\n'
        expected[(key,)] = text[: text.rindex(f"{key} = ")].count("\n") + 1
    assert read("f.toml", text)[1] == expected
