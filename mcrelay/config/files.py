"""Which files make a configuration, and reading them."""

from __future__ import annotations

import os
import stat
from codecs import BOM_UTF8
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mcrelay.config.checks import link_warnings
from mcrelay.config.parse import parse_config
from mcrelay.errors import Complaint, ConfigError
from mcrelay.model.instance import MAIN, check_instance, control_path

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from mcrelay.config.parse import Parsed

ETC = Path("/etc/mcrelay")
SAVED = "90-saved.toml"


def config_paths(paths: Sequence[Path] = (), instance: str | None = None, etc: Path = ETC) -> list[Path]:
    """List the files of a configuration in the order in which they are read.

    *paths* (each a file, or a directory for its ``*.toml``) replace those under *etc*, which are ``mcrelay.toml`` and
    ``conf.d/*.toml``, or ``NAME.toml`` and ``NAME.conf.d/*.toml`` for an instance. Raises ConfigError.
    """
    check_instance(instance)
    if not paths:
        return _installed(instance, etc)
    found: dict[str, Path] = {}  # by real path, so that a file named twice is read once
    complaints = []
    for path in paths:
        try:
            within = _expand(path)
        except OSError as error:
            complaints.append(_unread(path, error))
            continue
        if not within:
            complaints.append(_complaint(path, "holds no *.toml", "name a file, or a directory that has one"))
        for file in within:
            found.setdefault(os.path.realpath(file), file)
    if complaints:
        raise ConfigError(sorted(set(complaints)))
    return list(found.values())


def watched_paths(paths: Sequence[Path] = (), instance: str | None = None, etc: Path = ETC) -> list[Path]:
    """List what a reload has to read: the files, and the folders that may hold more."""
    folders = [path for path in paths or [_more(instance, etc)] if path.is_dir()]
    return [*folders, *config_paths(paths, instance, etc)]


def saved_path(paths: Sequence[Path] = (), instance: str | None = None, etc: Path = ETC) -> Path:
    """Name the file that `save` writes, in a folder that a relay with these arguments reads; None if it reads none."""
    check_instance(instance)
    if not paths:
        return _more(instance, etc) / SAVED
    folders = [path for path in paths if path.is_dir()]
    return (folders[0] if folders else paths[0].parent / "conf.d") / SAVED


def read(paths: Sequence[Path]) -> tuple[list[tuple[str, str]], list[Complaint]]:
    """Read files as (name, text), with a complaint for each that cannot be read."""
    texts, complaints = [], []
    for path in paths:
        try:
            data = path.read_bytes()
        except OSError as error:
            complaints.append(_unread(path, error))
            continue
        try:
            texts.append((str(path), data.removeprefix(BOM_UTF8).decode()))
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            problem = f"byte 0x{data[error.start]:02x} is not UTF-8 text"
            complaints.append(Complaint(str(path), line, "TOML", problem, "save the file as UTF-8"))
    return texts, complaints


def parse(paths: Sequence[Path], instance: str | None = None) -> Parsed:
    """Read and check the files. A file that cannot be read does not keep the others from being checked."""
    texts, complaints = read(paths)
    try:
        parsed = parse_config(texts, control_path(instance))
    except ConfigError as error:
        raise ConfigError(sorted({*complaints, *error.complaints})) from None
    if complaints:
        raise ConfigError(sorted({*complaints, *parsed.warnings}))
    return parsed


def load(
    paths: Sequence[Path] = (), instance: str | None = None, existing: Collection[str] | None = None, etc: Path = ETC
) -> Parsed:
    """Find, read and check a configuration. Raises ConfigError with everything.

    *existing* are the links of this machine: with them, rules that wait for a link get a warning.
    """
    parsed = parse(config_paths(paths, instance, etc), instance)
    waiting = [] if existing is None else link_warnings(parsed.config, parsed.where, existing)
    return replace(parsed, warnings=tuple(sorted([*parsed.warnings, *waiting])))


def _installed(instance: str | None, etc: Path) -> list[Path]:
    main = etc / f"{instance or MAIN}.toml"
    more = _more(instance, etc)
    found = []
    for path in (main, more):
        try:
            found += _expand(path)
        except FileNotFoundError:
            continue  # either may be missing
        except OSError as error:
            raise ConfigError([_unread(path, error)]) from None
    if not found:
        remedy = f"create it (or {more}/NAME.toml), or name a file with -c"
        raise ConfigError([_complaint(main, "does not exist", remedy)])
    return found


def _more(instance: str | None, etc: Path) -> Path:
    return etc / ("conf.d" if instance in {None, MAIN} else f"{instance}.conf.d")


def _expand(path: Path) -> list[Path]:
    """List a directory's ``*.toml`` by name, without the hidden ones that editors leave; a file is itself."""
    if not stat.S_ISDIR(path.stat().st_mode):
        return [path]
    return sorted(file for file in path.iterdir() if file.suffix == ".toml" and not file.name.startswith("."))


def _unread(path: Path, error: OSError) -> Complaint:
    if isinstance(error, FileNotFoundError):
        return _complaint(path, "does not exist", "name a file, or a directory for its *.toml")
    return _complaint(path, f"cannot be read: {error.strerror or error}", "check the path and who may read it")


def _complaint(path: Path, problem: str, remedy: str) -> Complaint:
    return Complaint(str(path), 0, "file", problem, remedy)
