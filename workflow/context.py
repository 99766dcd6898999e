"""What workflow code is given: the only way in which it may ask for anything."""

from __future__ import annotations

import functools
import logging
import random
import uuid
from collections.abc import Awaitable, Callable, Generator, Iterable, MutableMapping
from datetime import UTC, datetime, timedelta
from threading import get_ident
from typing import TYPE_CHECKING, Any, TypeVar, overload

from perdure import payload
from perdure.errors import InvalidId, InvalidInput, NotRegistered
from perdure.logs import fields
from perdure.workflow.calls import ActivityCall, ChildCall, EventWait, TimerCall
from perdure.workflow.commands import ContinuedAsNew, SendEvent, StartDetached
from perdure.workflow.events import Attempt
from perdure.workflow.fanout import bounded
from perdure.workflow.limits import check_timeout
from perdure.workflow.misuse import WorkflowMisuse
from perdure.workflow.moment import start_time
from perdure.workflow.registry import Definition, function_name
from perdure.workflow.retry import RetryPolicy
from perdure.workflow.tasks import EventTimeout, Task, when_all

if TYPE_CHECKING:
    from perdure.workflow.run import InProcessRun

R = TypeVar("R")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
#: The name space of `new_uuid`; never to be changed: replay must give the same ids.
_UUIDS = uuid.UUID("5d0f3a3c-5c5a-4b44-9c1e-0a6c1d2b7e11")
_MAX_ID = 256

_logger = logging.getLogger("perdure.workflow.code")


class WorkflowContext:
    """The context of one execution. It works only in workflow code, in the thread that runs it."""

    __slots__ = ("_logger", "_random", "_run", "_uuids")

    def __init__(self, run: InProcessRun) -> None:
        self._run = run
        self._uuids = 0
        self._random: random.Random | None = None
        self._logger: WorkflowLogger | None = None

    # --- who and when -----------------------------------------------------------------------------------------------

    @property
    def instance_id(self) -> str:
        return self._run.instance.id

    @property
    def workflow_name(self) -> str:
        return self._run.name

    @property
    def execution_id(self) -> str:
        """Another one after each continue_as_new."""
        return self._run.execution_id

    @property
    def generation(self) -> int:
        """Number of the execution, from 1; one more after each continue_as_new and each reuse of the instance id."""
        return self._run.generation

    @property
    def app_id(self) -> str:
        return self._run.instance.app_id

    @property
    def namespace(self) -> str:
        return self._run.instance.namespace

    @property
    def is_replaying(self) -> bool:
        """Whether the code runs over what it has done before."""
        return self._run.replaying

    @property
    def cancelled(self) -> bool:
        """Whether somebody has cancelled the workflow: `WorkflowCancelled` was raised where the code waited then."""
        return self._run.cancelled is not None

    @property
    def current_utc_datetime(self) -> datetime:
        """The time of what the code goes on for; the same on replay. Use it in place of `datetime.now()`."""
        return _EPOCH + timedelta(microseconds=self._run.now)

    @property
    def logger(self) -> WorkflowLogger:
        """Logs with the instance's ids, and not again on replay."""
        if self._logger is None:
            self._logger = WorkflowLogger(self._run)
        return self._logger

    # --- activities and child workflows -----------------------------------------------------------------------------

    @overload
    def call_activity(
        self,
        activity: Callable[..., Awaitable[R]],
        *,
        input: Any = None,
        retry_policy: RetryPolicy | None = None,
        start_to_close_timeout: timedelta | None = None,
        heartbeat_timeout: timedelta | None = None,
        schedule_to_close_timeout: timedelta | None = None,
        app_id: str | None = None,
    ) -> Task[R]: ...
    @overload
    def call_activity(
        self,
        activity: Callable[..., R],
        *,
        input: Any = None,
        retry_policy: RetryPolicy | None = None,
        start_to_close_timeout: timedelta | None = None,
        heartbeat_timeout: timedelta | None = None,
        schedule_to_close_timeout: timedelta | None = None,
        app_id: str | None = None,
    ) -> Task[R]: ...
    @overload
    def call_activity(
        self,
        activity: str,
        *,
        input: Any = None,
        retry_policy: RetryPolicy | None = None,
        start_to_close_timeout: timedelta | None = None,
        heartbeat_timeout: timedelta | None = None,
        schedule_to_close_timeout: timedelta | None = None,
        app_id: str | None = None,
    ) -> Task[Any]: ...
    def call_activity(
        self,
        activity: Callable[..., Any] | str,
        *,
        input: Any = None,
        retry_policy: RetryPolicy | None = None,
        start_to_close_timeout: timedelta | None = None,
        heartbeat_timeout: timedelta | None = None,
        schedule_to_close_timeout: timedelta | None = None,
        app_id: str | None = None,
    ) -> Task[Any]:
        """Asks for an activity: at once, awaited or not. `TaskFailedError` at the await when it failed.

        `start_to_close_timeout` limits each attempt, from the first line of the function to its end;
        `heartbeat_timeout` the time between two calls of `ActivityContext.heartbeat`. Both are kept by the node that
        runs it, and count anew where it runs again because that node has died: `ActivityTimeout` and
        `HeartbeatTimeout`, for the retry policy as any other failure. `schedule_to_close_timeout` limits everything from
        now on, with waiting and retries, wherever they are: a durable timer. `ActivityTimeout`, and no retry.
        """
        run = self._run
        if run.thread != get_ident():
            self._refuse()
        definition = run.registry.activity_index.get(activity)
        limit = 0
        if definition is None:
            name, data, decode = _unregistered("activity", activity, input, app_id)
        else:
            if input is not None and not definition.takes_input:
                raise _no_input(definition)
            name, decode = definition.name, definition.decode_result
            data = payload.encode(input, definition.input_label)
            limit = definition.schedule_to_close_timeout
            if retry_policy is None:
                retry_policy = definition.retry_policy
        terms = None
        if start_to_close_timeout is not None or heartbeat_timeout is not None:
            terms = Attempt(
                1,
                check_timeout("start_to_close_timeout", start_to_close_timeout),
                check_timeout("heartbeat_timeout", heartbeat_timeout),
            )
        if schedule_to_close_timeout is not None:
            limit = check_timeout("schedule_to_close_timeout", schedule_to_close_timeout)
        call: ActivityCall[Any] = ActivityCall(run, name, data, app_id or "", decode, retry_policy, terms)
        if limit:
            call.limit(run.now + limit)
        return call

    @overload
    def map(
        self,
        activity: Callable[..., Awaitable[R]],
        items: Iterable[Any],
        *,
        max_concurrency: int | None = None,
        retry_policy: RetryPolicy | None = None,
        start_to_close_timeout: timedelta | None = None,
        heartbeat_timeout: timedelta | None = None,
        schedule_to_close_timeout: timedelta | None = None,
        app_id: str | None = None,
    ) -> Task[list[R]]: ...
    @overload
    def map(
        self,
        activity: Callable[..., R],
        items: Iterable[Any],
        *,
        max_concurrency: int | None = None,
        retry_policy: RetryPolicy | None = None,
        start_to_close_timeout: timedelta | None = None,
        heartbeat_timeout: timedelta | None = None,
        schedule_to_close_timeout: timedelta | None = None,
        app_id: str | None = None,
    ) -> Task[list[R]]: ...
    @overload
    def map(
        self,
        activity: str,
        items: Iterable[Any],
        *,
        max_concurrency: int | None = None,
        retry_policy: RetryPolicy | None = None,
        start_to_close_timeout: timedelta | None = None,
        heartbeat_timeout: timedelta | None = None,
        schedule_to_close_timeout: timedelta | None = None,
        app_id: str | None = None,
    ) -> Task[list[Any]]: ...
    def map(
        self,
        activity: Any,
        items: Iterable[Any],
        *,
        max_concurrency: int | None = None,
        retry_policy: RetryPolicy | None = None,
        start_to_close_timeout: timedelta | None = None,
        heartbeat_timeout: timedelta | None = None,
        schedule_to_close_timeout: timedelta | None = None,
        app_id: str | None = None,
    ) -> Task[list[Any]]:
        """Calls an activity for each item, at most `max_concurrency` at a time. Results and errors as `when_all`, all
        else as `call_activity`."""
        self._check()
        if max_concurrency is not None and max_concurrency < 1:
            raise InvalidInput(f"max_concurrency is a whole number from 1: {max_concurrency!r}")

        def start(item: Any) -> Task[Any]:
            return self.call_activity(
                activity,
                input=item,
                retry_policy=retry_policy,
                start_to_close_timeout=start_to_close_timeout,
                heartbeat_timeout=heartbeat_timeout,
                schedule_to_close_timeout=schedule_to_close_timeout,
                app_id=app_id,
            )

        if max_concurrency is None:
            return when_all([start(item) for item in items])
        return self._run.branch(bounded(start, list(items), max_concurrency))

    @overload
    def call_child_workflow(
        self,
        workflow: Callable[..., Awaitable[R]],
        *,
        input: Any = None,
        instance_id: str | None = None,
        retry_policy: RetryPolicy | None = None,
        app_id: str | None = None,
    ) -> Task[R]: ...
    @overload
    def call_child_workflow(
        self,
        workflow: Callable[..., Generator[Any, Any, R]],
        *,
        input: Any = None,
        instance_id: str | None = None,
        retry_policy: RetryPolicy | None = None,
        app_id: str | None = None,
    ) -> Task[R]: ...
    @overload
    def call_child_workflow(
        self,
        workflow: Callable[..., R],
        *,
        input: Any = None,
        instance_id: str | None = None,
        retry_policy: RetryPolicy | None = None,
        app_id: str | None = None,
    ) -> Task[R]: ...
    @overload
    def call_child_workflow(
        self,
        workflow: str,
        *,
        input: Any = None,
        instance_id: str | None = None,
        retry_policy: RetryPolicy | None = None,
        app_id: str | None = None,
    ) -> Task[Any]: ...
    def call_child_workflow(
        self,
        workflow: Callable[..., Any] | str,
        *,
        input: Any = None,
        instance_id: str | None = None,
        retry_policy: RetryPolicy | None = None,
        app_id: str | None = None,
    ) -> Task[Any]:
        """Starts a workflow whose result this one can await; terminating this one terminates it, cancelling it while
        it is waited for cancels it.

        Without an `instance_id` it is `<instance id>:<generation>:<task id>`, and a retry gets another one.
        `ChildFailedError` at the await when it failed.
        """
        self._check()
        if instance_id is not None:
            _check_id(instance_id)
        name, data, decode = self._workflow(workflow, input, app_id)
        if retry_policy is None:
            definition = self._run.registry.workflow_index.get(workflow)
            retry_policy = definition.retry_policy if definition is not None else None
        return ChildCall(self._run, name, data, app_id or "", decode, retry_policy, instance_id)

    def detach(
        self,
        workflow: Callable[..., Any] | str,
        *,
        input: Any = None,
        instance_id: str | None = None,
        start_at: datetime | timedelta | None = None,
        app_id: str | None = None,
    ) -> str:
        """Starts a workflow that nobody waits for and that outlives this one. Its instance id.

        `start_at`: when it begins (a time, naive means UTC, or a delay from now), unless at once."""
        self._check()
        if instance_id is not None:
            _check_id(instance_id)
        name, data, _ = self._workflow(workflow, input, app_id)
        run = self._run
        scheduled = None if start_at is None else start_time(start_at, run.now)
        id = run.next_id
        run.next_id = id + 1
        chosen = run.default_id(id) if instance_id is None else instance_id
        run.commands.append(StartDetached(id, name, chosen, data, app_id or "", scheduled))
        return chosen

    # --- timers and events ------------------------------------------------------------------------------------------

    def create_timer(self, fire_at: timedelta | datetime) -> Task[None]:
        """A durable timer: after a time of any length, or at a time (naive means UTC). Past is now."""
        self._check()
        if isinstance(fire_at, timedelta):
            due = self._run.now + fire_at // _MICROSECOND
        elif isinstance(fire_at, datetime):
            due = _microseconds(fire_at)
        else:
            raise InvalidInput(
                f"create_timer takes a timedelta or a datetime, not {fire_at!r}: use timedelta(seconds=…)"
            )
        return TimerCall(self._run, due)

    @overload
    def wait_for_external_event(
        self, name: str, *, type: type[R], timeout: timedelta | None = None
    ) -> Task[R]: ...
    @overload
    def wait_for_external_event(
        self, name: str, *, type: Any = None, timeout: timedelta | None = None
    ) -> Task[Any]: ...
    def wait_for_external_event(
        self, name: str, *, type: Any = None, timeout: timedelta | None = None
    ) -> Task[Any]:
        """The data of the next event of this name, raised before or after; names match without case.

        Waits of one name take events in order. With a `timeout`, `EventTimeout` (a TimeoutError) at the await when
        none came in time.
        """
        self._check()
        if not isinstance(name, str) or not name:
            raise InvalidInput(f"an event's name is a string and not empty: {name!r}")
        if timeout is not None and not isinstance(timeout, timedelta):
            raise InvalidInput(f"timeout is a timedelta, not {timeout!r}: use timedelta(seconds=…)")
        run = self._run
        wait: EventWait[Any] = EventWait(run, name, _event_decoder(name, type))
        event = run.take_unread(name)
        if event is not None:
            wait.receive(event.data)
        elif timeout is not None and timeout <= timedelta(0):
            wait._settle(None, EventTimeout(f"event {name!r} has not come"))
        else:
            run.add_wait(wait)
            if timeout is not None:
                wait.limit(run.now + timeout // _MICROSECOND)
        return wait

    def send_event(self, instance_id: str, name: str, data: Any = None, *, app_id: str | None = None) -> None:
        """Raises an event in another instance."""
        self._check()
        _check_id(instance_id)
        if not isinstance(name, str) or not name:
            raise InvalidInput(f"an event's name is a string and not empty: {name!r}")
        run = self._run
        id = run.next_id
        encoded = payload.encode(data, f"the data of event {name!r}")
        run.next_id = id + 1
        run.commands.append(SendEvent(id, instance_id, name, encoded, app_id or ""))

    # --- the execution itself ---------------------------------------------------------------------------------------

    def continue_as_new(self, input: Any = None, *, save_events: bool = True) -> None:
        """When the code returns, it begins again with this input and an empty history. What it returns is ignored.

        Events that nobody waited for go on to the next execution, unless `save_events` is false.
        """
        self._check()
        encoded = payload.encode(input, f"the input of workflow {self._run.name!r}")
        self._run.continuation = ContinuedAsNew(encoded, save_events)

    def set_custom_status(self, value: Any) -> None:
        """What clients see of the instance beside its status; None: nothing."""
        self._check()
        self._run.custom_status = payload.encode(value, "the custom status")

    def new_uuid(self) -> uuid.UUID:
        """A unique id that is the same on replay. Use it in place of `uuid.uuid4()`."""
        self._check()
        self._uuids += 1
        return uuid.uuid5(_UUIDS, f"{self._run.seed}:{self._uuids}")

    def random(self) -> random.Random:
        """Randomness that is the same on replay. Use it in place of the module `random`."""
        self._check()
        if self._random is None:
            self._random = random.Random(self._run.seed)
        return self._random

    # --- misuse -----------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._run.thread != get_ident():
            self._refuse()

    def _refuse(self) -> None:
        run = self._run
        if run.thread:
            raise WorkflowMisuse(
                "the workflow context was used from another thread: workflow code runs in one; do the work in an "
                "activity: `await ctx.call_activity(…)`"
            )
        if run.outcome is not None or run.closed:
            raise WorkflowMisuse(
                f"workflow {run.name!r} ({run.instance.id}) has ended: its context cannot be used any more; "
                "use a WorkflowClient"
            )
        raise WorkflowMisuse(
            "the workflow context works only inside its workflow's code; elsewhere use a WorkflowClient"
        )

    def _workflow(
        self, workflow: Any, input: Any, app_id: str | None
    ) -> tuple[str, bytes | None, payload.Decode]:
        definition = self._run.registry.workflow_index.get(workflow)
        if definition is None:
            return _unregistered("workflow", workflow, input, app_id)
        if input is not None and not definition.takes_input:
            raise _no_input(definition)
        return definition.name, definition.encode_input(input), definition.decode_result


class WorkflowLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger that is silent while the code runs over what it has done before."""

    def __init__(self, run: InProcessRun) -> None:
        super().__init__(_logger, {})
        self._run = run
        self._fields = {"instance": run.instance.id, "workflow": run.name, "execution": run.execution_id}

    def isEnabledFor(self, level: int) -> bool:
        return not self._run.replaying and self.logger.isEnabledFor(level)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        own = dict(kwargs.get("extra") or {})
        given = own.pop("perdure_fields", {})
        kwargs["extra"] = {**own, **fields(**self._fields, **given)}
        return msg, kwargs


def _unregistered(
    kind: str, called: Any, input: Any, app_id: str | None
) -> tuple[str, bytes | None, payload.Decode]:
    """What to ask for when the function is another app's or node's: values are then plain JSON."""
    if isinstance(called, str):
        name = called
    elif app_id and callable(called):
        name = function_name(called)
    elif callable(called):
        raise NotRegistered(
            f"{kind} {function_name(called) or called!r} is not registered: decorate it with @app.{kind}, "
            "or call it by its name, a string, if another node has it"
        )
    else:
        raise InvalidInput(f"call a {kind} by its function or its name, not by {called!r}")
    if not name:
        raise InvalidInput(f"the name of a {kind} is not empty")
    label = f"the result of {kind} {name!r}"
    return (
        name,
        payload.encode(input, f"the input of {kind} {name!r}"),
        lambda value: payload.decode(value, label),
    )


def _event_decoder(name: str, annotation: Any) -> payload.Decode:
    label = f"the data of event {name!r}"
    if annotation is None:
        return functools.partial(payload.decode, what=label)
    try:
        return _cached_decoder(annotation, label)
    except TypeError:  # not hashable
        return payload.decoder(annotation, label)


#: A decoder costs far more to make than to use, and a loop waits for the same event again and again.
_cached_decoder = functools.lru_cache(maxsize=256)(payload.decoder)


def _no_input(definition: Definition) -> InvalidInput:
    return InvalidInput(f"{definition.kind} {definition.name!r} takes no input: give it a second parameter")


def _check_id(instance_id: str) -> None:
    if (
        not isinstance(instance_id, str)
        or not 1 <= len(instance_id.encode()) <= _MAX_ID
        or "/" in instance_id
        or any(character < " " or character == "\x7f" for character in instance_id)
    ):
        raise InvalidId(
            f"an instance id has 1 to {_MAX_ID} bytes, and no control characters and no '/': {instance_id!r}"
        )


def _microseconds(time: datetime) -> int:
    """Microseconds since 1970 UTC; a time without a zone is UTC."""
    aware = time.replace(tzinfo=UTC) if time.tzinfo is None else time
    return (aware - _EPOCH) // _MICROSECOND
