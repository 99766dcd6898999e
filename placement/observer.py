"""Who looks on at a leader: metrics, tests."""

from __future__ import annotations

from perdure.placement.table import Table


class Observer:
    """Told what a leader does; this one does not care. Called on the loop; never raises."""

    def stored(self, before: Table | None, table: Table, seconds: float) -> None:
        """The store has a table, `seconds` after it was first tried; it is published now. `before`: the one that it
        follows, None for a leader's first."""

    def gone(self, reason: str) -> None:
        """A member is out, for one of the reasons of `Gone`."""

    def heard(self) -> None:
        """A heartbeat came."""

    def refused(self) -> None:
        """A node was refused."""
