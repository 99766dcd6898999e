"""Reading a store without a node: a file that none has open, or a server's. Answers are those of the HTTP API."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from perdure.actors.ids import RESERVED
from perdure.cli.failures import CommandError
from perdure.cli.remote import Refused
from perdure.cluster_view import view
from perdure.doctor import examine
from perdure.placement.table import decode as decode_table
from perdure.sidecar.actors import keys_json, reminders_json
from perdure.sidecar.cluster import cluster_json
from perdure.sidecar.decoded import decode_value
from perdure.sidecar.doctor import findings_json
from perdure.sidecar.workflows import history_json, list_json, state_json
from perdure.statestore.contract import ActorId, InstanceFilter, Page, StateStore
from perdure.statestore.urls import open_store
from perdure.workflow.events import Event, decode
from perdure.workflow.instance import describe, named
from perdure.workflow.record import encode
from perdure.workflow.transfer import read

T = TypeVar("T")
Json = dict[str, Any]

#: Ends the name of the actor type of an app's workflows.
WORKFLOW = ".workflow"


class StoreReader:
    """A store that is for one process is held meanwhile: a node that is started is told so."""

    def __init__(self, url: str, name: str, app_id: str | None) -> None:
        """`name`: what the store is called in errors."""
        self._name = name
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

    def examine(self) -> list[Json]:
        findings: list[Json] = findings_json(self._run(examine(self._store)))["findings"]
        return findings

    def nodes(self) -> list[str]:
        """The URLs of the nodes' HTTP APIs, by the newest placement table."""
        data = self._run(self._store.lease("placement").read())
        table = decode_table(data) if data else None
        return sorted({member.http for member in table.members.values() if member.http}) if table else []

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    def workflow_type(self) -> str:
        """The actor type of the workflows in the store; `--app-id` says which if there are several."""
        types = [name for name in self._workflow_types() if self._app_id in (None, _app_id(name))]
        if len(types) == 1:
            return types[0]
        if not types:
            wanted = f" of the app {self._app_id!r}" if self._app_id else ""
            raise CommandError(f"{self._name} holds no workflows{wanted}")
        apps = ", ".join(sorted({_app_id(name) for name in types}))
        raise CommandError(f"{self._name} holds workflows of several apps ({apps}); say which with --app-id")

    def _workflow_types(self) -> list[str]:
        return [
            name
            for name in self._run(self._store.types())
            if name.startswith(RESERVED) and name.endswith(WORKFLOW)
        ]

    def workflow(self, id: str) -> Json:
        row = self._run(self._store.row(ActorId(self.workflow_type(), id)))
        if row is None:
            raise CommandError(f"there is no workflow instance {id!r} in {self._name}")
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

    def record(self, id: str) -> bytes:
        actor = ActorId(self.workflow_type(), id)
        found = self._run(read(self._store, actor))
        if found is None:
            raise Refused(f"there is no workflow instance {id!r} in {self._name}", 404)
        return encode(found)

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
            raise CommandError(f"{self._name} has never been used by a node")
        return cluster_json(view(decode_table(stored)))


async def _open(url: str) -> StateStore:
    return open_store(url)


def _app_id(workflow_type: str) -> str:
    return workflow_type.removesuffix(WORKFLOW).rpartition(".")[2]


def _number(key: str) -> int:
    return int(key.rpartition("-")[2])
