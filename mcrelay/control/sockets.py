"""The files of the control sockets: taken from a dead relay, never from a living one; who may use them; removed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import socket
import stat
from typing import TYPE_CHECKING

from mcrelay.control.client import read_only_path
from mcrelay.errors import ControlError
from mcrelay.linux.capabilities import ADMINS, READERS, group_id

if TYPE_CHECKING:
    from pathlib import Path

    from mcrelay.linux.capabilities import Account

log = logging.getLogger(__name__)


class SocketFiles:
    """Both sockets in the file system, and the lock beside them, which is held for our lifetime."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock_fd = -1
        self._made: list[Path] = []

    def bind(self, owner: Account | None) -> list[tuple[socket.socket, bool]]:
        """Return both sockets, bound, and whether changes are let in there. Raises ControlError if a relay lives here.

        A new folder for the sockets belongs to *owner*, who removes them at the end.
        """
        self._claim(owner)
        bound: list[tuple[socket.socket, bool]] = []
        try:
            for path, changes in ((self._path, True), (read_only_path(self._path), False)):
                bound.append((_listen(path), changes))
                self._made.append(path)
                _share(path, changes=changes)
        except OSError as error:
            for listener, _ in bound:
                listener.close()
            self.remove()
            raise ControlError(
                f"no control socket at {self._path}: {error.strerror or error}; name another with --socket"
            ) from error
        return bound

    def remove(self) -> None:
        """Remove the sockets. If the folder's owner does not allow that, the next relay replaces them."""
        if self._lock_fd >= 0:
            for path in (*self._made, self._lock_path):
                try:
                    path.unlink(missing_ok=True)
                except OSError as error:
                    log.info("cannot remove a socket: %s stays behind: %s", path, error.strerror)
            os.close(self._lock_fd)
            self._lock_fd = -1

    @property
    def _lock_path(self) -> Path:
        return self._path.with_name(f"{self._path.name}.lock")

    def _claim(self, owner: Account | None) -> None:
        """Hold the lock file for our lifetime: of two daemons that start at once, only one gets it."""
        try:
            _make_folder(self._path.parent, owner)
            while True:
                fd = _open_lock(self._lock_path)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(fd)
                    raise ControlError(
                        f"another mcrelay is running at {self._path}; stop it, or name another socket with --socket"
                    ) from None
                with contextlib.suppress(FileNotFoundError):
                    if os.fstat(fd).st_ino == self._lock_path.stat().st_ino:
                        self._lock_fd = fd
                        return
                os.close(fd)  # its last holder has removed it meanwhile
        except OSError as error:
            raise ControlError(
                f"cannot make {self._lock_path}: {error.strerror}; {_remedy(error, self._lock_path.parent)}"
            ) from error


def _remedy(error: OSError, folder: Path) -> str:
    """The remedy for sockets that cannot be made. "Run as root" only if that is what is missing."""
    another = "or name another socket with --socket"
    sayings = {
        errno.EROFS: f"mount something that can be written there (tmpfs on /run), {another}",
        errno.ENOSPC: f"make room there, {another}",
        errno.EDQUOT: f"make room there, {another}",
        errno.ENOTDIR: f"something on the way to {folder} is no folder: remove it, {another}",
        errno.ELOOP: f"a link on the way to {folder} points at itself: remove it, {another}",
        errno.ENAMETOOLONG: "name a shorter one with --socket",
    }
    if error.errno in {errno.EACCES, errno.EPERM} and os.geteuid():
        return f"run as root, {another}"
    return sayings.get(error.errno or 0, f"see who may write to {folder}, {another}")


def _make_folder(folder: Path, owner: Account | None) -> None:
    """Make the folder for the sockets; an existing one keeps its owner."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
        folder.chmod(0o755)  # independent of the umask: the modes of the sockets decide who may use them
        if owner is not None:
            with contextlib.suppress(OSError):  # a user namespace that does not know the user: we stay who we are
                os.chown(folder, owner.uid, owner.gid)


def _open_lock(path: Path) -> int:
    """Open, or else create: with O_CREAT the kernel refuses a file of another user's in /tmp (fs.protected_regular)."""
    while True:
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, os.O_RDWR | os.O_CLOEXEC)
        with contextlib.suppress(FileExistsError):
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def _share(path: Path, *, changes: bool) -> None:
    """Give the socket to its group, if that exists. Nobody can connect yet: it does not listen."""
    group = group_id(ADMINS if changes else READERS)
    if group is not None:
        with contextlib.suppress(PermissionError):
            os.chown(path, -1, group)
            return
    if changes and os.getegid() == group_id(READERS):
        path.chmod(0o600)  # this group may read, not change


def _listen(path: Path) -> socket.socket:
    """A listening socket at ``path``, with mode 0660 from the start. It replaces a stale socket, and nothing else."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(errno.EEXIST, f"{path} exists and is not a socket")
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    before = os.umask(0o117)
    try:
        listener.bind(str(path))
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    return listener
