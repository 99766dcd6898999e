"""A user actor's state: its keys as the last commit left them, and what the running turn changes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from typing import Any, Protocol, TypeVar, overload

from perdure import payload
from perdure.actors.ids import check_key
from perdure.statestore.contract import SNAPSHOT_LIMIT, Commit, Snapshot

T = TypeVar("T")

_NULL = b"null"


class ReadKey(Protocol):
    async def __call__(self, key: str) -> bytes | None:
        """The key's value in the store; None if there is none."""


class StoredKeys:
    """The actor's keys as its last commit left them: those that were loaded, or were committed since. Where there
    are more than that, the others are read from the store each time they are asked for."""

    def __init__(self, snapshot: Snapshot | None, read: ReadKey) -> None:
        self._read = read
        self._loaded: dict[str, bytes | None] = dict(snapshot.values) if snapshot else {}
        self._complete = snapshot is None or snapshot.complete

    async def get(self, key: str) -> bytes | None:
        if self._complete or key in self._loaded:
            return self._loaded.get(key)
        return await self._read(key)

    def committed(self, changes: Mapping[str, bytes | None]) -> None:
        loaded = self._loaded
        for key, value in changes.items():
            if self._complete and key not in loaded and len(loaded) >= SNAPSHOT_LIMIT:
                # Memory holds no more of an actor than a load would bring.
                self._complete = False
            if not self._complete:
                if key in loaded:
                    loaded[key] = value
            elif value is None:
                loaded.pop(key, None)
            else:
                loaded[key] = value


class ActorState:
    """`self.state` of an actor: keys and values, committed when the turn ends.

    A value is written as JSON when `set` is called: changing the object afterwards changes nothing stored. What a
    turn reads includes what it has set and deleted; when the turn fails, none of that happened. Usable only inside a
    turn: a task that outlives its method calls the actor through its proxy instead.
    """

    def __init__(
        self, stored: StoredKeys, check_turn: Callable[[], None], save: Callable[[], Awaitable[None]]
    ) -> None:
        self._stored = stored
        self._check_turn = check_turn
        self._save = save
        self._changes: dict[str, bytes | None] = {}

    @overload
    async def get(self, key: str, type: type[T], *, default: T) -> T: ...
    @overload
    async def get(self, key: str, type: type[T]) -> T | None: ...
    @overload
    async def get(self, key: str, type: Any = ..., *, default: Any = ...) -> Any: ...
    async def get(self, key: str, type: Any = payload.EMPTY, *, default: Any = None) -> Any:
        """The key's value, read as `type` (any annotation; plain JSON without one); `default` if it has none.
        `InvalidInput` names key and field of what does not fit the type."""
        self._check_turn()
        read = _reader(type, check_key(key))
        value = await self._current(key)
        return default if value is None else read(value)

    def set(self, key: str, value: object) -> None:
        """`InvalidInput` when the value cannot be written as JSON. None is a value too."""
        self._check_turn()
        encoded = payload.encode(value, f"the value of the state key {check_key(key)!r}")
        self._changes[key] = _NULL if encoded is None else encoded

    def delete(self, key: str) -> None:
        """No error when there is no such key."""
        self._check_turn()
        self._changes[check_key(key)] = None

    async def contains(self, key: str) -> bool:
        self._check_turn()
        return await self._current(check_key(key)) is not None

    async def save(self) -> None:
        """Ends a turn and begins another within the same call: what was changed so far (state, reminders, timers)
        is durable when this returns, and stays when the call fails later. Nobody else's call runs in between.
        `StoreError`: the store refused it; nothing of it was stored."""
        self._check_turn()
        await self._save()

    # --- the turn's --------------------------------------------------------------------------------------------------

    def fill(self, commit: Commit) -> None:
        if self._changes:
            commit.put = {key: value for key, value in self._changes.items() if value is not None}
            commit.delete = [key for key, value in self._changes.items() if value is None]

    def committed(self) -> None:
        if self._changes:
            self._stored.committed(self._changes)
            self._changes = {}

    async def _current(self, key: str) -> bytes | None:
        if key in self._changes:
            return self._changes[key]
        return await self._stored.get(key)


@lru_cache(maxsize=1024)
def _cached_reader(annotation: Any, key: str) -> payload.Decode:
    return payload.decoder(annotation, f"the state key {key!r}", required=True)


def _reader(annotation: Any, key: str) -> payload.Decode:
    try:
        return _cached_reader(annotation, key)
    except TypeError:  # an annotation that cannot be hashed, such as Annotated[int, []]
        return payload.decoder(annotation, f"the state key {key!r}", required=True)
