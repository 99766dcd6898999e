"""What the console looks at: one node, by its facade and its runtime."""

from __future__ import annotations

from perdure.runtime import Runtime
from perdure.sidecar.facade import Facade


class Subject:
    """A node that serves. The console only reads."""

    def __init__(self, facade: Facade, runtime: Runtime) -> None:
        self.facade = facade
        self.runtime = runtime
        self.engine = runtime.engine
        self.store = runtime.store
        self.clock = runtime.clock
        self.client = runtime.client

    def owner(self, actor_type: str, actor_id: str) -> str:
        """The node that the newest table gives an actor to; empty: none."""
        from perdure.placement.hashing import partition_of

        table = self.runtime.placement.table
        if table is None:
            return ""
        return table.owner(actor_type, partition_of(actor_id, table.partitions)) or ""
