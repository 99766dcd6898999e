"""The seam where asyncpg's exceptions become the store's."""

from __future__ import annotations

import ssl

import asyncpg
from asyncpg.exceptions import PostgresError
from asyncpg.exceptions._base import DataError as UnencodableError

from perdure.errors import ConfigurationError, CorruptState, PerdureError, StoreError, StoreUnavailable

#: Classes of SQLSTATE by which the server says that the request itself is at fault: data, integrity, cardinality,
#: limits. Whatever else it says is passing, or the administrator's to change: the same request may succeed later.
_DEFINITE = ("21", "22", "23", "54")
_CORRUPT = ("XX001", "XX002")
#: A character that text cannot hold. (Bytes can.)
UNTRANSLATABLE = ("22021", "22P05")

#: What is wrong with the URL or the database, and will be until somebody changes one of the two.
_CONFIGURATION = (
    asyncpg.InvalidAuthorizationSpecificationError,  # and wrong passwords
    asyncpg.InvalidCatalogNameError,
    asyncpg.ClientConfigurationError,
    ssl.SSLCertVerificationError,
)


def mapped(error: BaseException) -> PerdureError:
    """The store's error for an exception of its inside, which stays its cause. No text of it holds a password."""
    if isinstance(error, PerdureError):
        return error
    state = getattr(error, "sqlstate", None) or ""
    text = _text(error)
    result: PerdureError
    if isinstance(error, (UnencodableError, UnicodeError)) or state[:2] in _DEFINITE:
        result = StoreError(text)
    elif state in _CORRUPT:
        result = CorruptState(text)
    elif isinstance(error, TimeoutError):
        result = StoreUnavailable("PostgreSQL: no answer in time")
    else:
        result = StoreUnavailable(text)
    result.__cause__ = error
    return result


def at_first(error: BaseException) -> PerdureError:
    """As `mapped`, for the first connection of a store: what then is wrong with the URL is the user's to put right."""
    if isinstance(error, _CONFIGURATION):
        result = ConfigurationError(_text(error))
        result.__cause__ = error
        return result
    return mapped(error)


def usable_after(error: BaseException) -> bool:
    """Whether a connection may go on after this exception of a statement."""
    if isinstance(error, UnencodableError):
        return True  # Nothing was sent.
    if not isinstance(error, PostgresError):
        return False
    state = error.sqlstate or ""
    # Connection errors, ends of the session, statements that a newer schema has made invalid, and a server that became
    # a standby: another connection may do better.
    return state[:2] not in ("08", "0A", "57", "XX") and state != "25006"


def _text(error: BaseException) -> str:
    """What the server or the driver says, without its details: these show values."""
    if isinstance(error, UnencodableError):
        error = error.__cause__ or error
    first = str(error.args[0] if error.args else "").partition("\n")[0] or type(error).__name__
    return f"PostgreSQL: {first}" if isinstance(error, PostgresError) else f"PostgreSQL: {error or first}"
