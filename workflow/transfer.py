"""Taking an instance out of a store whole, and putting it into one, where it goes on as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from perdure.actors.messages import Identity, Message, nobody
from perdure.errors import AlreadyExists, CorruptState, InvalidInput, Unavailable
from perdure.statestore.contract import ActorId, Reminder, Snapshot, StateStore
from perdure.workflow import metadata
from perdure.workflow.instance import Instance
from perdure.workflow.keys import history_key
from perdure.workflow.metadata import PURGED, Accepted, Metadata
from perdure.workflow.receipts import ACCEPTED
from perdure.workflow.record import FORMAT, Record, Wake
from perdure.workflow.requests import Restore
from perdure.workflow.state import RuntimeStatus

if TYPE_CHECKING:
    from perdure.workflow.work import Work

#: How often an instance is read anew that has changed meanwhile.
TRIES = 20
#: Keys read at a time.
PAGE = 1000

#: Makes the message of a due reminder; raises when nobody could.
Waking = Callable[[Reminder], object]


# --- out -------------------------------------------------------------------------------------------------------------


async def read(store: StateStore, actor: ActorId) -> Record | None:
    """The instance as one of its commits left it; None: there is none. `CorruptState` when its metadata cannot be
    read, `Unavailable` when it changed each time that it was being read."""
    for _ in range(TRIES):
        snapshot = await store.load(actor)
        value = None if snapshot is None else snapshot.values.get("metadata")
        if snapshot is None or value is None:
            return None
        meta = metadata.decode(value)
        if meta.status == PURGED:
            return None
        values = dict(snapshot.values) if snapshot.complete else await _all(store, actor)
        reminders = await store.reminders(actor)
        again = await store.load(actor)
        if again is not None and again.version == snapshot.version:
            return Record(
                format=FORMAT,
                type=actor.type,
                id=actor.id,
                workflow=meta.name,
                status=meta.status,
                values=values,
                reminders=[Wake(one.name, one.due, one.data) for one in reminders],
            )
    raise Unavailable(f"{actor.id!r} changed each time that it was being read: pause it, or try again")


async def _all(store: StateStore, actor: ActorId) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    cursor: str | None = None
    while True:
        page = await store.keys(actor, "", cursor, PAGE)
        found.update(page.items)
        cursor = page.cursor
        if cursor is None:
            return found


# --- in --------------------------------------------------------------------------------------------------------------


class Restored(NamedTuple):
    """What the commit that imports an instance puts."""

    instance: Instance
    values: dict[str, bytes]
    reminders: list[Reminder]


def check_free(old: Instance | None, *, replace: bool, acked: Iterable[int] = ()) -> None:
    """Whether a record may take the place of what has its id now. `AlreadyExists` when that is an instance, and it is
    not to be replaced; `Unavailable` while that, or what is left of it, owes messages to others. `acked`: those of its
    outbox that have been delivered."""
    if old is None:
        return
    if not (old.purged or replace):
        raise AlreadyExists(f"there is an instance {old.actor.id!r}, which is {old.meta.status}")
    if old.outbox.keys() - set(acked):
        raise Unavailable(f"{old.actor.id!r} owes messages to others: they have to be delivered first")


def restored(
    actor: ActorId, record: Record, old: Instance | None, at: int, waking: Waking, identity: Identity | None
) -> Restored:
    """What a record stands for. `InvalidInput` when that is not a whole instance, or another actor's.

    `old`: what has the id now, of which the messages are remembered that it has taken and sent. `identity`: of the
    request to import it. `at`: now."""
    if (record.type, record.id) != actor:
        raise InvalidInput(f"this is {record.type} {record.id!r}, not {actor.type} {actor.id!r}")
    reminders = [_reminder(actor, one, waking) for one in record.reminders]
    try:
        instance = _read(actor, record.values)
    except CorruptState as error:
        raise InvalidInput(f"the exported instance {actor.id!r} cannot be read: {error.message}") from error
    if old is not None:
        _remember(instance.meta, old, at)
        if old.receipts is not None:
            instance.receipts = old.receipts.with_those_of(instance.receipts)
    if identity is not None:
        instance.meta.accept(identity, at)
    values = {**record.values, "metadata": metadata.encode(instance.meta)}
    if instance.receipts is not None:
        values[ACCEPTED] = instance.receipts.encode()
    return Restored(instance, values, reminders)


def _read(actor: ActorId, values: Mapping[str, bytes]) -> Instance:
    """The instance, with its whole history; `CorruptState`."""
    numbered = sorted(key for key in values if key.startswith("history-"))
    numbered.sort(key=len)
    rest = {key: value for key, value in values.items() if not key.startswith("history-")}
    ordered = {**{key: values[key] for key in numbered}, **rest}
    try:
        instance = Instance.read(actor, Snapshot(b"", ordered, recover=False, complete=True))
    except (ValueError, msgspec.MsgspecError) as error:
        raise CorruptState(f"a key is none of an instance: {error}") from error
    if instance is None:
        raise CorruptState("it has no key metadata")
    meta = instance.meta
    if meta.status not in set(RuntimeStatus):
        raise CorruptState(f"its status is {meta.status!r}")
    if numbered != [history_key(number) for number in range(meta.history)]:
        raise CorruptState(f"of its {meta.history} history events {len(numbered)} are there, or others")
    return instance


def _reminder(actor: ActorId, wake: Wake, waking: Waking) -> Reminder:
    found = Reminder(actor, wake.name, wake.due, wake.data)
    try:
        waking(found)
    except Exception as error:
        raise InvalidInput(
            f"{actor.id!r} has a reminder {wake.name!r} that is none of an instance: {error}"
        ) from error
    return found


def _remember(meta: Metadata, old: Instance, at: int) -> None:
    """What was sent to the instance that had this id, or was begun under it, may still come twice; and others know
    the numbers of what that one sent."""
    for sender, entry in old.meta.accepted.items():
        mine = meta.accepted.get(sender)
        if mine is not None:
            floor = max(mine.floor, entry.floor)
            numbers = sorted(number for number in {*mine.numbers, *entry.numbers} if number >= floor)
            meta.accepted[sender] = Accepted(floor, max(mine.last, entry.last), numbers)
        else:
            meta.accepted[sender] = entry
    meta.past = {**old.meta.past_with(old.meta.start_id, at), **meta.past}
    meta.past.pop(meta.start_id, None)
    meta.number = max(meta.number, old.meta.number)


def restore(work: Work, message: Message) -> None:
    """The turn that imports an instance: nothing else is in it."""
    body: Restore = message.body
    behaviour, commit = work.behaviour, work.commit
    old = behaviour.instance
    if old is not None and message.identity is not None and old.meta.knows(message.identity):
        # It came twice.
        work.answer(message)
        return

    def waking(reminder: Reminder) -> object:
        return work.engine.reminder(reminder, nobody)

    try:
        check_free(old, replace=body.replace, acked=behaviour.outbox.acked)
        found = restored(work.actor, body.record, old, work.at, waking, message.identity)
    except (AlreadyExists, InvalidInput, Unavailable) as error:
        work.answer(message, error)
        return
    commit.reset = behaviour.activation.version is not None
    commit.put.update(found.values)
    commit.clear_reminders = True
    commit.reminders = found.reminders
    commit.recover = found.instance.owes
    commit.row = found.instance.row()
    behaviour.outbox.acked.clear()
    behaviour.replace(found.instance)
    work.answer(message)
    # It is an instance that this node has never seen, as after a take-over.
    work.turn.effects.append((behaviour.activation.load, ()))
