"""The tasks that the outside settles: activities, child workflows, timers and external events.

Each knows how it is asked for (its command) and what an arrival does to it. A retry is engine state, not code: it
goes on whether or not anybody awaits the call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from perdure.duration import format_time
from perdure.errors import InvalidInput, LoopBlocked
from perdure.payload import Decode, Payload
from perdure.workflow.commands import CancelTask, CancelTimer, CreateTimer, ScheduleTask, StartChild
from perdure.workflow.events import Attempt, FailureDetails
from perdure.workflow.retry import RetryPolicy
from perdure.workflow.tasks import (
    ActivityTimeout,
    ChildFailedError,
    EventTimeout,
    HeartbeatTimeout,
    MakeError,
    Task,
    TaskFailedError,
)

if TYPE_CHECKING:
    from perdure.workflow.run import InProcessRun

T = TypeVar("T")

#: 9999-12-31T23:59:59.999999Z: no timer is later.
LAST_TIME = 253_402_300_799_999_999

#: Failures that have a class of their own at the await.
_ERRORS: dict[str, type[TaskFailedError]] = {
    "ActivityTimeout": ActivityTimeout,
    "HeartbeatTimeout": HeartbeatTimeout,
}


class Call(Task[T]):
    """Something asked for by name that may be tried again."""

    __slots__ = (
        "_app_id",
        "_attempt",
        "_decode",
        "_first_at",
        "_input",
        "_limit",
        "_policy",
        "_retry",
        "_terms",
        "id",
        "name",
    )

    id: int

    def __init__(
        self,
        run: InProcessRun,
        name: str,
        input: Payload,
        app_id: str,
        decode: Decode,
        policy: RetryPolicy | None,
        terms: Attempt | None = None,
    ) -> None:
        self._run = run
        self._settled = False
        self._value = self._error = self._waiters = None
        self.name = name
        self._input = input
        self._app_id = app_id
        self._decode = decode
        self._policy = policy
        #: What an activity is to be told of this attempt.
        self._terms = terms
        #: The timer that limits all attempts together; -1: there is none.
        self._limit = -1
        if policy is not None:
            self._attempt = 0
            self._first_at = run.now
        self.schedule()

    def schedule(self) -> None:
        """Asks for the next attempt, under a new task id."""
        raise NotImplementedError

    def limit(self, fire_at: int) -> None:
        """Gives all attempts together a time limit: a durable one."""
        self._limit = Timer(self._run, fire_at, f"limit:{self.name}", self).id

    def completed(self, result: Payload) -> None:
        if self._limit >= 0:
            self._run.timers[self._limit].cancel()
        try:
            value = self._decode(result)
        except InvalidInput as error:
            self._settle(None, error)
        else:
            self._settle(value)

    def failed(self, failure: FailureDetails, details: Payload = None) -> None:
        """`details`: what the last heartbeat said."""
        error: BaseException | None = None
        if self._policy is not None:
            try:
                delay = self._delay(self._policy, failure)
            except LoopBlocked:
                raise
            except BaseException as raised:  # noqa: BLE001 - of `retry_if`, which is the user's
                error = self.error(failure, f"; and retry_if raised {type(raised).__name__}: {raised}")
                error.__cause__ = raised
            else:
                if delay is not None:
                    self._attempt += 1
                    self.next_terms(details)
                    self._retry = Timer(self._run, self._run.now + delay, f"retry:{self.name}", self).id
                    return
        if self._limit >= 0:
            self._run.timers[self._limit].cancel()
        self._settle(None, error or self.error(failure))

    def _delay(self, policy: RetryPolicy, failure: FailureDetails) -> int | None:
        run = self._run
        if policy.retry_if is None:
            return policy.next_delay(self._attempt, self._first_at, run.now, failure)
        return run.judge(policy.next_delay, self._attempt, self._first_at, run.now, failure)

    def next_terms(self, details: Payload) -> None:
        """The next attempt follows one that ended with these heartbeat details."""

    def timer_due(self, timer: Timer) -> None:
        if timer.id != self._limit:
            self.schedule()
            return
        self._limit = -1
        self._withdraw()
        failure = FailureDetails(
            "ActivityTimeout", "it did not end within its time limit", bases=("TimeoutError",)
        )
        self._settle(None, self.error(failure))

    def _withdraw(self) -> None:
        """Nobody wants an answer any more, nor another attempt."""
        if self.asked().pop(self.id, None) is not None:
            self._run.commands.append(CancelTask(self.id))
        else:
            self._run.timers[self._retry].cancel()
        if self._limit >= 0:
            self._run.timers[self._limit].cancel()

    def _cancel(self, make: MakeError) -> Sequence[Task[Any]]:
        self._withdraw()
        return super()._cancel(make)

    def asked(self) -> dict[int, Call[Any]]:
        """Where the run keeps those that wait for an answer."""
        raise NotImplementedError

    def error(self, failure: FailureDetails, more: str = "") -> TaskFailedError:
        """What is raised at the await; `more` is added to its message."""
        raise NotImplementedError

    def waiting(self) -> str:
        """What is waited for, for people."""
        raise NotImplementedError


class ActivityCall(Call[T]):
    __slots__ = ("_key",)

    def schedule(self) -> None:
        run = self._run
        self.id = id = run.next_id
        run.next_id = id + 1
        if self._policy is None or not self._attempt:
            self._key = f"{run.execution_id}:{id}"
        run.calls[id] = self
        run.commands.append(ScheduleTask(id, self.name, self._input, self._key, self._app_id, self._terms))

    def next_terms(self, details: Payload) -> None:
        terms = self._terms or Attempt()
        said = terms.details if details is None else details
        self._terms = Attempt(self._attempt + 1, terms.start_to_close, terms.heartbeat, said)

    def asked(self) -> dict[int, Call[Any]]:
        return self._run.calls

    def error(self, failure: FailureDetails, more: str = "") -> TaskFailedError:
        text = f"activity {self.name!r} (task {self.id}) failed: {failure.type}: {failure.message}{more}"
        return _ERRORS.get(failure.type, TaskFailedError)(text, failure)

    def waiting(self) -> str:
        return f"activity {self.name} (task {self.id})"

    def _describe(self) -> str:
        return f"{self.name!r} (task {self.id})"


class ChildCall(Call[T]):
    __slots__ = ("_fixed_id", "instance_id")

    def __init__(
        self,
        run: InProcessRun,
        name: str,
        input: Payload,
        app_id: str,
        decode: Decode,
        policy: RetryPolicy | None,
        instance_id: str | None,
    ) -> None:
        self._fixed_id = instance_id
        super().__init__(run, name, input, app_id, decode, policy)

    def schedule(self) -> None:
        run = self._run
        self.id = id = run.next_id
        run.next_id = id + 1
        # A retry with the same id would meet the finished one of the attempt before; a given id is the caller's choice.
        self.instance_id = run.default_id(id) if self._fixed_id is None else self._fixed_id
        run.children[id] = self
        run.commands.append(StartChild(id, self.name, self.instance_id, self._input, self._app_id))

    def asked(self) -> dict[int, Call[Any]]:
        return self._run.children

    def error(self, failure: FailureDetails, more: str = "") -> TaskFailedError:
        text = f"child workflow {self.name!r} ({self.instance_id}, task {self.id}) failed: "
        return ChildFailedError(text + f"{failure.type}: {failure.message}{more}", failure)

    def waiting(self) -> str:
        return f"child workflow {self.name} {self.instance_id} (task {self.id})"

    def _describe(self) -> str:
        return f"{self.name!r} {self.instance_id} (task {self.id})"


class Timer:
    """A durable timer, and what happens when it is due."""

    __slots__ = ("_owner", "_run", "fire_at", "id", "origin")

    def __init__(
        self, run: InProcessRun, fire_at: int, origin: str, owner: Call[Any] | EventWait[Any] | TimerCall
    ) -> None:
        self._run = run
        self._owner = owner
        self.origin = origin
        # Due already is due now; beyond the last time there is none that a datetime can show.
        self.fire_at = min(max(fire_at, run.now), LAST_TIME)
        self.id = id = run.next_id
        run.next_id = id + 1
        run.timers[id] = self
        run.commands.append(CreateTimer(id, self.fire_at, origin))

    def fired(self) -> None:
        owner = self._owner
        if isinstance(owner, Call):
            owner.timer_due(self)
        else:
            owner.due()

    def cancel(self) -> None:
        if self._run.timers.pop(self.id, None) is not None:
            self._run.commands.append(CancelTimer(self.id))

    def waiting(self) -> str:
        if isinstance(self._owner, EventWait) or self.origin.startswith("limit:"):
            return ""
        what = f"retry of {self._owner.name}" if isinstance(self._owner, Call) else "timer"
        return f"{what} at {format_time(self.fire_at)} (task {self.id})"


class TimerCall(Task[None]):
    """What `create_timer` gives."""

    __slots__ = ("id",)

    def __init__(self, run: InProcessRun, fire_at: int) -> None:
        super().__init__(run)
        self.id = Timer(run, fire_at, "timer", self).id

    def due(self) -> None:
        self._settle(None)

    def _cancel(self, make: MakeError) -> Sequence[Task[Any]]:
        self._run.timers[self.id].cancel()
        return super()._cancel(make)

    def _describe(self) -> str:
        return f"timer (task {self.id})"


class EventWait(Task[T]):
    """One wait for an external event. Waits of one name take events in the order in which they began."""

    __slots__ = ("_decode", "_timer", "name")

    def __init__(self, run: InProcessRun, name: str, decode: Decode) -> None:
        super().__init__(run)
        self.name = name
        self._decode = decode
        self._timer: Timer | None = None

    def limit(self, fire_at: int) -> None:
        """Gives the wait a time limit."""
        self._timer = Timer(self._run, fire_at, f"event:{self.name}", self)

    def receive(self, data: Payload) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        try:
            value = self._decode(data)
        except InvalidInput as error:
            self._settle(None, error)
        else:
            self._settle(value)

    def due(self) -> None:
        """The time limit has come: this wait takes no event any more."""
        self._timer = None
        self._run.forget_wait(self)
        self._settle(None, EventTimeout(f"event {self.name!r} did not come within the time limit"))

    def _cancel(self, make: MakeError) -> Sequence[Task[Any]]:
        self._run.forget_wait(self)
        if self._timer is not None:
            self._timer.cancel()
        return super()._cancel(make)

    def waiting(self) -> str:
        """What is waited for, for people."""
        limit = (
            ""
            if self._timer is None
            else f" until {format_time(self._timer.fire_at)} (task {self._timer.id})"
        )
        return f"event {self.name}{limit}"

    def _describe(self) -> str:
        return f"event {self.name!r}"
