"""A Redis store from its URL."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from urllib.parse import SplitResult, unquote

from perdure.errors import ConfigurationError
from perdure.statestore.redis.link import Address
from perdure.statestore.redis.session import Login
from perdure.statestore.redis.single import Single
from perdure.statestore.redis.store import RedisStore, Servers

PORT = 6379
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
)


def open_redis(url: SplitResult, partitions: int | None, options: Mapping[str, str]) -> RedisStore:
    """`ConfigurationError` for what is wrong with the URL; nothing is connected yet."""
    where = url.netloc.rpartition("@")[2]
    addresses = [_address(part, PORT) for part in where.split(",")]
    if len(addresses) > 1:
        raise ConfigurationError(
            f"{url.scheme}:// names one server; write redis+cluster:// or redis+sentinel://"
        )
    login = _login(url, options, database=_database(url.path))
    replicas = _replicas(options)

    async def locate() -> Address:
        return addresses[0]

    def servers(lost: Callable[[str], None]) -> Servers:
        return Single(login, locate, lost=lost, replicas=replicas)

    return RedisStore(servers, namespace=options.get("namespace", "default"), partitions=partitions)


def _address(text: str, port: int) -> Address:
    host, colon, number = text.rpartition(":")
    if not colon or "]" in number:
        host, number = text, str(port)
    host = unquote(host).strip("[]")
    if not number.isdigit() or not 0 < int(number) < 65536:
        raise ConfigurationError(f"{number!r} is not a port")
    return Address(host or "localhost", int(number))


def _database(path: str) -> int:
    text = path.strip("/")
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


def _replicas(options: Mapping[str, str]) -> int:
    durability = options.get("durability", "primary")
    if durability not in ("primary", "replicated"):
        raise ConfigurationError(f"durability={durability!r} is neither 'primary' nor 'replicated'")
    text = options.get("replicas", "1")
    if not text.isdigit() or not int(text):
        raise ConfigurationError(f"replicas={text!r} is not a number of replicas")
    if "replicas" in options and durability != "replicated":
        raise ConfigurationError("replicas= goes with durability=replicated")
    return int(text) if durability == "replicated" else 0


def _flag(options: Mapping[str, str], name: str, default: bool) -> bool:
    text = options.get(name)
    if text is None:
        return default
    if text.lower() not in ("true", "false", "1", "0"):
        raise ConfigurationError(f"{name}={text!r} is neither true nor false")
    return text.lower() in ("true", "1")
