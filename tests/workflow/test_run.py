"""One execution of workflow code: arrivals in, commands and an outcome out."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import sys
import weakref
from collections.abc import AsyncIterator, Generator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from perdure.errors import LoopBlocked, NotRegistered
from perdure.workflow.commands import CancelTimer, Completed, ContinuedAsNew, CreateTimer, ScheduleTask
from perdure.workflow.context import WorkflowContext
from perdure.workflow.events import (
    ChildCompleted,
    ExecutionResumed,
    ExecutionSuspended,
    ExecutionTerminated,
    TaskCompleted,
)
from perdure.workflow.registry import Registry
from perdure.workflow.run import InProcessExecutor
from perdure.workflow.tasks import TaskFailedError, when_all
from tests.workflow.code_driver import INSTANCE, START, Driver, new_run, started


@pytest.fixture
def app() -> Registry:
    return Registry()


def test_an_async_workflow_goes_on_with_each_result(app: Registry) -> None:
    """One command per await, numbered from 0, with an idempotency key of its own."""

    @app.workflow
    async def chain(ctx: WorkflowContext, input: int) -> int:
        first: int = await ctx.call_activity("double", input=input)
        return await ctx.call_activity("double", input=first)

    driver = Driver(app, "chain", 1)
    assert driver.commands == [ScheduleTask(0, "double", b"1", "exec-1:0")]
    driver.complete(0, 2)
    assert driver.commands == [ScheduleTask(1, "double", b"2", "exec-1:1")]
    driver.complete(1, 4)
    assert driver.result == 4


def test_a_generator_workflow_does_the_same(app: Registry) -> None:
    @app.workflow
    def chain(ctx: WorkflowContext, input: int) -> Generator[Any, Any, int]:
        first = yield ctx.call_activity("double", input=input)
        second = yield ctx.call_activity("double", input=first)
        return second + 1

    driver = Driver(app, "chain", 1)
    driver.complete(0, 2)
    driver.complete(1, 4)
    assert driver.result == 5


def test_a_plain_function_completes_at_once(app: Registry) -> None:
    @app.workflow
    def add(ctx: WorkflowContext, input: int) -> int:
        ctx.call_activity("note")
        return input + 1

    driver = Driver(app, "add", 1)
    assert driver.result == 2
    assert [command.id for command in driver.commands] == [0]


def test_a_plain_function_that_returns_a_task_is_told_to_await(app: Registry) -> None:
    @app.workflow
    def lazy(ctx: WorkflowContext) -> Any:
        return ctx.call_activity("note")

    assert "make it `async def`" in Driver(app, "lazy").failure.message


def test_an_unknown_workflow_is_not_registered(app: Registry) -> None:
    """The error lists what is known."""
    app.workflow(lambda ctx: None, name="known")
    executor = InProcessExecutor(app)
    assert executor.knows("known")
    assert not executor.knows("other")
    with pytest.raises(NotRegistered, match="registered are: known"):
        executor.run(INSTANCE, started("other"))


def test_no_task_id_is_used_twice(app: Registry) -> None:
    """Activities, timers, children, sends and detached starts share one counter."""

    @app.workflow
    async def all_kinds(ctx: WorkflowContext) -> None:
        ctx.call_activity("a")
        ctx.create_timer(timedelta(seconds=1))
        ctx.call_child_workflow("b")
        ctx.send_event("other", "e")
        ctx.detach("c")
        ctx.wait_for_external_event("no-id")
        await ctx.wait_for_external_event("limited", timeout=timedelta(seconds=1))

    assert [command.id for command in Driver(app, "all_kinds").commands] == [0, 1, 2, 3, 4, 5]


def test_late_and_unknown_arrivals_change_nothing(app: Registry) -> None:
    """Neither a second completion, nor one of another kind, nor one of a task that never was."""

    @app.workflow
    async def two(ctx: WorkflowContext) -> list[Any]:
        return [await ctx.call_activity("a"), await ctx.call_activity("b")]

    driver = Driver(app, "two")
    driver.complete(0, "first")
    driver.complete(0, "again")
    driver.complete(7, "unknown")
    driver.fire(1)
    driver.turn([ChildCompleted(driver.tick(), 1, b'"wrong kind"')])
    assert driver.commands == []
    driver.complete(1, "second")
    assert driver.result == ["first", "second"]


def test_suspend_resume_and_terminate_are_not_the_codes(app: Registry) -> None:
    @app.workflow
    async def one(ctx: WorkflowContext) -> Any:
        return await ctx.call_activity("a")

    driver = Driver(app, "one")
    driver.turn(
        [ExecutionSuspended(driver.tick()), ExecutionResumed(driver.at), ExecutionTerminated(driver.at)]
    )
    assert driver.run.outcome is None
    driver.complete(0, 1)
    assert driver.result == 1


def test_nothing_is_applied_after_the_outcome(app: Registry) -> None:
    """Commands of tasks that nobody awaited stand; their results are nobody's."""

    @app.workflow
    async def hasty(ctx: WorkflowContext) -> str:
        ctx.call_activity("a")
        return "done"

    driver = Driver(app, "hasty")
    assert len(driver.commands) == 1
    driver.complete(0, "late")
    assert driver.result == "done"


def test_an_exception_becomes_the_outcome_with_its_causes(app: Registry) -> None:
    """Class, message, the frames of the user's own code, and what caused it."""

    @app.workflow
    async def breaks(ctx: WorkflowContext) -> None:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ValueError("outer") from error

    failure = Driver(app, "breaks").failure
    assert (failure.type, failure.message) == ("ValueError", "outer")
    assert 'raise ValueError("outer") from error' in failure.stack
    assert "/run.py" not in failure.stack.replace("test_run.py", "")
    assert failure.inner is not None
    assert failure.inner.type == "KeyError"


def test_an_activitys_failure_is_kept_as_the_cause(app: Registry) -> None:
    """The message names the activity, its id and what it said."""

    @app.workflow
    async def charge(ctx: WorkflowContext) -> None:
        await ctx.call_activity("pay")

    driver = Driver(app, "charge")
    driver.fail(0, "card declined", "CardError")
    assert driver.failure.type == "TaskFailedError"
    assert driver.failure.message == "activity 'pay' (task 0) failed: CardError: card declined"
    assert driver.failure.inner is not None
    assert driver.failure.inner.message == "card declined"


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError()]
)
def test_no_exception_of_the_code_gets_out(app: Registry, error: BaseException) -> None:
    """Not even those that end a process."""

    @app.workflow
    async def exits(ctx: WorkflowContext) -> None:
        raise error

    assert Driver(app, "exits").failure.type == type(error).__name__


def test_the_watchdogs_interrupt_gets_out(app: Registry) -> None:
    """The engine must learn of it; a branch does not keep it either."""

    @app.workflow
    async def blocks(ctx: WorkflowContext) -> None:
        async def branch() -> None:
            raise LoopBlocked

        await when_all([branch()])

    run = new_run(app, started("blocks"))
    with pytest.raises(LoopBlocked):
        run.apply(started("blocks"))
    run.close()
    assert run.outcome is None


def test_a_failed_str_does_not_get_out(app: Registry) -> None:
    class Silly(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    @app.workflow
    async def breaks(ctx: WorkflowContext) -> None:
        raise Silly

    assert Driver(app, "breaks").failure.message == "Silly"


def test_a_result_that_is_no_json_fails_and_names_the_type(app: Registry) -> None:
    @app.workflow
    async def returns(ctx: WorkflowContext) -> object:
        return object()

    assert "the result of workflow 'returns' has type object" in Driver(app, "returns").failure.message


@dataclass
class Order:
    amount: int


def test_wrong_input_fails_and_names_the_field(app: Registry) -> None:
    @app.workflow
    async def order(ctx: WorkflowContext, input: Order) -> None: ...

    failure = Driver(app, "order", {"amount": "many"}).failure
    assert failure.type == "InvalidInput"
    assert failure.message == "the input of workflow 'order': field `amount`: expected `int`, got `str`"


def test_missing_input_fails_and_names_the_type(app: Registry) -> None:
    @app.workflow
    async def order(ctx: WorkflowContext, input: Order) -> None: ...

    assert "is missing: expected Order" in Driver(app, "order").failure.message


def test_input_for_a_workflow_that_takes_none_fails(app: Registry) -> None:
    @app.workflow
    async def order(ctx: WorkflowContext) -> None: ...

    assert "takes no input" in Driver(app, "order", 1).failure.message


def test_wrong_result_of_an_activity_is_raised_at_the_await(app: Registry) -> None:
    @app.activity
    def price(ctx: Any) -> Order:
        return Order(1)

    @app.workflow
    async def order(ctx: WorkflowContext) -> str:
        try:
            await ctx.call_activity(price)
        except ValueError as error:
            return str(error)
        return "?"

    driver = Driver(app, "order")
    driver.complete(0, {"amount": []})
    assert driver.result.startswith("the result of activity 'price': field `amount`")


def test_results_have_the_type_that_the_activity_says(app: Registry) -> None:
    @app.activity
    async def price(ctx: Any, input: Order) -> Order:
        return input

    @app.workflow
    async def order(ctx: WorkflowContext) -> bool:
        return isinstance(await ctx.call_activity(price, input=Order(1)), Order)

    driver = Driver(app, "order")
    driver.complete(0, {"amount": 2})
    assert driver.result is True


def test_the_node_loop_is_back_after_each_turn(app: Registry) -> None:
    """Inside there is none that can be used; outside it is the one that was."""

    @app.workflow
    async def peek(ctx: WorkflowContext) -> None:
        await ctx.call_activity("a")

    async def main() -> bool:
        before = asyncio.get_running_loop()
        hooks = sys.get_asyncgen_hooks()
        Driver(app, "peek").complete(0)
        return asyncio.get_running_loop() is before and sys.get_asyncgen_hooks() == hooks

    assert asyncio.run(main())


def test_an_abandoned_async_generator_is_not_finished_by_the_nodes_loop(app: Registry) -> None:
    """Its `finally` runs with the run, or never with effect."""
    loops = []

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            loops.append(type(asyncio._get_running_loop()).__name__)

    @app.workflow
    async def leaves(ctx: WorkflowContext) -> int:
        async for number in numbers():
            return number
        return 0

    async def main() -> None:
        assert Driver(app, "leaves").result == 1
        await asyncio.sleep(0)

    asyncio.run(main())
    assert loops == ["WorkflowLoop"]


def test_context_variables_stay_in_the_execution(app: Registry) -> None:
    """What the code sets is there after an await, and is not seen outside."""
    variable = contextvars.ContextVar("variable", default="outer")

    @app.workflow
    async def sets(ctx: WorkflowContext) -> str:
        variable.set("inner")
        await ctx.call_activity("a")
        return variable.get()

    driver = Driver(app, "sets")
    assert variable.get() == "outer"
    driver.complete(0)
    assert driver.result == "inner"


def test_close_ends_the_code_without_effect(app: Registry) -> None:
    """Its `finally` runs, and may do what it likes."""
    seen = []

    @app.workflow
    async def holds(ctx: WorkflowContext) -> None:
        try:
            await ctx.call_activity("a")
        finally:
            seen.append("finally")
            try:
                ctx.call_activity("b")
            finally:
                await asyncio.sleep(0)

    driver = Driver(app, "holds")
    driver.run.close()
    driver.run.close()
    assert seen == ["finally"]
    assert driver.run.take_commands() == []
    assert driver.run.outcome is None
    driver.complete(0)
    assert driver.run.outcome is None


def test_close_gives_up_on_code_that_will_not_end(app: Registry) -> None:
    @app.workflow
    def stubborn(ctx: WorkflowContext) -> Generator[Any, Any, None]:
        for _ in range(50):
            with contextlib.suppress(GeneratorExit):
                yield ctx.create_timer(timedelta(0)) if ctx._run.thread else None

    driver = Driver(app, "stubborn")
    driver.run.close()
    assert driver.run.outcome is None


def test_branches_left_behind_are_closed_with_the_outcome(app: Registry) -> None:
    """One that waits, and one that never began."""
    seen = []

    @app.workflow
    async def leaves(ctx: WorkflowContext) -> str:
        async def branch() -> None:
            try:
                await ctx.call_activity("a")
            finally:
                seen.append("closed")

        when_all([branch()])
        await ctx.call_activity("b")
        when_all([branch()])
        return "done"

    driver = Driver(app, "leaves")
    driver.complete(0)
    assert driver.result == "done"
    assert seen == ["closed"]


def test_continue_as_new_is_the_outcome_when_the_code_ends(app: Registry) -> None:
    """Commands stand, what the code returns does not, and unread events are told."""

    @app.workflow
    async def again(ctx: WorkflowContext, input: int) -> str:
        await ctx.call_activity("a")
        ctx.continue_as_new(input + 1, save_events=False)
        ctx.call_activity("b")
        return "ignored"

    driver = Driver(app, "again", 1)
    driver.event("Later", 5)
    driver.complete(0)
    assert driver.run.outcome == ContinuedAsNew(b"2", False)
    assert len(driver.commands) == 1
    assert [event.name for event in driver.run.unread_events()] == ["Later"]


def test_unread_events_keep_the_order_of_arrival(app: Registry) -> None:
    @app.workflow
    async def waits(ctx: WorkflowContext) -> None:
        await ctx.wait_for_external_event("never")

    driver = Driver(app, "waits")
    for name in ("b", "a", "B", "c", "A"):
        driver.event(name)
    assert [event.name for event in driver.run.unread_events()] == ["b", "a", "B", "c", "A"]


def test_waiting_for_is_told_in_words(app: Registry) -> None:
    @app.workflow
    async def waits(ctx: WorkflowContext) -> None:
        ctx.call_activity("charge")
        ctx.call_child_workflow("ship", instance_id="ship-1")
        ctx.create_timer(timedelta(seconds=5))
        ctx.wait_for_external_event("cancel", timeout=timedelta(seconds=60))
        await ctx.wait_for_external_event("approval")

    assert list(Driver(app, "waits").run.waiting_for()) == [
        "activity charge (task 0)",
        "child workflow ship ship-1 (task 1)",
        "timer at 2023-11-14T22:13:25Z (task 2)",
        "event cancel until 2023-11-14T22:14:20Z (task 3)",
        "event approval",
    ]


def test_the_time_limit_of_a_wait_is_cancelled_by_the_event(app: Registry) -> None:
    @app.workflow
    async def waits(ctx: WorkflowContext) -> Any:
        data = await ctx.wait_for_external_event("approval", timeout=timedelta(seconds=60))
        await ctx.call_activity("next")
        return data

    driver = Driver(app, "waits")
    assert driver.commands == [CreateTimer(0, START + 60_000_000, "event:approval")]
    driver.event("Approval", "yes")
    assert driver.commands == [CancelTimer(0), ScheduleTask(1, "next", None, "exec-1:1")]
    driver.fire(0)
    driver.complete(1)
    assert driver.result == "yes"


def test_a_task_error_can_be_caught_and_undone(app: Registry) -> None:
    @app.workflow
    async def saga(ctx: WorkflowContext) -> str:
        try:
            await ctx.call_activity("pay")
        except TaskFailedError as error:
            await ctx.call_activity("undo")
            return error.details.message
        return "?"

    driver = Driver(app, "saga")
    driver.fail(0, "declined")
    driver.complete(1)
    assert driver.result == "declined"


def test_a_second_start_changes_nothing(app: Registry) -> None:
    @app.workflow
    async def one(ctx: WorkflowContext) -> Any:
        return await ctx.call_activity("a")

    driver = Driver(app, "one")
    driver.turn([driver.start])
    assert driver.commands == []
    driver.turn([TaskCompleted(driver.tick(), 0, b"1")])
    assert driver.run.outcome == Completed(b"1")


def test_an_interrupt_while_leaving_the_code_leaves_the_nodes_loop(
    app: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watchdog's exception may come one line late: the node's loop must be back all the same."""
    from perdure.workflow import run as module

    @app.workflow
    async def one(ctx: WorkflowContext) -> Any: ...

    async def main() -> bool:
        loop = asyncio.get_running_loop()
        restored: list[object] = []

        def restore(value: Any) -> None:
            if value is loop:
                restored.append(value)
                if len(restored) == 1:
                    raise LoopBlocked
            set_loop(value)

        set_loop = module._set_loop
        monkeypatch.setattr(module, "_set_loop", restore)
        run = new_run(app, started("one"))
        with pytest.raises(LoopBlocked):
            run.apply(started("one"))
        run.close()
        return asyncio.get_running_loop() is loop

    assert asyncio.run(main())


def test_a_run_that_has_ended_is_freed_without_the_garbage_collector(app: Registry) -> None:
    """With thousands of instances a second, cycles would cost more than the instances."""

    @app.workflow
    async def fan(ctx: WorkflowContext) -> list[Any]:
        ctx.logger.info("begun")
        limit = timedelta(seconds=5)
        await ctx.create_timer(limit)
        event = ctx.wait_for_external_event("b", timeout=limit)
        return await when_all([ctx.call_activity("a"), event])

    driver = Driver(app, "fan")
    driver.fire(0)
    driver.complete(2)
    driver.event("b", 1)
    assert driver.result == [None, 1]
    seen = weakref.ref(driver.run)
    gc.collect()
    gc.disable()
    try:
        driver.run.close()
        del driver
        assert seen() is None
    finally:
        gc.enable()
