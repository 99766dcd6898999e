"""Checkpoints: from the log into the database, beside the commits."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

#: How often one checkpoint follows the commits that came meanwhile, before it leaves the rest to `finish`.
ROUNDS = 3


class Checkpoints:
    """Copies what is in the log, in a thread of its own: its writing and syncing is then no commit's wait. While
    commits come without a pause it never gets to the log's end, behind which the log would begin anew; then the
    writer thread does the little that is left, between two commits."""

    def __init__(self, finish: Callable[[], None]) -> None:
        self._finish = finish
        #: Pages in the log and, of those, in the database, at the end of the last checkpoint.
        self.last = (0, 0)

    def run(self, connection: sqlite3.Connection) -> None:
        """A job of the checkpoint thread."""
        for _ in range(ROUNDS):
            if self._copy(connection):
                return
        self._finish()

    def finish(self, connection: sqlite3.Connection) -> None:
        """A job of the writer thread."""
        self._copy(connection)

    def _copy(self, connection: sqlite3.Connection) -> bool:
        _, log, copied = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        self.last = (log, copied)
        return bool(log == copied)
