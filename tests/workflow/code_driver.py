"""Drives workflow code as the engine does, without an engine: each arrival is a turn, and the history is kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from perdure.workflow.commands import (
    AnyCommand,
    Cancelled,
    CancelTask,
    CancelTimer,
    Completed,
    CreateTimer,
    Failed,
    ScheduleTask,
    SendEvent,
    StartChild,
    StartDetached,
)
from perdure.workflow.events import (
    Arrival,
    CancelRequested,
    ChildCompleted,
    ChildFailed,
    ChildScheduled,
    Decision,
    DetachedScheduled,
    Event,
    EventRaised,
    EventSent,
    ExecutionCompleted,
    ExecutionStarted,
    FailureDetails,
    TaskCancelled,
    TaskCompleted,
    TaskFailed,
    TaskScheduled,
    TimerCreated,
    TimerFired,
)
from perdure.workflow.executor import Instance
from perdure.workflow.registry import Registry
from perdure.workflow.replay import Replay
from perdure.workflow.run import InProcessExecutor, InProcessRun

START = 1_700_000_000_000_000
SECOND = 1_000_000
INSTANCE = Instance(app_id="shop", namespace="default", id="order-7")


def started(name: str, input: Any = None) -> ExecutionStarted:
    payload = None if input is None else json.dumps(input).encode()
    return ExecutionStarted(START, name, "start-1", "exec-1", input=payload)


class Driver:
    """One instance. `commands` are those of the last turn, `turns` all turns so far."""

    def __init__(self, registry: Registry, name: str, input: Any = None) -> None:
        self.registry = registry
        self.start = started(name, input)
        self.run = new_run(registry, self.start)
        self.at = START
        self.commands: list[AnyCommand] = []
        self.turns: list[tuple[list[Arrival], list[AnyCommand]]] = []
        self.history: list[Event] = []
        self.turn([self.start])

    def turn(self, arrivals: Sequence[Arrival]) -> None:
        """Applies arrivals, takes the commands, and appends what the engine would append."""
        for arrival in arrivals:
            self.run.apply(arrival)
        self.commands = list(self.run.take_commands())
        self.turns.append((list(arrivals), self.commands))
        self.history += arrivals
        self.history += decisions(self.commands, self.at)
        completed = completion(self.run, self.at)
        if completed is not None and not any(isinstance(event, ExecutionCompleted) for event in self.history):
            self.history.append(completed)

    def tick(self, seconds: float = 1) -> int:
        self.at += int(seconds * SECOND)
        return self.at

    def complete(self, id: int, result: Any = None) -> None:
        self.turn([TaskCompleted(self.tick(), id, None if result is None else json.dumps(result).encode())])

    def fail(
        self, id: int, message: str = "no", type: str = "ValueError", non_retriable: bool = False
    ) -> None:
        self.turn([TaskFailed(self.tick(), id, FailureDetails(type, message, non_retriable=non_retriable))])

    def cancel(self, reason: str = "") -> None:
        self.turn([CancelRequested(self.tick(), reason)])

    def fire(self, id: int) -> None:
        self.turn([TimerFired(self.tick(), id)])

    def complete_child(self, id: int, result: Any = None) -> None:
        self.turn([ChildCompleted(self.tick(), id, None if result is None else json.dumps(result).encode())])

    def fail_child(self, id: int, message: str = "no", type: str = "ValueError") -> None:
        self.turn([ChildFailed(self.tick(), id, FailureDetails(type, message))])

    def event(self, name: str, data: Any = None) -> None:
        self.turn([EventRaised(self.tick(), name, None if data is None else json.dumps(data).encode())])

    @property
    def result(self) -> Any:
        """What the workflow returned; an AssertionError when it did not."""
        outcome = self.run.outcome
        assert isinstance(outcome, Completed), outcome
        return None if outcome.result is None else json.loads(outcome.result)

    @property
    def failure(self) -> FailureDetails:
        """Why the workflow failed; an AssertionError when it did not."""
        outcome = self.run.outcome
        assert isinstance(outcome, Failed), outcome
        return outcome.failure

    def replayed(self) -> InProcessRun:
        return replay(self.registry, self.start, self.history)


def new_run(registry: Registry, start: ExecutionStarted) -> InProcessRun:
    return InProcessExecutor(registry).run(INSTANCE, start)


def replay(registry: Registry, start: ExecutionStarted, history: Sequence[Event]) -> InProcessRun:
    run = new_run(registry, start)
    replaying = Replay(run)
    for event in history:
        replaying.feed(event)
    replaying.finish()
    return run


def decisions(commands: Sequence[AnyCommand], at: int) -> list[Decision]:
    return [decision(command, at) for command in commands if not isinstance(command, CancelTimer)]


def decision(command: AnyCommand, at: int) -> Decision:
    match command:
        case ScheduleTask():
            return TaskScheduled(
                at,
                command.id,
                command.name,
                b"n",
                command.key,
                command.input,
                command.app_id,
                attempt=command.attempt,
            )
        case CancelTask():
            return TaskCancelled(at, command.id)
        case CreateTimer():
            return TimerCreated(at, command.id, command.fire_at, command.origin)
        case StartChild():
            return ChildScheduled(
                at, command.id, command.name, command.instance_id, "start-2", b"n", command.input
            )
        case StartDetached():
            return DetachedScheduled(
                at, command.id, command.name, command.instance_id, "start-3", command.input
            )
        case SendEvent():
            return EventSent(at, command.id, command.instance_id, command.name, command.data)
    raise TypeError(command)


def completion(run: InProcessRun, at: int) -> ExecutionCompleted | None:
    match run.outcome:
        case Completed(result):
            return ExecutionCompleted(at, "completed", result)
        case Failed(failure):
            return ExecutionCompleted(at, "failed", failure=failure)
        case Cancelled(failure):
            return ExecutionCompleted(at, "terminated", failure=failure)
    return None
