"""What ARCHITECTURE.md's map promises: every module stands in it, and imports only what stands above it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mcrelay"

# From the bottom up. Packages of one row do not know each other.
LAYERS = (
    ("errors",),
    ("model",),
    ("linux", "config"),
    ("links", "igmp", "engine", "exclusive"),
    ("relay",),
    ("control",),
    ("commands",),
    ("cli",),
    ("start",),
)
HEIGHT = {name: height for height, row in enumerate(LAYERS) for name in row}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name not in {"__init__.py", "__main__.py"})


def layer(path):
    """The package that a file belongs to, or its own name where it stands beside the packages."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(source):
    """The layers that a text imports from, for typing and inside functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write the full name, so that the layer can be seen"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            first, _, rest = name.partition(".")
            if first == "mcrelay" and rest not in {"__version__", ""} and not rest.startswith("_core"):
                yield rest.split(".")[0]


def climbs(own, source):
    """What a module of that layer imports and may not."""
    return [other for other in imported(source) if other != own and HEIGHT[other] >= HEIGHT[own]]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_its_own_package_and_lower_layers_only(path):
    assert climbs(layer(path), path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "from mcrelay.relay.service import Service",
        "from mcrelay.links import watch",  # beside it
        "def f():\n    import mcrelay.control.client",
        "if TYPE_CHECKING:\n    from mcrelay.commands import lab",
    ],
)
def test_an_import_upwards_or_sideways_is_found(source):
    assert climbs("engine", source)
    assert not climbs("cli", source)


def rows():
    """The map of ARCHITECTURE.md: each package with the modules listed for it."""
    text = (ROOT / "ARCHITECTURE.md").read_text().split("\n## Map\n")[1].split("\n## ")[0]
    for line in text.splitlines():
        if match := re.match(r"\| `mcrelay/(\w+)/` \| ([^|]*) \|", line):
            yield match[1], re.findall(r"`(\w+)`", match[2])


def test_the_map_names_every_module_and_none_that_is_gone():
    listed = dict(rows())
    there = {}
    for path in MODULES:
        if path.parent != PACKAGE:
            there.setdefault(layer(path), set()).add(path.stem)
    assert {name: set(modules) for name, modules in listed.items()} == there
    assert all(len(modules) == len(set(modules)) for modules in listed.values())


def test_the_map_goes_from_the_bottom_up():
    heights = [HEIGHT[name] for name, _ in rows()]
    assert heights == sorted(heights)
