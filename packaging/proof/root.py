"""Debian roots: a bare one without Python and without systemd, and one that boots. Made once, kept in build/roots."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from .report import CLEAN, ok, sh

TREE = Path(__file__).resolve().parents[2]
ROOTS = TREE / "build" / "roots"
MIRROR = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")
BARE = "adduser,iproute2"  # what the package depends on, and ip for the demo
BOOTS = ("systemd", "systemd-sysv", "dbus", "procps", "nftables")
# What dpkg, adduser and apt keep for themselves.
BOOKS = ("var/lib/dpkg", "var/lib/apt", "var/log", "var/cache", "etc/passwd", "etc/group", "etc/shadow", "etc/gshadow",
         "etc/sub", "etc/.pwd.lock", "root", "tmp", "var/tmp", "run")  # fmt: skip


def bare(release: str, name: str) -> Path:
    """Copy a root that has neither Python nor systemd, and that nothing was ever installed in."""
    root = _copy(_kept(release, lambda draft: _debootstrap(release, draft)), f"{release}-{name}")
    python = [*root.glob("usr/bin/python*"), *root.glob("usr/lib/python3*")]
    version = (root / "etc/debian_version").read_text().strip()
    ok(
        not python and not (root / "usr/bin/systemctl").exists(),
        f"{root.name}: Debian {version}, no Python, no systemd",
    )
    return root


def bootable(release: str) -> Path:
    """Copy a root with systemd, which nothing of ours was ever installed in."""

    def make(draft: Path) -> None:
        shutil.rmtree(draft)
        sh("cp", "-a", "--reflink=auto", _kept(release, lambda base: _debootstrap(release, base)), draft)
        shutil.copy2("/etc/resolv.conf", draft / "etc/resolv.conf")
        chroot = ("chroot", draft)  # with the environment of this machine, which may name a proxy
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        sh(*chroot, "apt-get", "update", "-qq", env=environment)
        sh(*chroot, "apt-get", "install", "-y", "-qq", "--no-install-recommends", *BOOTS, env=environment)
        (draft / "etc/machine-id").write_text("")  # each copy gets its own when it boots

    root = _copy(_kept(f"{release}-systemd", make), f"{release}-booted")
    ok(not list(root.glob("usr/bin/python*")), f"{root.name}: systemd and no Python")
    return root


def _debootstrap(release: str, draft: Path) -> None:
    sh("debootstrap", "--variant=minbase", f"--include={BARE}", release, draft, MIRROR)


def _kept(name: str, make) -> Path:
    """Make a root, unless it is there: under another name until it is whole."""
    kept = ROOTS / "kept" / name
    if not kept.exists():
        draft = kept.with_name(f"{name}.making")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        make(draft)
        draft.rename(kept)
    return kept


def _copy(kept: Path, name: str) -> Path:
    root = ROOTS / name
    shutil.rmtree(root, ignore_errors=True)
    sh("cp", "-a", "--reflink=auto", kept, root)
    return root


def chroot(root: Path) -> tuple[str, ...]:
    """Start a command inside, with no variable of this machine."""
    return (*CLEAN, "chroot", str(root))


@contextlib.contextmanager
def mounted(root: Path, *, noexec: bool = False):
    """/proc, /sys, /dev and tmpfs on /run and /tmp."""
    points = [
        ("proc", "proc", ""),
        ("sysfs", "sys", ""),
        ("tmpfs", "run", ""),
        ("tmpfs", "tmp", "noexec" if noexec else ""),
    ]
    sh("mount", "--bind", root, root)  # `ip netns` wants / to be a mount
    for kind, at, options in points:
        sh("mount", "-t", kind, *(("-o", options) if options else ()), kind, root / at)
    sh("mount", "--bind", "/dev", root / "dev")
    try:
        yield
    finally:
        sh("umount", "-R", "-l", root)


def files(root: Path) -> set[str]:
    """List what is in a root, less what dpkg, adduser and apt write about it."""
    found = set()
    for folder, names, others in os.walk(root):
        at = os.path.relpath(folder, root)
        names[:] = [each for each in names if not os.path.normpath(f"{at}/{each}").startswith(BOOKS)]
        found |= {os.path.normpath(f"{at}/{each}") for each in (*names, *others)}
    return {each for each in found if not each.startswith(BOOKS)}
