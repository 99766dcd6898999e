"""What the console is told, by real nodes."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from perdure import Actor, App
from perdure.console import api, instance, lists
from perdure.errors import StoreUnavailable
from perdure.placement.hashing import partition_of
from perdure.statestore.contract import ActorId, Commit, TypePartition

WORKFLOW = "dapr.internal.default.shop.workflow"
CART = {"view": "actor", "type": "Cart", "id": "42"}


@asynccontextmanager
async def stream(served: Any, **query: Any) -> Any:
    """`await next()` gives what the next frame says."""
    async with (
        asyncio.timeout(60),
        served.session.get(f"{served.url}/console/events", params=query) as answer,
    ):
        assert answer.status == 200, await answer.text()
        assert answer.content_type == "text/event-stream"

        async def next() -> Any:
            async for line in answer.content:
                if line.startswith(b"data: "):
                    return json.loads(line[6:])
            return None

        yield next


# --- lists -------------------------------------------------------------------------------------------------------------


async def test_a_list(served: Any) -> None:
    await served.end("quick", "q-1", 1)
    await served.end("fails", "f-1")
    await served.start("order", "o-1", {"cost": 2})
    found = await served.until(lambda value: value["items"][0]["custom"], "a custom status", view="instances")
    rows = {row["id"]: row for row in found["items"]}
    assert list(rows) == ["o-1", "f-1", "q-1"]
    assert rows["q-1"]["status"] == "completed"
    assert rows["q-1"]["completed"] >= rows["q-1"]["created"] > 1_700_000_000_000_000
    assert rows["f-1"]["reason"].endswith("card declined: 15,000.00 EUR")
    assert "step" in rows["o-1"]["custom"]
    assert "input" not in rows["o-1"]
    assert "order" in found["names"]
    counts = (await served.until(lambda value: len(value["counts"]) == 3, "counts", view="instances"))[
        "counts"
    ]
    assert counts["completed"] == {"count": 1, "more": False}


async def test_filters_and_pages(served: Any) -> None:
    for number in range(5):
        await served.end("quick", f"q-{number}", number)
    await served.start("listener", "l-1")

    async def ids(**query: Any) -> list[str]:
        return [row["id"] for row in (await served.view("instances", **query))["items"]]

    assert await ids(status="running") == ["l-1"]
    assert await ids(status="running,completed", limit=2) == ["l-1", "q-4"]
    assert await ids(name="listener") == ["l-1"]
    assert await ids(q="q-3") == ["q-3"]
    first = await served.view("instances", limit=4)
    assert await ids(limit=4, cursor=first["cursor"]) == ["q-1", "q-0"]
    times = [row["created"] // 1000 for row in (await served.view("instances"))["items"]]
    assert "l-1" not in await ids(to=times[0])
    assert await ids(**{"from": times[0] + 1000}) == []


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({}, "ERR_MALFORMED_REQUEST"),
        ({"view": "nothing"}, "ERR_MALFORMED_REQUEST"),
        ({"view": "instances", "status": "bad"}, "ERR_MALFORMED_REQUEST"),
        ({"view": "instances", "limit": "0"}, "ERR_MALFORMED_REQUEST"),
        ({"view": "instances", "limit": "201"}, "ERR_MALFORMED_REQUEST"),
        ({"view": "instances", "from": "yesterday"}, "ERR_MALFORMED_REQUEST"),
        ({"view": "instances", "to": "999999999999999"}, "ERR_MALFORMED_REQUEST"),
        ({"view": "instances", "cursor": "nonsense"}, "ERR_INVALID_INPUT"),
        ({"view": "instance"}, "ERR_INSTANCE_ID_INVALID"),
        ({"view": "instance", "id": "a/b"}, "ERR_INSTANCE_ID_INVALID"),
        ({"view": "instance", "id": "x" * 300}, "ERR_INSTANCE_ID_TOO_LONG"),
        ({"view": "actor", "id": "1"}, "ERR_ACTOR_TYPE_INVALID"),
        ({"view": "actor", "type": "Cart"}, "ERR_ACTOR_ID_INVALID"),
    ],
)
async def test_questions_that_make_no_sense(served: Any, query: dict[str, str], code: str) -> None:
    answer = await served.get("/console/view", 400, **query)
    assert answer["errorCode"] == code
    if code != "ERR_INVALID_INPUT":
        assert (await served.get("/console/events", 400, **query))["errorCode"] == code


async def test_where_a_store_cannot_count(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "Counting", type("Never", (), {}))
    monkeypatch.setattr(lists, "MAX_READ", 2)
    for number in range(3):
        await served.end("quick", f"q-{number}", number)
    await served.start("listener", "l-1")
    assert (await served.view("instances"))["counts"] == {
        "completed": {"count": 2, "more": True},
        "running": {"count": 1, "more": False},
    }


async def test_one_list_at_a_time(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when those who asked do not wait for their answers, as somebody does who types a search."""
    query = served.node.store.query
    at_once: list[int] = []
    begun, gate, running = asyncio.Event(), asyncio.Event(), 0

    async def slow(*args: Any) -> Any:
        nonlocal running
        running += 1
        at_once.append(running)
        begun.set()
        await gate.wait()
        running -= 1
        return await query(*args)

    monkeypatch.setattr(served.node.store, "query", slow)
    async with asyncio.timeout(20):
        asked = [asyncio.ensure_future(served.view("instances", q=str(number))) for number in range(3)]
        await begun.wait()
        async with aiohttp.ClientSession() as session:
            stream = await session.get(f"{served.url}/console/events?view=instances&q=gone")
            stream.close()
        gate.set()
        await asyncio.gather(*asked)
    assert set(at_once) == {1}


async def test_counts_are_bounded(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "MAX_COUNT", 2)
    for number in range(3):
        await served.end("quick", f"q-{number}", number)
    assert (await served.view("instances"))["counts"] == {"completed": {"count": 2, "more": True}}


# --- one instance ------------------------------------------------------------------------------------------------------


async def test_everything_that_is_waited_for(served: Any) -> None:
    await served.start("waits", "w-1")
    found = await served.until(
        lambda value: any(item["kind"] == "retry" for item in value["waiting"]["items"]),
        "a retry",
        view="instance",
        id="w-1",
    )
    waiting = found["waiting"]
    items = {(item["kind"], item["name"]): item for item in waiting["items"]}
    node = served.node.node_id
    ship = items["activity", "ship"]
    assert (ship["state"], ship["node"]) == ("running", node)
    unknown = items["activity", "unknown"]
    assert (unknown["state"], unknown["app"]) == ("nobody", "elsewhere")
    hour = 3_600_000_000
    timer = items["timer", ""]
    assert 2.9 * hour < timer["due"] - timer["since"] < 3.1 * hour
    assert items["wait", "approval"]["due"] is not None
    assert items["child", "listener"]["instance"] == "w-1-child"
    retry = items["retry", "down"]
    assert (retry["attempt"], retry["error"]) == (1, "ConnectionError: connection refused")
    assert 1.9 * hour < retry["due"] - retry["since"] < 2.1 * hour
    assert waiting["events"] == ["go"]
    assert (waiting["total"], waiting["nothing"], waiting["why"]) == (6, False, "")
    assert (found["owner"], found["inMemory"]) == (node, True)
    child = await served.view("instance", id="w-1-child")
    assert (child["parent"], child["parentName"], child["waiting"]["events"]) == ("w-1", "waits", ["first"])


async def test_what_is_not_in_memory_is_told_all_the_same(served: Any, eventually: Any) -> None:
    await served.start("listener", "l-1")

    async def evicted() -> bool:
        return bool(served.evict("l-1"))

    await eventually(evicted, "eviction")
    found = await served.view("instance", id="l-1")
    assert (found["inMemory"], found["waiting"]["events"], found["waiting"]["items"]) == (
        False,
        ["first"],
        [],
    )
    assert not (await served.view("instance", id="l-1"))["inMemory"]


async def test_cancelled_timers_are_not_waited_for(served: Any) -> None:
    await served.start("cancels", "c-1")
    await served.node.client.raise_workflow_event("c-1", "first")
    found = await served.until(
        lambda value: value["waiting"]["events"] == ["second"], "the second wait", view="instance", id="c-1"
    )
    # The timer itself goes on: when_any does not cancel what lost.
    assert [item["kind"] for item in found["waiting"]["items"]] == ["timer"]
    await served.node.client.terminate_workflow("c-1")
    steps = (await served.get("/console/steps", id="c-1"))["items"]
    assert [(step["kind"], step["spans"][-1]["outcome"]) for step in steps] == [
        ("started", "completed"),
        ("timer", "dropped"),
        ("wait", "raised"),
        ("terminated", "failed"),
        ("ended", "failed"),
    ]


async def test_steps_of_a_finished_instance(served: Any) -> None:
    await served.start("order", "o-1", {"cost": 12.5})
    await served.until(
        lambda value: value["waiting"]["items"][0]["kind"] == "wait", "the wait", view="instance", id="o-1"
    )
    await served.node.client.raise_workflow_event("o-1", "approval", data="Ada")
    await served.node.client.wait_for_workflow_completion("o-1", timeout=30)
    found = await served.view("instance", id="o-1")
    assert (found["status"], found["waiting"], found["steps"]) == ("completed", None, 6)
    assert json.loads(found["output"]["text"])["approved_by"] == "Ada"
    page = await served.get("/console/steps", id="o-1", start=3, limit=2)
    assert (page["start"], page["steps"]) == (3, 6)
    charge, flaky = page["items"]
    assert (charge["step"], charge["name"], charge["spans"][0]["outcome"]) == (3, "charge", "completed")
    assert charge["spans"][0]["ended"] - charge["spans"][0]["at"] >= 30_000
    assert [span["outcome"] for span in flaky["spans"]] == ["failed", "failed", "completed"]
    assert flaky["spans"][0]["error"] == "ConnectionError: the carrier does not answer"
    events = await served.get("/console/history", id="o-1", start=1, limit=2)
    assert [(event["number"], event["type"]) for event in events["items"]] == [
        (1, "TaskScheduled"),
        (2, "TaskCompleted"),
    ]
    assert json.loads(events["items"][1]["fields"]["text"]) == {"id": 0, "result": "r-1"}


async def test_a_failure(served: Any) -> None:
    await served.end("fails", "f-1")
    failure = (await served.view("instance", id="f-1"))["failure"]
    assert failure["type"] == "TaskFailedError"
    assert "broken" in failure["stack"]
    assert failure["inner"]["type"] == "NonRetriableError"


async def test_a_stalled_instance_shows_both_sides(serve: Any, tmp_path: Any) -> None:
    store = f"sqlite:///{tmp_path}/state.db"
    async with serve(store) as served:
        await served.start("listener", "l-1")
        await served.start("order", "o-1", {"cost": 1})
    async with serve(store, changed=True) as served:
        await served.node.client.raise_workflow_event("l-1", "first")
        found = await served.until(
            lambda value: value["status"] == "stalled", "the stall", view="instance", id="l-1"
        )
        assert found["stall"] == "non-determinism"
        assert found["sides"]["code"] == "the code asked for activity 'charge' (task 0)"
        assert "history ends here" in found["sides"]["history"]
        assert (found["attempts"], found["unread"]) == (1, 1)
        assert found["waiting"]["events"] is None
        [row] = (await served.view("instances", status="stalled"))["items"]
        assert "does not do what its history says" in row["reason"]


async def test_an_instance_that_is_not_there(served: Any) -> None:
    assert await served.view("instance", id="x") == {"found": False, "id": "x", "purged": False}
    await served.end("quick", "q-1", 1)
    await served.view("instance", id="q-1")
    await served.node.client.purge_workflow("q-1")
    gone = await served.view("instance", id="q-1")
    assert gone["found"] is False
    assert (await served.get("/console/steps", id="x"))["items"] == []
    assert (await served.get("/console/history", id="x"))["items"] == []


async def test_an_id_that_is_used_again(served: Any) -> None:
    await served.end("quick", "a", 1)
    first = await served.view("instance", id="a")
    await served.start("listener", "a")
    found = await served.view("instance", id="a")
    assert (found["name"], found["steps"], found["generation"]) == ("listener", 1, 2)
    assert found["executionId"] != first["executionId"]


async def test_large_payloads_are_cut(served: Any) -> None:
    await served.end("quick", "big", "x" * 200_000)
    found = await served.view("instance", id="big")
    assert (found["input"]["length"], found["input"]["cut"]) == (200_002, True)
    assert len(found["input"]["text"]) == 64 * 1024
    [started, _] = (await served.get("/console/history", id="big"))["items"]
    assert started["fields"]["cut"]
    assert started["bytes"] > 200_000
    assert len(started["fields"]["text"]) == 4 * 1024


async def test_a_long_history_is_read_once(served: Any, eventually: Any) -> None:
    await served.start("many", "m-1", 1000)

    async def grown() -> bool:
        return bool((await served.view("instance", id="m-1"))["steps"] == 1001)

    await eventually(grown, "1,001 steps")
    page = await served.get("/console/steps", id="m-1", start=900, limit=200)
    assert len(page["items"]) == 101
    assert page["items"][-1]["step"] == 1000
    reads: list[str] = []
    keys = served.node.store.keys

    async def counted(actor: Any, prefix: str = "", *more: Any) -> Any:
        reads.append(prefix)
        return await keys(actor, prefix, *more)

    served.node.store.keys = counted
    try:
        await served.view("instance", id="m-1")
        assert reads == ["metadata"]
        await served.node.client.raise_workflow_event("m-1", "end")
        await served.node.client.wait_for_workflow_completion("m-1", timeout=20)
        reads.clear()
        assert (await served.view("instance", id="m-1"))["status"] == "completed"
        assert reads.count("history-") == 1
    finally:
        del served.node.store.keys


async def test_more_waits_than_a_page_shows(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instance, "MAX_WAITS", 2)
    await served.start("waits", "w-1")
    found = await served.until(
        lambda value: value["waiting"]["total"] == 6, "all waits", view="instance", id="w-1"
    )
    assert len(found["waiting"]["items"]) == 2


async def damage(served: Any, id: str, **keys: bytes | None) -> None:
    """Writes (or deletes) keys of an instance that is not in memory, past everybody."""
    runtime = served.node.runtime
    assert served.evict(id)
    actor = runtime.engine.actor(id)
    snapshot = await served.node.store.load(actor)
    partition = partition_of(id, runtime.host.partitions)
    fence = runtime.host.owned[TypePartition(actor.type, partition)].fence
    commit = Commit(
        actor,
        partition,
        fence,
        snapshot.version,
        b"d" * 16,
        {key.replace("_", "-"): value for key, value in keys.items() if value is not None},
        delete=[key.replace("_", "-") for key, value in keys.items() if value is None],
    )
    await served.node.store.commit([commit])


async def test_a_damaged_history_shows_what_is_left(served: Any, eventually: Any) -> None:
    await served.end("quick", "q-1", 1)
    await damage(served, "q-1", history_000001=b"\xc1")
    found = await served.view("instance", id="q-1")
    assert (found["status"], found["steps"]) == ("completed", 2)
    steps = (await served.get("/console/steps", id="q-1"))["items"]
    assert [step["kind"] for step in steps] == ["started", "unreadable"]
    assert "history-000001" in steps[1]["spans"][0]["error"]
    events = (await served.get("/console/history", id="q-1"))["items"]
    assert [event["type"] for event in events] == ["ExecutionStarted", "unreadable"]


async def test_a_history_with_a_gap(served: Any) -> None:
    await served.end("quick", "q-1", 1)
    await damage(served, "q-1", history_000000=None)
    found = await served.view("instance", id="q-1")
    assert (found["trouble"], found["steps"]) == ("key history-000000 is missing", 0)


async def test_metadata_that_cannot_be_read(served: Any) -> None:
    await served.end("quick", "q-1", 1)
    await damage(served, "q-1", metadata=b"\xc1")
    found = await served.view("instance", id="q-1")
    assert found["found"]
    assert "metadata" in found["trouble"]


# --- actors, cluster ---------------------------------------------------------------------------------------------------


async def test_actors(served: Any) -> None:
    await served.node.call_actor(ActorId("Cart", "42"), "add", b'"apple"')
    types = {one["name"]: one for one in (await served.view("actors"))["types"]}
    assert types["Cart"] == {
        "name": "Cart",
        "internal": False,
        "partitions": 1024,
        "nodes": 1,
        "activations": 1,
        "here": 1,
        "ids": ["42"],
    }
    assert types[WORKFLOW]["internal"]
    found = await served.view(**CART)
    assert (found["inMemory"], found["owner"]) == (True, served.node.node_id)
    values = {one["key"]: json.loads(one["value"]["text"]) for one in found["keys"]}
    assert values == {"items": ["apple"], "owner": {"name": "Ada", "since": 2026}}
    assert [one["name"] for one in found["reminders"]] == ["checkout"]
    assert found["reminderCount"] == 1
    first = await served.view(**CART, limit=1)
    assert [one["key"] for one in first["keys"]] == ["items"]
    second = await served.view(**CART, limit=1, start=first["cursor"])
    assert [one["key"] for one in second["keys"]] == ["owner"]
    nobody = await served.view("actor", type="Cart", id="nobody")
    assert (nobody["keys"], nobody["reminders"], nobody["inMemory"]) == ([], [], False)


async def test_one_value(served: Any) -> None:
    await served.node.call_actor(ActorId("Cart", "42"), "add", json.dumps("x" * 5000).encode())
    one = {"type": "Cart", "id": "42"}
    short = next(one for one in (await served.view(**CART))["keys"] if one["key"] == "items")
    assert short["value"]["cut"]
    whole = (await served.get("/console/value", key="items", **one))["value"]
    assert (whole["cut"], json.loads(whole["text"])) == (False, ["x" * 5000])
    assert await served.get("/console/value", key="item", **one) == {"value": None}
    assert (await served.get("/console/value", 400, type="", id="1"))["errorCode"] == "ERR_ACTOR_TYPE_INVALID"


async def test_actors_of_a_namespace(tmp_path: Any) -> None:
    """Types are those of the table; that of another namespace is another type."""
    app = App("shop", namespace="prod")

    @app.actor
    class Cart(Actor):
        async def add(self) -> None:
            self.state.set("n", 1)

    async with app.serve(store="memory://", http_port=0) as node, aiohttp.ClientSession() as session:
        await node.call_actor(ActorId("Cart", "42"), "add", None)
        url = f"{node.url}/console/view"
        async with session.get(url, params={"view": "actors"}) as answer:
            names = [one["name"] for one in (await answer.json())["value"]["types"]]
        assert names == ["dapr.internal.prod.shop.workflow", "prod/Cart"]
        for kind, keys in (("prod/Cart", ["n"]), ("Cart", [])):
            async with session.get(url, params={"view": "actor", "type": kind, "id": "42"}) as answer:
                assert [one["key"] for one in (await answer.json())["value"]["keys"]] == keys


async def test_the_cluster(served: Any) -> None:
    found = await served.view("cluster")
    assert found["nodes"][0]["this"]
    assert found == (await served.get("/v1.0/cluster")) | {
        "nodes": found["nodes"],
    }


# --- streams -----------------------------------------------------------------------------------------------------------


async def test_a_stream_tells_what_becomes(served: Any) -> None:
    await served.start("listener", "l-1")
    async with stream(served, view="instance", id="l-1") as next:
        first = await next()
        assert (first["value"]["status"], first["value"]["waiting"]["events"]) == ("running", ["first"])
        assert first["now"] > first["value"]["created"]
        await served.node.client.raise_workflow_event("l-1", "first", data=1)
        assert (await next())["value"]["waiting"]["events"] == ["second"]
        await served.node.client.raise_workflow_event("l-1", "second", data=2)
        last = await next()
        assert (last["value"]["status"], last["value"]["output"]["text"]) == ("completed", "[1,2]")


async def test_a_stream_of_what_does_not_exist_yet(served: Any) -> None:
    async with stream(served, view="instance", id="q-1") as next:
        assert (await next())["value"]["found"] is False
        await served.end("quick", "q-1", 1)
        while not (value := (await next())["value"])["found"]:
            pass
        assert value["name"] == "quick"


async def test_a_list_is_kept_up_to_date(served: Any) -> None:
    async with stream(served, view="instances", status="running") as next:
        assert (await next())["value"]["items"] == []
        await served.start("listener", "l-1")
        while not (items := (await next())["value"]["items"]):
            pass
        assert items[0]["id"] == "l-1"


async def test_an_error_does_not_end_a_stream(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: Any) -> Any:
        raise StoreUnavailable

    await served.start("listener", "l-1")
    async with stream(served, view="instance", id="l-1") as next:
        assert "value" in await next()
        with monkeypatch.context() as patched:
            patched.setattr(served.node.store, "keys", away)
            assert (await next())["error"]["code"] == "ERR_STORE_UNAVAILABLE"
        assert "value" in await next()


async def test_streams_end_with_the_node(serve: Any) -> None:
    async with serve("memory://") as served:
        async with stream(served, view="cluster") as next:
            assert (await next())["value"]["nodes"]
            stopping = asyncio.ensure_future(served.node.stop())
            # Other figures may come before the end does.
            while await next() is not None:
                pass
        async with asyncio.timeout(20):
            await stopping


async def test_streams_are_limited(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.console.hub.MAX_STREAMS", 1)
    async with stream(served, view="actors") as next:
        await next()
        answer = await served.get("/console/events", 503, view="cluster")
        assert answer["errorCode"] == "ERR_TOO_MANY_STREAMS"


async def test_a_client_that_goes_is_noticed(
    served: Any, monkeypatch: pytest.MonkeyPatch, eventually: Any
) -> None:
    """And what it looked at is read no more."""
    monkeypatch.setattr(api, "HEARTBEAT", 0.02)
    hubs: list[Any] = []
    opened = api.Hub.open

    def noted(self: Any, topic: Any) -> Any:
        hubs.append(self)
        return opened(self, topic)

    monkeypatch.setattr(api.Hub, "open", noted)
    async with aiohttp.ClientSession() as session:
        answer = await session.get(f"{served.url}/console/events?view=instance&id=x")
        await answer.content.readline()
        assert hubs[0].topics == 1
        answer.close()

        async def gone() -> bool:
            return not hubs[0].topics

        await eventually(gone, "the end of the watch")


async def test_head_sends_no_stream(served: Any) -> None:
    async with served.session.head(f"{served.url}/console/events?view=cluster") as answer:
        assert (answer.status, await answer.read()) == (200, b"")


# --- the page ----------------------------------------------------------------------------------------------------------


async def test_the_page_and_its_files(served: Any) -> None:
    async with served.session.get(served.url + "/") as answer:
        assert (answer.status, answer.content_type) == (200, "text/html")
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert "require-trusted-types-for 'script'" in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "Access-Control-Allow-Origin" not in answer.headers
        tag = answer.headers["ETag"]
    async with served.session.get(served.url + "/", headers={"If-None-Match": tag}) as answer:
        assert (answer.status, await answer.read()) == (304, b"")
    for bad in ("/console/static/none.js", "/console/static/..%2f__init__.py", "/console/static/"):
        async with served.session.get(served.url + bad) as answer:
            assert answer.status == 404, bad


async def test_the_page_needs_no_token_and_its_data_does(serve: Any) -> None:
    async with serve("memory://", api_token="secret") as served:
        async with served.session.get(served.url + "/") as answer:
            assert answer.status == 200
        async with served.session.get(served.url + "/console/static/index.html") as answer:
            assert answer.status == 200
        for path in ("view?view=cluster", "events?view=cluster", "steps?id=x", "history?id=x"):
            async with served.session.get(f"{served.url}/console/{path}") as answer:
                assert answer.status == 401, path
            headers = {"dapr-api-token": "secret"}
            async with served.session.get(f"{served.url}/console/{path}", headers=headers) as answer:
                assert answer.status == 200, path
