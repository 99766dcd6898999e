"""Pages over many partitions, each of which keeps its part sorted."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

#: A place in the order of all parts. Comparable with each other.
Place = tuple[Any, ...]
P = TypeVar("P")

#: How many entries one page may look at: beyond, it ends early, with what was found up to there.
BUDGET = 20_000
#: The most entries that are asked of one part at a time.
LARGEST = 1000


class Piece(NamedTuple, Generic[P]):
    """A few entries of one part."""

    #: Places, in order, each with what the caller needs to find the entry.
    entries: Sequence[tuple[Place, P]]
    #: The place up to which the part was looked through; None: to its end.
    until: Place | None


#: Given parts, each with the place after which it goes on, and how many entries to look at: a piece of each.
Fetch = Callable[[Sequence[tuple[P, Place]], int], Awaitable[Sequence[Piece[P]]]]


async def merged(
    parts: Sequence[P], after: Place, limit: int, fetch: Fetch[P]
) -> tuple[list[tuple[Place, P]], Place | None]:
    """The first `limit` entries after a place, and the place where the next page goes on; None: there is none.

    Each part is asked for its share at first; those that may hold more of the page are asked again, for twice as many.
    """
    found: list[tuple[Place, P]] = []
    open_parts: list[tuple[P, Place]] = [(part, after) for part in parts]
    chunk = min(LARGEST, 4 + 2 * limit // max(1, len(parts)))
    looked = 0
    asked: list[tuple[P, Place]] = open_parts
    while asked:
        waiting = {id(one) for one in asked}
        open_parts = [one for one in open_parts if id(one) not in waiting]
        for (part, _), piece in zip(asked, await fetch(asked, chunk), strict=True):
            found += piece.entries
            if piece.until is not None:
                open_parts.append((part, piece.until))
        looked += len(asked) * chunk
        found.sort(key=_place)
        # What is beyond the page and the one entry that tells whether there is another is not needed.
        del found[limit + 1 :]
        bound = found[limit][0] if len(found) > limit else None
        asked = [one for one in open_parts if bound is None or one[1] < bound]
        if asked and looked > BUDGET:
            until = min(one[1] for one in asked)
            sure = bisect_right(found, until, key=_place)
            if sure > limit:
                break
            return found[:sure], until
        chunk = min(LARGEST, chunk * 2)
    if len(found) > limit:
        return found[:limit], found[limit - 1][0]
    return found, None


def _place(entry: tuple[Place, Any]) -> Place:
    return entry[0]
