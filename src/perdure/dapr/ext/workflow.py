"""`dapr.ext.workflow`."""

from perdure.dapr import (
    DaprWorkflowClient,
    DaprWorkflowContext,
    RetryPolicy,
    WorkflowActivityContext,
    WorkflowRuntime,
    WorkflowState,
    WorkflowStatus,
    alternate_name,
    when_all,
    when_any,
)

__all__ = [
    "DaprWorkflowClient",
    "DaprWorkflowContext",
    "RetryPolicy",
    "WorkflowActivityContext",
    "WorkflowRuntime",
    "WorkflowState",
    "WorkflowStatus",
    "alternate_name",
    "when_all",
    "when_any",
]
