"""What the kernel engine says where it cannot be had: a cause that was seen, and what to do."""

from __future__ import annotations

import errno

import pytest

from mcrelay.engine import kernel
from mcrelay.linux import capabilities

HELD = frozenset({capabilities.CAP_BPF, capabilities.CAP_NET_ADMIN})


@pytest.mark.parametrize(
    ("number", "said", "held", "reason"),
    [
        (errno.EPERM, "the hook's probe: Operation not permitted", frozenset(), kernel.NO_CAPABILITY),
        (errno.EPERM, "the hook's probe: Operation not permitted", HELD, kernel.NOT_ALLOWED),
        (errno.EACCES, "the hook's probe: Permission denied", HELD, kernel.NOT_ALLOWED),  # a security policy's
        (errno.EINVAL, "BPF_LINK_CREATE: Invalid argument", HELD, kernel.NO_TCX),
        # The verifier's: it does not say that something is not allowed, and neither do we.
        (errno.EACCES, "BPF_PROG_LOAD: Permission denied", HELD, "the kernel refused the program: BPF_PROG_LOAD: "),
        (errno.EINVAL, "BPF_PROG_LOAD: Invalid argument", HELD, "the kernel refused the program: BPF_PROG_LOAD: "),
        (errno.ENOSPC, "map rules: No space left on device", HELD, kernel.FULL),
    ],
)
def test_why_the_ring_has_a_rule_is_what_was_seen(monkeypatch, number, said, held, reason):
    monkeypatch.setattr(capabilities, "capabilities", lambda: held)
    assert kernel._refusal(OSError(number, said)).startswith(reason)
