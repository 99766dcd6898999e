"""Reading a store that no node has open. Answers are those of the HTTP API."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from perdure.cli.failures import CommandError
from perdure.cluster_view import view
from perdure.placement.table import decode as decode_table
from perdure.sidecar.actors import keys_json, reminders_json
from perdure.sidecar.cluster import cluster_json
from perdure.sidecar.decoded import decode_value
from perdure.sidecar.workflows import history_json, list_json, state_json
from perdure.statestore.contract import ActorId, InstanceFilter, Page, StateStore
from perdure.statestore.urls import open_store
from perdure.workflow.events import Event, decode
from perdure.workflow.instance import describe, named

T = TypeVar("T")
Json = dict[str, Any]

#: Ends the name of the actor type of an app's workflows.
WORKFLOW = ".workflow"


class StoreReader:
    """Holds the store while it is open: a node that is started meanwhile is told so."""

    def __init__(self, url: str, path: str, app_id: str | None) -> None:
        self._path = path
        self._app_id = app_id
        self._runner = asyncio.Runner()
        try:
            self._store = self._run(_open(url))
        except BaseException:
            self._runner.close()
            raise

    def close(self) -> None:
        self._run(self._store.close())
        self._runner.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    def workflow_type(self) -> str:
        """The actor type of the workflows in the store; `--app-id` says which if there are several."""
        types = [name for name in _workflow_types(self._path) if self._app_id in (None, _app_id(name))]
        if len(types) == 1:
            return types[0]
        if not types:
            wanted = f" of the app {self._app_id!r}" if self._app_id else ""
            raise CommandError(f"{self._path} holds no workflows{wanted}")
        apps = ", ".join(sorted({_app_id(name) for name in types}))
        raise CommandError(f"{self._path} holds workflows of several apps ({apps}); say which with --app-id")

    def workflow(self, id: str) -> Json:
        row = self._run(self._store.row(ActorId(self.workflow_type(), id)))
        if row is None:
            raise CommandError(f"there is no workflow instance {id!r} in {self._path}")
        return state_json(describe(row))

    def workflows(self, query: Json) -> Json:
        where = InstanceFilter(
            type=self.workflow_type(),
            statuses=tuple(query.get("status") or ()),
            name=query.get("name"),
            id_prefix=query.get("prefix") or "",
        )
        page = self._run(self._store.query(where, query.get("cursor"), query["limit"]))
        return list_json(Page([describe(row) for row in page.items], page.cursor))

    def history(self, id: str, query: Json) -> Json:
        self.workflow(id)
        actor = ActorId(self.workflow_type(), id)
        start = f"history-{query.get('start', 0):06d}"
        page = self._run(self._store.keys(actor, "history-", start, query["limit"]))
        events: list[tuple[int, Event]] = [
            (_number(key), named(key, decode, value)) for key, value in page.items
        ]
        following = None if page.cursor is None else str(events[-1][0] + 1)
        return history_json(Page(events, following))

    def keys(self, type: str, id: str, query: Json) -> Json:
        actor = ActorId(type, id)
        page = self._run(
            self._store.keys(actor, query.get("prefix") or "", query.get("start"), query["limit"])
        )
        return keys_json(page)

    def value(self, type: str, id: str, key: str) -> Any:
        page = self._run(self._store.keys(ActorId(type, id), key, key, 1))
        if not page.items or page.items[0][0] != key:
            raise CommandError(f"{type}/{id} has no state key {key!r}")
        return decode_value(key, page.items[0][1])

    def reminders(self, type: str, id: str) -> Json:
        return reminders_json(self._run(self._store.reminders(ActorId(type, id))))

    def cluster(self) -> Json:
        """The last table; no node is there to say anything about itself."""
        stored = self._run(self._store.lease("placement").read())
        if not stored:
            raise CommandError(f"{self._path} has never been used by a node")
        return cluster_json(view(decode_table(stored)))


async def _open(url: str) -> StateStore:
    return open_store(url)


def _app_id(workflow_type: str) -> str:
    return workflow_type.removesuffix(WORKFLOW).rpartition(".")[2]


def _number(key: str) -> int:
    return int(key.rpartition("-")[2])


def _workflow_types(path: str) -> list[str]:
    # The contract of a store has no way to ask for its actor types: nodes know theirs.
    connection = sqlite3.connect(f"file:{quote(str(Path(path).resolve()))}?mode=ro", uri=True)
    try:
        rows = connection.execute("SELECT name FROM types WHERE name LIKE 'dapr.internal.%.workflow'")
        return sorted(name for (name,) in rows)
    finally:
        connection.close()
