"""How answers look: JSON for programs; tables, colours and relative times for people."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType
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
#: How wide a line may become where no terminal shows it: a row stays one line, for `grep` and `awk`.
PIPED_WIDTH = 1_000_000
#: Columns are not made narrower than this, unless all in them is shorter: then each row is a block of lines instead.
LEAST_WIDTH = 12
#: Spaces between two columns.
GAP = 2

# Whatever stands in a payload or an id must not steer the terminal.
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def show_json(value: object) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def show_json_line(value: object) -> None:
    """One line, at once: whoever reads follows what happens."""
    print(json.dumps(value, ensure_ascii=False), flush=True)


def terminal_width() -> int:
    """Characters in a line of the terminal that shows the output; PIPED_WIDTH if none does."""
    if not sys.stdout.isatty():
        return PIPED_WIDTH
    from rich.console import Console

    return Console().width


def _print(shown: RenderableType) -> None:
    from rich.console import Console

    console = Console(width=terminal_width(), highlight=False)
    with console.capture() as captured:
        console.print(shown)
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


def counted(number: int) -> str:
    return "1 instance" if number == 1 else f"{number} instances"


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
    else:
        _print(fields_table(found))


def fields_table(found: dict[str, object]) -> Table:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in found.items():
        table.add_row(name, _text(value))
    return table


def show_table(
    headings: Sequence[str], rows: Iterable[Sequence[object]], nothing: str, *, cut: bool = False
) -> None:
    """A table that fits the terminal, as `rows_table`. `nothing` is said where there are no rows."""
    found = list(rows)
    if found:
        _print(rows_table(headings, found, terminal_width(), cut=cut))
    else:
        print(nothing, file=sys.stderr)


def rows_table(
    headings: Sequence[str], rows: Sequence[Sequence[object]], width: int, *, cut: bool = False
) -> RenderableType:
    """A table no wider than `width`: what is too long for its column is folded, or cut if it is in the last one and
    `cut` is set. Where columns would become too narrow to be read, each row is a block of lines."""
    from rich.table import Table

    texts = [[_one_line(value) for value in row] for row in rows]
    if not headings[-1] and not any(row[-1].plain for row in texts):
        # There is nothing to remark on: the room is for the others.
        headings, texts = headings[:-1], [row[:-1] for row in texts]
    natural = [
        max(len(heading), 1, *(row[number].cell_len for row in texts))
        for number, heading in enumerate(headings)
    ]
    widths = fitted(natural, width, last_first=cut)
    if widths is None:
        return _blocks(headings, texts)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, GAP // 2))
    for number, heading in enumerate(headings):
        cuts = cut and number == len(headings) - 1
        table.add_column(heading, width=widths[number], no_wrap=cuts, overflow="ellipsis" if cuts else "fold")
    for row in texts:
        table.add_row(*row)
    return table


def fitted(natural: Sequence[int], width: int, *, last_first: bool = False) -> list[int] | None:
    """The widths of columns that are as wide as `natural` if there is room for them, with GAP between two; the widest
    give way first, or before them the last one. None: LEAST_WIDTH for each is too much."""
    room = width - GAP * (len(natural) - 1)
    if sum(min(one, LEAST_WIDTH) for one in natural) > room:
        return None
    widths = list(natural)
    if last_first and widths[-1] > LEAST_WIDTH:
        widths[-1] -= min(max(sum(widths) - room, 0), widths[-1] - LEAST_WIDTH)
    while (excess := sum(widths) - room) > 0:
        widest = max(widths)
        several = [number for number, one in enumerate(widths) if one == widest]
        next_lower = max([LEAST_WIDTH, *(one for one in widths if one < widest)])
        # Together down to the next one, or as far as is needed; the last ones give the odd characters.
        give, odd = divmod(min(excess, (widest - next_lower) * len(several)), len(several))
        for place, number in enumerate(reversed(several)):
            widths[number] -= give + (place < odd)
    return widths


def _blocks(headings: Sequence[str], rows: Sequence[Sequence[Text]]) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    blocks: list[RenderableType] = []
    for row in rows:
        fields: dict[str, object] = {
            heading.lower(): cell for heading, cell in zip(headings, row, strict=True) if cell.plain
        }
        blocks += [Text(), fields_table(fields)] if blocks else [fields_table(fields)]
    return Group(*blocks)


def _text(value: object) -> Text:
    from rich.text import Text

    return value if isinstance(value, Text) else styled(value)


def _one_line(value: object) -> Text:
    from rich.text import Text

    text = _text(value)
    plain = text.plain
    return Text(" ".join(plain.split()), style=text.style) if "\n" in plain or "\t" in plain else text


def value_of(found: dict[str, Any], name: str) -> Any:
    """A property of an instance: Dapr's names begin with `dapr.workflow.`."""
    return found.get("properties", {}).get(f"dapr.workflow.{name}")
