"""Random workflow programs, as data: what a workflow function interprets, and hypothesis makes."""

from __future__ import annotations

from collections.abc import Generator
from datetime import timedelta
from typing import Any

from hypothesis import strategies as st

from perdure.workflow.context import WorkflowContext
from perdure.workflow.registry import Registry
from perdure.workflow.retry import RetryPolicy
from perdure.workflow.tasks import Task, TaskFailedError, when_all, when_any

Program = list[Any]

POLICY = RetryPolicy(
    first_retry_interval=timedelta(seconds=1), max_number_of_attempts=3, backoff_coefficient=2
)

_waits = st.one_of(
    st.tuples(st.just("activity"), st.sampled_from("abc"), st.booleans()),
    st.tuples(st.just("child"), st.booleans()),
    st.tuples(st.just("timer"), st.integers(-1, 3)),
    st.tuples(st.just("event"), st.sampled_from(["x", "X", "y"]), st.sampled_from([None, 0, 5])),
)
_leaves = st.one_of(
    _waits,
    _waits,  # twice: what ends at once makes short executions
    st.tuples(st.just("unawaited"), st.sampled_from("abc")),
    st.tuples(st.just("status")),
    st.tuples(st.just("send")),
    st.tuples(st.just("detach")),
    st.tuples(st.just("uuid")),
)


def _inner(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several = st.lists(children, min_size=2, max_size=4)
    fallible = children | st.just(("raise",))
    return st.one_of(
        st.tuples(st.just("seq"), several),
        st.tuples(st.just("all"), several),
        st.tuples(st.just("any"), several),
        st.tuples(st.just("generator"), several),
        st.tuples(st.just("catch"), fallible),
    )


programs = _inner(st.recursive(_leaves, _inner, max_leaves=10))


def registry() -> Registry:
    app = Registry()

    @app.workflow
    async def program(ctx: WorkflowContext, input: Any) -> Any:
        return await interpret(ctx, input)

    return app


async def interpret(ctx: WorkflowContext, node: Program) -> Any:
    kind, *rest = node
    match kind:
        case "seq":
            return [await interpret(ctx, child) for child in rest[0]]
        case "all":
            return await when_all([interpret(ctx, child) for child in rest[0]])
        case "any":
            winner = await when_any([interpret(ctx, child) for child in rest[0]])
            return ["won", await winner, ctx.current_utc_datetime]
        case "generator":
            return (await when_all([_generate(ctx, rest[0])]))[0]
        case "catch":
            try:
                return await interpret(ctx, rest[0])
            except Exception as error:  # noqa: BLE001 - whatever the program raises
                return [type(error).__name__, str(error)]
    return await _leaf(ctx, kind, rest)


def _generate(ctx: WorkflowContext, nodes: list[Program]) -> Generator[Any, Any, Any]:
    results = []
    for node in nodes:
        results.append((yield when_all([interpret(ctx, node)])))
    return results


async def _leaf(ctx: WorkflowContext, kind: str, rest: list[Any]) -> Any:
    task: Task[Any]
    match kind:
        case "activity":
            task = ctx.call_activity(rest[0], input=kind, retry_policy=POLICY if rest[1] else None)
            try:
                return await task
            except TaskFailedError as error:
                return error.details.message
        case "child":
            return await ctx.call_child_workflow("child", retry_policy=POLICY if rest[0] else None)
        case "timer":
            return await ctx.create_timer(timedelta(seconds=rest[0]))
        case "event":
            timeout = None if rest[1] is None else timedelta(seconds=rest[1])
            return await ctx.wait_for_external_event(rest[0], timeout=timeout)
        case "raise":
            raise ValueError("raised")
    return _at_once(ctx, kind, rest)


def _at_once(ctx: WorkflowContext, kind: str, rest: list[Any]) -> Any:
    match kind:
        case "unawaited":
            return repr(ctx.call_activity(rest[0], retry_policy=POLICY))
        case "status":
            ctx.set_custom_status(ctx.current_utc_datetime)
        case "send":
            ctx.send_event("other", "e", ctx.random().random())
        case "detach":
            return ctx.detach("d")
        case "uuid":
            return ctx.new_uuid()
    return None
