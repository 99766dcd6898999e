"""A user actor's state: its keys as the last commit left them, and what the running turn changes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from typing import Any, Protocol, TypeVar, overload

from perdure import payload
from perdure.actors.expiry import LIMIT, expires_at, expiring, visible
from perdure.actors.ids import check_key
from perdure.actors.schedule import LAST, When, moment
from perdure.errors import InvalidInput
from perdure.statestore.contract import SNAPSHOT_LIMIT, Commit, Page, Snapshot

T = TypeVar("T")

_NULL = b"null"


class ReadKeys(Protocol):
    async def __call__(self, prefix: str, start: str | None, limit: int) -> Page[tuple[str, bytes]]:
        """As `StateStore.keys`, of this actor."""


class StoredKeys:
    """The actor's keys as its last commit left them: those that were loaded, or were committed since. Where there
    are more than that, the others are read from the store each time they are asked for."""

    def __init__(self, snapshot: Snapshot | None, read: ReadKeys) -> None:
        self._read = read
        self._loaded: dict[str, bytes | None] = dict(snapshot.values) if snapshot else {}
        self._complete = snapshot is None or snapshot.complete

    async def get(self, key: str) -> bytes | None:
        if self._complete or key in self._loaded:
            return self._loaded.get(key)
        page = await self._read(key, key, 1)
        return page.items[0][1] if page.items and page.items[0][0] == key else None

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

    async def expired(self, now: int) -> tuple[list[str], int | None, bool]:
        """Keys whose time is over, `LIMIT` at most; when the next one's is (`now` if there are more that are over);
        and whether these are all the keys that there are."""
        over: list[str] = []
        soonest: int | None = None
        others = False
        start: str | None = None
        while True:
            page = self._page() if self._complete else await self._read("", start, SNAPSHOT_LIMIT)
            for key, value in page.items:
                at = expires_at(value)
                if at is None or now < at:
                    others = True
                if at is not None and now < at and (soonest is None or at < soonest):
                    soonest = at
                if at is not None and at <= now:
                    over.append(key)
            start = page.cursor
            if start is None:
                return over, soonest, not others
            if len(over) >= LIMIT:
                return over, now, False

    def _page(self) -> Page[tuple[str, bytes]]:
        return Page([(key, value) for key, value in self._loaded.items() if value is not None], None)


class ActorState:
    """`self.state` of an actor: keys and values, committed when the turn ends.

    A value is written as JSON when `set` is called: changing the object afterwards changes nothing stored. What a
    turn reads includes what it has set and deleted; when the turn fails, none of that happened. Usable only inside a
    turn: a task that outlives its method calls the actor through its proxy instead.
    """

    def __init__(
        self,
        stored: StoredKeys,
        check_turn: Callable[[], None],
        save: Callable[[], Awaitable[None]],
        now: Callable[[], int],
    ) -> None:
        self._stored = stored
        self._check_turn = check_turn
        self._save = save
        self._now = now
        self._changes: dict[str, bytes | None] = {}
        #: When the first of the values expires that were set since the last commit.
        self._soonest: int | None = None

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
        value = await self.read(key)
        return default if value is None else read(value)

    def set(self, key: str, value: object, *, ttl: When | None = None) -> None:
        """`InvalidInput` when the value cannot be written as JSON. None is a value too.

        `ttl`: a delay or a time (as of reminders) from which on there is no such key any more, unless it is set
        again; without it a value stays, also where the last one had a ttl."""
        self._check_turn()
        encoded = payload.encode(value, f"the value of the state key {check_key(key)!r}")
        self.write(key, _NULL if encoded is None else encoded, ttl)

    def delete(self, key: str) -> None:
        """No error when there is no such key."""
        self._check_turn()
        self._changes[check_key(key)] = None

    async def contains(self, key: str) -> bool:
        self._check_turn()
        return await self.read(check_key(key)) is not None

    async def save(self) -> None:
        """Ends a turn and begins another within the same call: what was changed so far (state, reminders, timers)
        is durable when this returns, and stays when the call fails later. Nobody else's call runs in between.
        `StoreError`: the store refused it; nothing of it was stored."""
        self._check_turn()
        await self._save()

    # --- the turn's --------------------------------------------------------------------------------------------------

    @property
    def changed(self) -> bool:
        return bool(self._changes)

    @property
    def soonest(self) -> int | None:
        """When the first of the values expires that were set since the last commit; None: none does."""
        return self._soonest

    async def read(self, key: str) -> bytes | None:
        """The key's value as the turn sees it, any key."""
        value = self._changes[key] if key in self._changes else await self._stored.get(key)
        return visible(value, self._now()) if value is not None else None

    def write(self, key: str, value: bytes, ttl: When | None = None) -> None:
        """Any key, with a value as it is to be stored. `InvalidInput` for a ttl that is over or cannot be read."""
        if ttl is None:
            self._changes[key] = value
            return
        now = self._now()
        try:
            at = moment(ttl, now, "ttl")
        except InvalidInput as error:
            raise InvalidInput(f"the state key {key!r}: {error.message}") from error
        if not now < at <= LAST:
            raise InvalidInput(f"the state key {key!r}: its ttl is over already, or too far ahead: {ttl!r}")
        self._changes[key] = expiring(value, at)
        if self._soonest is None or at < self._soonest:
            self._soonest = at

    def drop(self, key: str) -> None:
        """Deletes any key."""
        self._changes[key] = None

    def fill(self, commit: Commit) -> None:
        if self._changes:
            commit.put = {key: value for key, value in self._changes.items() if value is not None}
            commit.delete = [key for key, value in self._changes.items() if value is None]

    def committed(self) -> None:
        if self._changes:
            self._stored.committed(self._changes)
            self._changes = {}
            self._soonest = None

    def mark(self) -> tuple[dict[str, bytes | None], int | None]:
        """What `rewind` takes to undo the changes made since."""
        return dict(self._changes), self._soonest

    def rewind(self, mark: tuple[dict[str, bytes | None], int | None]) -> None:
        self._changes, self._soonest = dict(mark[0]), mark[1]


@lru_cache(maxsize=1024)
def _cached_reader(annotation: Any, key: str) -> payload.Decode:
    return payload.decoder(annotation, f"the state key {key!r}", required=True)


def _reader(annotation: Any, key: str) -> payload.Decode:
    try:
        return _cached_reader(annotation, key)
    except TypeError:  # an annotation that cannot be hashed, such as Annotated[int, []]
        return payload.decoder(annotation, f"the state key {key!r}", required=True)
