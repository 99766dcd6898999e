"""What an activity function is given beside its input."""

from __future__ import annotations

import logging

from perdure.logs import fields
from perdure.workflow.requests import ActivityRequest


class ActivityContext:
    """Says for whom this activity runs. Read-only; usable from the activity's thread."""

    __slots__ = ("_request", "app_id")

    def __init__(self, app_id: str, request: ActivityRequest) -> None:
        self._request = request
        #: The app that runs it.
        self.app_id = app_id

    @property
    def instance_id(self) -> str:
        """The id of the workflow instance that asked for it."""
        return self._request.instance_id

    @property
    def workflow_id(self) -> str:
        """Another name of `instance_id`, as Dapr's SDK has it."""
        return self._request.instance_id

    @property
    def workflow_name(self) -> str:
        return self._request.workflow

    @property
    def activity_name(self) -> str:
        return self._request.name

    @property
    def task_id(self) -> int:
        """The number of the task within its execution."""
        return self._request.task_id

    @property
    def idempotency_key(self) -> str:
        """The same whenever this activity runs again for the same call: after a crash, and on each retry. Give it to
        whatever must not happen twice."""
        return self._request.key

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger whose lines carry the ids of the instance and the task."""
        extra = fields(instance=self.instance_id, activity=self.activity_name, task=self.task_id)
        return logging.LoggerAdapter(logging.getLogger("perdure.activity"), extra)
