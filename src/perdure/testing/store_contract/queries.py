"""Rows, filters and pages."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from perdure.errors import StoreError
from perdure.statestore.contract import (
    InstanceFilter,
    InstanceRow,
    StateStore,
)
from perdure.testing.store_contract.given import ALL, TYPE, Given, actor_id, put, row, write


class QueryContract(Given):
    """Index rows."""

    async def test_rows(self, store: StateStore) -> None:
        """A row is put, replaced, left alone and deleted by commits."""
        actor = actor_id()
        first = put(actor, None, {}, row=row(actor, 5))
        second = put(actor, first.version, {}, row=row(actor, 6, "completed", "other"))
        await write(store, first)
        assert await store.row(actor) == row(actor, 5)
        await write(store, second)
        third = put(actor, second.version, {"k": b""})
        await write(store, third)
        assert await store.row(actor) == row(actor, 6, "completed", "other")
        assert list((await store.query(InstanceFilter(type=TYPE))).items) == [
            row(actor, 6, "completed", "other")
        ]
        await write(store, put(actor, third.version, {}, delete_row=True))
        assert await store.row(actor) is None
        assert list((await store.query(InstanceFilter(type=TYPE))).items) == []

    async def test_filters(self, store: StateStore) -> None:
        """All conditions hold; newest first, equal ones by id; every page size gives the same."""
        rows = [
            row(actor_id(f"{'xy'[n % 2]}{n}"), n // 3, ("running", "completed", "failed")[n % 3], "pq"[n % 2])
            for n in range(40)
        ]
        await write(store, *(put(one.actor, None, {}, row=one) for one in rows))
        rows.sort(key=lambda one: (-one.created, one.actor.id))
        cases: list[tuple[InstanceFilter, Callable[[InstanceRow], bool]]] = [
            (InstanceFilter(type=TYPE), lambda r: True),
            (InstanceFilter(type="other"), lambda r: False),
            (InstanceFilter(type=TYPE, statuses=["failed"]), lambda r: r.status == "failed"),
            (InstanceFilter(type=TYPE, statuses={"failed", "running"}), lambda r: r.status != "completed"),
            (InstanceFilter(type=TYPE, name="p"), lambda r: r.name == "p"),
            (InstanceFilter(type=TYPE, id_prefix="x1"), lambda r: r.actor.id.startswith("x1")),
            (InstanceFilter(type=TYPE, created_from=3, created_to=8), lambda r: 3 <= r.created < 8),
        ]
        for where, holds in cases:
            for limit in (1, 7, 100):
                assert await self._query(store, where, limit) == [one for one in rows if holds(one)]

    async def test_pages_are_stable(self, store: StateStore) -> None:
        """Rows that come or go between pages neither repeat nor hide others."""
        rows = [row(actor_id(f"i{n}"), n) for n in range(10)]
        made = [put(one.actor, None, {}, row=one) for one in rows]
        await write(store, *made)
        where = InstanceFilter(type=TYPE)
        page = await store.query(where, None, 4)
        late = row(actor_id("late"), 99)
        await write(store, put(late.actor, None, {}, row=late))
        await write(store, put(rows[6].actor, made[6].version, {}, delete_row=True))
        rest = await store.query(where, page.cursor, 100)
        assert [one.created for one in [*page.items, *rest.items]] == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]

    async def test_a_foreign_cursor(self, store: StateStore) -> None:
        """What is no cursor is refused."""
        for cursor in ("", "nonsense", "[1]"):
            with pytest.raises(StoreError):
                await store.query(InstanceFilter(type=TYPE), cursor)
            with pytest.raises(StoreError):
                await store.due(ALL, 1, cursor)

    async def _query(self, store: StateStore, where: InstanceFilter, limit: int) -> list[InstanceRow]:
        page = await store.query(where, None, limit)
        found = list(page.items)
        while page.cursor is not None:
            page = await store.query(where, page.cursor, limit)
            found += page.items
        return found
