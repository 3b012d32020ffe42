"""Never root: a relay that root starts continues as an ordinary user with only the capabilities that it needs.

Only the main thread may call this, before any other thread starts: capabilities belong to threads, not to processes.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import grp
import logging
import os
import pwd
import signal
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mcrelay.errors import OperationError
from mcrelay.linux.installed import unpacked

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

log = logging.getLogger(__name__)

USERS = ("mcrelay", "nobody")  # the first that exists
ADMINS = "mcrelay-admin"  # the group that may change what runs
READERS = "mcrelay"  # the group that may read what runs
NOBODY = 65534  # the kernel's overflow uid, where there is no such user either

CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF = 10, 12, 13, 39  # linux/capability.h
_NAMES = {
    CAP_NET_BIND_SERVICE: "cap_net_bind_service",
    CAP_NET_ADMIN: "cap_net_admin",
    CAP_NET_RAW: "cap_net_raw",
    CAP_BPF: "cap_bpf",
}
KERNEL_ENGINE = "kernel_engine"  # the one use of CAP_NET_ADMIN that needs CAP_BPF too
_LAST = 63
_VERSION_3 = 0x20080522

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PR_SET_KEEPCAPS = 8
PR_CAPBSET_READ, PR_CAPBSET_DROP = 23, 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_IS_SET, PR_CAP_AMBIENT_RAISE, PR_CAP_AMBIENT_LOWER = 1, 2, 3

# The process cannot change to an account: no CAP_SETUID, or a user namespace that does not know it.
_NOT_POSSIBLE = {errno.EPERM, errno.EINVAL}


@dataclass(frozen=True, slots=True)
class Account:
    """The user and groups of a process."""

    name: str
    uid: int
    gid: int


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def no_net_admin(asker: str) -> str:
    """Say that *asker* needs CAP_NET_ADMIN, and how to get it."""
    return (
        f"CAP_NET_ADMIN is missing: started by root, the relay keeps it if {asker} stands in its files by then; under"
        " systemd, install the drop-in net-admin.conf"
    )


def successor() -> Account | None:
    """The account that a relay started by root switches to; None for any other user."""
    if os.geteuid():
        return None
    for name in USERS:
        with contextlib.suppress(KeyError):
            found = pwd.getpwnam(name)
            return Account(name, found.pw_uid, found.pw_gid)
    return Account(str(NOBODY), NOBODY, NOBODY)


def become_unprivileged(account: Account | None, admin_uses: Collection[str] = (), ports: Collection[int] = ()) -> None:
    """Become *account*, keep only the capabilities that relaying needs, also for child processes. Logs them.

    CAP_NET_RAW is kept. CAP_NET_ADMIN is kept for *admin_uses*, what the configuration needs it for, and CAP_BPF where
    KERNEL_ENGINE is among them; CAP_NET_BIND_SERVICE for reserved source *ports*; and each where somebody put it into
    the ambient set for us (systemd's AmbientCapabilities=): root has every capability, so that alone does not say that
    we are meant to have it. Raises OperationError.
    """
    if account is not None:
        wanted = {CAP_NET_RAW}
        bpf = KERNEL_ENGINE in admin_uses
        for capability, needed in ((CAP_NET_ADMIN, admin_uses), (CAP_BPF, bpf), (CAP_NET_BIND_SERVICE, ports)):
            if needed or _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, capability) == 1:
                wanted.add(capability)
        wanted &= capabilities()
        try:
            _become(account, wanted)
        except OSError as error:
            raise OperationError(f"cannot go on as user {account.name}: {error.strerror or error}") from error
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    if unpacked():  # the process that was started is our parent: killing it means us. A change of user resets this
        _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    kept = sorted(capabilities())
    names = ",".join(_NAMES.get(each, f"cap_{each}") for each in kept) or "none"
    if account is not None and admin_uses and CAP_NET_ADMIN in kept:
        names += f" cap_net_admin_for={','.join(admin_uses)}"
    log.info("goes on as user=%s uid=%d gid=%d capabilities=%s", _name(os.getuid()), os.getuid(), os.getgid(), names)


def _become(account: Account, wanted: set[int]) -> None:
    for capability in set(range(_LAST + 1)) - wanted:
        with contextlib.suppress(
            OSError
        ):  # unknown to this kernel, or no CAP_SETPCAP: child processes are no worse than before
            _prctl(PR_CAPBSET_DROP, capability)
    _prctl(PR_SET_KEEPCAPS, 1)
    try:
        os.initgroups(account.name, account.gid)
        os.setresgid(account.gid, account.gid, account.gid)
        os.setresuid(account.uid, account.uid, account.uid)
    except OSError as error:
        if error.errno not in _NOT_POSSIBLE:
            raise
        log.warning(
            "cannot become user %s (%s): stays uid 0 of its container or namespace, without its capabilities",
            account.name,
            error.strerror,
        )
    _set_capabilities(wanted)


def capabilities() -> set[int]:
    """The permitted capabilities of this thread, from capget(2): /proc may not be mounted."""
    header, sets = _Header(_VERSION_3, 0), (_Sets * 2)()
    _call("capget", ctypes.byref(header), ctypes.byref(sets))
    permitted = sets[0].permitted | sets[1].permitted << 32
    return {each for each in range(_LAST + 1) if permitted >> each & 1}


def may_be_had(capability: int) -> bool:
    """Whether the bounding set has it: an executed file may gain it, and nobody need have it now."""
    with contextlib.suppress(OSError):
        return _prctl(PR_CAPBSET_READ, capability) == 1
    return False


def _set_capabilities(wanted: Iterable[int], inheritable: Iterable[int] = ()) -> None:
    """Permit and use exactly these. An executed file inherits none, but for ambient ones among the *inheritable*."""
    mask, lent = (sum(1 << each for each in some) for some in (wanted, inheritable))
    header, sets = _Header(_VERSION_3, 0), (_Sets * 2)()
    for half in range(2):
        sets[half].effective = sets[half].permitted = mask >> 32 * half & 0xFFFFFFFF
        sets[half].inheritable = lent >> 32 * half & 0xFFFFFFFF
    _call("capset", ctypes.byref(header), ctypes.byref(sets))


@contextlib.contextmanager
def lent(capability: int) -> Iterator[None]:
    """Give children that this thread starts within the block a capability that it holds. Raises OSError.

    no_new_privs allows that: the child gains nothing that we lack.
    """
    if _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, capability) == 1:
        yield
        return
    held = capabilities()
    _set_capabilities(held, {capability})
    _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability)
    try:
        yield
    finally:
        _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_LOWER, capability)
        _set_capabilities(held)


def _prctl(option: int, *values: int) -> int:
    words = [ctypes.c_ulong(each) for each in (*values, *[0] * (4 - len(values)))]
    return _call("prctl", ctypes.c_int(option), *words)


def _call(name: str, *arguments: object) -> int:
    """The one place where a failed call becomes an OSError."""
    result: int = getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments)
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return result


def group_id(name: str) -> int | None:
    """The number of a group, or None if no group has that name."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def blocked(path: Path) -> Path | None:
    """Name the folder or file on the way to *path* that this process may not read; None if it may."""
    path = Path(os.path.realpath(path))
    for folder in reversed(path.parents):
        if not os.access(folder, os.X_OK):
            return folder
    try:
        needed = os.R_OK | os.X_OK if stat.S_ISDIR(path.stat().st_mode) else os.R_OK
    except FileNotFoundError:
        return None
    return None if os.access(path, needed) else path


def warn_of_blocked(paths: Iterable[Path]) -> None:
    """Warn at the start of files that a reload cannot read, with the command that mends it."""
    user, group = _name(os.getuid()), _group_name(os.getgid())
    for obstacle in sorted({found for path in paths if (found := blocked(path))}):
        rights = "g+rx" if obstacle.is_dir() else "g+r"
        log.warning(
            "finds that user %s cannot read %s: a reload will be refused; allow it with `chgrp %s %s && chmod %s %s`",
            user, obstacle, group, obstacle, rights, obstacle,
        )  # fmt: skip


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
