"""Checkpoints: from the log into the database, beside the commits."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable


class Checkpoints:
    """Copies what is in the log, in a thread of its own: its writing and syncing is then no commit's wait. While
    commits come without a pause it never meets the log's end, and only there can the log begin anew; so the writer
    thread does the little that is left, between two commits."""

    def __init__(self, finish: Callable[[], None]) -> None:
        self._finish = finish

    def run(self, connection: sqlite3.Connection) -> None:
        """A job of the checkpoint thread."""
        # The second takes what came during the first, which is the longer one.
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        self._finish()

    def finish(self, connection: sqlite3.Connection) -> None:
        """A job of the writer thread."""
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
