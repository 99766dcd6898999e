"""The pure parts of links: WebSocket frames, and the records in them."""

from __future__ import annotations

import itertools
import runpy
import sys
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from perdure.errors import InvalidInput
from perdure.links import websocket as ws
from perdure.links.records import MESSAGE_LIMIT, PIECE, STREAMS, Inbox, Outbox

LIMIT = 1 << 20
sizes = st.sampled_from([0, 1, 125, 126, 127, 65535, 65536, 100_000])


def pieces(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    at = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[begin:end] for begin, end in itertools.pairwise(at)]


@given(
    st.lists(st.tuples(st.sampled_from([ws.BINARY]), sizes), max_size=6),
    st.booleans(),
    st.lists(st.integers(0, 1 << 20), max_size=8),
)
def test_frames_come_through_however_they_are_cut(
    frames: list[tuple[int, int]], mask: bool, cuts: list[int]
) -> None:
    sent = [(opcode, bytes([at]) * size) for at, (opcode, size) in enumerate(frames)]
    data = b"".join(ws.encode(opcode, payload, mask=mask) for opcode, payload in sent)
    parser = ws.Parser(masked=mask, limit=LIMIT)
    got = [(opcode, bytes(payload)) for piece in pieces(data, cuts) for opcode, payload in parser.feed(piece)]
    assert got == sent


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 1000])
def test_masks_are_the_same_without_the_one_written_in_c(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """A release of aiohttp may have it elsewhere."""
    monkeypatch.setitem(sys.modules, "aiohttp._websocket.helpers", None)
    plain = runpy.run_path(str(ws.__file__))["websocket_mask"]
    assert plain.__module__ != ws.websocket_mask.__module__
    ours, theirs = (bytearray(b"\x07" * size) for _ in range(2))
    plain(b"\x00\x01\xfe\xff", ours)
    ws.websocket_mask(b"\x00\x01\xfe\xff", theirs)
    assert ours == theirs


@pytest.mark.parametrize("mask", [True, False])
def test_byte_by_byte(mask: bool) -> None:
    sent = [(ws.PING, b"p"), (ws.BINARY, b"x" * 300), (ws.PONG, b""), (ws.CLOSE, b"\x03\xe8")]
    data = b"".join(ws.encode(opcode, payload, mask=mask) for opcode, payload in sent)
    parser = ws.Parser(masked=mask, limit=LIMIT)
    got = [(opcode, bytes(payload)) for byte in data for opcode, payload in parser.feed(bytes([byte]))]
    assert got == sent


@given(st.binary(max_size=300), st.booleans())
@example(b"\x82\xff" + b"\xff" * 8, True)
@example(b"\x89\x7e\x00\x80" + bytes(128), False)
def test_garbage_is_invalid_input_or_waits_for_more(data: bytes, mask: bool) -> None:
    parser = ws.Parser(masked=mask, limit=1000)
    try:
        for opcode, payload in parser.feed(data):
            assert opcode in (ws.BINARY, ws.CLOSE, ws.PING, ws.PONG)
            assert len(payload) <= 1000
    except InvalidInput:
        pass


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (ws.encode(ws.BINARY, b"x", mask=False), "not masked"),
        (b"\x02\x81abcd1", "begins with 0x02"),
        (b"\xc2\x81abcd1", "begins with 0xc2"),
        (b"\x81\x81abcd1", "begins with 0x81"),
        (b"\x83\x81abcd1", "begins with 0x83"),
        (b"\x89\xfe\x00\x7eabcd", "control frame"),
        (b"\x82\xfe\x04\x00abcd", "1024 bytes; at most 1000"),
        (b"\x82\xff" + (1 << 63).to_bytes(8), "at most 1000"),
    ],
)
def test_what_links_do_not_say(data: bytes, reason: str) -> None:
    parser = ws.Parser(masked=True, limit=1000)
    with pytest.raises(InvalidInput, match=reason):
        list(parser.feed(data))


def test_masks_differ() -> None:
    """Each frame has its own: else whoever chooses what is sent chooses what is on the wire."""
    assert len({ws.encode(ws.BINARY, b"same", mask=True) for _ in range(50)}) > 40


# --- records -----------------------------------------------------------------------------------------------------------

frames = st.lists(
    st.builds(
        lambda mark, size: bytes([mark]) * size,
        st.integers(0, 255),
        st.sampled_from([0, 1, 100, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 5 * PIECE + 7]),
    ),
    max_size=12,
)


def message(outbox: Outbox) -> bytes:
    return b"".join(outbox.next())


@given(frames, st.booleans())
def test_frames_come_out_as_they_went_in(sent: list[bytes], overtaking: bool) -> None:
    outbox, inbox = Outbox(overtaking=overtaking), Inbox(limit=LIMIT)
    for frame in sent:
        outbox.add(frame)
    assert outbox.size == sum(map(len, sent))
    got = []
    while outbox:
        payload = message(outbox)
        assert len(payload) <= MESSAGE_LIMIT
        got += inbox.read(payload)
    assert outbox.size == 0
    if overtaking:
        assert [f for f in got if len(f) <= PIECE] == [f for f in sent if len(f) <= PIECE]
        assert sorted(got) == sorted(sent)
    else:
        assert got == sent


@given(frames, frames, st.integers(0, 6))
def test_frames_that_come_while_others_go(first: list[bytes], more: list[bytes], after: int) -> None:
    outbox, inbox = Outbox(overtaking=True), Inbox(limit=LIMIT)
    got = []
    for frame in first:
        outbox.add(frame)
    for _ in range(after):
        got += inbox.read(message(outbox))
    for frame in more:
        outbox.add(frame)
    while outbox:
        got += inbox.read(message(outbox))
    assert sorted(got) == sorted(first + more)


def test_a_small_frame_waits_for_nothing_but_its_like() -> None:
    outbox, inbox = Outbox(overtaking=True), Inbox(limit=1 << 30)
    for _ in range(3 * STREAMS):
        outbox.add(bytes(50 * PIECE))
    for _ in range(10):
        message(outbox)
    outbox.add(b"small")
    assert list(inbox.read(message(outbox)[: 4 + len(b"small")])) == [b"small"]


def test_large_frames_share_by_pieces() -> None:
    """A shorter one that came later is done long before a longer one; the fifth waits for one to end."""
    outbox, inbox = Outbox(overtaking=True), Inbox(limit=1 << 30)
    lengths = [100, 2, 3, 4, 5]
    for number, length in enumerate(lengths):
        outbox.add(bytes([number]) * (length * PIECE))
    done = []
    while outbox:
        done += [frame[0] for frame in inbox.read(message(outbox))]
    assert done == [1, 2, 3, 4, 0]


def test_many_empty_frames_do_not_make_one_endless_message() -> None:
    outbox = Outbox(overtaking=False)
    for _ in range(100_000):
        outbox.add(b"")
    assert len(message(outbox)) <= MESSAGE_LIMIT
    assert outbox


def test_what_has_not_begun_is_known() -> None:
    for overtaking in (True, False):
        outbox = Outbox(overtaking=overtaking)
        for size in (1, 3 * PIECE, 2, 4 * PIECE):
            outbox.add(bytes(size))
        assert [len(frame) for frame in outbox.unsent()] in (
            [1, 3 * PIECE, 2, 4 * PIECE],
            [1, 2, 3 * PIECE, 4 * PIECE],
        )
        message(outbox)
        left = [len(frame) for frame in outbox.unsent()]
        assert left == ([4 * PIECE] if overtaking else [2, 4 * PIECE])
        outbox.clear()
        assert not outbox
        assert outbox.size == 0


@given(st.binary(max_size=200))
@example(b"\x10\x00\x00\x00")
@example(b"\x10\x00\x00\x01\x04")
@example(b"\xf0\x00\x00\x01x")
def test_garbage_in_records(data: bytes) -> None:
    inbox = Inbox(limit=100)
    try:
        for frame in inbox.read(data):
            assert len(frame) <= 200
    except InvalidInput:
        pass


def test_pieces_beyond_the_limit() -> None:
    inbox = Inbox(limit=10)
    piece = b"\x10\x00\x00\x07\x00abcdef"
    assert list(inbox.read(piece)) == []
    with pytest.raises(InvalidInput, match="longer than 10 bytes"):
        list(inbox.read(piece))
