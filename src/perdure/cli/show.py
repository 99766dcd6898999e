"""How answers look: JSON for programs; tables, colours and relative times for people."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

COLOURS = {
    "PENDING": "cyan",
    "RUNNING": "blue",
    "SUSPENDED": "yellow",
    "STALLED": "bold red",
    "COMPLETED": "green",
    "FAILED": "red",
    "TERMINATED": "magenta",
}
#: How wide lines may become where nobody sees them break.
PIPED_WIDTH = 200

# Whatever stands in a payload or an id must not steer the terminal.
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def show_json(value: object) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def _print(table: Table) -> None:
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH, highlight=False)
    with console.capture() as captured:
        console.print(table)
    # Rich fills the last column with spaces, which break lines in a terminal that becomes narrower.
    for line in captured.get().splitlines():
        print(line.rstrip())


def clean(text: object) -> str:
    return _STEERING.sub(lambda found: f"\\x{ord(found[0]):02x}", str(text))


def one_line(text: str) -> str:
    return clean(" ".join(text.split("\n")))


def styled(text: object, style: str = "") -> Text:
    from rich.text import Text

    return Text(clean(text), style=style)


def status_text(status: str) -> Text:
    return styled(status, COLOURS.get(status, ""))


def compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def pretty(value: object) -> Text:
    """JSON over several lines where one would be long."""
    short = compact(value)
    return styled(short if len(short) <= 72 else json.dumps(value, indent=2, ensure_ascii=False))


def payload_text(serialized: str) -> Text:
    """A payload as the API gives it: JSON as text."""
    try:
        return pretty(json.loads(serialized))
    except ValueError:
        return styled(serialized)


def ago(moment: str, now: datetime | None = None) -> str:
    """`3 min ago`, `in 2 h`."""
    passed = ((now or datetime.now(UTC)) - datetime.fromisoformat(moment)).total_seconds()
    text = duration(abs(passed))
    return f"in {text}" if passed < 0 else f"{text} ago"


def duration(seconds: float) -> str:
    """`9 ms`, `1.5 s`, `2 min`, `3 h`: one unit, no false precision."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    size, unit = next((size, unit) for size, unit in _UNITS if seconds >= size)
    return f"{int(seconds // size)} {unit}"


def moment_text(moment: str) -> str:
    """`2026-01-02 03:04:05 UTC (3 min ago)`"""
    return f"{moment[:19].replace('T', ' ')} UTC ({ago(moment)})"


def show_fields(found: dict[str, object], as_json: bool = False) -> None:
    """Names and values, one a line; a value may be a rich text."""
    if as_json:
        show_json(found)
        return
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in found.items():
        table.add_row(name, value if isinstance(value, Text) else styled(value))
    _print(table)


def show_table(headings: Sequence[str], rows: Iterable[Sequence[object]], nothing: str) -> None:
    """A table whose first column is never cut. `nothing` is said where there are no rows."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, heading in enumerate(headings):
        table.add_column(heading, overflow="fold", no_wrap=False, ratio=None, min_width=6 if number else None)
    for row in rows:
        table.add_row(*(value if isinstance(value, Text) else styled(value) for value in row))
    if table.row_count:
        _print(table)
    else:
        print(nothing, file=sys.stderr)


def value_of(found: dict[str, Any], name: str) -> Any:
    """A property of an instance: Dapr's names begin with `dapr.workflow.`."""
    return found.get("properties", {}).get(f"dapr.workflow.{name}")
