"""What crosses between nodes, as bytes and back."""

from __future__ import annotations

import contextlib
import inspect
from datetime import UTC, datetime
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure import errors
from perdure.actors import peer_messages as wire
from perdure.actors.codec import Codec
from perdure.actors.handover import Group, Release, Released
from perdure.actors.questions import NODE
from perdure.errors import (
    ActorMethodFailed,
    DeadlineExceeded,
    InvalidInput,
    Moved,
    OutcomeUnknown,
    PerdureError,
    Unavailable,
)
from perdure.workflow import requests
from perdure.workflow.events import FailureDetails, Parent, TraceContext
from perdure.workflow.record import Record
from perdure.workflow.requests import (
    ActivityDone,
    ActivityRequest,
    CancelActivity,
    ChildDone,
    Forget,
    Purge,
    Raise,
    Resume,
    Start,
    Suspend,
    Terminate,
    TimerDue,
    Wait,
)
from perdure.workflow.stall import Purged
from perdure.workflow.state import RuntimeStatus, WorkflowState
from perdure.workflow.wire import ToWorkflow, register_workflow

WORKFLOW, ACTIVITY = "dapr.internal.default.app.workflow", "dapr.internal.default.my.app.activity"
SLOTS = "dapr.internal.default.app.slots"
TRACE = TraceContext("00-abc-def-01", "x=y")
FAILURE = FailureDetails("ValueError", "no", "stack", FailureDetails("Inner", "why"), True)
PARENT = Parent(WORKFLOW, "p", "name", "exec", 7, b"nonce")

BODIES: list[Any] = [
    Start("name", "start-id", b'{"a":1}', PARENT, "v1", TRACE, {"tag": "ü"}),
    Start("name", "start-id"),
    Start("name", "start-id", scheduled=1_700_000_000_000_000, if_exists="replace", key="k ü"),
    Raise("name", b"1", "an id"),
    requests.StartDue("start-id", 5),
    Raise("event", b"\x00\xff"),
    ActivityDone("exec", 3, b"nonce", b"result"),
    ActivityDone("exec", 3, b"nonce", None, FAILURE),
    ChildDone("exec", 3, b"nonce", b"", FAILURE),
    TimerDue("exec", 3, 1_700_000_000_000_000),
    Suspend("why"),
    Resume(),
    Terminate("why", b"out", False, "start-id"),
    Purge(False, True, "start-id"),
    Wait("started"),
    Forget(),
    requests.Granted(),
    requests.Cancel("why", "start-id"),
    requests.Restore(Record(format=1, type=WORKFLOW, id="i", values={"metadata": b"m"}), True),
]
SLOT_BODIES = [
    requests.Acquire("id", "start-id", 1_700_000_000_000_000, 2),
    requests.Release("id", "start-id", 2),
]
REQUEST = ActivityRequest(WORKFLOW, "id", "wf", "exec", 2, 3, b"nonce", "act", "key", b"in", "other", TRACE)
STATE = WorkflowState(
    instance_id="order-1",
    name="order",
    runtime_status=RuntimeStatus.STALLED,
    created_at=datetime(2024, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
    last_updated_at=datetime(2024, 1, 2, 3, 4, 6, 1, tzinfo=UTC),
    started_at=None,
    serialized_input='{"x": 1}',
    failure_details=FAILURE,
    reason="why",
    parent_instance_id="p",
    tags={"a": "b"},
)


@pytest.fixture
def codec() -> Codec:
    codec = Codec()
    register_workflow(codec)
    return codec


def sent(codec: Codec, actor_type: str, body: Any) -> Any:
    """What the other node has of a body."""
    item = wire.Request(1, actor_type, "id", "method", cast(msgspec.Raw, codec.encode_body(actor_type, body)))
    (read,) = wire.decode(wire.encode(item))
    assert isinstance(read, wire.Request)
    return codec.decode_body(read.type, read.body)


def answered(codec: Codec, answer: Any, reader: Codec | None = None) -> Any:
    (read,) = wire.decode(wire.encode(codec.encode_answer(5, answer)))
    assert read.number == 5  # type: ignore[union-attr]
    return (reader or codec).decode_answer(cast(wire.Reply, read))


# --- bodies ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", BODIES, ids=lambda body: type(body).__name__)
def test_bodies_of_workflow_actors(codec: Codec, body: Any) -> None:
    read = sent(codec, WORKFLOW, body)
    assert (type(read), read) == (type(body), body)


@pytest.mark.parametrize("body", SLOT_BODIES, ids=lambda body: type(body).__name__)
def test_bodies_of_slots(codec: Codec, body: Any) -> None:
    assert sent(codec, SLOTS, body) == body


def test_every_request_can_be_sent() -> None:
    """A request that is added there and not to the wire would fail in clusters only."""
    tagged = {
        value
        for value in vars(requests).values()
        if inspect.isclass(value)
        and issubclass(value, msgspec.Struct)
        and value.__module__ == requests.__name__
        and value.__struct_config__.tag is not None
    }
    assert tagged == {type(body) for body in [*BODIES, *SLOT_BODIES]} | {ActivityRequest, CancelActivity}
    assert {type(body) for body in BODIES} == set(ToWorkflow.__args__)


def test_activity_requests(codec: Codec) -> None:
    assert sent(codec, ACTIVITY, REQUEST) == REQUEST
    cancel = CancelActivity("exec", 3, b"nonce", "why")
    assert sent(codec, ACTIVITY, cancel) == cancel


@pytest.mark.parametrize("body", [None, b"", b'{"a": 1}', bytes(100_000)], ids=range(4))
def test_payloads_of_user_actors(codec: Codec, body: bytes | None) -> None:
    assert sent(codec, "Counter", body) == body


@pytest.mark.parametrize(
    "body",
    [
        None,
        7,
        "text",
        [1, [2.5, None]],
        {"a": [True], "b": b"x"},
        Release([Group("t", 1, 2, [3, 4])], 0.5),
        Released([]),
    ],
    ids=repr,
)
def test_questions_between_nodes(codec: Codec, body: Any) -> None:
    assert sent(codec, NODE, body) == body
    assert answered(codec, body) == body


@pytest.mark.parametrize(
    ("actor_type", "body"),
    [
        ("Counter", "text"),
        ("Counter", Start("a", "b")),
        ("Counter", bytearray(b"x")),
        (WORKFLOW, b"bytes"),
        (WORKFLOW, REQUEST),
        (WORKFLOW, requests.Outgoing("t", "i", Raise("x"))),
        (ACTIVITY, Start("a", "b")),
        (NODE, {1: 2}),
        (NODE, Start("a", "b")),
        (NODE, 1 << 70),
        (NODE, "\ud800"),
        (NODE, {1, 2}),
    ],
    ids=repr,
)
def test_bodies_that_an_actor_does_not_take(codec: Codec, actor_type: str, body: Any) -> None:
    with pytest.raises(InvalidInput, match="another node"):
        codec.encode_body(actor_type, body)


@pytest.mark.parametrize(
    ("actor_type", "raw"),
    [
        ("Counter", msgspec.msgpack.encode("text")),
        (WORKFLOW, msgspec.msgpack.encode({"type": "Start", "name": "x"})),
        (WORKFLOW, msgspec.msgpack.encode({"type": "Unheard", "name": "x"})),
        (WORKFLOW, msgspec.msgpack.encode(b"bytes")),
        (ACTIVITY, msgspec.msgpack.encode(Start("a", "b"))),
        (NODE, msgspec.msgpack.encode(["Unheard", 1])),
        (NODE, msgspec.msgpack.encode(["Release", 1])),
        (NODE, msgspec.msgpack.encode(1)),
    ],
    ids=range(8),
)
def test_bytes_that_are_no_such_body(codec: Codec, actor_type: str, raw: bytes) -> None:
    with pytest.raises(InvalidInput, match="no body"):
        codec.decode_body(actor_type, msgspec.Raw(raw))


def test_a_user_cannot_be_sent_what_only_the_node_itself_makes(codec: Codec) -> None:
    """Reminders and timers come from the owner's own store and memory, never over a link."""
    from perdure.statestore.contract import ActorId, Reminder

    with pytest.raises(InvalidInput):
        codec.encode_body("Counter", Reminder(ActorId("Counter", "1"), "r", 1))


# --- answers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer", [None, True, False, 0, -1, 1 << 63, 1.5, "", "ü", b"", b"\xff", STATE, [1, "a"]], ids=repr
)
def test_answers(codec: Codec, answer: Any) -> None:
    read = answered(codec, answer)
    assert (type(read), read) == (type(answer), answer)


def test_a_state_keeps_its_types(codec: Codec) -> None:
    read = answered(codec, STATE)
    assert type(read.runtime_status) is RuntimeStatus
    assert read.created_at.tzinfo is not None
    assert read.input == {"x": 1}


@pytest.mark.parametrize("answer", [object(), {1, 2}, 1 << 70, "\ud800", [[object()]], {1: 2}], ids=range(6))
def test_answers_that_cannot_be_sent(codec: Codec, answer: Any) -> None:
    with pytest.raises((InvalidInput, *wire.UNWRITABLE)):
        wire.encode(codec.encode_answer(1, answer))


def test_answers_that_the_other_node_does_not_know(codec: Codec) -> None:
    read = answered(codec, STATE, Codec())
    assert type(read) is PerdureError
    assert "WorkflowState" in read.message
    malformed = wire.Structure(1, "WorkflowState", msgspec.Raw(msgspec.msgpack.encode({"name": 5})))
    assert "cannot be read" in codec.decode_answer(malformed).message


# --- errors ------------------------------------------------------------------------------------------------------------

CLASSES = [
    cls
    for cls in vars(errors).values()
    if inspect.isclass(cls) and issubclass(cls, PerdureError) and cls.__module__ == errors.__name__
]


@pytest.mark.parametrize("cls", [*CLASSES, Purged], ids=lambda cls: cls.__name__)
def test_every_error(codec: Codec, cls: type[PerdureError]) -> None:
    for error in (
        cls(),
        cls("what exactly: ü"),
        cls("with values", number=5, name="x", parts=[1, {"a": b"b"}]),
    ):
        read = answered(codec, error)
        assert type(read) is cls
        assert (read.message, str(read), read.code) == (error.message, str(error), error.code)
        assert vars(read) == vars(error)


def test_fields_of_errors(codec: Codec) -> None:
    moved = answered(codec, Moved(term=17, epoch=4))
    assert (moved.term, moved.epoch) == (17, 4)
    assert (answered(codec, Moved()).term, answered(codec, Moved()).epoch) == (0, 0)
    failed = answered(codec, ActorMethodFailed("m", error_type="KeyError", error_message="'x'"))
    assert (failed.error_type, failed.error_message) == ("KeyError", "'x'")


def test_fields_that_cannot_cross_are_left_out(codec: Codec) -> None:
    error = Moved("gone", term=3, thing=object(), huge=1 << 80, text="\ud800", fine=1)
    assert vars(answered(codec, error)) == {"term": 3, "fine": 1}


@pytest.mark.parametrize(
    "fields",
    [
        {"term": "text"},
        {"args": [1]},
        {"message": "other"},
        {"code": "OTHER"},
        {"with_traceback": 1},
        {"add_note": 1},
        {"__class__": 1},
        {"_private": 1},
        {"not a name": 1},
    ],
    ids=repr,
)
def test_fields_from_outside_replace_nothing(codec: Codec, fields: dict[str, Any]) -> None:
    error = codec.decode_answer(wire.Failure(1, ("Moved", "Unavailable"), "gone", fields))
    assert vars(error) == {}
    assert (error.message, error.code, error.term) == ("gone", "ERR_MOVED", 0)


def test_a_class_that_the_other_node_does_not_know_is_the_nearest_one_that_it_knows(codec: Codec) -> None:
    class Throttled(OutcomeUnknown):
        """Slow down."""

    class Odd(PerdureError):
        """Odd."""

    read = answered(codec, Throttled("wait", seconds=5))
    assert type(read) is OutcomeUnknown
    assert (read.message, read.seconds) == ("Throttled: wait", 5)
    read = answered(codec, Odd())
    assert type(read) is PerdureError
    assert read.message == "Odd: Odd."
    assert type(answered(codec, Purged(), Codec())) is PerdureError


def test_what_is_no_error_of_perdure(codec: Codec) -> None:
    read = answered(codec, ValueError("no"))
    assert type(read) is PerdureError
    assert read.message == "ValueError: no"


def test_texts_that_are_no_unicode(codec: Codec) -> None:
    assert answered(codec, InvalidInput("the id '\ud800'")).message == r"the id '\ud800'"


def test_errors_with_two_bases(codec: Codec) -> None:
    read = answered(codec, DeadlineExceeded("late"))
    assert isinstance(read, TimeoutError)
    assert isinstance(read, Unavailable)
    assert str(read) == "late"


def test_names_are_registered_once(codec: Codec) -> None:
    with pytest.raises(ValueError, match="Purged"):
        codec.error(Purged)
    with pytest.raises(ValueError, match="WorkflowState"):
        codec.struct(WorkflowState)


# --- frames ------------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=200))
def test_garbage_is_invalid_input(data: bytes) -> None:
    with contextlib.suppress(InvalidInput):
        wire.decode(data)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-10, 10) | st.text(max_size=3) | st.binary(max_size=3),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    )
)
def test_msgpack_that_says_something_else_is_invalid_input(value: Any) -> None:
    codec = Codec()
    try:
        items = wire.decode(msgspec.msgpack.encode([value]))
    except InvalidInput:
        return
    for item in items:
        if isinstance(item, (wire.Value, wire.Structure, wire.Failure)):
            codec.decode_answer(item)


def test_deep_garbage() -> None:
    with pytest.raises(InvalidInput):
        wire.decode(b"\x91" * 100_000 + b"\x00")
    with pytest.raises(InvalidInput):
        wire.decode(msgspec.msgpack.encode([[6, 1, [], "m", {"a": 0}]])[:-1] + b"\x91" * 100_000)


def test_an_item_that_cannot_be_written_leaves_the_frame_as_it_was() -> None:
    frame = wire.Frame()
    frame.add(wire.Value(1, "a"))
    size = frame.size
    with pytest.raises(wire.UNWRITABLE):
        frame.add(wire.Value(2, object()))
    assert (frame.size, frame.count) == (size, 1)
    frame.add(wire.Value(3, "b"))
    assert wire.decode(frame.take()) == [wire.Value(1, "a"), wire.Value(3, "b")]
    assert frame.count == 0


def test_cutting_the_last_item_out() -> None:
    frame = wire.Frame()
    frame.add(wire.Value(1, "a"))
    size = frame.add(wire.Value(2, "b" * 1000))
    assert wire.decode(frame.cut(size)) == [wire.Value(2, "b" * 1000)]
    assert wire.decode(frame.take()) == [wire.Value(1, "a")]
    size = frame.add(wire.Value(3, "c"))
    assert wire.decode(frame.cut(size)) == [wire.Value(3, "c")]
    assert frame.count == 0


def test_items_can_grow() -> None:
    """A later release may add to an item what this one does not know, and leave out what it does."""
    frame = msgspec.msgpack.encode([[3, 1, "t", "i", "m", None], [4, 1, "v", "more"]])
    request, value = wire.decode(frame)
    assert isinstance(request, wire.Request)
    assert (request.flags, request.left, request.chain) == (wire.REPEATABLE, None, ())
    assert value == wire.Value(1, "v")
