"""The reminders of one user actor: as the store has them, and what the running turn changes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from perdure.statestore.contract import ActorId, Commit, Reminder


class ReminderBook:
    """Read from the store once per activation, when first asked for; an actor that has none never asks."""

    def __init__(self, actor: ActorId, read: Callable[[ActorId], Awaitable[Sequence[Reminder]]]) -> None:
        self._actor = actor
        self._read = read
        self._stored: dict[str, Reminder] | None = None
        self._changes: dict[str, Reminder | None] = {}

    async def get(self, name: str) -> Reminder | None:
        """The reminder of this name as the turn sees it."""
        if name in self._changes:
            return self._changes[name]
        return (await self._loaded()).get(name)

    def put(self, reminder: Reminder) -> None:
        self._changes[reminder.name] = reminder

    def delete(self, name: str) -> None:
        self._changes[name] = None

    async def correct(self, name: str) -> None:
        """Has the next commit say again what the store has under this name: whoever follows the commits knows
        something else."""
        self._changes[name] = (await self._loaded()).get(name)

    @property
    def changed(self) -> bool:
        return bool(self._changes)

    def mark(self) -> dict[str, Reminder | None]:
        """What `rewind` takes to undo the changes made since."""
        return dict(self._changes)

    def rewind(self, mark: dict[str, Reminder | None]) -> None:
        self._changes = dict(mark)

    async def others(self, name: str) -> bool:
        """Whether there is any reminder of another name."""
        return any(
            reminder is not None
            for known, reminder in {**await self._loaded(), **self._changes}.items()
            if known != name
        )

    def fill(self, commit: Commit) -> None:
        if self._changes:
            commit.reminders = [reminder for reminder in self._changes.values() if reminder is not None]
            commit.delete_reminders = [name for name, reminder in self._changes.items() if reminder is None]

    def committed(self) -> None:
        if self._stored is not None:
            for name, reminder in self._changes.items():
                if reminder is None:
                    self._stored.pop(name, None)
                else:
                    self._stored[name] = reminder
        self._changes = {}

    def forget(self) -> None:
        """The turn failed: its changes are not to be committed."""
        self._changes = {}

    async def _loaded(self) -> dict[str, Reminder]:
        if self._stored is None:
            found = await self._read(self._actor)
            self._stored = {reminder.name: reminder for reminder in found}
        return self._stored
