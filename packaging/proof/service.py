"""The .deb under a real systemd."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

from . import kernel_engine
from .container import TOOL, Container, booted
from .report import ok, until
from .root import bootable
from .traffic import CAP_NET_ADMIN, CAP_NET_RAW, COUNT, NOBODY, RATE, RULE, exact, patiently, status, told

BAD = "[rules.x]\ninput = 17\n"
FEW = 10_000
GROUPS = 5000
SOCKET = "/run/mcrelay/mcrelay.sock"
ONCE = """
    systemd-run --unit=once -p User=nobody -p AmbientCapabilities=CAP_NET_RAW -p RuntimeDirectory=mcrelay
    -p Type=notify -p NotifyAccess=all /usr/local/bin/mcrelay run
"""


def prove(release: str, package: Path, next_package: Path, one_file: Path, *, briefly: bool = False) -> None:
    """Everything, or what another release of systemd could do differently."""
    root = bootable(release)
    for each in (package, next_package):
        shutil.copy2(each, root / "root" / each.name)
    shutil.copy2(one_file, root / TOOL.lstrip("/"))
    with booted(root) as box:
        installed(box, package)
        with box.lab():
            relays(box)
            if not briefly:
                upgraded(box, package, next_package)
            restarted(box)
            if not briefly:
                many(box)
                with_net_admin(box)
                kernel_engine.prove(box, package, next_package)
                as_one_file(box)
        if not briefly:
            instances(box)
        removed(box)


def installed(box: Container, package: Path) -> None:
    box("dpkg", "-i", f"/root/{package.name}")
    until(box.ready, "service")
    ok(
        box.succeeds("systemctl", "is-enabled", "mcrelay"),
        f"installed under {box('systemctl', '--version').splitlines()[0]}: the service is enabled, started and READY",
    )
    order = box("systemctl", "show", "-p", "After", "-p", "Wants", "-p", "Requires", "mcrelay")
    ok("network" not in order, "it does not wait for the network")
    ok(_exposure(box, "mcrelay") < 2, f"systemd-analyze security mcrelay: {_exposure(box, 'mcrelay')}")
    facts = box.facts()
    ok(
        int(facts["CapEff"], 16) == int(facts["CapBnd"], 16) == 1 << CAP_NET_RAW and facts["Uid"].split()[1] != "0",
        f"runs as uid {facts['Uid'].split()[1]} with capabilities {facts['CapEff']}",
    )
    groups = box("stat", "-c", "%a %G", SOCKET, "/run/mcrelay/mcrelay-ro.sock").splitlines()
    ok(groups == ["660 mcrelay-admin", "660 mcrelay"], f"control sockets: {', '.join(groups)}")
    said = box("runuser", "-u", "nobody", "--", "mcrelay", "show", check=False)
    ok("only group mcrelay may" in said and said.count("\n") == 1, f"show without membership: {said.strip()}")
    for user, group in (("watcher", "mcrelay"), ("changer", "mcrelay-admin")):
        box("adduser", "--quiet", "--disabled-password", "--gecos", "", user)
        box("adduser", "--quiet", user, group)
    ok("no rules" in box("runuser", "-u", "watcher", "--", "mcrelay", "show"), "show as a member of group mcrelay")
    said = box("runuser", "-u", "watcher", "--", "mcrelay", "reload", check=False)
    ok("only group mcrelay-admin may" in said, "who may not change anything")
    ok("nothing changed" in box("runuser", "-u", "changer", "--", "mcrelay", "reload"), "a member of mcrelay-admin may")


def _exposure(box: Container, unit: str) -> float:
    said = box("systemd-analyze", "security", "--no-pager", unit).strip().splitlines()[-1]
    return float(said.split(":")[1].split()[0])


def relays(box: Container) -> None:
    pid = box.main_pid()
    box.configure(RULE)
    box("systemctl", "reload", "mcrelay")
    ok(
        box.main_pid() == pid and "active" in box("mcrelay", "show"),
        "systemctl reload takes the new rule, same process",
    )
    got = box.stream(COUNT)
    ok(exact(got), f"through the service: {told(got)}")
    box.configure(BAD)
    ok(
        not box.succeeds("systemctl", "reload", "mcrelay") and box.ready() and "x.toml:2" in box.journal(),
        "systemctl reload of a bad file fails, the journal has the line",
    )
    ok(box.main_pid() == pid and exact(box.stream(FEW), FEW), "and it relays on as before")
    box.configure(RULE)


def upgraded(box: Container, package: Path, next_package: Path) -> None:
    pid = box.main_pid()
    conffile = box.root / "etc/mcrelay/mcrelay.toml"
    conffile.write_text(conffile.read_text() + "# mine\n")
    others = itertools.cycle((next_package, package))  # where a busy machine makes it try again: back, and on

    def upgrade() -> dict:
        sink, source = box.begin(COUNT)
        time.sleep(1)
        box("dpkg", "-i", f"/root/{next(others).name}", stdin=subprocess.DEVNULL)
        ok(source.poll() is None, "dpkg -i of another version in mid-stream")
        return box.end(sink, source)

    got = patiently(upgrade)
    ok(exact(got) and box.main_pid() == pid, f"upgraded in mid-stream, same process: {told(got)}")
    ok("# mine" in conffile.read_text(), "the edited conffile is kept, and nobody was asked")
    said = box("mcrelay", "show")
    ok("a restart is due" in said, said.strip().splitlines()[-1])

    # The next version might have none of this one's files: the relay must not look for one.
    program = box.root / "usr/lib/mcrelay"
    away = program.rename(program.with_name("mcrelay.away"))
    at = ("--socket", SOCKET)
    for noun in ("rules", "stats", "links", "groups", "config"):
        box(TOOL, "show", noun, *at)
    box(TOOL, "add", "y", "226.2.2.3:2068%in0", "239.10.0.2:5004%out0", "--limit", "20kpps", *at)
    box(TOOL, "replace", "y", "226.2.2.3:2068%in0", "192.0.2.9:5004", "--ttl", "3", *at)
    box(TOOL, "disable", "y", *at)
    box(TOOL, "delete", "y", *at)
    box("ip", "link", "set", "out0", "down")
    box("ip", "link", "set", "out0", "up")
    box.kill("USR1")
    box.configure(BAD)
    said = box(TOOL, "reload", *at, check=False)
    box.configure(RULE)
    box(TOOL, "reload", *at)
    until(lambda: " state UP " in box("ip", "link", "show", "out0"), "carrier")
    ok(
        "x.toml:2" in said and box.main_pid() == pid and exact(box.stream(FEW), FEW) and "Error" not in box.journal(),
        "with its program's files gone it shows, changes, refuses, reloads and relays: all was imported before READY",
    )
    away.rename(program)


def restarted(box: Container) -> None:
    with box.staying_joined() as lapses:
        gap = shortest_gap(box, 1, lambda: box("systemctl", "restart", "mcrelay"))
        ok(gap < 1, f"systemctl restart in mid-stream: a gap of {gap:.2f} s")
        ok("restart is due" not in box("mcrelay", "show"), "no restart is due any more")
        gap = shortest_gap(box, 2, lambda: box.kill("KILL"))
        ok(gap < 2, f"kill -9 in mid-stream: restarted, a gap of {gap:.2f} s")
        for _ in range(6):
            before = box.main_pid()
            box.kill("KILL")
            until(lambda before=before: box.main_pid() not in {0, before} and box.ready(), "restart")
        ok(exact(box.stream(FEW), FEW), "killed six times more in a row: no start limit")
        before = box.main_pid()
        box.kill("STOP")
        took = until(lambda: box.main_pid() not in {0, before} and box.ready(), "restart by the watchdog", 40)
        ok(exact(box.stream(FEW), FEW), f"frozen (SIGSTOP): the watchdog restarted it within {took:.0f} s; it relays")
    ok(not lapses, "the fd store kept the group joined all that time: no switch heard a leave")
    stays_down(box, "a bad file at the start: exit 2, not restarted")
    box("systemctl", "start", "mcrelay")
    box("systemctl", "stop", "mcrelay")
    ok(not box.joined, "systemctl stop: the membership is gone")
    box("systemctl", "start", "mcrelay")


def shortest_gap(box: Container, limit_s: float, interrupt) -> float:
    """Interrupt the relay in mid-stream, thrice if it takes that: a busy machine makes a gap longer than it need be."""
    gaps = []
    while len(gaps) < 3 and min(gaps, default=limit_s) >= limit_s:
        before = box.main_pid()
        sink, source = box.begin(COUNT)
        time.sleep(1)
        interrupt()
        got = box.end(sink, source)
        ok(
            box.main_pid() not in {0, before} and not got["duplicated"] and not got["corrupted"],
            "another process relays",
        )
        gaps.append((COUNT - got["received"]) / RATE)
    return min(gaps)


def stays_down(box: Container, what: str) -> None:
    box.configure(BAD)
    box("systemctl", "restart", "mcrelay", check=False)
    time.sleep(1.5)
    code = box("systemctl", "show", "-P", "ExecMainStatus", "mcrelay").strip()
    ok(box.state() == "failed" and code == "2", what)
    box.configure(RULE)


def many(box: Container) -> None:
    """5000 groups, each to a host of its own: a helper for each 20 groups, a socket for each output."""
    rules = [RULE] + [
        f'[rules.n{i}]\ninput = "239.20.{i >> 8}.{i & 255}:5000%in0"\noutputs = ["198.51.100.2:{20000 + i}"]\n'
        for i in range(1, GROUPS)
    ]
    box("systemctl", "stop", "mcrelay")
    box.configure("".join(rules), "many.toml")
    begin = time.monotonic()
    box("systemctl", "start", "mcrelay@many")
    took = time.monotonic() - begin
    joined = len(re.findall(r"(?m)^\s+[0-9A-F]{8} ", Path(f"/proc/{box.leader}/net/igmp").read_text()))
    sockets = len(list((box.main("mcrelay@many") / "fd").iterdir()))
    ok(
        joined >= GROUPS and sockets > GROUPS and exact(box.stream(FEW), FEW),
        f"LimitNOFILE: {GROUPS} groups joined with {sockets} descriptors, READY after {took:.1f} s, and it relays",
    )
    box("systemctl", "stop", "mcrelay@many")
    (box.root / "etc/mcrelay/many.toml").unlink()
    box("systemctl", "start", "mcrelay")


def with_net_admin(box: Container) -> None:
    """Under the unit and its drop-in: an exclusive rule starts nft in the same sandbox, gro changes the link."""
    box.configure(RULE + "exclusive = true\n")
    box("systemctl", "restart", "mcrelay")
    until(lambda: "not exclusive" in box("mcrelay", "show"), "word on the exclusive rule")
    said = box("mcrelay", "show")
    ok("not exclusive: CAP_NET_ADMIN is missing" in said and "net-admin.conf" in said, said.strip().splitlines()[-1])
    before = climbed(box)
    ok(exact(box.stream(FEW), FEW) and climbed(box) - before >= FEW, "an exclusive rule relays all the same")
    with box.dropin("net-admin.conf"):
        box("systemctl", "restart", "mcrelay")
        wanted = 1 << CAP_NET_RAW | 1 << CAP_NET_ADMIN
        ok(int(box.facts()["CapEff"], 16) == wanted, "with the drop-in net-admin.conf: CAP_NET_RAW and CAP_NET_ADMIN")
        print(f"      systemd-analyze security with it: {_exposure(box, 'mcrelay')}")
        for what in ("the exclusive rule is on", "and so after kill -9"):
            until(lambda: " exclusive" in box("mcrelay", "show", check=False), "exclusive rule")
            before = climbed(box)
            relayed = exact(box.stream(FEW), FEW)
            saw = climbed(box) - before
            ok(relayed and saw < FEW / 100, f"{what}: {FEW} relayed, of which {saw} climbed the IP stack")
            pid = box.main_pid()
            box.kill("KILL")
            until(lambda pid=pid: box.main_pid() not in {0, pid} and box.ready(), "restart")
        box("systemctl", "stop", "mcrelay")
        ok("table netdev" not in box("nft", "list", "tables"), "systemctl stop: its nftables table is gone")
        box.configure("[links.in0]\ngro = true\n" + RULE)
        box("systemctl", "start", "mcrelay")
        until(lambda: "in0" in gro_of(box), "word on gro")
        gro = gro_of(box)["in0"]
        switched = gro["state"] == "on" or "Linux" in gro["reason"]  # too old for it
        ok(switched and exact(box.stream(FEW), FEW), f"a link with gro: {gro['state']} {gro['reason'] or ''}")
    box.configure(RULE)
    box("systemctl", "start", "mcrelay")


def gro_of(box: Container) -> dict[str, dict]:
    """How gro stands on each link that asks for it."""
    links = json.loads(box("mcrelay", "show", "links", "-j"))
    return {each["ifname"]: each["gro"] for each in links if each["gro"]}


def climbed(box: Container) -> int:
    """Count what the container's IP stack was given."""
    lines = Path(f"/proc/{box.leader}/net/snmp").read_text().splitlines()
    names, numbers = (line.split() for line in lines if line.startswith("Ip:"))
    return int(numbers[names.index("InReceives")])


def as_one_file(box: Container) -> None:
    """packaging/README.md, "The one-file executable", as it says."""
    installed = box.root / "usr/local/bin/mcrelay"
    shutil.copy2(box.root / TOOL.lstrip("/"), installed)
    with box.dropin("one-file.conf"):
        box("systemctl", "restart", "mcrelay")
        ok(exact(box.stream(FEW), FEW), "the one-file executable with its drop-in: READY, and relays")
        before = box.main_pid()
        time.sleep(12)
        ok(box.main_pid() == before, "its watchdog is fed")
        box("systemctl", "reload", "mcrelay")
        ok(box.main_pid() == before, "it reloads")
        box.kill("KILL")
        until(lambda: box.main_pid() not in {0, before} and box.ready(), "restart")
        stored = box("systemctl", "show", "-P", "NFileDescriptorStore", "mcrelay").strip()
        ok(
            exact(box.stream(FEW), FEW) and stored == "1",
            f"restarted after kill -9 of the parent, {stored} helper socket in the fd store, no second relay",
        )
        stays_down(box, "its exit 2 is not restarted either")
    box("systemctl", "stop", "mcrelay")
    box(*ONCE.split())
    ok(box.ready("once") and exact(box.stream(FEW), FEW), "it runs by systemd-run as nobody, and relays")
    box("systemctl", "stop", "once")
    command = f"echo $$; exec {' '.join(NOBODY)} /usr/local/bin/mcrelay run --socket /tmp/mcrelay.sock"
    relay = box.popen("sh", "-c", command)
    pid = relay.stdout.readline().strip()
    until(lambda: box.succeeds("test", "-S", "/tmp/mcrelay.sock"), "control socket")
    until(lambda: "active" in box("/usr/local/bin/mcrelay", "show", "--socket", "/tmp/mcrelay.sock"), "rule")
    ok(exact(box.stream(FEW), FEW), "and by setpriv as nobody")
    box("kill", pid)
    relay.wait(timeout=10)
    installed.unlink()
    box("systemctl", "start", "mcrelay")


def instances(box: Container) -> None:
    with box.lab("blue"):
        box.configure(RULE, "blue.toml")
        with box.dropin("netns.conf", "mcrelay@blue"):
            box("systemctl", "start", "mcrelay@blue")
            got = box.stream(COUNT)
            ok(exact(got), f"mcrelay@blue in the network namespace blue, beside the other one: {told(got)}")
            cpu = str(min(os.sched_getaffinity(0)))
            box.configure(f"[relay]\nworkers = 2\ncpus = [{cpu}]\n" + RULE, "blue.toml")
            box("systemctl", "restart", "mcrelay@blue")
            tasks = [status(int(each.name)) for each in (box.main("mcrelay@blue") / "task").iterdir()]
            pinned = [each for each in tasks if each["Cpus_allowed_list"].strip() == cpu]
            ok(len(pinned) >= 2 and exact(box.stream(FEW), FEW), "two workers, pinned as relay.cpus says, relay")
            socket = "/run/mcrelay-blue/mcrelay.sock"
            ok("x " in box("mcrelay", "show", "--socket", socket), f"its own sockets: {socket}")
            pid = box.main_pid("mcrelay@blue")
            box("systemctl", "reload", "mcrelay@blue")
            box("systemctl", "restart", "mcrelay")
            ok(box.main_pid("mcrelay@blue") == pid, "it reloads, and a restart of the other one does not touch it")


def removed(box: Container) -> None:
    box("dpkg", "-r", "mcrelay")
    ok(not box.succeeds("pgrep", "-x", "mcrelay"), "remove stops every instance")
    box("dpkg", "-P", "mcrelay")
    ok(
        "could not be found" in box("systemctl", "status", "mcrelay", check=False),
        "purge: systemd knows no such unit any more",
    )
