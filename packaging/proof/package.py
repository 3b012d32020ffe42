"""dist/mcrelay_*.deb with real dpkg, where no systemd is."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

from .report import ok, sh, starts_within
from .root import ROOTS, chroot, files, mounted
from .traffic import demo, relays

if TYPE_CHECKING:
    from pathlib import Path

BRINGS = """
    etc/mcrelay/mcrelay.toml etc/mcrelay/conf.d usr/bin/mcrelay
    usr/lib/systemd/system/mcrelay.service usr/lib/systemd/system/mcrelay@.service
    usr/share/man/man1/mcrelay.1.gz usr/share/man/man5/mcrelay.toml.5.gz
    usr/share/bash-completion/completions/mcrelay usr/share/zsh/vendor-completions/_mcrelay
    usr/share/fish/vendor_completions.d/mcrelay.fish
    usr/share/doc/mcrelay/changelog.gz usr/share/doc/mcrelay/copyright
    usr/share/doc/mcrelay/README.md usr/share/doc/mcrelay/docs/README.md
    usr/share/doc/mcrelay/examples/sysctl.conf usr/share/doc/mcrelay/examples/alerts.yml
    usr/share/doc/mcrelay/examples/grafana.json
"""


def newer(package: Path) -> Path:
    """Build the same package again with a higher version: an upgrade."""
    work = ROOTS / "newer"
    ROOTS.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(work, ignore_errors=True)
    sh("dpkg-deb", "-R", package, work)
    control = work / "DEBIAN/control"
    version = field(package, "Version")
    control.write_text(control.read_text().replace(f"Version: {version}", f"Version: {version}+next"))
    target = ROOTS / f"mcrelay_{version}+next.deb"
    sh("dpkg-deb", "--root-owner-group", "-Zxz", "--build", work, target)
    return target


def field(package: Path, name: str) -> str:
    return sh("dpkg-deb", "-f", package, name).strip()


def prove(root: Path, package: Path, next_package: Path, *, by_apt: bool) -> None:
    """Install, relay, upgrade, remove, purge. By apt as the README says, offline; or by dpkg."""
    needs = {each.split()[0] for each in field(package, "Depends").split(",")}
    ok(needs == {"libc6", "adduser"}, f"depends on: {field(package, 'Depends')}")
    ok(field(package, "Recommends") == "nftables", "recommends: nftables")
    for each in (package, next_package):
        shutil.copy2(each, root / "root" / each.name)
    inside = chroot(root)
    before = files(root)
    install = ("apt-get", "install", "-y", "--no-install-recommends") if by_apt else ("dpkg", "-i")
    sh(*inside, *install, f"/root/{package.name}")
    ok(True, f"{' '.join(install)} ./{package.name}, where no systemd is")
    came = files(root) - before
    ok(came >= set(BRINGS.split()), f"{len(came)} files and folders: program, units, man pages, completions, documents")
    ok(not list(root.glob("etc/sysctl.d/*mcrelay*")), "the sysctl settings are an example, not in force")
    ok("no complaints" in sh(*inside, "mcrelay", "check"), "the configuration it brings is valid")
    ok("mcrelay-admin" in sh(*inside, "getent", "group", "mcrelay-admin"), "user and groups are there")
    completes(inside)
    starts_within(1000, "version", *inside, "mcrelay", "version")
    relays(root, "/usr/bin/mcrelay")
    with mounted(root):
        demo(root)
    conffile = root / "etc/mcrelay/mcrelay.toml"
    conffile.write_text(conffile.read_text() + "# mine\n")
    sh(*inside, "dpkg", "-i", f"/root/{next_package.name}", stdin=subprocess.DEVNULL)
    ok("# mine" in conffile.read_text(), "upgrade without a question: the edited configuration is kept")
    sh(*inside, "dpkg", "-r", "mcrelay")
    ok(
        not (root / "usr/lib/mcrelay").exists() and "# mine" in conffile.read_text(),
        "remove: the program is gone, the configuration stays",
    )
    sh(*inside, "dpkg", "-P", "mcrelay")
    left = sorted(files(root) - before)
    ok(not left, f"purge: the root has the files that it had{''.join(f', and {each}' for each in left)}")


def completes(inside: tuple[str, ...]) -> None:
    """Ask as each shell's script does; bash, which is there, also reads its script."""
    for shell, words in (
        ("bash", ("COMP_WORDS=mcrelay sh", "COMP_CWORD=1")),
        ("zsh", ("COMP_WORDS=mcrelay sh", "COMP_CWORD=1")),
        ("fish", ("COMP_WORDS=mcrelay sh", "COMP_CWORD=sh")),
    ):
        said = sh(*inside, "env", *words, f"_MCRELAY_COMPLETE={shell}_complete", "mcrelay")
        ok("plain" in said and "show" in said, f"completion for {shell} completes")
    script = "/usr/share/bash-completion/completions/mcrelay"
    ok("mcrelay" in sh(*inside, "bash", "-c", f". {script} && complete -p mcrelay"), "bash takes its script")
