"""Several relays on one host: what an instance's name may be, and where its control socket is."""

from __future__ import annotations

import re

from mcrelay.errors import COMMAND_LINE, Complaint, ConfigError

RUN = "/run"
MAIN = "mcrelay"  # the instance that needs no -i

_INSTANCE = re.compile("[A-Za-z0-9][A-Za-z0-9_-]{0,62}")


def check_instance(instance: str | None) -> None:
    """Raise ConfigError for what cannot be an instance's name; None is the main one."""
    if instance is not None and not _INSTANCE.fullmatch(instance):
        problem = f"{instance!r} cannot be an instance's name"
        remedy = "it has 1 to 63 letters, digits, - or _, and begins with a letter or digit"
        raise ConfigError([Complaint(COMMAND_LINE, 0, "-i", problem, remedy)])


def control_path(instance: str | None = None, run: str = RUN) -> str:
    """Give the control socket that a configuration has unless it names one."""
    check_instance(instance)
    return f"{run}/{MAIN if instance in {None, MAIN} else f'{MAIN}-{instance}'}/{MAIN}.sock"
