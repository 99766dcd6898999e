"""Cursors of pages: a place in an order, as text that only the store reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from perdure.errors import StoreError
from perdure.statestore.contract import InstanceRow, Page, Reminder

T = TypeVar("T")
Place = tuple[Any, ...]


def encode(place: Place) -> str:
    return json.dumps(place, separators=(",", ":"))


def decode(cursor: str, *shape: type) -> Place:
    """`StoreError` for a text that is no cursor of this shape: it came from a caller."""
    try:
        place = json.loads(cursor)
    except ValueError:
        place = None
    if not isinstance(place, list) or [type(part) for part in place] != list(shape):
        raise StoreError(f"{cursor!r} is not a cursor of this list")
    return tuple(place)


def page(items: Sequence[T], limit: int, place: Callable[[T], Place]) -> Page[T]:
    """The page that begins with `items`, of which one more than `limit` was read to know whether there are more."""
    if len(items) <= limit:
        return Page(items)
    return Page(items[:limit], encode(place(items[limit - 1])))


def due_place(reminder: Reminder) -> Place:
    """Where a reminder stands in the order of `due`."""
    return (reminder.due, reminder.actor.type, reminder.actor.id, reminder.name)


def row_place(row: InstanceRow) -> Place:
    """Where a row stands in the order of `query`: newest first, then by id."""
    return (-row.created, row.actor.id)
