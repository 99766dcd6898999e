"""What can be asked of a user actor besides its methods: to change state, reminders and timers, from outside.

Each is a call like any other, of a method that no class can have, so it is one turn with one commit, on whichever
node the actor is. No code of the user runs in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from perdure.actors.actor import Actor
from perdure.actors.context import ActorContext
from perdure.actors.ids import check_key, check_name
from perdure.actors.methods import Method, find
from perdure.actors.schedule import FailurePolicy
from perdure.errors import InvalidInput
from perdure.payload import Payload

#: Begins the names of all of them; no method of Python begins so.
PREFIX = "~"
CHANGE_STATE = "~state"
SET_REMINDER = "~reminder"
DELETE_REMINDER = "~reminder-delete"
SET_TIMER = "~timer"
DELETE_TIMER = "~timer-delete"


class SetKey(msgspec.Struct, frozen=True, tag_field="do", tag="set"):
    key: str
    #: JSON.
    value: msgspec.Raw
    #: A delay or a time, as text; None: it stays.
    ttl: str | None = None


class DeleteKey(msgspec.Struct, frozen=True, tag_field="do", tag="delete"):
    key: str


Change = SetKey | DeleteKey


class ReminderRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """As `Actor.set_reminder`."""

    name: str
    due: str | None = None
    period: str | None = None
    ttl: str | None = None
    #: JSON.
    data: msgspec.Raw = msgspec.Raw()
    overwrite: bool = True
    failure_policy: FailurePolicy | None = None


class TimerRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """As `Actor.set_timer`. The callback is a method that can be called from outside."""

    name: str
    callback: str
    due: str | None = None
    period: str | None = None
    ttl: str | None = None
    #: JSON.
    data: msgspec.Raw = msgspec.Raw()


class Named(msgspec.Struct, frozen=True):
    name: str


def changes(requested: Sequence[Change]) -> bytes:
    """The body of `CHANGE_STATE`."""
    return encode(list(requested))


async def run(
    context: ActorContext, cls: type[Actor], methods: Mapping[str, Method], name: str, body: Payload
) -> None:
    """Does what the body asks for, in the open turn of the context. `InvalidInput` when it cannot be done, and what
    `Actor`'s own methods raise; what was changed until then is for the caller to undo."""
    if name == CHANGE_STATE:
        for change in _read(_decode_changes, body):
            if isinstance(change, SetKey):
                context.state.write(check_key(change.key), bytes(change.value), change.ttl)
            else:
                context.state.drop(check_key(change.key))
    elif name == SET_REMINDER:
        asked = _read(_decode_reminder, body)
        await context.put_reminder(
            asked.name,
            asked.due,
            asked.period,
            asked.ttl,
            _json(asked.data),
            asked.overwrite,
            asked.failure_policy,
        )
    elif name == DELETE_REMINDER:
        context.book.delete(check_name(_read(_decode_named, body).name, "reminder"))
    elif name == SET_TIMER:
        _set_timer(context, cls, methods, _read(_decode_timer, body))
    else:
        context.delete_timer(_read(_decode_named, body).name)


def _set_timer(
    context: ActorContext, cls: type[Actor], methods: Mapping[str, Method], asked: TimerRequest
) -> None:
    check_name(asked.name, "timer")
    method = find(methods, cls.actor_type, asked.callback)
    # Read now, as the method's argument: so the tick cannot fail of it.
    arguments = method.arguments(_json(asked.data))
    context.put_timer(
        asked.name,
        asked.due,
        asked.period,
        asked.callback,
        arguments[0] if arguments else None,
        asked.ttl,
    )


def _json(raw: msgspec.Raw) -> Payload:
    """None for no data, and for null."""
    found = bytes(raw)
    return None if found.strip() in (b"", b"null") else found


def _read(decode: Any, body: Payload) -> Any:
    try:
        return decode(body or b"null")
    except msgspec.MsgspecError as error:
        raise InvalidInput(f"the request cannot be read: {error}") from error


encode = msgspec.json.Encoder().encode
_decode_changes = msgspec.json.Decoder(list[Change]).decode
_decode_reminder = msgspec.json.Decoder(ReminderRequest).decode
_decode_timer = msgspec.json.Decoder(TimerRequest).decode
_decode_named = msgspec.json.Decoder(Named).decode

OPERATIONS = frozenset({CHANGE_STATE, SET_REMINDER, DELETE_REMINDER, SET_TIMER, DELETE_TIMER})
