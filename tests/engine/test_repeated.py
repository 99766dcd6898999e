"""Starts and events that may be sent again: what is taken once has an effect once, and what is something else is told."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from perdure import ActivityContext, App, RuntimeStatus, TaskFailedError, WorkflowContext
from perdure.errors import AlreadyExists, InstanceNotFound, InvalidInput, InvalidState, KeyReused
from perdure.runtime import RuntimeOptions
from perdure.workflow import receipts
from perdure.workflow.receipts import Receipt, Receipts, id_for_key


@pytest.fixture
def app() -> App:
    app = App("repeat")

    @app.activity
    async def hold(ctx: ActivityContext) -> None:
        await asyncio.Event().wait()

    @app.workflow
    async def echo(ctx: WorkflowContext, what: Any) -> Any:
        return what

    @app.workflow
    async def listen(ctx: WorkflowContext, n: int) -> list[Any]:
        return [await ctx.wait_for_external_event("x") for _ in range(n)]

    @app.workflow
    async def collect(ctx: WorkflowContext, seen: list[Any]) -> list[Any]:
        """Each event begins it anew."""
        seen.append(await ctx.wait_for_external_event("x"))
        if len(seen) < 3:
            ctx.continue_as_new(seen)
        return seen

    @app.workflow
    async def parent(ctx: WorkflowContext, child: str) -> Any:
        try:
            return await ctx.call_child_workflow(listen, input=1, instance_id=child)
        except TaskFailedError as error:
            return [error.details.type, error.details.message]

    @app.workflow
    async def busy(ctx: WorkflowContext) -> Any:
        """Owes an activity, a child and a timer."""
        held, child = ctx.call_activity(hold), ctx.call_child_workflow(listen, input=1, instance_id="child")
        timer = ctx.create_timer(timedelta(hours=1))
        await ctx.wait_for_external_event("x")
        return [held, child, timer]

    return app


# --- if_exists -----------------------------------------------------------------------------------------------------------


async def test_an_active_instance_is_not_disturbed(app: App, place: Any) -> None:
    async with place.serve(app) as node:
        client = node.client
        await client.schedule_new_workflow("listen", input=1, instance_id="i")
        with pytest.raises(AlreadyExists):
            await client.schedule_new_workflow("echo", instance_id="i")
        with pytest.raises(AlreadyExists):
            await client.schedule_new_workflow("echo", instance_id="i", if_exists="error")
        assert await client.schedule_new_workflow("echo", instance_id="i", if_exists="return") == "i"
        state = await client.get_workflow_state("i")
        assert (state.name, state.generation) == ("listen", 1)


async def test_return_leaves_a_finished_one_as_it_is(app: App, place: Any, run: Any) -> None:
    async with place.serve(app) as node:
        client = node.client
        await run(client, "echo", 1, instance_id="i")
        assert await client.schedule_new_workflow("echo", input=2, instance_id="i", if_exists="return") == "i"
        state = await client.get_workflow_state("i")
        assert (state.output, state.generation) == (1, 1)
        await client.purge_workflow("i")
        # What was purged is there no more.
        assert (await run(client, "echo", 3, instance_id="i", if_exists="return")).output == 3


async def test_by_default_a_finished_one_is_replaced(app: App, place: Any, run: Any) -> None:
    async with place.serve(app) as node:
        await run(node.client, "echo", 1, instance_id="i")
        assert (await run(node.client, "echo", 2, instance_id="i")).output == 2


async def test_replace_ends_what_is_there(app: App, place: Any, run: Any, eventually: Any) -> None:
    async with place.serve(app, drain_seconds=0) as node:
        client = node.client
        await client.schedule_new_workflow("busy", instance_id="i")
        await client.wait_for_workflow_start("child", timeout=30)
        waiting = asyncio.ensure_future(client.wait_for_workflow_completion("i"))
        await eventually(
            lambda: node.runtime.host.activations[node.runtime.engine.actor("i")].behaviour.waiters
        )
        state = await run(client, "echo", "new", instance_id="i", if_exists="replace")
        assert (state.output, state.generation) == ("new", 2)
        ended = await asyncio.wait_for(waiting, 20)
        assert (ended.runtime_status, ended.name) == (RuntimeStatus.TERMINATED, "busy")
        assert ended.failure_details.type == "WorkflowTerminated"
        child = await client.wait_for_workflow_completion("child", timeout=30)
        assert child.runtime_status is RuntimeStatus.TERMINATED
        actor = node.runtime.engine.actor("i")
        assert not await node.store.reminders(actor)
        assert [type(event).__name__ for _, event in (await client.history("i")).items] == [
            "ExecutionStarted",
            "ExecutionCompleted",
        ]

        async def nothing_owed() -> bool:
            return not (await node.store.load(actor)).recover

        await eventually(nothing_owed)


async def test_replace_of_nothing_of_a_finished_one_and_of_one_for_later(
    app: App, place: Any, run: Any
) -> None:
    async with place.serve(app) as node:
        client = node.client
        assert (await run(client, "echo", 1, instance_id="i", if_exists="replace")).output == 1
        assert (await run(client, "echo", 2, instance_id="i", if_exists="replace")).output == 2
        hour = timedelta(hours=1)
        await client.schedule_new_workflow(
            "echo", input=3, instance_id="i", start_at=hour, if_exists="replace"
        )
        assert (await client.get_workflow_state("i")).runtime_status is RuntimeStatus.PENDING
        assert (await run(client, "echo", 4, instance_id="i", if_exists="replace")).output == 4
        assert not await node.store.reminders(node.runtime.engine.actor("i"))
        await client.schedule_new_workflow("listen", input=1, instance_id="i")
        await client.schedule_new_workflow(
            "echo", input=5, instance_id="i", start_at=hour, if_exists="replace"
        )
        state = await client.get_workflow_state("i")
        assert (state.name, state.runtime_status) == ("echo", RuntimeStatus.PENDING)
        (reminder,) = await node.store.reminders(node.runtime.engine.actor("i"))
        assert reminder.name == "start"


async def test_the_parent_of_what_was_replaced_is_told(app: App, place: Any) -> None:
    async with place.serve(app) as node:
        client = node.client
        await client.schedule_new_workflow("parent", input="c", instance_id="p")
        await client.wait_for_workflow_start("c", timeout=30)
        await client.schedule_new_workflow("listen", input=1, instance_id="c", if_exists="replace")
        state = await client.wait_for_workflow_completion("p", timeout=30)
        assert state.output == ["WorkflowTerminated", "another start took its place"]
        assert (await client.get_workflow_state("c")).runtime_status is RuntimeStatus.RUNNING


async def test_what_came_for_the_former_instance_does_not_reach_the_next(app: App, place: Any) -> None:
    async with place.serve(app) as node:
        client = node.client
        await client.schedule_new_workflow("listen", input=2, instance_id="i")
        await client.pause_workflow("i")
        await client.raise_workflow_event("i", "x", data="for the first")
        await client.schedule_new_workflow("listen", input=1, instance_id="i", if_exists="replace")
        await client.raise_workflow_event("i", "x", data="for the second")
        state = await client.wait_for_workflow_completion("i", timeout=30)
        assert state.output == ["for the second"]


async def test_many_that_replace_at_once(app: App, place: Any) -> None:
    """Each is started and acknowledged; the last one stays."""
    async with place.serve(app) as node:
        client = node.client
        starts = [
            client.schedule_new_workflow("listen", input=n, instance_id="i", if_exists="replace")
            for n in range(1, 21)
        ]
        assert await asyncio.gather(*starts) == ["i"] * 20
        state = await client.get_workflow_state("i")
        assert (state.generation, state.input) == (20, 20)


async def test_what_replaces_one_with_a_long_history_ends_its_children(
    app: App, place: Any, evict: Any, eventually: Any
) -> None:
    @app.workflow
    async def long(ctx: WorkflowContext) -> Any:
        for _ in range(1100):
            ctx.create_timer(timedelta(hours=1))
        child = ctx.call_child_workflow("listen", input=1, instance_id="late-child")
        return await child

    async with place.serve(app, replay_check="off") as node:
        client = node.client
        await client.schedule_new_workflow(long, instance_id="i")
        await client.wait_for_workflow_start("late-child", timeout=30)
        await eventually(lambda: evict(node, "i"))
        await client.schedule_new_workflow("echo", input=1, instance_id="i", if_exists="replace")
        assert (await client.wait_for_workflow_completion("i", timeout=30)).output == 1
        child = await client.wait_for_workflow_completion("late-child", timeout=30)
        assert child.runtime_status is RuntimeStatus.TERMINATED


async def test_any_other_word_is_refused(app: App, memory_place: Any) -> None:
    async with memory_place.serve(app) as node:
        with pytest.raises(InvalidInput, match="error, return, replace"):
            await node.client.schedule_new_workflow("echo", if_exists="ignore")


# --- idempotency keys ----------------------------------------------------------------------------------------------------


async def test_a_start_with_a_key_happens_once(app: App, place: Any, run: Any) -> None:
    async with place.serve(app) as node:
        client = node.client
        ids = await asyncio.gather(
            *(client.schedule_new_workflow("echo", input=1, idempotency_key="order 7") for _ in range(10))
        )
        assert set(ids) == {id_for_key("default", "repeat", "echo", "order 7")}
        state = await client.wait_for_workflow_completion(ids[0], timeout=30)
        assert (state.output, state.generation) == (1, 1)
        # Finished, and on another node.
    async with place.serve(app) as node:
        client = node.client
        assert await client.schedule_new_workflow("echo", input=1, idempotency_key="order 7") == ids[0]
        assert (await client.get_workflow_state(ids[0])).generation == 1
        with pytest.raises(KeyReused, match="order 7"):
            await client.schedule_new_workflow("echo", input=2, idempotency_key="order 7")
        # Another workflow is another request.
        other = await client.schedule_new_workflow("listen", input=1, idempotency_key="order 7")
        assert other != ids[0]


async def test_a_key_belongs_to_its_id(app: App, place: Any, run: Any) -> None:
    async with place.serve(app) as node:
        client = node.client
        assert (await run(client, "echo", 1, instance_id="i", idempotency_key="k")).output == 1
        assert (await run(client, "echo", 1, instance_id="i", idempotency_key="k")).generation == 1
        assert (await run(client, "echo", 9, instance_id="j", idempotency_key="k")).output == 9
        # Another key is another start, and a finished id may be used again.
        assert (await run(client, "echo", 1, instance_id="i", idempotency_key="l")).generation == 2
        assert (await run(client, "echo", 1, instance_id="i", idempotency_key="k")).generation == 2
        with pytest.raises(KeyReused):
            await client.schedule_new_workflow("listen", input=1, instance_id="i", idempotency_key="k")
        with pytest.raises(KeyReused):
            await client.schedule_new_workflow(
                "echo", input=1, tags={"a": "b"}, instance_id="i", idempotency_key="k"
            )


async def test_a_key_is_known_whatever_if_exists_says(app: App, place: Any) -> None:
    async with place.serve(app) as node:
        client = node.client
        for if_exists in ("replace", "replace", "error", "return"):
            await client.schedule_new_workflow(
                "listen", input=1, instance_id="i", idempotency_key="k", if_exists=if_exists
            )
        assert (await client.get_workflow_state("i")).generation == 1
        # A time given as a delay is another at each try: it is no part of what is compared.
        await client.schedule_new_workflow(
            "listen", input=1, instance_id="i", idempotency_key="k", start_at=timedelta(hours=1)
        )
        assert (await client.get_workflow_state("i")).runtime_status is RuntimeStatus.RUNNING


async def test_keys_survive_continue_as_new_purge_and_reuse(
    app: App, place: Any, run: Any, keys: Any
) -> None:
    async with place.serve(app) as node:
        client = node.client
        await client.schedule_new_workflow("collect", input=[], instance_id="i", idempotency_key="k")
        for n in range(3):
            await client.raise_workflow_event("i", "x", data=n, event_id=f"e{n}")
            await client.raise_workflow_event("i", "x", data=n, event_id=f"e{n}")
        assert (await client.wait_for_workflow_completion("i", timeout=30)).output == [0, 1, 2]
        await client.purge_workflow("i")
        assert set(await keys(node, "i")) == {"metadata", "accepted"}
        await client.schedule_new_workflow("collect", input=[], instance_id="i", idempotency_key="k")
        assert await client.get_workflow_state("i") is None
        await client.raise_workflow_event("i", "x", data=2, event_id="e2")
        with pytest.raises(InstanceNotFound):
            await client.raise_workflow_event("i", "x", data=2, event_id="e3")
    async with place.serve(app) as node:
        client = node.client
        assert (await run(client, "echo", 1, instance_id="i")).output == 1
        await client.schedule_new_workflow("collect", input=[], instance_id="i", idempotency_key="k")
        assert (await client.get_workflow_state("i")).name == "echo"
        await client.raise_workflow_event("i", "x", data=0, event_id="e0")


async def test_a_key_that_was_never_given_writes_nothing(app: App, place: Any, run: Any, keys: Any) -> None:
    async with place.serve(app) as node:
        await run(node.client, "echo", 1, instance_id="i")
        assert "accepted" not in await keys(node, "i")
        await node.client.schedule_new_workflow("listen", input=3, instance_id="k", idempotency_key="k")
        for n in range(3):
            await node.client.raise_workflow_event("k", "x", data=n)
        await node.client.wait_for_workflow_completion("k", timeout=30)
        writes = [commit for commit in place.last.of("k") if "accepted" in commit.put]
        assert len(writes) == 1


async def test_a_key_is_forgotten_after_its_time(app: App, place: Any, run: Any) -> None:
    async with place.serve(app) as node:
        engine = node.runtime.engine
        await run(node.client, "echo", 1, instance_id="i", idempotency_key="k")
        await node.client.schedule_new_workflow("listen", input=2, instance_id="e")
        await node.client.raise_workflow_event("e", "x", data=1, event_id="e")
        engine.keep_keys = 0
        # Not while the instance is there that it began.
        assert (await run(node.client, "echo", 1, instance_id="i", idempotency_key="k")).generation == 1
        await run(node.client, "echo", 2, instance_id="i")
        assert (await run(node.client, "echo", 1, instance_id="i", idempotency_key="k")).generation == 3
        await node.client.raise_workflow_event("e", "x", data=2, event_id="e")
        assert (await node.client.wait_for_workflow_completion("e", timeout=30)).output == [1, 2]


async def test_a_tombstone_stays_as_long_as_its_keys(app: App, place: Any, run: Any) -> None:
    async with place.serve(app) as node:
        engine, client = node.runtime.engine, node.client
        engine.keep_keys = int(timedelta(days=9).total_seconds() * 1e6)
        await run(client, "echo", 1, instance_id="i", idempotency_key="k")
        await client.purge_workflow("i")
        (forget,) = await node.store.reminders(engine.actor("i"))
        assert datetime.fromtimestamp(forget.due / 1e6, UTC) > datetime.now(UTC) + timedelta(days=8)


@pytest.mark.parametrize("bad", ["", "a\nb", "x" * 257, "\ud800"])
async def test_a_bad_key_is_refused(app: App, memory_place: Any, bad: str) -> None:
    async with memory_place.serve(app) as node:
        with pytest.raises(InvalidInput, match="key"):
            await node.client.schedule_new_workflow("echo", idempotency_key=bad)
        with pytest.raises(InvalidInput, match="event id"):
            await node.client.raise_workflow_event("i", "x", event_id=bad)


async def test_how_long_they_are_kept_is_an_option(app: App, memory_place: Any) -> None:
    async with memory_place.serve(app, keep_keys=timedelta(days=3)) as node:
        assert node.runtime.engine.keep_keys == 3 * 24 * 3600 * 1_000_000
    async with memory_place.serve(app) as node:
        assert node.runtime.engine.keep_keys == 24 * 3600 * 1_000_000
    assert RuntimeOptions().keep_keys == 24 * 3600


# --- event ids -----------------------------------------------------------------------------------------------------------


async def test_an_event_with_an_id_is_raised_once(app: App, place: Any) -> None:
    async with place.serve(app) as node:
        client = node.client
        await client.schedule_new_workflow("listen", input=2, instance_id="i")
        for _ in range(3):
            await client.raise_workflow_event("i", "x", data="a", event_id="1")
        # Names match without case.
        await client.raise_workflow_event("i", "X", data="a", event_id="1")
        with pytest.raises(KeyReused, match="event id '1'"):
            await client.raise_workflow_event("i", "x", data="b", event_id="1")
    async with place.serve(app) as node:
        client = node.client
        await client.raise_workflow_event("i", "x", data="a", event_id="1")
        await client.raise_workflow_event("i", "x", data="a", event_id="2")
        state = await client.wait_for_workflow_completion("i", timeout=30)
        assert state.output == ["a", "a"]
        # It was taken, so it is no error that there is nobody to take it now.
        await client.raise_workflow_event("i", "x", data="a", event_id="2")
        with pytest.raises(InvalidState):
            await client.raise_workflow_event("i", "x", data="a", event_id="3")
        with pytest.raises(InvalidState):
            # What was refused is not remembered.
            await client.raise_workflow_event("i", "x", data="a", event_id="3")


async def test_many_events_with_ids_at_once(app: App, place: Any) -> None:
    async with place.serve(app) as node:
        client = node.client
        await client.schedule_new_workflow("listen", input=50, instance_id="i")
        raised = [
            client.raise_workflow_event("i", "x", data=n, event_id=str(n))
            for n in range(50)
            for _ in range(3)
        ]
        await asyncio.gather(*raised)
        state = await client.wait_for_workflow_completion("i", timeout=30)
        assert sorted(state.output) == list(range(50))


async def test_an_event_with_an_id_waits_with_a_paused_instance(app: App, place: Any) -> None:
    async with place.serve(app) as node:
        client = node.client
        await client.schedule_new_workflow("listen", input=1, instance_id="i")
        await client.pause_workflow("i")
        await client.raise_workflow_event("i", "x", data=1, event_id="1")
    async with place.serve(app) as node:
        client = node.client
        await client.raise_workflow_event("i", "x", data=1, event_id="1")
        await client.resume_workflow("i")
        assert (await client.wait_for_workflow_completion("i", timeout=30)).output == [1]


# --- tags ----------------------------------------------------------------------------------------------------------------


async def test_tags_are_shown_and_stay(app: App, place: Any) -> None:
    async with place.serve(app) as node:
        client = node.client
        await client.schedule_new_workflow(
            "collect", input=[], instance_id="i", tags={"customer": "ü", "none": ""}
        )
        await client.raise_workflow_event("i", "x", data=1)
        state = await client.get_workflow_state("i")
        assert (state.generation, state.tags) == (2, {"customer": "ü", "none": ""})
        for wrong in ({"": "x"}, {"a": 5}, {"a": "x" * 257}, {str(n): "" for n in range(101)}):
            with pytest.raises(InvalidInput, match="tag"):
                await client.schedule_new_workflow("echo", tags=wrong)


# --- what is kept --------------------------------------------------------------------------------------------------------


def test_what_is_kept_is_read_back() -> None:
    kept = Receipts()
    assert not kept.changed
    kept.add_start("k", Receipt(b"d", 5, "s"), 0)
    kept.add_event("e", Receipt(b"f", 6), 0)
    assert kept.changed
    read = Receipts.decode(kept.encode())
    assert read.start("k", b"d", 5, "")
    assert read.start("k", b"d", 6, "s")
    assert not read.start("k", b"d", 6, "other")
    assert not read.start("e", b"f", 0, "")
    assert read.event("e", b"f", 6)
    assert not read.event("e", b"f", 7)
    assert read.last() == 6
    with pytest.raises(KeyReused):
        read.event("e", b"other", 0)


def test_only_so_many_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipts, "MOST", 3)
    kept = Receipts()
    for number in range(5):
        kept.add_event(str(number), Receipt(b"", number), 0)
    assert [kept.event(str(number), b"", 0) for number in range(5)] == [False, False, True, True, True]
    kept.add_event("5", Receipt(b"", 5), 5)
    assert [kept.event(str(number), b"", 0) for number in range(2, 6)] == [False, False, False, True]


def test_digests_tell_parts_apart() -> None:
    found = {
        receipts.start_digest("a", b"bc", {}),
        receipts.start_digest("ab", b"c", {}),
        receipts.start_digest("abc", b"", {}),
        receipts.start_digest("abc", None, {}),
        receipts.start_digest("a", b"bc", {"x": "y"}),
        receipts.start_digest("a", b"bc", {"xy": ""}),
    }
    assert len(found) == 6
    assert receipts.start_digest("a", None, {"x": "1", "y": "2"}) == receipts.start_digest(
        "a", None, {"y": "2", "x": "1"}
    )
    # Edges write JSON each in their own way.
    assert receipts.event_digest("X", b'{"b": 1, "a": [2 ]}') == receipts.event_digest(
        "x", b'{"a":[2],"b":1}'
    )
    assert receipts.event_digest("x", b"no json") != receipts.event_digest("x", b"no JSON")
    ids = {id_for_key(*parts) for parts in (("n", "a", "w", "k"), ("na", "", "w", "k"), ("n", "a", "wk", ""))}
    assert len(ids) == 3
    # Every release and every edge has to find the same one.
    assert id_for_key("default", "orders", "order", "k1") == id_for_key("default", "orders", "order", "k1")
