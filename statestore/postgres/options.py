"""Options: what the URL of a PostgreSQL store says."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import SplitResult, parse_qs, urlencode, urlsplit

from perdure.errors import ConfigurationError

#: What is for the driver: where the server is, and how to trust it.
_DRIVER = frozenset(
    (
        "host", "port", "user", "passfile", "sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl",
        "ssl_min_protocol_version", "ssl_max_protocol_version", "target_session_attrs", "krbsrvname", "gsslib",
    )
)  # fmt: skip
_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,47}")
_SYNCHRONOUS = ("on", "off", "local", "remote_write", "remote_apply")
_POOLERS = ("auto", "none", "transaction")


class Options(NamedTuple):
    """A store's URL taken apart."""

    #: The driver's part of the URL. May hold a password.
    dsn: str
    #: The URL by which a lease reaches the server itself, where `dsn` leads to a pooler. May hold a password.
    direct: str
    #: Which of the database's schemas: each is a store of its own.
    schema: str = "perdure"
    #: Connections at most, besides those of leases. One is for commits alone.
    connections: int = 8
    #: Seconds without an answer after which a request counts as lost.
    timeout: float = 10.0
    #: "transaction": each request may reach another session of the server; "none"; "auto": found out.
    pooler: str = "auto"
    #: Sets the server's `synchronous_commit`; None: as the server, role or database has it.
    synchronous_commit: str | None = None

    @property
    def where(self) -> str:
        """The server and the database, for people: without user and password."""
        return shown(urlsplit(self.dsn))


def parse(url: SplitResult) -> Options:
    """`ConfigurationError` for what is no URL of a PostgreSQL store."""
    try:
        given = parse_qs(url.query, keep_blank_values=True, strict_parsing=bool(url.query))
    except ValueError:
        raise ConfigurationError("the options of a postgresql store are name=value, joined by &") from None
    values = {name: all_values[-1] for name, all_values in given.items()}
    driver = {name: values.pop(name) for name in list(values) if name in _DRIVER}
    hosts = url.netloc.rpartition("@")[2]
    for host in hosts.split(","):
        port = host.rpartition("]")[2].partition(":")[2]
        if (port and not port.isdigit()) or "@" in url.path or url.fragment:
            # Without showing it: what is in the wrong place may be a part of the password.
            raise ConfigurationError(
                "a store's URL is postgresql://user:password@host:port/database; in a password, write @ : / ? # and % as"
                " %40 %3A %2F %3F %23 and %25"
            )
    if "," in hosts or "," in driver.get("host", ""):
        # Several servers, of which one is the primary.
        driver.setdefault("target_session_attrs", "primary")
    dsn = f"{url.scheme}://{url.netloc}{url.path}" + (f"?{urlencode(driver)}" if driver else "")
    direct = values.pop("direct", values.pop("lease_url", ""))
    if direct and urlsplit(direct).scheme not in ("postgresql", "postgres"):
        raise ConfigurationError("direct is a postgresql:// URL of the same database")
    options = Options(
        dsn,
        direct or dsn,
        schema=_matching("schema", values.pop("schema", "perdure")),
        connections=int(_number("connections", values.pop("connections", "8"), 2, 1000)),
        timeout=_number("timeout", values.pop("timeout", "10"), 0.1, 3600),
        pooler=_one_of("pooler", values.pop("pooler", "auto"), _POOLERS),
        synchronous_commit=(
            _one_of("synchronous_commit", values.pop("synchronous_commit"), _SYNCHRONOUS)
            if "synchronous_commit" in values
            else None
        ),
    )
    if "password" in values:
        raise ConfigurationError(
            "a password stands before the host (postgresql://user:password@host/…), or in PGPASSWORD"
        )
    for name in values:
        raise ConfigurationError(f"a postgresql store has no option {name!r}")
    if options.pooler == "transaction" and options.synchronous_commit is not None:
        raise ConfigurationError(
            "synchronous_commit cannot be set through a pooler; use ALTER ROLE … SET synchronous_commit"
        )
    return options


def shown(url: SplitResult) -> str:
    """A URL for people: without user, password and options."""
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"


def _matching(name: str, value: str) -> str:
    if not _SCHEMA.fullmatch(value):
        raise ConfigurationError(
            f"{name} is lower-case letters, digits and _, at most 48 and no digit first, not {value!r}"
        )
    return value


def _number(name: str, value: str, least: float, most: float) -> float:
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not least <= number <= most:
        raise ConfigurationError(f"{name} is a number from {least:g} to {most:g}, not {value!r}")
    return number


def _one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ConfigurationError(f"{name} is one of {', '.join(known)}, not {value!r}")
    return value
