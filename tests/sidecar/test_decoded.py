"""Stored values as people see them."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.sidecar.decoded import decode_value, event_json
from perdure.workflow import events

AT = 1767323045678901
TIME = "2026-01-02T03:04:05.678901Z"


def test_payload_bytes_inside_are_shown_as_their_json() -> None:
    value = msgspec.msgpack.encode({"at": AT, "list": [{"input": b"[1]"}, {"output": b"\xff"}], "empty": b""})
    assert decode_value("inbox-000001", value) == {
        "at": TIME,
        "list": [{"input": [1]}, {"output": {"base64": "/w=="}}],
        "empty": {"base64": ""},
    }


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("customStatus", b'"x"', "x"),
        ("customStatus", msgspec.msgpack.encode({"a": 1}), {"base64": "gaFhAQ=="}),
        ("count", b"5", 5),
        ("metadata", b'{"a": 1}', {"a": 1}),
        ("history-000000", b"\xff\xff", {"base64": "//8="}),
        ("anything", b"", {"base64": ""}),
        ("anything", msgspec.msgpack.encode({1: {2: None}}), {"1": {"2": None}}),
        ("anything", msgspec.msgpack.encode({"at": 2**62, "due": True}), {"at": 2**62, "due": True}),
    ],
)
def test_what_a_key_holds(key: str, value: bytes, shown: object) -> None:
    assert decode_value(key, value) == shown


def test_deep_json_is_shown_as_bytes() -> None:
    value = b"[" * 300 + b"]" * 300
    shown = decode_value("x", value)
    assert isinstance(shown, dict)
    assert set(shown) == {"base64"}


def test_wide_json_is_shown() -> None:
    assert decode_value("x", b"[" + b"[]," * 300 + b"[]]") == [[]] * 301


@given(st.text(max_size=20), st.binary(max_size=200))
def test_every_value_can_be_shown(key: str, value: bytes) -> None:
    msgspec.json.encode(decode_value(key, value))


@given(
    st.recursive(
        st.none() | st.binary(max_size=9) | st.integers(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    )
)
def test_every_msgpack_value_can_be_shown(value: object) -> None:
    try:
        packed = msgspec.msgpack.encode({"at": value})
    except OverflowError:
        return
    msgspec.json.encode(decode_value("metadata", packed))


def test_an_event_and_its_stored_bytes_are_shown_alike() -> None:
    event = events.TaskFailed(
        at=AT, id=3, failure=events.FailureDetails("E", "m", inner=events.FailureDetails("F", "n"))
    )
    assert event_json(event) == decode_value("history-000001", events.encode(event))
    assert event_json(event) == {
        "type": "TaskFailed",
        "at": TIME,
        "id": 3,
        "failure": {"type": "E", "message": "m", "inner": {"type": "F", "message": "n"}},
    }
