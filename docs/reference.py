"""Make docs/configuration.md from the rows of the keys, and docs/json.md from the shapes of what `show -j` prints.

``.venv/bin/python docs/reference.py`` writes both. A key that is added stands in them without a line here; one that is
not built yet, or a value of it, does not.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

from mcrelay.config import schema
from mcrelay.config.parse import parse_config
from mcrelay.config.writer import toml_value
from mcrelay.errors import ConfigError, SettingError
from mcrelay.model.values import Each, flag
from mcrelay.relay.shapes import SHAPES

DOCS = Path(__file__).parent
MADE = "<!-- Made by docs/reference.py: change the rows and shapes it is made from, then run it again. -->"

CONFIGURATION = """\
# Configuration reference

`/etc/mcrelay/mcrelay.toml` and every `/etc/mcrelay/conf.d/*.toml` are read as one configuration, in TOML. A name that
is defined twice is an error. `-c PATH` reads other files, `-i NAME` the files of an instance.
`mcrelay check` lists every complaint with file, line and remedy. Nothing is applied unless all of it can be.
[rules.md](rules.md) has examples, `man mcrelay.toml` the same keys.

```toml
[relay]                     # the process as a whole
workers = 2

[links.eth1]                # how frames are captured on one link; [links.default] is for all others
ring = "64MiB"

[defaults]                  # any key of a rule or an output, for all rules
ttl = 8

[rules.hdmi-lobby]          # one table a rule
input = "192.168.168.55@226.2.2.2:2068%eth1"
outputs = [
    "239.10.0.1:5004%eth0",
    { to = "192.0.2.7:7000", ttl = 32 },
]
```

A rule needs `input` and `outputs`. Its name has 1 to 63 letters, digits, `-` or `_`, and begins with a letter or digit.

## Streams

`[SOURCE@]GROUP:PORT%LINK`: `%LINK` is the network link, `SOURCE@` lets one source in and no other.

`GROUP/LENGTH` is a range of groups, `/20` (4096 groups) at most. Its outputs are ranges of the same length, and each
group goes to the group in its place: of `239.1.0.0/24:5000%eth1` to `239.9.0.0/24%eth0`, 239.1.0.7 goes to 239.9.0.7.
Each group is joined, and has its own counters. A `limit` holds for each group by itself.

PORT may be several: `5000,5002` or `6906-6941`, or `any`. An output keeps the port, or names as many, and they are
mapped in the order in which they are written; any port may also go to one. An input names at most 65 536 streams
(groups times ports; any counts once).

Of inputs that have a datagram in common one takes it: one that names the source before one that does not; of these a
port before `any`; of these a group before a range, and a shorter range before a longer; of these a VLAN id before any.
Rules of many streams go by the ring engine.
`exclusive` needs ports that are named.

"""
PRESETS = """\
## Presets

```toml
[rules.names]
preset = "mdns"                       # or "mdns6", "ssdp", "wsd", …
links  = ["eth0.10", "eth0.20", "eth0.30"]
```

A preset relays a discovery protocol between all links of a set. It stands for one rule a link, which `show`
lists as `names-eth0-10`, and so on. `description`, `enabled`, `allow` and `limit` may stand beside it; `limit` is 1kpps
unless said.

| preset | group and port | TTL | source port | what works |
|---|---|---|---|---|
| `mdns` | 224.0.0.251:5353 | 255 | 5353 | names and services are found on every link |
| `mdns6` | [ff02::fb]:5353 | 255 | 5353 | the same over IPv6; both may stand side by side |
| `ssdp` | 239.255.255.250:1900 | 2 | one for each asker | announcements, and searches with their answers |
| `ssdp6` | [ff02::c]:1900 | 1 | one for each asker | the same over IPv6 |
| `ssdp6-site` | [ff05::c]:1900 | 2 | one for each asker | the same, to the group of the site |
| `wsd` | 239.255.255.250:3702 | 1 | one for each asker | announcements, and searches with their answers |
| `wsd6` | [ff02::c]:3702 | 1 | one for each asker | the same over IPv6 |

A search is sent on from a socket of its own for each asker, and what is answered there within the search's own time (MX
of SSDP and one second; 10 s at most, and where it says none) goes back to the asker: 64 askers at a time on each link
(`nobufs` counts others), `answers` in `show stats -j` counts what came back.

What is found is then reached by unicast, which is the router's to pass: DIAL and AirPlay speak HTTP or RTSP to the
device. Chromecast devices answer only hosts of their own subnet, whatever they are asked through. Over IPv6 a device
may name itself by a link-local address (`fe80::`), above all where it was asked by `ff02::c`: nobody reaches that from
another link. Ask it by `ssdp6-site`, or over IPv4. An answer goes to who asked by the link that the search came from:
to an IPv6 address that is not link-local, this host needs a route there (`failed` counts those without).
"""
# What an input and its output may be: each row is written if the two make a rule.
STREAMS = (
    ("239.1.1.1:5000%eth1", "239.10.0.1:5004%eth0", "a group, from any source, to another group"),
    (
        "192.168.168.55@226.2.2.2:2068%eth1",
        "226.2.2.2%eth0",
        "one source only (SSM); without a port the output keeps it",
    ),
    ("239.1.1.1:5000%eth1", "192.0.2.7:7000", "to one host, on the way that this host's routes say"),
    ("239.1.1.1:5000%eth1", "192.0.2.7:7000%eth0", "to one host, by that link"),
    ("239.1.1.1:5000,5002%eth1", "239.10.0.1%eth0", "several ports; an output without a port keeps each"),
    ("239.1.1.1:6906-6941%eth1", "239.10.0.1:7906-7941%eth0", "a range of ports; an output may name as many"),
    ("239.1.1.1:any%eth1", "239.10.0.1:any%eth0", "every port, and the output keeps it"),
    ("239.1.0.0/24:5000%eth1", "239.10.0.0/24:5004%eth0", "a range of groups, one to one to another as long"),
    ("198.51.100.1:7000%eth1", "239.10.0.1:5004%eth0", "what is sent to an address of this host"),
    ("255.255.255.255:6454%eth1", "255.255.255.255:6454%eth0", "broadcasts"),
    ("[ff15::1]:5000%eth1", "[ff15::2]:5004%eth0", "IPv6, in brackets"),
    ("[2001:db8::5]@[ff35::1]:5000%eth1", "[ff15::2]:5004%eth0", "IPv6, one source only"),
    ("239.1.1.1:5000%eth1", "[ff15::2]:5004%eth0", "from one family to the other"),
)
SECTIONS = (
    ("[relay]", schema.RELAY, "The process. A change takes effect at the next restart; `show` says so until then."),
    ("[links.NAME]", schema.LINK, "One link. `[links.default]` is for every link that has no table of its own."),
    (
        "Keys of the input",
        schema.INPUT,
        "They stand on a rule, on its input (`input = { from = \"…\", … }`), or under `[defaults]`.",
    ),
    (
        "Keys of an output",
        schema.OUTPUT,
        "They stand on a rule, on one output (`{ to = \"…\", … }`), or under `[defaults]`. The nearest one counts.",
    ),
    ("Keys of a rule", schema.OWN, "They stand on a rule or under `[defaults]`."),
)  # fmt: skip

JSON = """\
# JSON reference

`mcrelay show NOUN -j` prints this, and so does `/api/v1/NOUN` of the address in `metrics`
([monitoring.md](monitoring.md)). Keys are a promise: one may be added, none changes its meaning. Names follow `ip -j`
and smcroutectl. Times are Unix seconds. Packets are datagrams, bytes are UDP payload.

`show config -j` prints the tables of a file that would make a relay run the same: [configuration.md](configuration.md).
The words for states, drops, errors and verdicts stand in [reading-show.md](reading-show.md).

<!-- lab
$ systemctl start mcrelay
-->
```console
$ mcrelay show -j | jq -r '.[] | select(.state != "active") | "\\(.name): \\(.state): \\(.reason)"'
$ mcrelay show stats -j | jq '[.rules[].rx_packets] | add'
```
"""


def configuration() -> str:
    """Write the text of docs/configuration.md."""
    parts = [CONFIGURATION + _streams(), PRESETS]
    for title, rows, text in SECTIONS:
        parts.append(f"## {title}\n\n{text}\n\n| key | default | what it says | example |\n|---|---|---|---|\n")
        parts[-1] += "".join(_key(key, row) for key, row in rows.items() if not schema.never(row))
    return f"{MADE}\n" + "\n".join(parts)


def _streams() -> str:
    lines = ["| input | output | |\n|---|---|---|\n"]
    for taken, sent, what in STREAMS:
        rule = f"[rules.x]\ninput = {toml_value(taken)}\noutputs = [{toml_value(sent)}]\n"
        with contextlib.suppress(ConfigError):  # not built
            parse_config([("x.toml", rule)])
            lines.append(f"| `{taken}` | `{sent}` | {what} |\n")
    return "".join(lines)


def _key(key: str, row: Any) -> str:
    default = row.default_words or f"`{toml_value(row.check.write(row.default))}`"
    text = row.manual
    if row.check is flag and not text.startswith("true"):
        text = f"true or false: {text[0].lower()}{text[1:]}"
    cells = (f"`{key}`", "none" if default == '`""`' else default, text, f"`{key} = {toml_value(_example(key, row))}`")
    return f"| {' | '.join(each.replace('|', chr(92) + '|') for each in cells)} |\n"


def _example(key: str, row: Any) -> Any:
    """Choose a value that is built and, if there is one, not the default; for a number what its complaint proposes."""
    legal = [*row.check.words, *row.check.examples]
    if isinstance(row.check.examples, range):
        legal = [*row.check.words, *_proposed(row.check), *row.check.examples[:2]]
    read = row.check.whole if isinstance(row.check, Each) else row.check
    item = row.check.item if isinstance(row.check, Each) else None
    built = [each for each in legal if not schema.not_yet(key, read([item(one) for one in each] if item else each))]
    return next((each for each in built if each != row.check.write(row.default)), built[0])


def _proposed(check: Any) -> list[int]:
    try:
        check("")
    except SettingError as error:
        return [int(each) for each in re.findall("[0-9]+", error.remedy)]
    return []


def json() -> str:
    """Write the text of docs/json.md."""
    parts = [JSON]
    for noun, shape in SHAPES.items():
        parts.append(
            f"## {noun}\n\n{'A list; each is:' if get_origin(shape) is list else 'An object:'}\n\n" + _table(shape)
        )
    return f"{MADE}\n" + "\n".join(parts)


def _table(shape: Any) -> str:
    lines = ["| key | type | what it says |\n|---|---|---|\n"]
    lines += [f"| `{path}` | {kind} | {text} |\n" for path, kind, text in _keys(shape, "")]
    return "".join(lines).replace("reading-show.md", "[reading-show.md](reading-show.md)")


def _keys(shape: Any, path: str) -> Any:
    """Walk the keys of a shape and of those within it, as jq spells the way to them."""
    inner = next((each for each in (shape, *get_args(shape)) if is_typeddict(each)), None)
    for key, hint in get_type_hints(inner, include_extras=True).items() if inner else ():
        held = get_args(hint)[0] if get_origin(hint) is NotRequired else hint
        kind, text = get_args(held) if get_origin(held) is Annotated else (held, "")
        yield f"{path}{key}", _kind(kind), text
        yield from _keys(kind, f"{path}{key}{'[]' if get_origin(kind) is list else ''}.")


WORDS = {
    str: "text",
    int: "number",
    float: "number",
    bool: "true or false",
    dict: "object of numbers",
    type(None): "null",
}


def _kind(kind: Any) -> str:
    """Name a type in words."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return ", ".join(f'`"{each}"`' for each in inner)
    if origin is list:
        return "list of texts" if inner[0] is str else "list of objects"
    if origin in {UnionType, Union}:
        return ", ".join(dict.fromkeys(map(_kind, inner)))
    return "object" if is_typeddict(kind) else WORDS[origin or kind]


TEXTS = {"configuration.md": configuration, "json.md": json}

if __name__ == "__main__":
    for name, text in TEXTS.items():
        (DOCS / name).write_text(text())
