"""The client of workflows: over HTTP, or within a node's process.

`client` is what users have, `sync` its blocking form; `http` asks a node over HTTP by `connection`, which sends again
what may be sent again (`retries`), and `answers` reads what comes back.
"""

from perdure.client.client import WorkflowClient
from perdure.client.sync import SyncWorkflowClient

__all__ = ["SyncWorkflowClient", "WorkflowClient"]
