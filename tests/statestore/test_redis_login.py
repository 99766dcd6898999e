"""Who may use a server, over what, and under which URL."""

from __future__ import annotations

import datetime
import ipaddress
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from perdure.errors import ConfigurationError, StoreUnavailable
from perdure.statestore import InstanceFilter, open_store
from perdure.statestore.redis.store import RedisStore
from perdure.statestore.urls import shown
from perdure.testing.store_contract import (
    ALL,
    FENCE,
    PARTITIONS,
    TYPE,
    actor_id,
    put,
    reminder,
    row,
    values_of,
    write,
)
from tests.servers.ports import free_port
from tests.servers.redis import RedisServer, redis_server
from tests.statestore.redis_use import Opened, opened

__all__ = ["opened"]

#: What docs/state-format.md says that a store's user needs.
RIGHTS = (
    "~perdure:{default}*",
    "~perdure:{default/*",
    *["+info", "+client|id", "+client|kill", "+script|load", "+evalsha", "+wait"],
    *[
        "+hget",
        "+hset",
        "+hmget",
        "+hdel",
        "+hlen",
        "+hgetall",
        "+hkeys",
        "+exists",
        "+zadd",
        "+zrem",
        "+zcard",
        "+zscore",
    ],
    *["+zrangebylex", "+zlexcount", "+unlink", "+set", "+sadd", "+smembers", "+time"],
)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server(appendfsync="everysec") as server:
        yield server


@pytest.fixture
def clean(server: RedisServer) -> RedisServer:
    server.command("FLUSHALL")
    return server


async def use(store: RedisStore) -> None:
    """Everything that a store does."""
    assert (await store.settings()).partitions == PARTITIONS
    await store.health()
    await store.take(ALL, FENCE)
    actor = actor_id()
    values = {f"history-{number:06d}": b"h" for number in range(1100)}
    first = put(actor, None, values, recover=True, row=row(actor, 1), reminders=[reminder(actor, "r", 1)])
    await write(store, first)
    second = put(
        actor,
        first.version,
        {"a": b"1"},
        delete=list(values)[:5],
        delete_reminders=["r"],
        recover=False,
        row=row(actor, 1, "failed"),
        reminders=[reminder(actor, "s", 1)],
    )
    await write(store, second)
    assert len(await values_of(store, actor)) == 1001
    assert len((await store.keys(actor, "history-")).items) == 1000
    assert len((await store.due(ALL, 5)).items) == len(await store.reminders(actor)) == 1
    assert list((await store.owing(ALL)).items) == []
    for where in (InstanceFilter(type=TYPE), InstanceFilter(type=TYPE, statuses=["failed"], name="order")):
        assert len((await store.query(where)).items) == 1
    assert await store.count(TYPE, 10) == {"failed": 1}
    assert await store.types() == [TYPE]
    lease = store.lease("name")
    assert await lease.acquire() is not None
    await lease.write(b"value")
    await lease.renew()
    assert await lease.read() == b"value"
    await lease.release()
    await store.release(ALL, FENCE)
    await write(store, third := put(actor, second.version, {"b": b"1"}, reset=True, clear_reminders=True))
    await write(store, put(actor, third.version, {}, reset=True))


async def test_a_user_with_just_these_rights(
    clean: RedisServer, opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    """The documented ones are enough, CONFIG not among them; without any one of them it is said at the start."""
    clean.command("ACL", "SETUSER", "few", "reset", "on", ">pass word@/", *RIGHTS)
    url = clean.url(user="few", password="pass word@/")
    store = opened(url)
    with caplog.at_level(logging.INFO):
        await use(store)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    for right in RIGHTS:
        if right in ("+client|id", "+client|kill", "+wait"):  # It goes without, or is not used here.
            continue
        clean.command(
            "ACL", "SETUSER", "few", "reset", "on", ">pass word@/", *(r for r in RIGHTS if r != right)
        )
        store = opened(url)
        with pytest.raises(ConfigurationError) as caught:
            await store.settings()
        assert "pass word" not in str(caught.value)
        if right[0] == "+":
            assert right[1:].partition("|")[0] in str(caught.value).lower()


async def test_rights_that_are_taken_away(clean: RedisServer, opened: Opened) -> None:
    """Of a store in use that is as if the server were away."""
    clean.command("ACL", "SETUSER", "less", "reset", "on", ">secret", *RIGHTS)
    store = opened(clean.url(user="less", password="secret"))
    await store.take(ALL, FENCE)
    commit = put(actor_id(), None, {"k": b"1"})
    clean.command("ACL", "SETUSER", "less", "-hset")
    with pytest.raises(StoreUnavailable):
        await store.commit([commit])
    clean.command("ACL", "SETUSER", "less", "+hset")
    await write(store, commit)


@pytest.mark.parametrize(
    ("user", "password"), [("few", "wrong-secret"), ("nobody", "wrong-secret"), ("", "")]
)
async def test_a_wrong_password(
    clean: RedisServer, opened: Opened, caplog: pytest.LogCaptureFixture, user: str, password: str
) -> None:
    """It is said whose mistake it is, and the password is in no message."""
    clean.command("ACL", "SETUSER", "few", "reset", "on", ">secret", *RIGHTS)
    clean.command("ACL", "SETUSER", "admin", "on", "nopass", "~*", "+@all")
    clean.command("ACL", "SETUSER", "default", "off")
    clean.user = "admin"
    try:
        store = opened(clean.url(user=user, password=password), None)
        with (
            caplog.at_level(logging.DEBUG),
            pytest.raises(ConfigurationError, match=str(clean.port)) as caught,
        ):
            await store.settings()
    finally:
        clean.command("ACL", "SETUSER", "default", "on")
        clean.user = None
    assert "wrong-secret" not in caplog.text + str(caught.value) + repr(store) + repr(vars(store))


async def test_a_password_without_a_user(clean: RedisServer, opened: Opened) -> None:
    clean.command("CONFIG", "SET", "requirepass", "top secret")
    clean.user, clean.password = "default", "top secret"
    try:
        store = opened(clean.url(password="top secret"))
        await use(store)
    finally:
        clean.command("CONFIG", "SET", "requirepass", "")
        clean.user = clean.password = None


# --- TLS ------------------------------------------------------------------------------------------------------------------


class Certificates:
    """An authority, and a certificate of 127.0.0.1 by it, as files."""

    def __init__(self, folder: Path) -> None:
        self.authority, self.certificate, self.key = (
            str(folder / n) for n in ("ca.pem", "cert.pem", "key.pem")
        )
        ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        ca_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "authority")])
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "server")])
        ca = _certificate(ca_name, ca_name, ca_key, ca_key).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        own = _certificate(name, ca_name, key, ca_key).add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        for path, builder in ((self.authority, ca), (self.certificate, own)):
            signed = builder.sign(ca_key, hashes.SHA256())
            Path(path).write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        Path(self.key).write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )


def _certificate(
    name: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey,
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
    )


async def test_tls(tmp_path: Path, opened: Opened) -> None:
    """With the authority's certificate and one's own; without, the reason is said."""
    files = Certificates(tmp_path)
    port = free_port()
    tls = {
        "tls_port": str(port),
        "tls_ca_cert_file": files.authority,
        "tls_cert_file": files.certificate,
        "tls_key_file": files.key,
    }
    with redis_server(appendfsync="everysec", **tls):
        mine = f"ssl_certfile={files.certificate}&ssl_keyfile={files.key}"
        for url in (
            f"rediss://127.0.0.1:{port}?ssl_ca_certs={files.authority}&{mine}",
            f"redis://127.0.0.1:{port}?tls=true&ssl_ca_certs={files.authority}&{mine}&namespace=other",
        ):
            await use(opened(url))
        for url in (
            f"rediss://127.0.0.1:{port}?{mine}",
            f"rediss://localhost:{port}?ssl_ca_certs={files.authority}&{mine}",
            f"rediss://127.0.0.1:{port}?ssl_ca_certs={files.authority}",
        ):
            with pytest.raises(StoreUnavailable, match=str(port)):
                await opened(url).settings()
        url = f"rediss://localhost:{port}?ssl_ca_certs={files.authority}&{mine}"
        await opened(f"{url}&ssl_check_hostname=false").health()


# --- URLs -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis://host:99999", "a port is a number from 1 to 65535"),
        ("redis://host:x", "a port is"),
        ("redis://a,b", "several are redis[+]sentinel"),
        ("redis://host/db", "'db' is not the number of a database"),
        ("redis://host?nonsense=1", "no option 'nonsense'"),
        ("redis://host?namespace=a{b", "a namespace has"),
        ("redis://host?durability=some", "neither 'primary' nor"),
        ("redis://host?durability=replicated&replicas=0", "not a number of replicas"),
        ("redis://host?replicas=2", "durability=replicated"),
        ("redis://host?timeout=soon", "not a number of seconds"),
        ("redis://host?tls=maybe", "neither true nor false"),
        ("rediss://host?ssl_ca_certs=/no/such/file", "cannot be read"),
        ("redis+sentinel://host", "names no service"),
        ("redis+cluster://host/1", "one database"),
    ],
)
async def test_wrong_urls(url: str, reason: str) -> None:
    """The error says what would be right."""
    with pytest.raises(ConfigurationError, match=reason):
        open_store(url)


async def test_a_password_that_is_not_quoted() -> None:
    """It is not shown when it is taken for something else."""
    for url in ("redis://user:secret/1@host", "redis://user:sec@ret@host:x", "redys://user:secret@host"):
        with pytest.raises(ConfigurationError) as caught:
            open_store(url)
        assert "sec" not in str(caught.value)


def test_a_url_for_people() -> None:
    """It has no password in it, wherever that was."""
    url = (
        "redis+sentinel://user:secret@h,i/service?sentinel_password=secret&namespace=x&direct=a://b:secret@c"
    )
    assert shown(url) == (
        "redis+sentinel://user:***@h,i/service?sentinel_password=***&namespace=x&direct=***"
    )
    assert shown("redis://host?namespace=x") == "redis://host?namespace=x"


@pytest.mark.parametrize("scheme", ["redis+cluster", "redis+sentinel"])
async def test_a_server_of_another_kind(clean: RedisServer, opened: Opened, scheme: str) -> None:
    store = opened(f"{scheme}://127.0.0.1:{clean.port}" + ("/service" if "sentinel" in scheme else ""), None)
    with pytest.raises((ConfigurationError, StoreUnavailable), match=r"not a node of a cluster|SENTINEL"):
        await store.settings()
