"""What workflow code must not wait for or start: each misuse fails at its line and says what to use instead."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Awaitable, Callable, Generator
from datetime import timedelta
from typing import Any

import pytest

from perdure.workflow.context import WorkflowContext
from perdure.workflow.misuse import WorkflowMisuse
from perdure.workflow.registry import Registry
from perdure.workflow.tasks import Task, when_all, when_any
from tests.workflow.code_driver import Driver

Body = Callable[[WorkflowContext], Awaitable[Any]]


async def nothing() -> None: ...


async def asyncio_sleep(ctx: WorkflowContext) -> None:
    await asyncio.sleep(1)


async def asyncio_sleep_0(ctx: WorkflowContext) -> None:
    await asyncio.sleep(0)


async def asyncio_gather(ctx: WorkflowContext) -> None:
    await asyncio.gather(nothing(), nothing())


async def asyncio_create_task(ctx: WorkflowContext) -> None:
    await asyncio.create_task(nothing())


async def asyncio_task_group(ctx: WorkflowContext) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(nothing())


async def asyncio_wait(ctx: WorkflowContext) -> None:
    await asyncio.wait([ctx.call_activity("a")])  # type: ignore[type-var]


async def asyncio_wait_for(ctx: WorkflowContext) -> None:
    await asyncio.wait_for(nothing(), 1)


async def asyncio_timeout(ctx: WorkflowContext) -> None:
    async with asyncio.timeout(1):
        await ctx.call_activity("a")


async def asyncio_to_thread(ctx: WorkflowContext) -> None:
    await asyncio.to_thread(print)


async def asyncio_event(ctx: WorkflowContext) -> None:
    await asyncio.Event().wait()


async def asyncio_run(ctx: WorkflowContext) -> None:
    asyncio.run(nothing())


async def asyncio_new_loop(ctx: WorkflowContext) -> None:
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(nothing())
    finally:
        loop.close()


async def asyncio_connection(ctx: WorkflowContext) -> None:
    await asyncio.open_connection("localhost", 1)


async def asyncio_loop(ctx: WorkflowContext) -> None:
    asyncio.get_running_loop().call_later(1, print)


TIMER = r"ctx\.create_timer\("
PARALLEL = r"when_all\(\[…\]\)"
DEADLINE = r"when_any\(\[task, ctx\.create_timer"
ACTIVITY = r"ctx\.call_activity\("
EVENT = r"ctx\.wait_for_external_event\("


@pytest.mark.parametrize(
    ("body", "remedy"),
    [
        (asyncio_sleep, TIMER),
        (asyncio_sleep_0, TIMER),
        (asyncio_gather, PARALLEL),
        (asyncio_create_task, PARALLEL),
        (asyncio_task_group, PARALLEL),
        (asyncio_wait, PARALLEL),
        (asyncio_wait_for, DEADLINE),
        (asyncio_timeout, DEADLINE),
        (asyncio_to_thread, ACTIVITY),
        (asyncio_event, EVENT),
        (asyncio_run, ACTIVITY),
        (asyncio_new_loop, ACTIVITY),
        (asyncio_connection, ACTIVITY),
        (asyncio_loop, TIMER),
    ],
)
@pytest.mark.parametrize("within_loop", [False, True])
def test_what_needs_a_loop_fails_and_names_the_remedy(body: Body, remedy: str, within_loop: bool) -> None:
    """Whether or not the node has a loop; nothing is left that would warn of never being awaited."""
    app = Registry()
    app.workflow(body, name="body")

    async def main() -> Driver:
        return Driver(app, "body")

    driver = asyncio.run(main()) if within_loop else Driver(app, "body")
    assert driver.failure.type == "WorkflowMisuse"
    with pytest.raises(AssertionError, match=remedy):
        raise AssertionError(driver.failure.message)
    assert body.__name__ in driver.failure.stack
    gc.collect()


def test_a_future_of_the_nodes_loop_cannot_be_awaited() -> None:
    """It is cancelled, so that nobody waits for it."""
    app = Registry()

    async def main() -> tuple[Driver, bool]:
        future = asyncio.get_running_loop().create_future()

        @app.workflow
        async def awaits(ctx: WorkflowContext) -> None:
            await future

        driver = Driver(app, "awaits")
        return driver, future.cancelled()

    driver, cancelled = asyncio.run(main())
    assert "ctx.call_activity(" in driver.failure.message
    assert cancelled


def test_the_error_is_raised_at_the_await() -> None:
    """The code may catch it there, and goes on."""
    app = Registry()

    @app.workflow
    async def catches(ctx: WorkflowContext) -> str:
        try:
            await asyncio.sleep(0)
        except WorkflowMisuse:
            return str(await ctx.call_activity("a"))
        return "?"

    driver = Driver(app, "catches")
    driver.complete(0, "went on")
    assert driver.result == "went on"


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (lambda ctx: [ctx.call_activity("a")], "yield when_all("),
        (lambda ctx: None, "ctx.create_timer("),
        (lambda ctx: nothing(), "yield when_all("),
        (lambda ctx: 7, "ctx.call_activity("),
        (lambda ctx: asyncio.sleep(1), "ctx.call_activity("),
    ],
)
def test_a_generator_yields_only_tasks(make: Callable[[WorkflowContext], Any], remedy: str) -> None:
    app = Registry()

    @app.workflow
    def yields(ctx: WorkflowContext) -> Generator[Any, Any, None]:
        yield make(ctx)

    assert remedy in Driver(app, "yields").failure.message
    gc.collect()


def test_the_context_does_not_work_in_another_thread() -> None:
    app = Registry()

    @app.workflow
    async def threads(ctx: WorkflowContext) -> str:
        errors: list[str] = []

        def work() -> None:
            try:
                ctx.call_activity("a")
            except WorkflowMisuse as error:
                errors.append(str(error))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return errors[0]

    driver = Driver(app, "threads")
    assert "from another thread" in driver.result
    assert "ctx.call_activity(" in driver.result
    assert driver.commands == []


@pytest.mark.parametrize(
    "use",
    [
        lambda ctx: ctx.call_activity("a"),
        lambda ctx: ctx.call_child_workflow("a"),
        lambda ctx: ctx.create_timer(timedelta(0)),
        lambda ctx: ctx.wait_for_external_event("a"),
        lambda ctx: ctx.send_event("i", "a"),
        lambda ctx: ctx.detach("a"),
        lambda ctx: ctx.map("a", []),
        lambda ctx: ctx.continue_as_new(),
        lambda ctx: ctx.set_custom_status("a"),
        lambda ctx: ctx.new_uuid(),
        lambda ctx: ctx.random(),
    ],
)
def test_the_context_does_not_work_outside_the_code(use: Callable[[WorkflowContext], object]) -> None:
    """Neither while the code waits, nor when it has ended; the client does."""
    app = Registry()
    kept: list[WorkflowContext] = []

    @app.workflow
    async def keeps(ctx: WorkflowContext) -> None:
        kept.append(ctx)
        await ctx.call_activity("a")

    driver = Driver(app, "keeps")
    with pytest.raises(WorkflowMisuse, match=r"only inside.*WorkflowClient"):
        use(kept[0])
    driver.complete(0)
    with pytest.raises(WorkflowMisuse, match=r"has ended.*WorkflowClient"):
        use(kept[0])
    assert kept[0].instance_id == "order-7"


def test_combinators_do_not_work_outside_workflow_code() -> None:
    with pytest.raises(WorkflowMisuse, match=r"asyncio\.gather"):
        when_all([])
    with pytest.raises(WorkflowMisuse, match=r"asyncio\.gather"):
        when_any([])


def test_a_task_of_another_workflow_cannot_be_awaited() -> None:
    app = Registry()
    kept: list[Task[Any]] = []

    @app.workflow
    async def gives(ctx: WorkflowContext) -> None:
        kept.append(ctx.call_activity("a"))

    @app.workflow
    async def takes(ctx: WorkflowContext) -> None:
        await kept[0]

    @app.workflow
    async def combines(ctx: WorkflowContext) -> None:
        await when_all(kept)

    Driver(app, "gives")
    assert Driver(app, "takes").failure.type == "WorkflowMisuse"
    assert "belongs to another workflow" in Driver(app, "combines").failure.message
