"""Queries from the .sql files: named there, and made ready here for many rows to a step."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from importlib import resources
from typing import Any

import msgspec

#: The numbers of rows for which a statement is kept prepared: at most half of one is filled up with NULL.
SIZES = (
    1,
    2,
    3,
    4,
    6,
    8,
    12,
    16,
    24,
    32,
    48,
    64,
    96,
    128,
    192,
    256,
    384,
    512,
    768,
    1024,
    1536,
    2048,
    3072,
    4096,
)
#: SQLite's own default limit of parameters to a statement.
MAX_PARAMETERS = 32766

_HEADER = re.compile(r"^-- name: (\w+)(.*)$", re.MULTILINE)
_FIELD = re.compile(r"(\w+): ([^:]+?)(?= \w+:|$)")

Row = tuple[Any, ...]


class Query:
    """One statement of a .sql file. `{rows}` in it takes a variable number of rows of parameters."""

    def __init__(self, name: str, sql: str, columns: int, gives: Sequence[str], blobs: Sequence[str]) -> None:
        self.name = name
        self.columns = columns
        self.blobs = len(blobs)
        #: The statement as it is in the file.
        self.text = sql
        self._sql = _packed(sql, gives, blobs) if gives else sql
        # By size: the same string object each time, which is what sqlite3 finds its prepared statement by.
        self._sized: dict[int, str] = {}
        self._most = max(size for size in SIZES if size * columns <= MAX_PARAMETERS) if columns else 0

    def run(self, connection: sqlite3.Connection, rows: list[Any]) -> None:
        """Executes the statement for all rows, which come flat: value after value."""
        step = self._most * self.columns
        for at in range(0, len(rows), step):
            connection.execute(*self._fit(rows if len(rows) <= step else rows[at : at + step]))

    def read(self, connection: sqlite3.Connection, parameters: dict[str, Any] | list[Any]) -> list[Row]:
        """All rows of the answer. A list of parameters is flat, and at most what one statement takes."""
        sql = self._sql
        if isinstance(parameters, list):
            sql, parameters = self._fit(parameters)
        try:
            return _unpack(connection.execute(sql, parameters).fetchone(), self.blobs)
        except sqlite3.DataError:
            # Together they exceed SQLite's limit for one value (1 GB); one by one they do not.
            plain = (
                self.text if isinstance(parameters, dict) else self._filled(len(parameters) // self.columns)
            )
            return connection.execute(plain, parameters).fetchall()

    def _fit(self, rows: list[Any]) -> tuple[str, list[Any]]:
        count = len(rows) // self.columns
        for size in SIZES:
            if size >= count:
                break
        if size > count:
            rows = rows + [None] * ((size - count) * self.columns)
        sql = self._sized.get(size)
        if sql is None:
            sql = self._sized[size] = self._sql.replace("{rows}", _places(size, self.columns))
        return sql, rows

    def _filled(self, size: int) -> str:
        return self.text.replace("{rows}", _places(size, self.columns))


def load(file: str) -> dict[str, Query]:
    """The queries of a .sql file in this folder."""
    text = resources.files(__package__).joinpath(file).read_text("utf-8")
    found: dict[str, Query] = {}
    headers = list(_HEADER.finditer(text))
    for header, after in zip(headers, [*headers[1:], None], strict=True):
        sql = text[header.end() : after.start() if after else None].rstrip().rstrip(";")
        fields = dict(_FIELD.findall(header[2]))
        gives, blobs = fields.get("gives", "").split(), fields.get("blobs", "").split()
        found[header[1]] = Query(header[1], sql, int(fields.get("columns", 0)), gives, blobs)
    return found


def _places(rows: int, columns: int) -> str:
    row = "(" + ", ".join("?" * columns) + ")"
    return ", ".join([row] * rows)


def _packed(sql: str, gives: Sequence[str], blobs: Sequence[str]) -> str:
    """The query with its whole answer in one row: a JSON array of rows, with lengths in place of binary values, and
    each binary column's values joined."""
    cells = ", ".join([*gives, *(f"length({blob})" for blob in blobs)])
    joined = "".join(f", CAST(group_concat({blob}, '') AS BLOB)" for blob in blobs)
    return f"SELECT json_group_array(json_array({cells})){joined} FROM ({sql}\n)"


def _unpack(packed: Row, blobs: int) -> list[Row]:
    rows: list[list[Any]] = msgspec.json.decode(packed[0])
    for number in range(blobs):
        at, column, joined = 0, number - blobs, packed[1 + number]
        for row in rows:
            length = row[column]
            if length is not None:
                row[column] = joined[at : at + length]
                at += length
    return [tuple(row) for row in rows]
