"""A Redis store from its URL."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from urllib.parse import SplitResult, unquote

from perdure.errors import ConfigurationError
from perdure.statestore.redis.cluster import Cluster
from perdure.statestore.redis.durability import Durability
from perdure.statestore.redis.link import Address
from perdure.statestore.redis.place import Fixed
from perdure.statestore.redis.sentinel import Sentinels
from perdure.statestore.redis.session import Login
from perdure.statestore.redis.single import Single
from perdure.statestore.redis.store import RedisStore, Servers

PORT = 6379
SENTINEL_PORT = 26379
OPTIONS = (
    "namespace",
    "durability",
    "replicas",
    "timeout",
    "tls",
    "ssl_ca_certs",
    "ssl_certfile",
    "ssl_keyfile",
    "ssl_check_hostname",
    "sentinel_user",
    "sentinel_password",
)


def open_redis(url: SplitResult, partitions: int | None, options: Mapping[str, str]) -> RedisStore:
    """`ConfigurationError` for what is wrong with the URL; nothing is connected yet.

    `redis://[user:password@]host[:6379][/database]`, `rediss://` (the same over TLS),
    `redis+sentinel://[user:password@]host[:26379],…/service[/database]`,
    `redis+cluster://[user:password@]host[:6379],…`; and as options

    - `namespace=default`: stores of different namespaces on one server know nothing of each other
    - `durability=primary`, or `replicated`: acknowledged when `replicas=1` or so many replicas have it as well, or
      `synced`: when it is on the disk of the primary and of `replicas=0` or so many replicas
    - `timeout=5`: seconds of silence after which a connection counts as dead
    - `tls=true`, `ssl_ca_certs=`, `ssl_certfile=`, `ssl_keyfile=` (files), `ssl_check_hostname=true`
    - `sentinel_user=`, `sentinel_password=`: those of the sentinels
    """
    kind = url.scheme.rpartition("+")[2]
    port = SENTINEL_PORT if kind == "sentinel" else PORT
    addresses = [_address(part, port) for part in url.netloc.rpartition("@")[2].split(",")]
    path = url.path.strip("/").split("/")
    if kind == "sentinel":
        if not path[0]:
            raise ConfigurationError(
                "redis+sentinel:// names no service: write redis+sentinel://host/service"
            )
        service, *path = path
    elif len(addresses) > 1 and kind != "cluster":
        raise ConfigurationError(
            f"{url.scheme}:// names one server; several are redis+sentinel:// or redis+cluster://"
        )
    database = _database("/".join(path))
    if database and kind == "cluster":
        raise ConfigurationError("Redis Cluster has one database; use ?namespace= to keep stores apart")
    login, durability = _login(url, options, database), _durability(options)

    def servers(lost: Callable[[str], None]) -> Servers:
        if kind == "cluster":
            return Cluster(login, addresses, lost=lost, durability=durability)
        if kind == "sentinel":
            theirs = login._replace(
                user=options.get("sentinel_user"), password=options.get("sentinel_password"), database=0
            )
            return Single(
                login, Sentinels(addresses, unquote(service), theirs), lost=lost, durability=durability
            )
        return Single(login, Fixed(addresses[0]), lost=lost, durability=durability)

    return RedisStore(servers, namespace=options.get("namespace", "default"), partitions=partitions)


def _address(text: str, port: int) -> Address:
    host, colon, number = text.rpartition(":")
    if not colon or "]" in number:
        host, number = text, str(port)
    host = unquote(host).strip("[]")
    if not number.isdigit() or not 0 < int(number) < 65536:
        # Not what is there instead: it may be a part of a password.
        raise ConfigurationError(
            "a port is a number from 1 to 65535 (in a user or password, / is written %2F, @ %40, : %3A)"
        )
    return Address(host or "localhost", int(number))


def _database(text: str) -> int:
    if text and not text.isdigit():
        raise ConfigurationError(f"{text!r} is not the number of a database: write redis://host/0")
    return int(text or 0)


def _login(url: SplitResult, options: Mapping[str, str], database: int) -> Login:
    user, colon, password = url.netloc.rpartition("@")[0].partition(":")
    tls = None
    if url.scheme == "rediss" or _flag(options, "tls", False):
        try:
            tls = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
            if "ssl_certfile" in options:
                tls.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(f"the certificates of the store cannot be read: {error}") from error
        tls.check_hostname = _flag(options, "ssl_check_hostname", True)
    try:
        timeout = float(options.get("timeout", "5"))
    except ValueError:
        timeout = 0.0
    if not 0 < timeout < 3600:
        raise ConfigurationError(f"timeout={options['timeout']!r} is not a number of seconds")
    return Login(unquote(user) or None, unquote(password) if colon else None, database, tls, timeout)


def _durability(options: Mapping[str, str]) -> Durability:
    kind = options.get("durability", "primary")
    if kind not in ("primary", "replicated", "synced"):
        raise ConfigurationError(f"durability={kind!r} is neither 'primary' nor 'replicated' nor 'synced'")
    text = options.get("replicas", "1" if kind == "replicated" else "0")
    if not text.isdigit() or (kind == "replicated" and not int(text)):
        raise ConfigurationError(f"replicas={text!r} is not a number of replicas")
    if "replicas" in options and kind == "primary":
        raise ConfigurationError("replicas= goes with durability=replicated or durability=synced")
    return Durability(int(text), kind == "synced")


def _flag(options: Mapping[str, str], name: str, default: bool) -> bool:
    text = options.get(name)
    if text is None:
        return default
    if text.lower() not in ("true", "false", "1", "0"):
        raise ConfigurationError(f"{name}={text!r} is neither true nor false")
    return text.lower() in ("true", "1")
