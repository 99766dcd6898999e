"""Tables at every width."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from perdure.cli import show

HEADINGS = ("ID", "WORKFLOW", "STATUS", "CREATED", "UPDATED", "")
ROWS = [
    ("9f86d081884c7d659a2feaa0c55ad015", "OrderProcessing", "RUNNING", "3 min ago", "9 ms ago", ""),
    (
        "order-1",
        "OrderProcessing",
        "FAILED",
        "2 h ago",
        "2 h ago",
        "the payment was refused:\nthe card has expired " * 5,
    ),
]


def lines(width: int, rows: Sequence[Sequence[object]] = ROWS, *, cut: bool = True) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False)
    console.print(show.rows_table(HEADINGS, rows, width, cut=cut))
    return [line.rstrip() for line in out.getvalue().splitlines()]


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 120, 200])
@pytest.mark.parametrize("cut", [True, False])
def test_no_line_is_longer_than_the_terminal(width: int, cut: bool) -> None:
    assert max(map(cell_len, lines(width, cut=cut))) <= width


def test_a_row_is_a_line_where_there_is_room() -> None:
    found = lines(120)
    assert len(found) == 3
    assert found[1].split()[0] == ROWS[0][0]
    assert found[2].endswith("…")


def test_ids_stay_whole_where_their_column_has_room() -> None:
    (_, first, *_) = lines(100)
    assert first.startswith(f"{ROWS[0][0]}  ")


def test_where_columns_would_be_too_narrow_each_row_is_a_block() -> None:
    found = lines(40)
    assert found[0] == f"id        {ROWS[0][0][:30]}"
    assert "status    RUNNING" in found
    assert "" in found


def test_a_column_of_remarks_without_any_takes_no_room() -> None:
    rows = [("order-1", "slow", "COMPLETED", "3.2 s ago", "1.4 s ago", "")]
    assert lines(50, rows) == [
        "ID       WORKFLOW  STATUS     CREATED    UPDATED",
        "order-1  slow      COMPLETED  3.2 s ago  1.4 s ago",
    ]


def test_what_is_piped_is_one_line_a_row() -> None:
    found = lines(show.PIPED_WIDTH)
    assert len(found) == 3
    assert found[2].count("the card has expired") == 5


def test_wide_characters_count_twice() -> None:
    rows = [("注文" * 20, "支払い", "RUNNING", "1 s ago", "1 s ago", "失敗" * 30)]
    for width in (60, 90, 120):
        assert max(map(cell_len, lines(width, rows))) <= width


@given(st.lists(st.integers(1, 300), min_size=1, max_size=12), st.integers(1, 400), st.booleans())
def test_widths_that_fit(natural: list[int], width: int, last_first: bool) -> None:
    room = width - show.GAP * (len(natural) - 1)
    found = show.fitted(natural, width, last_first=last_first)
    if found is None:
        assert sum(min(one, show.LEAST_WIDTH) for one in natural) > room
        return
    assert sum(found) <= room
    assert sum(found) == min(room, sum(natural))
    for one, given_width in zip(natural, found, strict=True):
        assert min(one, show.LEAST_WIDTH) <= given_width <= one
