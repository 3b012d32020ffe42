"""Every exception mcrelay raises on purpose, in one place so that no module needs another one for its errors.

McrelayError                 shown as one line on stderr, never as a traceback
├── UsageError               used wrongly: exit 2
│   ├── SettingError         one value that cannot be taken: what is wrong, what would be right
│   │   └── NotationError    a stream that cannot be read
│   └── ConfigError          a configuration with complaints; carries all of them
└── OperationError           it failed: exit 1
    ├── ControlError         the running relay could not be asked, or refused
    ├── LinkError            a link is missing or unfit
    ├── MembershipError      the kernel refused a join
    └── DropError            nft or the kernel refused the drop table

NotBuiltError                a fault of ours: a value was let in that the plan does not know
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class McrelayError(Exception):
    """Base of all errors meant for the person at the terminal: the text says what to do."""

    exit_code = 1


class NotBuiltError(ValueError):
    """The configuration accepted a value that ``compile_plan`` does not know: it left schema.NOT_YET too early."""

    def __init__(self, key: str, value: object) -> None:
        super().__init__(f"{key} = {value!r} is not built")


class UsageError(McrelayError):
    """The command or the configuration is wrong; nothing was changed."""

    exit_code = 2


class SettingError(UsageError):
    """One value cannot be taken. ``problem`` and ``remedy`` are what a Complaint says of it."""

    def __init__(self, problem: str, remedy: str) -> None:
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{problem}; {remedy}")


class NotationError(SettingError):
    """A stream's text cannot be read."""


COMMAND_LINE = "command line"  # stands for the file where a command line gave the value


@dataclass(frozen=True, slots=True, order=True)
class Complaint:
    """One thing wrong in a configuration: where, what, and what would be right.

    ``line`` is 1-based; 0 where no line can be named (a file that cannot be read).
    ``warning`` complaints do not refuse the configuration unless ``check --strict`` asks for it.
    """

    file: str
    line: int
    key: str
    problem: str
    remedy: str
    warning: bool = False

    def __str__(self) -> str:
        """FILE:LINE: KEY.PATH: what is wrong; what would be right. A command line has no lines to number."""
        place = COMMAND_LINE if self.file == COMMAND_LINE else f"{self.file}:{self.line}"
        return f"{place}: {self.key}: {self.problem}; {self.remedy}"


class ConfigError(UsageError):
    """A configuration that is refused; ``complaints`` holds every reason, in file and line order."""

    def __init__(self, complaints: Sequence[Complaint]) -> None:
        self.complaints = tuple(complaints)
        super().__init__("\n".join(map(str, self.complaints)))


class OperationError(McrelayError):
    """The request was right, and it failed."""


class ControlError(OperationError):
    """The running relay could not be reached, or it refused."""


class LinkError(OperationError):
    """A link is missing or unfit for what a rule wants of it."""


class MembershipError(OperationError):
    """The kernel refused a join, also on a fresh socket."""


class DropError(OperationError):
    """The drop table of exclusive rules cannot be made; the text says why."""
