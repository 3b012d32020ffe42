"""Another kernel in a virtual machine, over this machine's files: read-only by 9p, with a tmpfs on top."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

from .report import sh

MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay", "virtio_rng")  # the system's own are loaded from its files
SECONDS = 600
ENDED = "exit code"
INIT = """#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc none /proc; $b mount -t sysfs none /sys; $b mount -t devtmpfs none /dev
for module in /modules/*; do $b insmod $module; done
$b mount -t tmpfs none /top; $b mkdir /top/upper /top/work /top/lower
$b mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=262144,cache=loose host /top/lower
$b mount -t overlay -o lowerdir=/top/lower,upperdir=/top/upper,workdir=/top/work none /root
for each in proc sys dev; do $b mount --move /$each /root/$each; done
$b mount -t tmpfs none /root/run; $b mkdir -p /root/lib/modules; $b ln -s {modules} /root/lib/modules/{release}
$b mount -t bpf none /root/sys/fs/bpf; $b mount -t cgroup2 none /root/sys/fs/cgroup; $b ip link set lo up
$b chroot /root /bin/sh -c {command}; echo "{ended} $?"
$b poweroff -f
"""


def run(package: Path, command: str, folder: Path) -> tuple[int, str]:
    """Boot the kernel of a Debian linux-image package, run a command as root, and return its exit code and output.

    It takes Debian's qemu-system-x86, busybox-static, cpio and kmod. KVM is not used: it is not everywhere.
    """
    if not (folder / "boot").exists():
        folder.mkdir(parents=True, exist_ok=True)
        sh("dpkg-deb", "-x", package, folder)
    (modules,) = [*folder.glob("lib/modules/*"), *folder.glob("usr/lib/modules/*")]
    (image,) = folder.glob("boot/vmlinuz-*")
    base = modules.parent.parent.parent
    sh("depmod", "-b", base, modules.name)
    with tempfile.TemporaryDirectory() as name:
        initial = Path(name)
        for each in ("bin", "proc", "sys", "dev", "modules", "root", "top"):
            (initial / each).mkdir()
        shutil.copy2("/bin/busybox", initial / "bin/busybox")
        for number, file in enumerate(_needed(base, modules.name)):
            unpack = {".xz": ["xz", "-dc"], ".zst": ["zstd", "-dqc"]}.get(file.suffix, ["cat"])
            plain = subprocess.run([*unpack, str(file)], capture_output=True, check=True).stdout
            (initial / "modules" / f"{number:03}.ko").write_bytes(plain)
        text = INIT.format(modules=modules, release=modules.name, command=shlex.quote(command), ended=ENDED)
        (initial / "init").write_text(text)
        (initial / "init").chmod(stat.S_IRWXU)
        archive = initial.with_suffix(".cpio")
        names = "\n".join(str(path.relative_to(initial)) for path in [initial, *initial.rglob("*")])
        with archive.open("wb") as out:
            subprocess.run(["cpio", "-o", "-H", "newc"], cwd=initial, input=names.encode(), stdout=out, check=True,
                           stderr=subprocess.DEVNULL)  # fmt: skip
        try:
            said = _boot(image, archive)
        finally:
            archive.unlink()
    lines = said.replace("\r", "").splitlines()
    end = next((i for i, line in enumerate(lines) if line.startswith(ENDED)), None)
    return (int(lines[end].split()[-1]) if end is not None else -1), "\n".join(lines[:end])


def _needed(base: Path, release: str) -> list[Path]:
    """The module files to be loaded before there is a root, in their order."""
    files: dict[Path, None] = {}
    for module in MODULES:
        shown = sh("modprobe", "-S", release, "-d", base, "--show-depends", module)
        files |= {Path(line.split()[1]): None for line in shown.splitlines() if line.startswith("insmod")}
    return list(files)


def _boot(image: Path, archive: Path) -> str:
    machine = ["-accel", "tcg,thread=multi", "-cpu", "Haswell", "-smp", str(min(4, os.cpu_count() or 1)), "-m", "4g"]
    done = subprocess.run(
        ["qemu-system-x86_64", *machine, "-nographic", "-no-reboot", "-nic", "none", "-device", "virtio-rng-pci",
         "-kernel", str(image), "-initrd", str(archive), "-append", "console=ttyS0 quiet panic=1",
         "-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"],
        capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False,
    )  # fmt: skip
    return done.stdout
