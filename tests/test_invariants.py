"""What ARCHITECTURE.md promises of the code as text: imports, atomics, the GIL, and where things stand."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PYTHON = sorted((ROOT / "mcrelay").rglob("*.py"))
CYTHON = sorted([*(ROOT / "pyx").glob("*.pyx"), *(ROOT / "pyx").glob("*.pxd")])
STUBS = sorted((ROOT / "mcrelay/_core").glob("*.pyi"))

PURE = {
    "config.checks", "config.circles", "config.ends", "config.lines", "config.overlaps", "config.parse",
    "config.presets", "config.protocols", "config.reader", "config.schema", "config.scopes", "config.tags",
    "config.writer",
    "engine.counters", "errors", "igmp.advice", "igmp.messages", "igmp.mld", "igmp.protocol", "igmp.wire",
    "links.sources", "linux.bpf", "model.address", "model.instance", "model.link", "model.link_faults",
    "model.notation", "model.option", "model.plan", "model.ports", "model.rate", "model.refusals", "model.rule",
    "model.state", "model.stream", "model.values", "model.wording", "relay.compile", "relay.rates", "relay.status",
}  # fmt: skip
HARMLESS = {
    "__future__", "bisect", "collections", "contextlib", "dataclasses", "difflib", "enum", "errno", "functools",
    "ipaddress", "itertools", "json", "math", "operator", "re", "string", "struct", "textwrap", "tomllib", "typing",
    "zlib",
}  # fmt: skip
IO_CALLS = {"open", "print", "input", "exec", "eval", "__import__", "breakpoint"}

FOLDERS = {"mcrelay", "pyx", "tests", "bench", "packaging", "experiments", "docs"}
FILES = {
    "pyproject.toml", "setup.py", "README.md", "ARCHITECTURE.md", "CHANGELOG.md", "LICENSE", "Makefile", "MANIFEST.in",
}  # fmt: skip

ids = {"ids": lambda path: "/".join(path.parts[-2:])}


def code_of(path):
    """The source without comments and docstrings: those may name what the code may not."""
    text = re.sub(r'"""(?:.|\n)*?"""', "", path.read_text())
    return re.sub(r"#.*", "", text)


def imports(path, *, at_run_time_only=False):
    """Every module that a file of mcrelay imports, by its full name."""
    tree = ast.parse(path.read_text())
    skipped = set()
    for node in ast.walk(tree):
        if at_run_time_only and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            skipped.update(map(id, ast.walk(node)))
    found = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, ["mcrelay" if node.level else "", node.module]))
            found.update(f"{base}.{alias.name}" for alias in node.names)
    return found


@pytest.mark.parametrize("path", PYTHON, **ids)
def test_only_the_engine_imports_the_core_and_test_traffic_its_own_module(path):
    core = {name for name in imports(path) if name.startswith("mcrelay._core")}
    if path.stem in {"send", "recv"}:
        core = {name for name in core if not name.startswith("mcrelay._core.traffic.")}
    if path.parent.name != "engine":
        assert core == set()


def test_the_engine_does_import_the_core():
    """Else the test above looks at nothing."""
    assert any(name.startswith("mcrelay._core.worker") for name in imports(ROOT / "mcrelay/engine/ring.py"))


@pytest.mark.parametrize("name", sorted(PURE))
def test_what_is_called_pure_does_no_io(name):
    path = ROOT / "mcrelay" / f"{name.replace('.', '/')}.py"
    for full in imports(path, at_run_time_only=True):
        first, _, rest = full.partition(".")
        if first == "mcrelay":
            assert {rest.split(".")[0], ".".join(rest.split(".")[:2])} & PURE, full
        else:
            assert first in HARMLESS, full
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in IO_CALLS, f"line {node.lineno}"


@pytest.mark.parametrize("path", CYTHON, **ids)
def test_only_kernel_h_spells_atomics_and_byte_order(path):
    code = code_of(path)
    for word in ("__atomic", "__sync_", "volatile", "stdatomic", "libcpp", "bswap", "byteswap", "htobe", "be16toh"):
        assert word not in code
    if path.name not in {"kernel.pxd", "libbpf.pxd"}:
        assert "cdef extern" not in code, "C names come through kernel.pxd and libbpf.pxd"


def test_kernel_h_is_the_only_c_beside_what_runs_in_the_kernel():
    found = {path.name for path in (ROOT / "pyx").iterdir() if path.suffix in {".c", ".h", ".cpp", ".hpp", ".S"}}
    written = {name for name in found if not (ROOT / "pyx" / name).with_suffix(".pyx").exists()}
    program = {f"{name}.bpf.h" for name in ("desk", "sums", "classify", "decide", "copies")}
    assert written == {"kernel.h", "relay.h", "relay.bpf.c", *program}
    assert "__atomic_load_n" in (ROOT / "pyx/kernel.h").read_text()


@pytest.mark.parametrize("path", CYTHON, **ids)
def test_the_gil_is_let_go_in_the_two_loops_and_taken_nowhere(path):
    code = code_of(path)
    assert not re.search(r"\bwith\s+gil\b", code)
    assert bool(re.search(r"\bwith\s+nogil\b", code)) == (path.name in {"worker.pyx", "traffic.pyx"})


def signatures(path):
    """Every `cdef` function signature, on one line each."""
    flat = re.sub(r"\(([^()]|\([^()]*\))*\)", lambda match: " ".join(match[0].split()), code_of(path))
    return [line for line in flat.splitlines() if re.match(r"\s*c(p?)def\b.*\(", line)]


@pytest.mark.parametrize("path", CYTHON, **ids)
def test_every_nogil_signature_says_noexcept(path):
    """Cython otherwise takes the GIL after each call to look for an exception."""
    for line in signatures(path):
        if re.search(r"\bnogil\b", line):
            assert re.search(r"\bnoexcept\s+nogil\b", line), line


def test_the_search_for_signatures_finds_those_that_span_lines():
    found = signatures(ROOT / "pyx/wire.pxd")
    assert any(line.startswith("cdef inline Verdict parse(") and line.endswith("noexcept nogil:") for line in found)


def reached(name):
    """The .pxd files whose inline code is compiled into a module, kernel.pxd aside."""
    found, todo = set(), [f"{name}.pyx"]
    while todo:
        for other in re.findall(r"^from \.(\w+) cimport", code_of(ROOT / "pyx" / todo.pop()), re.MULTILINE):
            if other != "kernel" and other not in found:
                found.add(other)
                todo.append(f"{other}.pxd")
    return [ROOT / "pyx" / f"{other}.pxd" for other in sorted(found)]


def test_the_loop_reaches_the_inline_code():
    named = {"wire", "demux", "match", "ring", "queue", "egress", "runs", "plan", "counters"}
    assert named <= {path.stem for path in reached("worker")}


@pytest.mark.parametrize("path", reached("worker"), **ids)
def test_inline_code_of_the_loop_allocates_nothing_and_raises_nothing(path):
    code = code_of(path)
    for word in (r"\w*alloc\s*\(", r"\braise\b", r"\bprint\b", r"\bmmap\s*\(", r"\bassert\b", r"\bimport\b"):
        assert not re.search(word, code), word


CODE_PER_FRAME = ["wire", "fragments", "demux", "match", "counters", "ring", "queue", "echo", "repeats", "policer"]


@pytest.mark.parametrize("name", CODE_PER_FRAME)
def test_code_per_frame_makes_no_system_call(name):
    code = code_of(ROOT / f"pyx/{name}.pxd")
    assert not re.search(
        r"\b(send|recv|poll|read|write|[gs]etsockopt|clock)\w*\s*\(", re.sub("read_(be|raw)", "", code)
    )


def test_a_performance_hint_fails_the_build(tmp_path):
    """.ci/compile, with a compiler that does nothing but print one."""
    for said, code in (("performance hint: worker.pyx:1:1: Exception check", 1), ("all is well", 0)):
        python = tmp_path / "python"
        python.write_text(f"#!/bin/sh\necho '{said}'\n")
        python.chmod(0o755)
        done = subprocess.run(["bash", ROOT / ".ci/compile", python], capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr


@pytest.mark.parametrize("path", STUBS, **ids)
def test_a_stub_names_what_its_module_has(path):
    module = importlib.import_module(f"mcrelay._core.{path.stem}")
    compare(ast.parse(path.read_text()).body, module, path.stem)


def compare(body, there, where):
    names = set()
    for node in body:
        if isinstance(node, ast.AnnAssign):
            names.add(node.target.id)
        elif isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            names.add(node.name)
            compare(node.body, getattr(there, node.name), f"{where}.{node.name}")
    names = {name for name in names if not name.startswith("_")}
    real = {name for name in vars(there) if not name.startswith("_")}
    mine = {name for name in real if _belongs(getattr(there, name), there)}
    assert names <= real, where
    assert mine <= names, where


def _belongs(value, owner):
    """Whether a name is the module's own and no import."""
    if isinstance(owner, type):
        return True
    return getattr(value, "__module__", owner.__name__) == owner.__name__ and not isinstance(value, type(importlib))


def test_every_compiled_module_with_a_python_face_has_a_stub():
    modules = {path.stem for path in (ROOT / "pyx").glob("*.pyx")} - {
        "address",
        "demux",
        "fragments",
        "manner",
        "system",
    }
    assert {path.stem for path in STUBS} == modules


def test_the_top_level_holds_what_the_layout_names_and_nothing_else():
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listing.returncode:
        pytest.skip("not a git work tree")
    paths = [Path(line) for line in listing.stdout.splitlines() if (ROOT / line).exists()]
    assert {path.parts[0] for path in paths if len(path.parts) > 1 and not path.parts[0].startswith(".")} <= FOLDERS
    assert {path.name for path in paths if len(path.parts) == 1 and not path.name.startswith(".")} <= FILES


@pytest.mark.parametrize("folder", ["packaging", "pyx", "bench", "experiments", "tests"])
def test_folders_that_are_no_packages_stay_so(folder):
    """An `__init__.py` in packaging/ would hide the library of that name from every tool run here."""
    assert list((ROOT / folder).glob("__init__.py")) == []


def test_each_fact_has_a_number_of_its_own():
    """docs/linux.md is cited by number."""
    numbers = re.findall(r"^- \*\*(L\d+)\*\*", (ROOT / "docs/linux.md").read_text(), re.MULTILINE)
    assert len(numbers) > 40
    assert sorted(numbers) == sorted(set(numbers))
