"""What was likely meant by a name that does not exist."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

#: Names that are listed at most.
LISTED = 20
#: Names that are compared at most, and letters of each: comparing takes quadratic time.
_COMPARED = 1000
_LETTERS = 64


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The one of these that looks most like the name, if any does."""
    from difflib import get_close_matches  # only errors need it

    short = {one[:_LETTERS].casefold(): one for one in islice(names, _COMPARED)}
    close = get_close_matches(name[:_LETTERS].casefold(), short, 1)
    return short[close[0]] if close else None


def instead_of(name: str, registered: Iterable[str]) -> str:
    """The end of a message that says that a name is not registered: what may have been meant, and what there is."""
    known = sorted(registered)
    near = nearest(name, known)
    meant = f"did you mean {near!r}? " if near is not None else ""
    more = f" and {len(known) - LISTED} more" if len(known) > LISTED else ""
    return f"{meant}registered are: {', '.join(known[:LISTED]) or 'none'}{more}"
