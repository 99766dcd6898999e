"""The store in one SQLite file: `SqliteStore`, and `holder`, which says who has a file open.

lockfile (who owns the file) · database (connections, schema) · plan, writer (all writes, one thread) · reader (reads,
a few threads) · checkpoint · worker (the threads) · queries (the .sql files)
"""

from perdure.statestore.sqlite.lockfile import Holder, holder
from perdure.statestore.sqlite.store import SqliteStore

__all__ = ["Holder", "SqliteStore", "holder"]
