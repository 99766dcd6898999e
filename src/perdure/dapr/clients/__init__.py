"""`dapr.clients`: the general client, as far as it concerns workflows, and what it raises."""

from perdure.dapr.dapr_client import DaprClient, GetWorkflowResponse, StartWorkflowResponse
from perdure.dapr.errors import ERROR_CODE_UNKNOWN, DaprInternalError

__all__ = [
    "ERROR_CODE_UNKNOWN",
    "DaprClient",
    "DaprInternalError",
    "GetWorkflowResponse",
    "StartWorkflowResponse",
]
