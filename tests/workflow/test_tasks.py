"""Tasks and their combinations."""

from __future__ import annotations

from collections.abc import Generator
from datetime import timedelta
from typing import Any

import pytest

from perdure.errors import InvalidInput
from perdure.workflow.context import WorkflowContext
from perdure.workflow.misuse import WorkflowMisuse
from perdure.workflow.registry import Registry
from perdure.workflow.tasks import ChildFailedError, Task, TaskFailedError, when_all, when_any
from tests.workflow.code_driver import Driver


@pytest.fixture
def app() -> Registry:
    return Registry()


def test_awaiting_twice_gives_the_same(app: Registry) -> None:
    """Result and error alike, also in two branches at once."""

    @app.workflow
    async def twice(ctx: WorkflowContext) -> list[Any]:
        good, bad = ctx.call_activity("good"), ctx.call_activity("bad")

        async def look() -> list[Any]:
            values: list[Any] = [await good]
            for _ in range(2):
                try:
                    await bad
                except TaskFailedError as error:
                    values.append(error.details.message)
            return values

        return await when_all([look(), look()])

    driver = Driver(app, "twice")
    driver.complete(0, 1)
    driver.fail(1, "no")
    assert driver.result == [[1, "no", "no"]] * 2


def test_a_task_tells_its_state(app: Registry) -> None:
    @app.workflow
    async def looks(ctx: WorkflowContext) -> list[Any]:
        good, bad = ctx.call_activity("good"), ctx.call_activity("bad")
        seen: list[Any] = [good.is_complete, good.is_failed, repr(good)]
        with pytest.raises(WorkflowMisuse, match="await it"):
            good.get_result()
        with pytest.raises(WorkflowMisuse, match="await it"):
            good.get_exception()
        await when_any([good])
        await when_any([bad])
        seen += [good.is_complete, good.is_failed, good.get_result(), good.get_exception(), repr(good)]
        with pytest.raises(TaskFailedError):
            bad.get_result()
        return [*seen, bad.is_failed, str(bad.get_exception())]

    driver = Driver(app, "looks")
    driver.complete(0, 1)
    driver.fail(1, "no")
    assert driver.result == [
        False,
        False,
        "<ActivityCall 'good' (task 0): waiting>",
        True,
        False,
        1,
        None,
        "<ActivityCall 'good' (task 0): complete>",
        True,
        "activity 'bad' (task 1) failed: ValueError: no",
    ]


def test_when_all_gives_results_in_the_order_of_the_items(app: Registry) -> None:
    @app.workflow
    async def fan(ctx: WorkflowContext) -> list[Any]:
        return await when_all([ctx.call_activity("a", input=n) for n in range(3)])

    driver = Driver(app, "fan")
    for id in (2, 0, 1):
        driver.complete(id, id * 10)
    assert driver.result == [0, 10, 20]


def test_when_all_waits_for_all_and_raises_the_first_failure_of_the_list(app: Registry) -> None:
    """Not the first in time, and not before the others are done."""

    @app.workflow
    async def fan(ctx: WorkflowContext) -> list[Any]:
        return await when_all([ctx.call_activity(name) for name in "abc"])

    driver = Driver(app, "fan")
    driver.fail(2, "c")
    driver.fail(1, "b")
    assert driver.run.outcome is None
    driver.complete(0)
    assert "activity 'b'" in driver.failure.message


def test_when_all_of_nothing_is_complete_at_once(app: Registry) -> None:
    @app.workflow
    async def fan(ctx: WorkflowContext) -> list[Any]:
        nothing: list[Task[Any]] = []
        assert when_all(nothing).is_complete
        return await when_all(nothing)

    assert Driver(app, "fan").result == []


def test_when_all_takes_one_task_twice(app: Registry) -> None:
    @app.workflow
    async def fan(ctx: WorkflowContext) -> list[Any]:
        task = ctx.call_activity("a")
        return await when_all([task, task])

    driver = Driver(app, "fan")
    driver.complete(0, 1)
    assert driver.result == [1, 1]


def test_when_any_gives_the_first_task_in_time(app: Registry) -> None:
    """The others go on, and can be awaited later."""

    @app.workflow
    async def race(ctx: WorkflowContext) -> list[Any]:
        tasks = [ctx.call_activity(name) for name in "abc"]
        winner = await when_any(tasks)
        return [tasks.index(winner), winner.get_result(), await tasks[0]]

    driver = Driver(app, "race")
    driver.complete(1, "b")
    driver.complete(0, "a")
    assert driver.result == [1, "b", "a"]


def test_when_any_in_generator_style(app: Registry) -> None:
    """`winner == timer` tells the time limit."""

    @app.workflow
    def race(ctx: WorkflowContext) -> Generator[Any, Any, bool]:
        timer = ctx.create_timer(timedelta(seconds=1))
        event = ctx.wait_for_external_event("approval")
        winner = yield when_any([event, timer])
        return bool(winner == timer)

    driver = Driver(app, "race")
    driver.fire(0)
    assert driver.result is True


def test_when_any_does_not_raise_for_the_winner(app: Registry) -> None:
    """Only its own await does."""

    @app.workflow
    async def race(ctx: WorkflowContext) -> str:
        winner = await when_any([ctx.call_activity("a")])
        assert winner.is_failed
        try:
            await winner
        except TaskFailedError as error:
            return error.details.message
        return "?"

    driver = Driver(app, "race")
    driver.fail(0, "no")
    assert driver.result == "no"


def test_when_any_takes_the_first_of_those_that_are_complete(app: Registry) -> None:
    @app.workflow
    async def race(ctx: WorkflowContext) -> int:
        tasks = [ctx.call_activity(name) for name in "abc"]
        await when_all(tasks[1:])
        return tasks.index(await when_any(tasks))

    driver = Driver(app, "race")
    driver.complete(2)
    driver.complete(1)
    assert driver.result == 1


def test_when_any_leaves_no_waiters_on_the_losers(app: Registry) -> None:
    """A long-lived task that loses in every round of a loop must not grow."""

    @app.workflow
    async def race(ctx: WorkflowContext) -> int:
        long = ctx.call_activity("long")
        for _ in range(5):
            await when_any([long, ctx.call_activity("short")])
        return len(long._waiters or [])

    driver = Driver(app, "race")
    for id in range(1, 6):
        driver.complete(id)
    assert driver.result == 0


@pytest.mark.parametrize("combine", [when_all, when_any])
def test_misuse_of_a_combinator_says_what_it_takes(app: Registry, combine: Any) -> None:
    @app.workflow
    async def wrong(ctx: WorkflowContext) -> list[str]:
        messages = []
        for items in (ctx.call_activity("a"), 7, [7], [ctx.call_activity]):
            with pytest.raises(InvalidInput) as caught:
                combine(items)
            messages.append(str(caught.value))
        return messages

    for message in Driver(app, "wrong").result:
        assert f"{combine.__name__} takes" in message


def test_when_any_of_nothing_is_refused(app: Registry) -> None:
    @app.workflow
    async def wrong(ctx: WorkflowContext) -> None:
        await when_any([])

    assert "would wait for ever" in Driver(app, "wrong").failure.message


def test_branches_run_side_by_side(app: Registry) -> None:
    """Coroutines, generators and tasks mixed, and nested; first come, first on."""

    @app.workflow
    async def parallel(ctx: WorkflowContext) -> list[Any]:
        order: list[str] = []

        async def steps(name: str) -> str:
            order.append(f"{name} begins")
            await ctx.call_activity(name)
            order.append(f"{name} goes on")
            return name

        def yields() -> Generator[Any, Any, str]:
            value = yield ctx.call_activity("gen")
            return str(value)

        async def nested() -> list[str]:
            return await when_all([steps("x"), steps("y")])

        values: Any = await when_all([steps("a"), yields(), nested(), ctx.call_activity("plain")])
        return [values, order]

    driver = Driver(app, "parallel")
    # The call in the list is made first, then the branches in their order, then those they begin.
    assert [command.name for command in driver.commands] == ["plain", "a", "gen", "x", "y"]  # type: ignore[union-attr]
    for id in (4, 3, 2, 1, 0):
        driver.complete(id, id)
    assert driver.result == [
        ["a", "2", ["x", "y"], 0],
        ["a begins", "x begins", "y begins", "y goes on", "x goes on", "a goes on"],
    ]


def test_a_branch_that_loses_goes_on(app: Registry) -> None:
    @app.workflow
    async def race(ctx: WorkflowContext) -> list[Any]:
        done = []

        async def steps(name: str) -> str:
            await ctx.call_activity(name)
            await ctx.call_activity(name)
            done.append(name)
            return name

        winner = await when_any([steps("a"), steps("b")])
        await ctx.wait_for_external_event("end")
        return [winner.get_result(), done]

    driver = Driver(app, "race")
    driver.complete(0)
    driver.complete(2)
    driver.complete(1)
    driver.complete(3)
    driver.event("end")
    assert driver.result == ["a", ["a", "b"]]


def test_the_same_coroutine_is_one_branch(app: Registry) -> None:
    """`when_any` over the same coroutines again waits for those that still run."""

    @app.workflow
    async def race(ctx: WorkflowContext) -> list[Any]:
        async def step(name: str) -> str:
            await ctx.call_activity(name)
            return name

        branches = [step("a"), step("b")]
        first = await when_any(branches)
        second = await when_any(branches[:1])
        return [first.get_result(), second.get_result()]

    driver = Driver(app, "race")
    driver.complete(1)
    driver.complete(0)
    assert driver.result == ["b", "a"]


def test_a_failing_branch_keeps_its_frames(app: Registry) -> None:
    """The stack of the failure shows the line in the branch."""

    @app.workflow
    async def parallel(ctx: WorkflowContext) -> None:
        async def deep() -> None:
            await ctx.call_activity("a")
            raise ValueError("deep")

        await when_all([deep()])

    driver = Driver(app, "parallel")
    driver.complete(0)
    assert driver.failure.message == "deep"
    assert 'raise ValueError("deep")' in driver.failure.stack


def test_failures_that_nobody_awaits_do_nothing(app: Registry) -> None:
    @app.workflow
    async def careless(ctx: WorkflowContext) -> str:
        async def branch() -> None:
            raise ValueError

        ctx.call_activity("a")
        when_all([branch(), ctx.call_activity("b")])
        await ctx.call_activity("c")
        return "fine"

    driver = Driver(app, "careless")
    driver.fail(0)
    driver.fail(1)
    driver.complete(2)
    assert driver.result == "fine"


def test_long_chains_of_tasks_need_no_deep_stack(app: Registry) -> None:
    """Folding thousands of tasks into each other is slow style, but works."""

    @app.workflow
    async def fold(ctx: WorkflowContext) -> str:
        folded: Task[Any] = ctx.call_activity("a")
        for _ in range(5000):
            folded = when_all([folded])
        await folded
        return "done"

    driver = Driver(app, "fold")
    driver.complete(0)
    assert driver.result == "done"


def test_a_childs_failure_is_an_error_of_its_own(app: Registry) -> None:
    """It is a TaskFailedError too, and names the child."""

    @app.workflow
    async def parent(ctx: WorkflowContext) -> str:
        try:
            await ctx.call_child_workflow("ship")
        except ChildFailedError as error:
            return f"{isinstance(error, TaskFailedError)} {error}"
        return "?"

    driver = Driver(app, "parent")
    driver.fail_child(0, "no ship", "ShipError")
    assert driver.result == "True child workflow 'ship' (order-7:1:0000, task 0) failed: ShipError: no ship"
