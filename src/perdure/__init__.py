"""Perdure: virtual actors and durable workflows.

Layers, lowest first; imports go downwards only, and import-linter keeps it so:

    errors, clock, logs            what every layer may use
    statestore                     the contract of a store, its backends, group commit
    placement                      which node owns which partition
    actors                         activations, turns, messages, reminders
    workflow                       durable workflows on actors
    sidecar                        the edges: HTTP
    runtime, node, app, cli        one node put together, and the front door
    testing                        for tests of users and of other stores' authors

docs/architecture.md follows a request through all of them.
"""

from perdure.actors.actor import Actor
from perdure.actors.proxy import ActorProxy
from perdure.actors.schedule import FailurePolicy
from perdure.app import App
from perdure.client import WorkflowClient
from perdure.errors import PerdureError
from perdure.node import Node
from perdure.workflow.activity_context import ActivityCancelled, ActivityContext
from perdure.workflow.context import WorkflowContext
from perdure.workflow.retry import NonRetriableError, RetryAfter, RetryPolicy
from perdure.workflow.state import RuntimeStatus, WorkflowState
from perdure.workflow.tasks import (
    ActivityTimeout,
    HeartbeatTimeout,
    TaskCancelledError,
    TaskFailedError,
    WorkflowCancelled,
    when_all,
    when_any,
)

__all__ = [
    "ActivityCancelled",
    "ActivityContext",
    "ActivityTimeout",
    "Actor",
    "ActorProxy",
    "App",
    "FailurePolicy",
    "HeartbeatTimeout",
    "Node",
    "NonRetriableError",
    "PerdureError",
    "RetryAfter",
    "RetryPolicy",
    "RuntimeStatus",
    "TaskCancelledError",
    "TaskFailedError",
    "WorkflowCancelled",
    "WorkflowClient",
    "WorkflowContext",
    "WorkflowState",
    "when_all",
    "when_any",
]
