"""How commands fail: one line on stderr, and an exit status."""

from __future__ import annotations

#: Something was asked for that cannot be done.
FAILED = 1
#: The command line itself is wrong.
USAGE = 2
#: Ctrl-C.
INTERRUPTED = 130


class CommandError(Exception):
    """What was wrong, and what to do about it, in one line."""

    def __init__(self, message: str, status: int = FAILED) -> None:
        super().__init__(message)
        self.status = status


def usage(message: str) -> CommandError:
    return CommandError(message, USAGE)
