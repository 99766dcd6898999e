"""The database file: its connections, its migrations, and what was fixed when it was first used."""

from __future__ import annotations

import sqlite3
from importlib import resources

from perdure.errors import ConfigurationError, CorruptState, StoreFormat
from perdure.statestore.contract import DEFAULT_PARTITIONS, FORMAT_VERSION, Settings
from perdure.statestore.sqlite.errors import mapped

#: `PRAGMA application_id` of a Perdure database: "Prdr".
APPLICATION_ID = 0x50726472
#: Smaller pages than SQLite's next size: a single commit writes three or four, and waits for them.
PAGE_SIZE = 4096
#: The log is kept at its size, since writing over old blocks is twice as fast as growing a file; only a log that grew
#: beyond this is cut.
WAL_KEPT = 64 * 1024 * 1024
#: What `?synchronous=` takes.
SYNCHRONOUS = ("full", "normal")
WRITER_CACHE = 64 * 1024 * 1024
READER_CACHE = 16 * 1024 * 1024
#: Seconds that a statement waits for another connection of this process (a checkpoint that cuts the log).
BUSY = 5.0


class Database:
    """A path and how to connect to it. Whoever makes one has the lock."""

    def __init__(self, path: str, synchronous: str) -> None:
        if synchronous not in SYNCHRONOUS:
            raise ConfigurationError(f"synchronous is 'full' or 'normal', not {synchronous!r}")
        self.path = path
        self._synchronous = synchronous

    def writer(self) -> sqlite3.Connection:
        return self._connect(WRITER_CACHE)

    def reader(self) -> sqlite3.Connection:
        connection = self._connect(READER_CACHE)
        connection.execute("PRAGMA query_only = ON")
        return connection

    def checkpointer(self) -> sqlite3.Connection:
        return self._connect(1024 * 1024)

    def _connect(self, cache: int) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=BUSY, isolation_level=None, check_same_thread=False, cached_statements=512
        )
        for pragma in (
            f"page_size = {PAGE_SIZE}",
            "journal_mode = WAL",
            f"journal_size_limit = {WAL_KEPT}",
            f"synchronous = {self._synchronous}",
            f"cache_size = -{cache // 1024}",
            "wal_autocheckpoint = 0",
            # Some builds overwrite what is deleted with zeros: a second write of every page.
            "secure_delete = OFF",
            "temp_store = MEMORY",
        ):
            connection.execute(f"PRAGMA {pragma}")
        return connection

    def prepare(self, partitions: int | None) -> Settings:
        """Brings the schema up to date, and fixes the settings of a new store."""
        connection = None
        try:
            connection = sqlite3.connect(self.path, isolation_level=None)
            _check_owner(connection, self.path)
            connection.close()
            connection = self.writer()
            _migrate(connection, self.path)
            return _settle(connection, partitions, self.path)
        except sqlite3.Error as error:
            raise unusable(error, self.path) from error
        finally:
            if connection is not None:
                connection.close()


def _check_owner(connection: sqlite3.Connection, path: str) -> None:
    """Refuses another program's database before anything is written to it."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID and tables:
        raise ConfigurationError(f"{path} is another program's database")


def _migrate(connection: sqlite3.Connection, path: str) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    migrations = sorted(
        (int(file.name[:4]), file)
        for file in resources.files(__package__).joinpath("migrations").iterdir()
        if file.name.endswith(".sql")
    )
    if version > migrations[-1][0]:
        raise StoreFormat(
            f"{path} has schema {version}; this release knows {migrations[-1][0]}: use the newer release"
        )
    for number, file in migrations:
        if number > version:
            # One transaction each: a crash leaves the last whole one.
            connection.executescript(
                f"BEGIN IMMEDIATE; {file.read_text('utf-8')}"
                f"; PRAGMA user_version = {number}; PRAGMA application_id = {APPLICATION_ID}; COMMIT;"
            )


def _settle(connection: sqlite3.Connection, partitions: int | None, path: str) -> Settings:
    stored = dict(connection.execute("SELECT name, value FROM settings"))
    if "format" not in stored:
        stored = {"partitions": partitions or DEFAULT_PARTITIONS, "format": FORMAT_VERSION}
        connection.execute(
            "INSERT INTO settings (name, value) VALUES ('format', ?), ('partitions', ?)",
            (stored["format"], stored["partitions"]),
        )
    if stored["format"] > FORMAT_VERSION:
        raise StoreFormat(
            f"{path} has state format {stored['format']}; this release knows {FORMAT_VERSION}: use the newer release"
        )
    if partitions is not None and stored["partitions"] != partitions:
        raise ConfigurationError(f"{path} has {stored['partitions']} partitions, not {partitions}")
    return Settings(partitions=stored["partitions"], format_version=stored["format"])


def unusable(error: sqlite3.Error, path: str) -> Exception:
    """What to raise for an error while a file is being opened."""
    known = mapped(error)
    if isinstance(known, CorruptState):
        ours = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_CORRUPT
        advice = ": keep the file, and restore a backup" if ours else ""
        return ConfigurationError(f"{path} is not a usable SQLite database: {error}{advice}")
    return known
