"""Programs written for Dapr's Python SDK, in one process and without a sidecar.

The names are those of `dapr.ext.workflow`, and of what its programs import beside it. The modules have the same paths
too, so that a program needs nothing but `perdure.` before `dapr` in its import lines. docs/dapr.md says what is
different.
"""

from perdure.dapr.conf import Settings
from perdure.dapr.context import DaprWorkflowContext, WorkflowActivityContext, when_all, when_any
from perdure.dapr.dapr_client import DaprClient
from perdure.dapr.errors import DaprInternalError
from perdure.dapr.functions import alternate_name
from perdure.dapr.retry_policy import RetryPolicy
from perdure.dapr.workflow_client import DaprWorkflowClient
from perdure.dapr.workflow_runtime import WorkflowRuntime
from perdure.dapr.workflow_state import WorkflowFailedError, WorkflowState, WorkflowStatus

__all__ = [
    "DaprClient",
    "DaprInternalError",
    "DaprWorkflowClient",
    "DaprWorkflowContext",
    "RetryPolicy",
    "Settings",
    "WorkflowActivityContext",
    "WorkflowFailedError",
    "WorkflowRuntime",
    "WorkflowState",
    "WorkflowStatus",
    "alternate_name",
    "when_all",
    "when_any",
]
