"""dist/mcrelay in a bare root."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

from .report import ok, sh, starts_within
from .root import chroot, mounted
from .traffic import INPUT, NOBODY, OUTPUT, demo, relays

if TYPE_CHECKING:
    from pathlib import Path


def prove(root: Path, executable: Path) -> None:
    """Everything is seen from inside the root, /proc and /sys unmounted unless it says otherwise."""
    installed = root / "usr/local/bin/mcrelay"
    shutil.copy2(executable, installed)
    inside = chroot(root)
    starts_within(1000, "version", *inside, "mcrelay", "version")
    licences(json.loads(sh(*inside, "mcrelay", "version", "--licenses", "-j")))
    relays(root, "/usr/local/bin/mcrelay")
    relays(root, "/usr/local/bin/mcrelay", prefix=())  # started by root
    ok(not any((root / "proc").iterdir()) and not any((root / "sys").iterdir()), "all that without /proc and /sys")
    ok(not any((root / "tmp").iterdir()), "nothing that it unpacked is left")
    with mounted(root):
        demo(root)
        sh("setcap", "cap_net_raw+ep", installed)
        said = sh(*inside, *NOBODY[:4], "mcrelay", "relay", INPUT, OUTPUT, check=False, timeout=10)
        ok("cannot open shared object file" in said, "a file capability does not work, as packaging/README.md says")
        shutil.copy2(executable, installed)
    with mounted(root, noexec=True):
        ok("udp_segment" in sh(*inside, "mcrelay", "version"), "with a noexec /tmp it unpacks to /var/tmp")
        sh("mount", "--bind", root / "var/tmp", root / "var/tmp")
        sh("mount", "-o", "remount,bind,noexec", root / "var/tmp")
        said = sh(*inside, "mcrelay", "version", check=False)
        ok("set TMPDIR" in said, f"where that is noexec too it says: {said.strip()}")
        ok("udp_segment" in sh(*inside, "env", "TMPDIR=/root", "mcrelay", "version"), "and works with TMPDIR=/root")


def licences(inside: list[dict[str, str]]) -> None:
    """Each component has a licence and the text of it, and none may be had under the GPL alone."""
    names = {each["name"] for each in inside}
    gpl = [
        each["name"]
        for each in inside
        if all(choice.startswith(("GPL", "AGPL")) and "WITH" not in choice for choice in each["license"].split(" OR "))
    ]
    bare = [each["name"] for each in inside if not each["license"] or not each["text"]]
    ok(
        names >= {"mcrelay", "Python", "msgspec", "PyInstaller bootloader"} and "scapy" not in names and not gpl + bare,
        f"version --licenses: {len(inside)} components, each with licence and text, none GPL-only",
    )
