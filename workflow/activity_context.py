"""What an activity function is given beside its input."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from perdure import payload
from perdure.logs import fields
from perdure.payload import Payload
from perdure.workflow.requests import ActivityRequest
from perdure.workflow.watch import Watch


class ActivityCancelled(BaseException):
    """Nobody wants the result of this activity any more, or its time is over.

    A BaseException, like asyncio's: there is nothing left to be saved by going on, so `except Exception` lets it pass.
    """


class ActivityContext:
    """Says for whom this activity runs, and whether anybody still wants it to. Usable from the activity's thread."""

    __slots__ = ("_details", "_reason", "_request", "_task", "_watch", "app_id")

    def __init__(self, app_id: str, request: ActivityRequest) -> None:
        self._request = request
        #: The app that runs it.
        self.app_id = app_id
        #: Why its outcome is nobody's; empty: it is awaited.
        self._reason = ""
        self._details: Payload = None
        #: Its time limits, if it has any.
        self._watch: Watch | None = None
        #: What runs it, as long as it runs: the two know each other, and apart they are freed at once.
        self._task: asyncio.Task[Any] | None = None

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
    def traceparent(self) -> str:
        """The W3C trace context for whatever it calls, as the header `traceparent`; empty: the workflow was started
        without one. OpenTelemetry's instrumentations need not be given it: the activity runs in a span."""
        trace = self._request.trace
        return trace.traceparent if trace is not None else ""

    @property
    def tracestate(self) -> str:
        """What goes with it as the header `tracestate`; mostly empty."""
        trace = self._request.trace
        return trace.tracestate if trace is not None else ""

    def log_fields(self) -> dict[str, Any]:
        """Its ids, for every line that is logged while it runs."""
        request = self._request
        return {
            "instance": request.instance_id,
            "workflow": request.workflow,
            "execution": request.execution_id,
            "activity": request.name,
            "task": request.task_id,
        }

    @property
    def attempt(self) -> int:
        """Which attempt of the retry policy this is, from 1. Running again after a crash is the same attempt."""
        terms = self._request.attempt
        return terms.number if terms is not None else 1

    # --- whether it is still wanted ---------------------------------------------------------------------------------

    @property
    def cancelled(self) -> bool:
        """Whether nobody wants the result any more: the workflow was terminated or cancelled, its code cancelled the
        task, a time limit is over, or the node stops. Whatever the function then returns or raises is dropped.

        An `async` function has `asyncio.CancelledError` raised at its await as well. A plain one has to look here, or
        call `raise_if_cancelled` or `heartbeat`, now and then."""
        return bool(self._reason)

    @property
    def cancel_reason(self) -> str:
        """Why it is cancelled; empty while it is not."""
        return self._reason

    def raise_if_cancelled(self) -> None:
        """`ActivityCancelled` if it is cancelled."""
        if self._reason:
            raise ActivityCancelled(self._reason)

    def heartbeat(self, details: Any = None) -> None:
        """Says that the activity goes on, and how far it has come: `heartbeat_details` of the next attempt.

        Costs nothing but the writing of the details, so call it as often as you like. `ActivityCancelled` if the
        activity is cancelled."""
        self.raise_if_cancelled()
        if details is not None:
            self._details = payload.encode(
                details, f"the heartbeat details of activity {self.activity_name!r}"
            )
        watch = self._watch
        if watch is not None:
            watch.beat()

    @property
    def heartbeat_details(self) -> Any:
        """What the last heartbeat of the attempts before this one said, as plain JSON; None: nothing."""
        terms = self._request.attempt
        return None if terms is None else payload.decode(terms.details, "the heartbeat details")

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger whose lines carry the ids of the instance and the task."""
        extra = fields(instance=self.instance_id, activity=self.activity_name, task=self.task_id)
        return logging.LoggerAdapter(logging.getLogger("perdure.activity"), extra)
