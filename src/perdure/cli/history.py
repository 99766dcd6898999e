"""A history as a table for people."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from perdure.cli import show

#: Shown in columns of their own, or of no use to people.
_HIDDEN = frozenset(
    {"number", "type", "at", "id", "name", "nonce", "key", "start_id", "execution_id", "trace", "parent"}
)
_STYLES = {
    "Failed": "red",
    "Terminated": "magenta",
    "Suspended": "yellow",
    "Completed": "green",
    "Raised": "cyan",
}
#: Characters of a payload that are shown at most.
MAX_DETAIL = 400


def show_history(events: list[dict[str, Any]]) -> None:
    if events:
        print(f"from {show.moment_text(events[0]['at'])}")
    show.show_table(HEADINGS, history_rows(events, events[:1]), "no events")


HEADINGS = ("NO", "AFTER", "EVENT", "TASK", "NAME", "")


def history_rows(events: list[dict[str, Any]], first: list[dict[str, Any]]) -> list[tuple[object, ...]]:
    """`first`: the event, if there is any, from which times are counted."""
    return [_row(event, first[0]) for event in events]


def _row(event: dict[str, Any], first: dict[str, Any]) -> tuple[object, ...]:
    passed = datetime.fromisoformat(event["at"]) - datetime.fromisoformat(first["at"])
    style = next((style for end, style in _STYLES.items() if event["type"].endswith(end)), "")
    if event.get("status") == "failed":
        style = "red"
    return (
        event["number"],
        f"+{show.duration(passed.total_seconds())}",
        show.styled(event["type"], style),
        event.get("id", ""),
        event.get("name", ""),
        _detail(event),
    )


def _detail(event: dict[str, Any]) -> str:
    parts = []
    for name, value in event.items():
        if name in _HIDDEN:
            continue
        if name == "failure" and isinstance(value, dict):
            parts.append(f"{value.get('type')}: {value.get('message')}")
        elif name in ("input", "result", "data", "output"):
            parts.append(show.compact(value))
        else:
            parts.append(f"{name}={value if isinstance(value, str) else show.compact(value)}")
    text = " ".join(parts)
    return (
        text
        if len(text) <= MAX_DETAIL
        else f"{text[:MAX_DETAIL]}… ({len(text)} characters; --json shows all)"
    )
