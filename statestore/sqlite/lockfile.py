"""LockFile: the one process that may open a database, and who that is."""

from __future__ import annotations

import fcntl
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from perdure.errors import ConfigurationError, StoreHeld, StoreUnavailable

#: How often, and after how many seconds, the lock is tried again: someone may be looking (`holder`).
TRIES = 5
TRY_AGAIN = 0.01


class Holder(msgspec.Struct, frozen=True):
    """Who has a database open."""

    pid: int
    #: When it was opened, in microseconds since 1970.
    since: int
    #: Where its HTTP API is; None while it has none.
    address: str | None = None

    def __str__(self) -> str:
        since = datetime.fromtimestamp(self.since / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return f"process {self.pid} ({self.address or 'no HTTP address'}), since {since}"


# By resolved path. The system gives the same process the same lock twice, and takes it away when *any* descriptor of
# the lock file is closed in this process: so nothing here opens a lock file that is in this table.
_held: dict[str, LockFile] = {}


class LockFile:
    """An exclusive lock on `<database>.lock`, held until `close` or the end of the process, and never inherited.

    Never on the database itself: SQLite has locks of its own there, which such a lock would take and drop.
    """

    def __init__(self, database: str) -> None:
        self._key = lock_path(database)
        self.holder = Holder(os.getpid(), time.time_ns() // 1000)
        taken = _held.get(self._key)
        if taken is not None and taken.holder.pid == os.getpid():
            raise StoreHeld(
                f"{database} is open in this process already; use the store that has it", holder=taken.holder
            )
        try:
            self._file = os.open(self._key, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError as error:
            raise ConfigurationError(f"the folder of {database} does not exist") from error
        except OSError as error:
            raise ConfigurationError(f"{self._key} cannot be opened: {error.strerror}") from error
        self._lock(database)
        _held[self._key] = self
        self._write()

    def announce(self, address: str | None) -> None:
        """Names the address of the process's HTTP API in the file."""
        self.holder = msgspec.structs.replace(self.holder, address=address)
        self._write()

    def close(self) -> None:
        """Idempotent."""
        if _held.get(self._key) is self:
            del _held[self._key]
            os.close(self._file)

    def _lock(self, database: str) -> None:
        for attempt in range(TRIES):
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError:
                if attempt < TRIES - 1:
                    time.sleep(TRY_AGAIN)
        other = _read(self._file)
        os.close(self._file)
        raise StoreHeld(
            f"{database} is held by {other or 'another process'}; a SQLite file has one owner: send requests to that "
            "process, stop it, or use a store that many processes share",
            holder=other,
        )

    def _write(self) -> None:
        text = msgspec.json.encode(self.holder)
        try:
            os.pwrite(self._file, text, 0)
            os.ftruncate(self._file, len(text))
        except OSError as error:
            raise StoreUnavailable(f"{self._key} cannot be written: {error.strerror}") from error


def holder(database: str) -> Holder | None:
    """Who has this database open now; None when nobody does. `pid` 0: someone who has not said yet who."""
    key = lock_path(database)
    own = _held.get(key)
    if own is not None and own.holder.pid == os.getpid():
        return own.holder
    try:
        file = os.open(key, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return _read(file) or Holder(pid=0, since=0)
    else:
        return None
    finally:
        os.close(file)


def lock_path(database: str) -> str:
    """The lock file's path, the same for every way to write the database's."""
    return str(Path(database).resolve()) + ".lock"


def _read(file: int) -> Holder | None:
    try:
        return msgspec.json.decode(os.pread(file, 4096, 0), type=Holder)
    except msgspec.DecodeError:
        return None
