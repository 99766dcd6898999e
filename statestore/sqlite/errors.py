"""The seam where sqlite3's exceptions become the store's."""

from __future__ import annotations

import sqlite3

from perdure.errors import CorruptState, PerdureError, StoreError, StoreUnavailable

#: The disk's, the system's or another process's fault: the same request may succeed later.
_PASSING = frozenset(
    (
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    )
)
_CORRUPT = frozenset((sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT))


def mapped(error: Exception) -> PerdureError:
    """The store's error for an exception of its inside, which stays its cause."""
    if isinstance(error, PerdureError):
        return error
    # Extended codes hold the kind in their low byte.
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    result: PerdureError
    if code in _PASSING or isinstance(error, (OSError, MemoryError)):
        result = StoreUnavailable(f"SQLite: {error or 'out of memory'}")
    elif code in _CORRUPT or (code == sqlite3.SQLITE_ERROR and "malformed" in str(error)):
        result = CorruptState(f"SQLite: {error}")
    else:
        result = StoreError(f"SQLite: {error}")
    result.__cause__ = error
    return result
