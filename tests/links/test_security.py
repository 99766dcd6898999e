"""Who is let in: certificates of one authority, and a token."""

from __future__ import annotations

import asyncio
import logging
import ssl
import warnings
from datetime import timedelta
from pathlib import Path

import aiohttp
import msgspec
import pytest

from perdure.errors import ConfigurationError, Unavailable
from perdure.links import LinkOptions, PeerIdentity
from perdure.links import server as links_server
from perdure.security import Security, apps_of
from tests.links.certificates import Authority
from tests.links.conftest import Ends
from tests.servers.proxy import CuttingProxy, Way
from tests.waiting import eventually


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def refused(ends: Ends, address: str, security: Security) -> str:
    """The reason; that whoever listens has taken no link."""
    with pytest.raises(Unavailable) as caught:
        await ends.dial(address, security=security)
    assert ends.far == []
    return caught.value.message


# --- tokens ------------------------------------------------------------------------------------------------------------


async def test_the_token_lets_in(ends: Ends) -> None:
    near, far = await ends.pair(security=Security(token="the-secret"))
    near.link.send(b"x")
    await far.got(1)


@pytest.mark.parametrize("token", ["", "the-secre", "the-secret2", "The-secret"])
async def test_a_wrong_token_is_refused(ends: Ends, token: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server = await ends.serve(security=Security(token="the-secret"))
    for _ in range(3):
        reason = await refused(ends, server.address, Security(token=token))
    assert "does not accept this node's cluster token" in reason
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == ["link.refused"]
    # Neither token is in what is said or logged.
    said = reason + caplog.text + "".join(str(vars(record)) for record in caplog.records)
    assert "the-secret" not in said
    assert not token or token not in said


@pytest.mark.parametrize(
    "header",
    ["the-secret", "Basic the-secret", "Bearer  the-secret", "Bearer", "Bearer \udcff\udcfe", "ü" * 10],
)
def test_headers_that_are_not_the_token(header: str) -> None:
    security = Security(token="the-secret")
    assert security.admits("Bearer the-secret")
    assert security.admits(header) is (header == "the-secret")
    assert Security().admits(header)


async def test_bytes_that_are_no_text_in_the_header(ends: Ends) -> None:
    server = await ends.serve(security=Security(token="the-secret"))
    async with aiohttp.ClientSession() as session:
        headers = {"Authorization": "Bearer \udcff\udcfe"}
        async with session.get(f"http://{server.address}/test", headers=headers) as answer:
            assert answer.status in (400, 401)


# --- certificates ------------------------------------------------------------------------------------------------------


async def test_both_ends_show_certificates(ends: Ends, ca: Authority) -> None:
    server = await ends.serve(security=ca.issue("server", apps=["default/stock", "default/orders"]))
    near = await ends.dial(server.address, security=ca.issue("client", hosts=[], apps=["prod/web"]))
    near.link.send(b"x" * 1_000_000)
    await eventually(lambda: ends.far and ends.far[0].frames == [b"x" * 1_000_000])
    assert near.link.peer == PeerIdentity(server.address, frozenset({"default/stock", "default/orders"}))
    far = ends.far[0].link.peer
    assert far.apps == {"prod/web"}
    assert far.may_speak_for("prod", "web")
    assert not far.may_speak_for("prod", "webs")
    assert not far.may_speak_for("default", "web")


async def test_links_under_tls_are_links(ends: Ends, ca: Authority) -> None:
    near, far = await ends.pair(security=ca.issue(), overtaking=True, options=LinkOptions(silence=0.6))
    frames = [b"", b"a" * 70_000, b"b", b"c" * 10_000_000, b"d" * 3_000_000, b"e"]
    for frame in frames:
        near.link.send(frame)
        far.link.send(frame)
    assert sorted(await far.got(6)) == sorted(frames)
    assert sorted(await near.got(6)) == sorted(frames)
    # For longer than the time of silence.
    await asyncio.sleep(1.5)
    near.link.send(b"x" * 5_000_000)
    near.link.send(b"bye")
    near.link.close()
    assert len(await far.got(8)) == 8
    await far.ended()
    await near.ended()


@pytest.mark.parametrize("ways", [{Way.THERE}, {Way.BACK}], ids=["there", "back"])
async def test_links_under_tls_that_end(ends: Ends, ca: Authority, ways: set[Way]) -> None:
    options = LinkOptions(silence=0.6)
    security = ca.issue()
    server = await ends.serve(security=security, options=options)
    async with CuttingProxy(server.address) as proxy:
        near = await ends.dial(proxy.address, security=security, options=options)
        near.link.send(b"x")
        await eventually(lambda: ends.far and ends.far[0].frames)
        proxy.cut()
        await near.ended()
        await ends.far[0].ended()
        near = await ends.dial(proxy.address, security=security, options=options)
        await eventually(lambda: len(ends.far) == 2)
        proxy.swallowing |= ways
        await eventually(lambda: near.ends and ends.far[1].ends)


async def test_a_server_under_tls_that_stops(ends: Ends, ca: Authority) -> None:
    near, far = await ends.pair(security=ca.issue())
    far.link.send(b"x" * 5_000_000)
    await ends.servers[0].stop()
    await near.ended()
    assert [len(frame) for frame in near.frames] == [5_000_000]


async def test_a_certificate_without_apps_may_speak_for_any(ends: Ends, ca: Authority) -> None:
    near, far = await ends.pair(security=ca.issue())
    assert near.link.peer.apps == far.link.peer.apps == frozenset()
    assert far.link.peer.may_speak_for("any", "app")


async def test_no_certificate(ends: Ends, ca: Authority) -> None:
    server = await ends.serve(security=ca.issue())
    # Without TLS at all …
    await refused(ends, server.address, Security())

    # … and with TLS, but without a certificate of one's own.
    class Anonymous(Security, frozen=True):
        def client_context(self) -> ssl.SSLContext:
            return ssl.create_default_context(cafile=self.ca)

    await refused(ends, server.address, Anonymous(ca=str(ca.path)))


async def test_tls_to_a_server_without(ends: Ends, ca: Authority) -> None:
    server = await ends.serve()
    assert "cannot be" in await refused(ends, server.address, ca.issue())


async def test_a_certificate_of_another_authority(ends: Ends, ca: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path, "other")
    server = await ends.serve(security=ca.issue("server"))
    stranger = other.issue("stranger")
    # It does not trust the server …
    assert "cannot be trusted" in await refused(ends, server.address, stranger)
    # … and when it does, the server does not trust it.
    await refused(ends, server.address, msgspec.structs.replace(stranger, ca=str(ca.path)))


@pytest.mark.parametrize(
    "validity",
    [
        {"valid_from": timedelta(days=-2), "valid_to": timedelta(days=-1)},
        {"valid_from": timedelta(days=1), "valid_to": timedelta(days=2)},
    ],
    ids=["expired", "not yet valid"],
)
async def test_a_certificate_out_of_its_time(
    ends: Ends, ca: Authority, validity: dict[str, timedelta]
) -> None:
    good, bad = ca.issue("good"), ca.issue("bad", **validity)
    server = await ends.serve(security=good)
    await refused(ends, server.address, bad)
    server = await ends.serve(security=bad)
    await refused(ends, server.address, good)


async def test_the_name_that_is_dialled_must_be_in_the_certificate(ends: Ends, ca: Authority) -> None:
    server = await ends.serve(security=ca.issue("elsewhere", hosts=["node.example"]))
    dialler = ca.issue("client")
    assert "cannot be trusted" in await refused(ends, server.address, dialler)
    unchecked = msgspec.structs.replace(dialler, check_name=False)
    near = await ends.dial(server.address, security=unchecked)
    near.link.send(b"x")
    await eventually(lambda: ends.far and ends.far[0].frames)


def spoil(path: str) -> None:
    Path(path).write_text("nonsense")


async def test_certificates_that_are_renewed(
    ends: Ends, ca: Authority, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The files change while the server runs: new links see the new certificate, old links stay."""
    monkeypatch.setattr(links_server, "RENEW", 0.05)
    dialler = ca.issue("dialler")
    security = ca.issue("server", apps=["default/one"])
    server = await ends.serve(security=security)
    old = await ends.dial(server.address, security=dialler)
    # While they are being written, they do not fit each other.
    spoil(security.key)
    await eventually(lambda: any(r.getMessage() == "certificates.unusable" for r in caplog.records))
    assert (await ends.dial(server.address, security=dialler)).link.peer.apps == {"default/one"}
    ca.issue("server", apps=["default/two"])
    apps: frozenset[str] = frozenset()
    while apps != {"default/two"}:
        apps = (await ends.dial(server.address, security=dialler)).link.peer.apps
        assert apps in ({"default/one"}, {"default/two"})
    old.link.send(b"x")
    await eventually(lambda: ends.far[0].frames)


async def test_old_protocols_are_refused(ends: Ends, ca: Authority) -> None:
    class Old(Security, frozen=True):
        def client_context(self) -> ssl.SSLContext | None:
            context = super().client_context()
            assert context is not None
            context.set_ciphers("DEFAULT:@SECLEVEL=0")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                context.minimum_version = ssl.TLSVersion.TLSv1_1
                context.maximum_version = ssl.TLSVersion.TLSv1_1
            return context

    security = ca.issue()
    server = await ends.serve(security=security)
    await refused(ends, server.address, Old(**msgspec.structs.asdict(security)))


async def test_token_and_certificates_together(ends: Ends, ca: Authority) -> None:
    security = msgspec.structs.replace(ca.issue(), token="too")
    server = await ends.serve(security=security)
    await refused(ends, server.address, msgspec.structs.replace(security, token=""))
    near = await ends.dial(server.address, security=security)
    near.link.send(b"x")
    await eventually(lambda: ends.far and ends.far[0].frames)


async def test_strangers_do_not_fill_the_log(
    ends: Ends, ca: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    server = await ends.serve(security=ca.issue())
    for _ in range(3):
        await refused(ends, server.address, Security())
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR] == []


# --- settings ----------------------------------------------------------------------------------------------------------


def test_from_the_environment(ca: Authority) -> None:
    given = ca.issue()
    environment = {
        "PERDURE_TLS_CA": given.ca,
        "PERDURE_TLS_CERT": given.cert,
        "PERDURE_TLS_KEY": given.key,
        "PERDURE_CLUSTER_TOKEN": "abc",
    }
    assert Security.from_environment(environment) == msgspec.structs.replace(given, token="abc")
    assert Security.from_environment(environment, token="other", ca=None).token == "other"
    assert Security.from_environment({}) == Security()
    assert not Security().tls


@pytest.mark.parametrize("missing", ["ca", "cert", "key"])
def test_what_is_missing_is_named(ca: Authority, missing: str) -> None:
    security = msgspec.structs.replace(ca.issue(), **{missing: ""})
    assert security.tls
    with pytest.raises(ConfigurationError, match=rf"{missing} \(PERDURE_TLS_{missing.upper()}\) is missing"):
        security.check()
    unreadable = msgspec.structs.replace(ca.issue(), **{missing: "/nowhere/file.pem"})
    with pytest.raises(ConfigurationError, match=r"/nowhere/file\.pem .* cannot be read: No such file"):
        unreadable.check()


def test_files_that_are_something_else(ca: Authority, tmp_path: Path) -> None:
    nonsense = tmp_path / "nonsense"
    nonsense.write_text("nonsense")
    good, other = ca.issue(), ca.issue("other")
    for field in ("ca", "cert", "key"):
        with pytest.raises(ConfigurationError, match="nonsense"):
            msgspec.structs.replace(good, **{field: str(nonsense)}).check()
    with pytest.raises(ConfigurationError, match="no PEM certificate and its key"):
        msgspec.structs.replace(good, key=other.key).check()
    with pytest.raises(ConfigurationError, match="under a password"):
        ca.issue("locked", password=b"secret").check()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        msgspec.structs.replace(good, cert=str(tmp_path)).check()


@pytest.mark.parametrize("token", ["with space", "line\nbreak", "ümlaut", "tab\t"])
def test_tokens_that_cannot_be_sent(token: str) -> None:
    with pytest.raises(ConfigurationError, match="printable ASCII") as caught:
        Security.from_environment({"PERDURE_CLUSTER_TOKEN": token})
    assert token not in caught.value.message


def test_the_token_is_in_no_text(ca: Authority) -> None:
    assert "the-secret" not in repr(Security(token="the-secret"))
    assert "the-secret" not in str(Security(token="the-secret"))


def test_other_uris_are_no_apps() -> None:
    names = (("DNS", "perdure://x/y"), ("URI", "spiffe://a/b"), ("URI", "perdure://ns/app"))
    assert apps_of({"subjectAltName": names}) == {"ns/app"}
    assert apps_of({}) == apps_of(None) == frozenset()
