"""Links between two ends in this process, over real sockets."""

from __future__ import annotations

import asyncio
import logging
import socket

import aiohttp
import pytest

from perdure.errors import ConfigurationError, InvalidInput, Unavailable
from perdure.links import LinkOptions, LinkServer
from perdure.links import websocket as ws
from perdure.links.records import PIECE
from perdure.security import Security
from tests.links.conftest import PATH, End, Ends
from tests.servers.proxy import CuttingProxy, Way
from tests.waiting import eventually

MB = 1024 * 1024


async def test_frames_arrive_whole_and_in_order_both_ways(ends: Ends) -> None:
    near, far = await ends.pair()
    frames = [b"", b"a", b"b" * 125, b"c" * 126, b"d" * PIECE, b"e" * (PIECE + 1), b"f" * 5 * MB, b"g"]
    for frame in frames:
        near.link.send(frame)
        far.link.send(frame[::-1])
    assert await far.got(len(frames)) == frames
    assert await near.got(len(frames)) == [frame[::-1] for frame in frames]
    await eventually(lambda: near.link.buffered == far.link.buffered == 0)


async def test_thousands_of_frames_in_one_iteration(ends: Ends) -> None:
    near, far = await ends.pair()
    frames = [b"%d" % number for number in range(20_000)]
    for frame in frames:
        near.link.send(frame)
    assert near.link.buffered == sum(map(len, frames))
    assert await far.got(len(frames)) == frames


async def test_frames_of_one_iteration_leave_in_few_messages(ends: Ends) -> None:
    near, _ = await ends.pair()
    written: list[bytes] = []
    transport = near.link._transport  # type: ignore[attr-defined]

    class Watching:
        def __getattr__(self, name: str) -> object:
            return getattr(transport, name)

        def write(self, data: bytes) -> None:
            written.append(data)
            transport.write(data)

        def writelines(self, data: list[bytes]) -> None:
            self.write(b"".join(data))

    near.link._transport = Watching()  # type: ignore[attr-defined]
    for _ in range(100):
        near.link.send(b"x" * 100)
    await eventually(lambda: near.link.buffered == 0)
    assert len(written) == 1


async def test_flush_does_not_wait_for_the_loop(ends: Ends) -> None:
    near, far = await ends.pair()
    near.link.send(b"one")
    near.link.flush()
    near.link.send(b"two")
    near.link.flush()
    near.link.flush()
    assert await far.got(2) == [b"one", b"two"]


async def test_small_frames_overtake_a_large_one(ends: Ends) -> None:
    """A small frame waits for a few pieces of the large one at most, and so does its answer."""
    near, far = await ends.pair(overtaking=True)
    far.on_frame = lambda frame: far.link.send(frame) if len(frame) < 100 else None
    large = bytes(50 * MB)
    near.link.send(large)
    while len(far.frames) == len(near.frames):
        near.link.send(b"%d" % len(near.frames))
        await near.got(len(near.frames) + 1)
    # Several went to and fro while it was under way; it is whole nevertheless.
    assert len(near.frames) > 3
    assert [frame for frame in far.frames if len(frame) > 100] == [large]


async def test_small_frames_do_not_overtake_unless_told_to(ends: Ends) -> None:
    near, far = await ends.pair()
    near.link.send(b"x" * 3 * MB)
    near.link.send(b"y")
    assert [len(frame) for frame in await far.got(2)] == [3 * MB, 1]


async def test_many_large_frames_share_the_link(ends: Ends) -> None:
    near, far = await ends.pair(overtaking=True)
    frames = [bytes([number]) * (MB * (10 - number)) for number in range(10)]
    for frame in frames:
        near.link.send(frame)
    got = await far.got(len(frames))
    assert sorted(map(len, got)) == sorted(map(len, frames))
    assert set(got) == set(frames)


async def test_close_comes_after_what_was_sent(ends: Ends) -> None:
    near, far = await ends.pair()
    near.link.send(b"x" * 20 * MB)
    near.link.send(b"last")
    near.link.close()
    near.link.close()
    near.link.send(b"dropped")
    assert [len(frame) for frame in await far.got(2)] == [20 * MB, 4]
    await far.ended()
    await near.ended()
    assert (near.ends, far.ends, len(far.frames)) == (1, 1, 2)


async def test_close_while_both_ends_send(ends: Ends) -> None:
    near, far = await ends.pair()
    far.on_frame = far.link.send
    for _ in range(50):
        near.link.send(b"z" * 100_000)
    await near.got(5)
    near.link.close()
    count = len(near.frames)
    await near.ended()
    await far.ended()
    # Nothing is received after one's own close; the other end has received what was sent before it.
    assert len(near.frames) == count
    assert len(far.frames) == 50


async def test_receivers_are_not_called_from_within_send_and_close(ends: Ends) -> None:
    near, far = await ends.pair(options=LinkOptions(max_buffered=MB))
    near.link.send(bytes(2 * MB))
    assert near.ends == 0
    near.link.close()
    assert near.ends == 0
    await near.ended()
    await far.ended()
    assert far.frames == []


async def test_closing_from_within_received(ends: Ends) -> None:
    near, far = await ends.pair()
    far.on_frame = lambda _: far.link.close()
    for _ in range(3):
        near.link.send(b"x")
    await far.ended()
    await near.ended()
    assert far.frames == [b"x"]


async def test_a_cut_link_is_closed_at_both_ends(ends: Ends) -> None:
    server = await ends.serve()
    async with CuttingProxy(server.address) as proxy:
        near = await ends.dial(proxy.address)
        near.link.send(b"x")
        await eventually(lambda: ends.far and ends.far[0].frames)
        proxy.cut()
        await near.ended()
        await ends.far[0].ended()
    near.link.send(b"dropped")
    near.link.close()
    assert near.link.buffered == 0


async def test_what_was_never_written_is_known(ends: Ends) -> None:
    server = await ends.serve()
    async with CuttingProxy(server.address) as proxy:
        near = await ends.dial(proxy.address)
        near.link.send(b"arrives")
        await eventually(lambda: ends.far and ends.far[0].frames)
        # Far more than sockets and the proxy hold, which nobody reads; and one that is begun.
        proxy.delay = 3600
        frames = [bytes([number]) * MB for number in range(40)]
        for frame in frames:
            near.link.send(frame)
        buffered = near.link.buffered
        await eventually(lambda: 0 < near.link.buffered < buffered)
        proxy.cut()
        await near.ended()
    unsent = near.link.unsent()
    assert unsent == frames[-len(unsent) :]
    assert 0 < len(unsent) < len(frames)
    assert len(ends.far[0].frames) == 1


@pytest.mark.parametrize(
    "swallowed",
    [{Way.THERE}, {Way.BACK}, {Way.THERE, Way.BACK}],
    ids=["there", "back", "both"],
)
async def test_silence_closes_a_link(ends: Ends, swallowed: set[Way]) -> None:
    options = LinkOptions(silence=0.6)
    server = await ends.serve(options=options)
    async with CuttingProxy(server.address) as proxy:
        near = await ends.dial(proxy.address, options=options)
        await eventually(lambda: bool(ends.far))
        proxy.swallowing |= swallowed
        await eventually(lambda: near.ends and ends.far[0].ends)


async def test_an_idle_link_lives(ends: Ends) -> None:
    """For longer than the time of silence, since both ends say something now and then."""
    options = LinkOptions(silence=0.4)
    server = await ends.serve(options=options)
    async with CuttingProxy(server.address) as proxy:
        near = await ends.dial(proxy.address, options=options)
        handshake = proxy.passed[Way.THERE]
        await eventually(lambda: proxy.passed[Way.THERE] > handshake + 60)
        assert near.ends == 0
        near.link.send(b"still there")
        assert await ends.far[0].got(1) == [b"still there"]
        idle = proxy.passed[Way.BACK]
        # Pings and pongs, not a flood of them.
        await asyncio.sleep(0.4)
        assert proxy.passed[Way.BACK] - idle < 200


async def test_ends_with_different_patience(ends: Ends) -> None:
    server = await ends.serve(options=LinkOptions(silence=60))
    near = await ends.dial(server.address, options=LinkOptions(silence=0.2))
    await asyncio.sleep(1)
    near.link.send(b"x")
    await ends.far[0].got(1)


async def test_an_end_that_reads_nothing_is_given_up(ends: Ends, caplog: pytest.LogCaptureFixture) -> None:
    """It lives (it pings), but does not read: what waits for it is bounded, and known."""
    near, far = await ends.pair(options=LinkOptions(max_buffered=8 * MB))
    far.link._transport.pause_reading()  # type: ignore[attr-defined]
    peak = 0
    while not near.ends:
        near.link.send(bytes(MB))
        peak = max(peak, near.link.buffered)
        await asyncio.sleep(0.001)
    assert peak <= 9 * MB + 512 * 1024
    assert any(record.getMessage() == "link.overflowed" for record in caplog.records)
    await far.ended()


async def test_closing_does_not_wait_for_an_end_that_reads_nothing(ends: Ends) -> None:
    near, far = await ends.pair(options=LinkOptions(silence=0.4))
    far.link._transport.pause_reading()  # type: ignore[attr-defined]
    for _ in range(32):
        near.link.send(bytes(MB))
    near.link.close()
    await near.ended()


async def test_a_frame_that_is_too_large_closes_the_link(
    ends: Ends, caplog: pytest.LogCaptureFixture
) -> None:
    near, far = await ends.pair(options=LinkOptions(max_frame=MB))
    near.link.send(bytes(MB))
    await far.got(1)
    near.link.send(bytes(MB + 1))
    await near.ended()
    await far.ended()
    assert any(record.getMessage() == "link.frame_too_large" for record in caplog.records)
    assert len(far.frames) == 1


async def test_the_receiver_keeps_to_the_limit_too(ends: Ends, caplog: pytest.LogCaptureFixture) -> None:
    server = await ends.serve(options=LinkOptions(max_frame=MB))
    near = await ends.dial(server.address)
    near.link.send(bytes(2 * MB))
    await near.ended()
    assert ends.far[0].frames == []
    assert [r.getMessage() for r in caplog.records if r.name == "perdure.links"] == ["link.garbage"]


async def test_a_receiver_that_calls_a_frame_garbage(ends: Ends, caplog: pytest.LogCaptureFixture) -> None:
    near, far = await ends.pair()

    def refuse(frame: bytes) -> None:
        raise InvalidInput("not what I know")

    far.on_frame = refuse
    near.link.send(b"1")
    near.link.send(b"2")
    await near.ended()
    await far.ended()
    assert far.frames == [b"1"]
    (record,) = (r for r in caplog.records if r.name == "perdure.links")
    assert record.perdure_fields["reason"] == "not what I know"  # type: ignore[attr-defined]
    assert record.perdure_fields["peer"] == far.link.peer.address  # type: ignore[attr-defined]


async def test_a_receiver_that_fails_loses_its_link_only(
    ends: Ends, caplog: pytest.LogCaptureFixture
) -> None:
    near, far = await ends.pair()
    other = await ends.dial(ends.servers[0].address)
    far.on_frame = lambda _: 1 / 0
    near.link.send(b"1")
    await near.ended()
    other.link.send(b"2")
    await ends.far[1].got(1)
    assert any("link.receiver_failed" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00" * 100,
        b"\xff" * 100,
        ws.encode(ws.BINARY, b"not records", mask=True),
        ws.encode(ws.BINARY, b"\x00\x00\x00\x05ab", mask=True),
        ws.encode(ws.BINARY, b"\x00\x00\x00\x00", mask=False),
        ws.encode(1, b"text", mask=True),
        ws.encode(0, b"continuation", mask=True),
        b"\x82\xff" + (1 << 62).to_bytes(8),
    ],
    ids=range(8),
)
async def test_garbage_closes_the_link(ends: Ends, garbage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    near, far = await ends.pair()
    near.link._transport.write(garbage)  # type: ignore[attr-defined]
    await near.ended()
    await far.ended()
    assert [r.getMessage() for r in caplog.records if r.name == "perdure.links"] == ["link.garbage"]
    # The server goes on.
    again = await ends.dial(ends.servers[0].address)
    again.link.send(b"x")
    await ends.far[-1].got(1)


# --- servers -----------------------------------------------------------------------------------------------------------


async def test_a_server_that_stops_closes_its_links_after_what_was_sent(ends: Ends) -> None:
    near, far = await ends.pair()
    far.link.send(bytes(5 * MB))
    far.link.send(b"bye")
    await ends.servers[0].stop()
    await near.ended()
    assert [len(frame) for frame in near.frames] == [5 * MB, 3]
    assert far.ends == 1
    with pytest.raises(Unavailable):
        await ends.dial(ends.servers[0].address)
    await ends.servers[0].stop()


async def test_a_server_that_stops_gives_up_on_who_does_not_listen(ends: Ends) -> None:
    near, _ = await ends.pair()
    near.link._transport.pause_reading()  # type: ignore[attr-defined]
    ends.far[0].link.send(bytes(50 * MB))
    await ends.servers[0].stop()
    assert ends.far[0].ends == 1
    near.link._transport.resume_reading()  # type: ignore[attr-defined]
    await near.ended()


async def test_a_port_that_is_taken(ends: Ends) -> None:
    server = await ends.serve()
    port = int(server.address.rpartition(":")[2])
    with pytest.raises(ConfigurationError, match=f"cannot listen on 127.0.0.1:{port}"):
        await LinkServer("127.0.0.1", port, security=Security(), clock=ends.clock).start()
    with pytest.raises(ConfigurationError, match="cannot listen"):
        await LinkServer("no.such.host.invalid", 0, security=Security(), clock=ends.clock).start()


async def test_health_needs_no_token(ends: Ends) -> None:
    server = await ends.serve(security=Security(token="secret"))
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://{server.address}/healthz") as answer:
            assert answer.status == 200
        async with session.get(f"http://{server.address}/other") as answer:
            assert answer.status == 404
        # No link asked for.
        headers = {"Authorization": "Bearer secret"}
        async with session.get(f"http://{server.address}{PATH}", headers=headers) as answer:
            assert answer.status == 400
        async with session.post(f"http://{server.address}/healthz") as answer:
            assert answer.status == 404


async def test_browsers_get_no_link(ends: Ends) -> None:
    server = await ends.serve()
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await session.ws_connect(f"http://{server.address}{PATH}", origin="https://example.org")
    assert caught.value.status == 403


async def test_aiohttp_speaks_with_a_link(ends: Ends) -> None:
    """The frames are those of RFC 6455, by an implementation that is not this one."""
    server = await ends.serve()
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"http://{server.address}{PATH}", autoping=False, compress=15) as socket,
    ):
        await socket.send_bytes(b"\x00\x00\x00\x03one\x00\x00\x00\x03two")
        await eventually(lambda: bool(ends.far))
        far = ends.far[0]
        assert await far.got(2) == [b"one", b"two"]
        far.link.send(b"three")
        assert await socket.receive_bytes() == b"\x00\x00\x00\x05three"
        await socket.ping(b"you")
        message = await socket.receive()
        assert (message.type, message.data) == (aiohttp.WSMsgType.PONG, b"you")
        far.link.send(b"z" * 70_000)
        pieces = [await socket.receive_bytes(), await socket.receive_bytes()]
        assert b"".join(piece[5:] for piece in pieces) == b"z" * 70_000
        far.link.close()
        assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
    await far.ended()


# --- dialling ----------------------------------------------------------------------------------------------------------


async def test_nobody_there(ends: Ends) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(Unavailable, match="cannot be reached"):
            await ends.dial(f"127.0.0.1:{taken.getsockname()[1]}")
    for address in (
        "nonsense",
        "127.0.0.1:99999",
        "127.0.0.1:",
        ":80",
        "no.such.host.invalid:80",
        "\udc80:1",
    ):
        with pytest.raises(Unavailable):
            await ends.dial(address)


async def test_somebody_who_never_answers(ends: Ends) -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        with pytest.raises(Unavailable, match=r"gave no answer within 0\.2 s"):
            await ends.dial(address, timeout=0.2)
        dialling = asyncio.ensure_future(ends.dial(address))
        await asyncio.sleep(0.05)
        dialling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialling


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "closed the connection"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "gives no link"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "gives no link"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n", "does not speak WebSocket"),
        (b"x" * 20_000, "does not speak HTTP"),
        (b"\xff\xfe\r\n\r\n", "gives no link"),
    ],
    ids=range(6),
)
async def test_somebody_else(ends: Ends, answer: bytes, reason: str) -> None:
    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(reply, "127.0.0.1", 0)
    try:
        with pytest.raises(Unavailable, match=reason):
            await ends.dial(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    finally:
        server.close()


async def test_a_path_that_nobody_serves(ends: Ends) -> None:
    server = await ends.serve()
    with pytest.raises(Unavailable, match="404"):
        await ends.dial(server.address, path="/other")


async def test_bytes_that_are_no_http(ends: Ends, caplog: pytest.LogCaptureFixture) -> None:
    server = await ends.serve()
    host, _, port = server.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100))
    await reader.read()
    writer.close()
    assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []
    near = await ends.dial(server.address)
    near.link.send(b"x")
    await eventually(lambda: ends.far and ends.far[0].frames == [b"x"])


async def test_a_dialler_that_hangs_up_in_the_handshake(ends: Ends, caplog: pytest.LogCaptureFixture) -> None:
    """One line for those who look closely, and no other: nodes that die or try again do this."""
    server = await ends.serve()
    host, _, port = server.address.rpartition(":")
    caplog.set_level(logging.DEBUG, "perdure.links")
    request = (
        f"GET {PATH} HTTP/1.1\r\nHost: n\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with socket.create_connection((host, int(port))) as one:
        # The loop does not run in between: it finds the request, and the end behind it.
        one.sendall(request.encode())
    await eventually(lambda: any(record.msg == "link.hung_up" for record in caplog.records))
    near = await ends.dial(server.address)
    near.link.send(b"x")
    await eventually(lambda: ends.far and ends.far[0].frames == [b"x"])
    assert [record.msg for record in caplog.records if record.exc_info] == []
    assert all(record.levelno == logging.DEBUG for record in caplog.records)


async def test_a_server_that_speaks_first(ends: Ends) -> None:
    """What it says with its answer is not lost."""
    server = LinkServer("127.0.0.1", 0, security=Security(), clock=ends.clock)
    ends.servers.append(server)

    def accept(link: object) -> End:
        for number in range(3):
            link.send(b"%d" % number)  # type: ignore[attr-defined]
        link.flush()  # type: ignore[attr-defined]
        return End()

    server.accept(PATH, accept)
    await server.start()
    near = await ends.dial(server.address)
    assert await near.got(3) == [b"0", b"1", b"2"]
