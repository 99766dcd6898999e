"""Sessions: a link that has logged in, to a server that was looked at."""

from __future__ import annotations

from collections.abc import Mapping
from ssl import SSLContext
from typing import NamedTuple

from perdure.errors import ConfigurationError, StoreUnavailable
from perdure.statestore.redis.errors import code
from perdure.statestore.redis.link import Address, Error, Link, Reply, packed


class Login(NamedTuple):
    """How to connect to any server of a store."""

    user: str | None = None
    password: str | None = None
    database: int = 0
    tls: SSLContext | None = None
    #: Seconds without a word after which a connection counts as dead.
    timeout: float = 5.0

    def __repr__(self) -> str:
        return f"Login(user={self.user!r})"  # Never the password.


class Facts(NamedTuple):
    """What a server says of itself."""

    version: str
    primary: bool
    cluster: bool
    #: What is another one after a restart or a promotion: whatever was acknowledged before may be lost then.
    history: tuple[str, str]
    #: The history of which it was a replica before, or nothing.
    former: str
    #: The number of this connection there; None if the server does not tell.
    client: int | None
    policy: str
    append_only: bool


class Session(NamedTuple):
    link: Link
    facts: Facts


_QUESTIONS = (
    (b"CLIENT", b"ID"),
    (b"INFO", b"server"),
    (b"INFO", b"replication"),
    (b"INFO", b"memory"),
    (b"INFO", b"persistence"),
    (b"INFO", b"cluster"),
)
_ASKED = [packed(*words) for words in _QUESTIONS]
REPLICATION = packed(b"INFO", b"replication")


async def log_in(address: Address, login: Login) -> Session:
    """A session at an address. `ConfigurationError`: the server refuses who we are, or is not set up for a store.
    `StoreUnavailable`: no answer, or not now."""
    link = await log_in_only(address, login)
    try:
        client, *infos = await link.ask(_ASKED)
        for info in infos:
            _checked(info, address)
        return Session(link, _facts(client, infos))
    except BaseException:
        link.abort("not logged in")
        raise


async def log_in_only(address: Address, login: Login) -> Link:
    """A link on which the user is known. Raises as `log_in`."""
    link = await Link.connect(address, login.tls, login.timeout)
    try:
        await _introduce(link, login)
    except BaseException:
        link.abort("not logged in")
        raise
    return link


async def _introduce(link: Link, login: Login) -> None:
    commands: list[tuple[str | bytes, ...]] = []
    if login.password is not None:
        commands.append((b"AUTH", login.user or "default", login.password))
    if login.database:
        commands.append((b"SELECT", str(login.database)))
    if commands:
        for reply in await link.ask(packed(*words) for words in commands):
            _checked(reply, link.address)


def _checked(reply: Reply, address: Address) -> None:
    if not isinstance(reply, Error):
        return
    message = str(reply)
    if (
        code(message) in ("WRONGPASS", "NOAUTH", "NOPERM", "DENIED")
        or "AUTH" in message
        or "DB index" in message
    ):
        raise ConfigurationError(f"Redis at {address} refuses: {message}")
    raise StoreUnavailable(f"Redis at {address}: {message}")


def _facts(client: Reply, infos: list[Reply]) -> Facts:
    info: dict[str, str] = {}
    for part in infos:
        info.update(parsed(part))
    return Facts(
        version=info.get("redis_version", ""),
        primary=info.get("role") == "master",
        cluster=info.get("cluster_enabled") == "1",
        history=history(info, info.get("run_id", "")),
        former=former(info),
        client=client if isinstance(client, int) else None,
        policy=info.get("maxmemory_policy", "noeviction"),
        append_only=info.get("aof_enabled") == "1",
    )


def history(info: Mapping[str, str], run_id: str) -> tuple[str, str]:
    return info.get("master_replid", ""), run_id


def former(info: Mapping[str, str]) -> str:
    """The history of which a server was a replica before its own. Zeros alone stand for none."""
    name = info.get("master_replid2", "")
    return name if name.strip("0") else ""


def parsed(info: bytes) -> dict[str, str]:
    """An answer of INFO."""
    pairs = (line.partition(":") for line in info.decode("utf-8", "replace").splitlines())
    return {name: value for name, colon, value in pairs if colon}


def check_policy(facts: Facts, address: Address) -> None:
    """`ConfigurationError` if the server may throw away what was acknowledged."""
    if facts.policy != "noeviction":
        raise ConfigurationError(
            f"Redis at {address} has maxmemory-policy {facts.policy}, by which it throws away keys when memory is "
            "short; set maxmemory-policy noeviction"
        )
