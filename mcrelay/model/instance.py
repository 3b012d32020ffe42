"""Several relays on one host: the names that an instance may have, and the path of its control socket."""

from __future__ import annotations

from mcrelay.errors import COMMAND_LINE, Complaint, ConfigError
from mcrelay.model.notation import NAME, NAME_REMEDY

RUN = "/run"
MAIN = "mcrelay"  # the instance that needs no -i


def check_instance(instance: str | None) -> None:
    """Raise ConfigError if this cannot be the name of an instance; None is the main one."""
    if instance is not None and not NAME.fullmatch(instance):
        problem = f"{instance!r} cannot be an instance's name"
        raise ConfigError([Complaint(COMMAND_LINE, 0, "-i", problem, NAME_REMEDY)])


def control_path(instance: str | None = None, run: str = RUN) -> str:
    """Give the control socket that a configuration has unless it names one."""
    check_instance(instance)
    return f"{run}/{MAIN if instance in {None, MAIN} else f'{MAIN}-{instance}'}/{MAIN}.sock"
