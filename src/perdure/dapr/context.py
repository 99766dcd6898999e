"""What workflows and activities are given, under the names of Dapr's SDK."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from perdure.dapr.names import name_of
from perdure.dapr.retry_policy import RetryPolicy
from perdure.dapr.values import ANY, plain
from perdure.dapr.when_all import WhenAllTask
from perdure.errors import InvalidInput, NotRegistered
from perdure.payload import Payload
from perdure.workflow.activity_context import ActivityContext
from perdure.workflow.calls import Call
from perdure.workflow.context import WorkflowContext
from perdure.workflow.registry import Registry
from perdure.workflow.tasks import Task
from perdure.workflow.tasks import when_any as any_of

T = TypeVar("T")


class DaprWorkflowContext:
    """The context of one execution. What is not named here is `perdure.WorkflowContext`'s: `new_uuid`, `logger`, …

    Times are naive and mean UTC, and continue-as-new drops the events that nobody waited for: both as Dapr has it.
    """

    __slots__ = ("_inner",)

    def __init__(self, inner: WorkflowContext) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @property
    def instance_id(self) -> str:
        return self._inner.instance_id

    @property
    def current_utc_datetime(self) -> datetime:
        """The time of what the code goes on for, naive; the same on replay."""
        return self._inner.current_utc_datetime.replace(tzinfo=None)

    @property
    def is_replaying(self) -> bool:
        return self._inner.is_replaying

    def call_activity(
        self,
        activity: Callable[..., Any] | str,
        *,
        input: Any = None,
        retry_policy: RetryPolicy | None = None,
        app_id: str | None = None,
    ) -> Task[Any]:
        """Asks for an activity: at once, whether or not the task is yielded. `TaskFailedError` at the yield when it
        failed; `NotRegistered` here when this app has no such function."""
        name = _known(self._registry.activities, "activity", activity, app_id)
        policy = None if retry_policy is None else retry_policy.obj
        task = self._inner.call_activity(name, input=input, retry_policy=policy, app_id=app_id)
        return _with_fields(task, name in self._registry.activities)

    def call_child_workflow(
        self,
        workflow: Callable[..., Any] | str,
        *,
        input: Any = None,
        instance_id: str | None = None,
        retry_policy: RetryPolicy | None = None,
        app_id: str | None = None,
    ) -> Task[Any]:
        """Starts a workflow whose result this one can yield for; terminating this one terminates it. Errors as those
        of `call_activity`."""
        name = _known(self._registry.workflows, "workflow", workflow, app_id)
        policy = None if retry_policy is None else retry_policy.obj
        task = self._inner.call_child_workflow(
            name, input=input, instance_id=instance_id, retry_policy=policy, app_id=app_id
        )
        return _with_fields(task, name in self._registry.workflows)

    def create_timer(self, fire_at: datetime | timedelta) -> Task[None]:
        """A durable timer: after a time of any length, or at a time (naive means UTC). Past is now."""
        return self._inner.create_timer(fire_at)

    def wait_for_external_event(self, name: str, *, timeout: datetime | timedelta | None = None) -> Task[Any]:
        """The data of the next event of this name, raised before or after; names match without case. A
        `TimeoutError` at the yield when none came in time."""
        if isinstance(timeout, datetime):
            moment = timeout if timeout.tzinfo is not None else timeout.replace(tzinfo=UTC)
            timeout = moment - self._inner.current_utc_datetime
        return self._inner.wait_for_external_event(name, type=ANY, timeout=timeout)

    def continue_as_new(self, new_input: Any, *, save_events: bool = False) -> None:
        """When the code returns, it begins again with this input and an empty history. With `save_events`, events
        that nobody waited for go on to the next execution."""
        self._inner.continue_as_new(new_input, save_events=save_events)

    def set_custom_status(self, custom_status: Any) -> None:
        self._inner.set_custom_status(custom_status)

    @property
    def _registry(self) -> Registry:
        return self._inner._run.registry


class WorkflowActivityContext:
    """For whom an activity runs. What is not named here is `perdure.ActivityContext`'s: `idempotency_key`, `logger`, …"""

    __slots__ = ("_inner",)

    def __init__(self, inner: ActivityContext) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @property
    def workflow_id(self) -> str:
        """The id of the workflow instance that asked for it."""
        return self._inner.workflow_id

    @property
    def task_id(self) -> int:
        """The number of the task within its execution."""
        return self._inner.task_id

    def get_inner_context(self) -> ActivityContext:
        return self._inner


def when_all(tasks: Iterable[Task[T]]) -> Task[list[T]]:
    """All results, in the order of the tasks; fails as soon as one of them has failed, and the others go on."""
    return WhenAllTask.of(tasks)


def when_any(tasks: Iterable[Task[Any]]) -> Task[Task[Any]]:
    """The task that is settled first, failed or not; the others go on."""
    return any_of(tasks)


def _known(
    registered: dict[str, Any], kind: str, called: Callable[..., Any] | str, app_id: str | None
) -> str:
    """The name of what is called. A function that no runtime knows is a mistake, and would be waited for in vain."""
    if not isinstance(called, str) and not callable(called):
        raise InvalidInput(f"call a {kind} by its function or its name, not by {called!r}")
    name = name_of(called)
    if name not in registered and app_id is None and not isinstance(called, str):
        raise NotRegistered(
            f"{kind} {name!r} is not registered: decorate it with @runtime.{kind}, or give it to "
            f"runtime.register_{kind}, before runtime.start()",
            name=name,
        )
    return name


def _with_fields(task: Task[Any], registered: bool) -> Task[Any]:
    """The result of a function that is not registered here is plain; a registered one's is read by its annotation."""
    if not registered and isinstance(task, Call):
        task._decode = _decode_plain
    return task


def _decode_plain(payload: Payload) -> Any:
    if payload is None:
        return None
    try:
        return plain(payload)
    except ValueError as error:
        raise InvalidInput(f"the result is not valid JSON: {error}") from error
