"""Where actors and activities are, by the newest placement table."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from perdure.placement.hashing import ranked
from perdure.placement.member import Member
from perdure.placement.shares import limits_of, serving
from perdure.placement.table import Table


class HasTable(Protocol):
    """What is needed of a `PlacementClient`."""

    @property
    def table(self) -> Table | None: ...


class TableLocator:
    """Answers from the newest table; remembers, per table, which nodes have an activity."""

    def __init__(self, placement: HasTable, namespace: str) -> None:
        self._placement = placement
        self._namespace = namespace
        self._table: Table | None = None
        self._hosts: dict[tuple[str, str], list[str]] = {}
        #: Those with a limit over the cluster.
        self._shared: set[tuple[str, str]] = set()

    def owner(self, actor_type: str, partition: int) -> str | None:
        table = self._placement.table
        return None if table is None else table.owner(actor_type, partition)

    def activity_node(
        self, app_id: str, name: str, activity_id: str, missed: Collection[str] = (), near: str = ""
    ) -> str | None:
        table = self._placement.table
        if table is not self._table:
            self._table = table
            self._hosts.clear()
            self._shared.clear()
        hosts = self._hosts.get((app_id, name))
        if hosts is None:
            hosts = self._hosts[app_id, name] = self._find(app_id, name)
        if missed:
            hosts = [node for node in hosts if node not in missed]
        if len(hosts) <= 1:
            return hosts[0] if hosts else None
        if near and near in hosts and (app_id, name) not in self._shared:
            return near
        return ranked(hosts, activity_id)[0]

    def _find(self, app_id: str, name: str) -> list[str]:
        members = self._table.members.values() if self._table is not None else ()
        hosts = sorted(
            m.node
            for m in members
            if m.app_id == app_id and m.namespace == self._namespace and name in m.activities
        )
        most = limits_of(members, self._namespace, app_id).get(name)
        if most is None:
            return hosts
        self._shared.add((app_id, name))
        return serving(hosts, name, most)

    def workflow_limit(self, app_id: str, name: str) -> int | None:
        table = self._placement.table
        said = [
            limit.most
            for member in (table.members.values() if table is not None else ())
            if member.app_id == app_id and member.namespace == self._namespace
            for limit in member.workflow_limits
            if limit.name == name
        ]
        return min(said, default=None)

    def _members(self, app_id: str) -> list[Member]:
        table = self._placement.table
        return [
            member
            for member in (table.members.values() if table is not None else ())
            if member.app_id == app_id and member.namespace == self._namespace
        ]

    def activities(self, app_id: str) -> list[str]:
        return sorted({name for member in self._members(app_id) for name in member.activities})

    def has_workflow(self, app_id: str, name: str) -> bool:
        return any(name in member.workflows for member in self._members(app_id))

    def app_present(self, app_id: str) -> bool:
        # One that retires has announced that it takes nothing new.
        return any(m.weight > 0 or m.activities or m.workflows for m in self._members(app_id))

    def nodes(self) -> list[str]:
        table = self._placement.table
        return sorted(table.members) if table is not None else []

    def present(self, node: str) -> bool:
        table = self._placement.table
        return table is not None and node in table.members
