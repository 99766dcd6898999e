"""The keys and reminder names of workflow actors."""

from __future__ import annotations

#: The key `customStatus` as long as the code has set none: it is there from the first commit on.
NO_STATUS = b"null"
#: The name of a tombstone's reminder.
FORGET = "forget"
#: The name of a scheduled start's reminder.
START = "start"


def history_key(number: int) -> str:
    return f"history-{number:06d}"


def inbox_key(number: int) -> str:
    return f"inbox-{number:06d}"


def outbox_key(number: int) -> str:
    return f"outbox-{number:06d}"


def timer_name(task_id: int) -> str:
    """The reminder of the timer with this task id."""
    return f"timer-{task_id}"
