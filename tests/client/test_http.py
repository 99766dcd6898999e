"""What only happens over HTTP: nodes that are away, connections that are lost, proxies, tokens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web

from perdure import App, Node, RuntimeStatus, WorkflowClient
from perdure.client.answers import Answer, error_of
from perdure.errors import (
    ConfigurationError,
    CorruptState,
    InstanceNotFound,
    InvalidId,
    InvalidInput,
    InvalidState,
    KeyReused,
    Moved,
    NotFound,
    OutcomeUnknown,
    PayloadTooLarge,
    PerdureError,
    StoreUnavailable,
    Unauthorized,
    Unavailable,
)
from perdure.sidecar.errors import answer
from tests.servers.ports import free_port

Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Losing:
    """Stands before a node. Each request is done by it; the answers of the next `lose` ones never come back."""

    def __init__(self, target: str) -> None:
        self._target = target
        self.lose = 0
        self.seen: list[str] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        import aiohttp
        from yarl import URL

        self.seen.append(f"{request.method} {request.rel_url.raw_path}")
        url = URL(self._target + request.raw_path, encoded=True)
        async with (
            aiohttp.ClientSession() as session,
            session.request(request.method, url, data=await request.read(), headers=request.headers) as found,
        ):
            body = await found.read()
        if self.lose:
            self.lose -= 1
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        return web.Response(status=found.status, body=body, headers=_kept(found.headers))


def _kept(headers: Any) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name in ("Content-Type", "perdure-error")}


@asynccontextmanager
async def served(handle: Handle, port: int = 0) -> AsyncIterator[str]:
    """A server of its own for whatever a client asks; its URL."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def losing(node: Node) -> Losing:
    return Losing(str(node.url))


@pytest.fixture
async def client(losing: Losing) -> AsyncIterator[WorkflowClient]:
    async with served(losing.handle) as url, WorkflowClient(url) as client:
        yield client


async def test_a_start_whose_answer_is_lost_begins_one_instance(
    client: WorkflowClient, losing: Losing, node: Node
) -> None:
    """Also when it has ended, or is known by an id of the caller's, by the time it is asked again."""
    for workflow, id in (("listen", None), ("listen", "mine"), ("twice", "other:id"), ("twice", None)):
        losing.lose = 1
        before = len((await node.client.list(limit=1000)).items)
        started = await client.schedule_new_workflow(workflow, input=1, instance_id=id)
        assert len((await node.client.list(limit=1000)).items) == before + 1
        assert id in (None, started)
        state = await node.client.get(started)
        assert state is not None
        assert state.generation == 1


@pytest.mark.parametrize("lost", [1, 2])
async def test_whatever_may_come_twice_is_asked_again(
    client: WorkflowClient, losing: Losing, node: Node, lost: int
) -> None:
    id = await client.schedule_new_workflow("listen")
    await client.wait_for_workflow_start(id, timeout=30)
    for ask in (
        lambda: client.get(id),
        lambda: client.list(),
        lambda: client.history(id),
        lambda: client.pause_workflow(id),
        lambda: client.resume_workflow(id),
        lambda: client.raise_workflow_event(id, "other", event_id="e"),
        lambda: client.terminate_workflow(id, output=1),
        lambda: client.wait_for_workflow_completion(id, timeout=30),
        lambda: client.purge_workflow(id),
    ):
        losing.lose = lost
        await ask()
        assert losing.lose == 0
    assert await node.client.get(id) is None


async def test_an_event_is_not_raised_twice(client: WorkflowClient, losing: Losing, node: Node) -> None:
    """Without an id nobody can tell, and the caller is told that."""
    id = await client.schedule_new_workflow("listen")
    losing.lose, losing.seen = 1, []
    with pytest.raises(OutcomeUnknown, match="may or may not"):
        await client.raise_workflow_event(id, "other")
    assert len(losing.seen) == 1
    losing.lose = 2
    await client.raise_workflow_event(id, "other", event_id="1")
    names = [getattr(event, "name", "") for _, event in (await node.client.history(id)).items]
    assert names.count("other") == 2


async def test_purging_what_is_not_there_is_an_error_unless_the_first_answer_was_lost(
    client: WorkflowClient, losing: Losing
) -> None:
    with pytest.raises(InstanceNotFound):
        await client.purge_workflow("never")


async def test_a_node_that_comes_later(app: App, tmp_path: Any) -> None:
    """What was not sent is sent when somebody listens: events, too."""
    port, store = free_port(), f"sqlite:///{tmp_path}/state.db"
    async with WorkflowClient(f"http://127.0.0.1:{port}", retry_for=30) as client:
        starting = asyncio.create_task(client.schedule_new_workflow("listen", instance_id="x"))
        await asyncio.sleep(0)
        async with app.serve(store=store, http_port=port):
            assert await starting == "x"
        raising = asyncio.create_task(client.raise_workflow_event("x", "go", data=1))
        async with app.serve(store=store, http_port=port):
            await raising
            assert (await client.wait_for_workflow_completion("x", timeout=30)).output == 1


async def test_a_wait_goes_on_over_a_restart(app: App, tmp_path: Any) -> None:
    port, store = free_port(), f"sqlite:///{tmp_path}/state.db"
    async with WorkflowClient(f"http://127.0.0.1:{port}", retry_for=30) as client:
        async with app.serve(store=store, http_port=port) as node:
            await client.schedule_new_workflow("listen", instance_id="x")
            waiting = asyncio.create_task(client.wait_for_workflow_completion("x"))
            await node.client.wait_for_workflow_start("x", timeout=30)
        assert not waiting.done()
        async with app.serve(store=store, http_port=port) as node:
            await node.client.raise_workflow_event("x", "go", data=2)
            assert (await asyncio.wait_for(waiting, 30)).output == 2


async def test_nobody_listens() -> None:
    async with WorkflowClient(f"http://127.0.0.1:{free_port()}", retry_for=0.2) as client:
        with pytest.raises(Unavailable, match=r"no node answers at http://127\.0\.0\.1"):
            await client.get("x")
        with pytest.raises(Unavailable, match="no node answers"):
            await client.raise_workflow_event("x", "go")


# --- what stands before a node ---------------------------------------------------------------------------------------


async def test_a_busy_node_is_asked_again(node: Node) -> None:
    asked = 0

    async def busy(request: web.Request) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        if asked < 3:
            return answer(StoreUnavailable("no answer"), "ERR_START_WORKFLOW")
        return web.json_response({"instanceID": request.query["instanceID"]}, status=202)

    async with served(busy) as url, WorkflowClient(url, retry_for=30) as client:
        assert await client.schedule_new_workflow("x", instance_id="a") == "a"
        assert asked == 3
        asked = 0
        with pytest.raises(StoreUnavailable):
            await client.raise_workflow_event("a", "go")
        assert asked == 1


@pytest.mark.parametrize(
    ("status", "kind"), [(502, OutcomeUnknown), (503, Unavailable), (504, OutcomeUnknown)]
)
async def test_a_proxy_that_has_lost_its_node(status: int, kind: type[PerdureError]) -> None:
    async def proxy(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text="<html>upstream</html>", content_type="text/html")

    async with served(proxy) as url, WorkflowClient(url, retry_for=0.1) as client:
        with pytest.raises(kind, match=f"no Perdure node's: HTTP status {status}"):
            await client.schedule_new_workflow("x")


@pytest.mark.parametrize("body", ["", "[]", "<html></html>", '{"instanceID": 5}', "null", "\xff"])
async def test_something_else_that_answers(body: str) -> None:
    async def other(request: web.Request) -> web.StreamResponse:
        return web.Response(text=body)

    async with served(other) as url, WorkflowClient(url) as client:
        for ask in (lambda: client.get("x"), lambda: client.list(), lambda: client.history("x")):
            with pytest.raises(PerdureError, match="cannot be read"):
                await ask()


async def test_a_redirect_is_not_followed(node: Node) -> None:
    """The token must not go elsewhere."""

    async def elsewhere(request: web.Request) -> web.StreamResponse:
        raise web.HTTPTemporaryRedirect(f"{node.url}{request.path_qs}")

    async with served(elsewhere) as url, WorkflowClient(url) as client:
        with pytest.raises(PerdureError, match="307"):
            await client.get("x")


async def test_a_prefix_of_the_path(losing: Losing, node: Node) -> None:
    """A proxy may serve several nodes by their paths."""

    async def prefixed(request: web.Request) -> web.StreamResponse:
        assert request.path.startswith("/shop/v1.0/")
        return web.json_response({"instances": []})

    async with served(prefixed) as url, WorkflowClient(f"{url}/shop/") as client:
        assert list((await client.list()).items) == []


# --- tokens, apps, addresses -----------------------------------------------------------------------------------------


async def test_the_api_token(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    async with app.serve(store="memory://", http_port=0, api_token="a secret") as node:
        url = str(node.url)
        async with WorkflowClient(url, api_token="a secret") as client:
            assert await client.schedule_new_workflow("listen", instance_id="a b") == "a b"
        for token, said in ((None, "wants an API token"), ("wrong", "not the one")):
            async with WorkflowClient(url, api_token=token) as client:
                with pytest.raises(Unauthorized, match=said):
                    await client.get("x")
        monkeypatch.setenv("DAPR_API_TOKEN", "a secret")
        async with WorkflowClient(url) as client:
            assert await client.get("x") is None
        monkeypatch.setenv("PERDURE_API_TOKEN", "wrong")
        async with WorkflowClient(url) as client:
            with pytest.raises(Unauthorized):
                await client.get("x")


async def test_the_app_that_is_meant(node: Node) -> None:
    async with WorkflowClient(str(node.url), app_id="shop") as client:
        id = await client.schedule_new_workflow("listen", instance_id="a b")
        assert (await client.wait_for_workflow_start(id, timeout=30)).instance_id == id
        assert [state.instance_id for state in (await client.list()).items] == [id]
    async with WorkflowClient(str(node.url), app_id="bank") as client:
        for ask in (
            lambda: client.schedule_new_workflow("listen"),
            lambda: client.get(id),
            lambda: client.list(),
            lambda: client.raise_workflow_event(id, "go"),
        ):
            with pytest.raises(ConfigurationError, match="serves the app 'shop', not 'bank'"):
                await ask()
        with pytest.raises(PerdureError, match=r"this node serves dapr.internal.default.shop.workflow"):
            await client.schedule_new_workflow("listen", instance_id="c d")


@pytest.mark.parametrize(
    "server",
    [
        "",
        "localhost:3500",
        "ftp://x",
        "http://",
        "http://x:port",
        "http://x:99999",
        "http://x?a=1",
        "http://x#a",
        "http://user:secret@x",
    ],
)
def test_what_is_no_address(server: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        WorkflowClient(server)
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("token", [" x", "x\n", "é", "a\x00b"])
def test_what_is_no_token(token: str) -> None:
    with pytest.raises(ConfigurationError, match="API token"):
        WorkflowClient("http://x", api_token=token)


# --- options of a start ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", ["narrow", "a b"])
async def test_the_options_of_a_start(client: WorkflowClient, id: str) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    await client.schedule_new_workflow(
        "twice", input=1, instance_id=id, start_at=soon, tags={"team": "ä=b", "x": ""}
    )
    state = await client.get(id)
    assert state is not None
    assert (state.runtime_status, state.scheduled_at) == (RuntimeStatus.PENDING, soon)
    assert state.tags == {"team": "ä=b", "x": ""}
    assert await client.schedule_new_workflow("twice", input=2, instance_id=id, if_exists="return") == id
    await client.schedule_new_workflow("twice", input=3, instance_id=id, if_exists="replace")
    assert (await client.wait_for_workflow_completion(id, timeout=30)).output == 6
    before = datetime.now(UTC)
    await client.schedule_new_workflow(
        "twice", input=1, instance_id=id, start_at=timedelta(minutes=1, microseconds=5)
    )
    state = await client.get(id)
    assert state is not None
    assert state.scheduled_at is not None
    assert before + timedelta(minutes=1) <= state.scheduled_at <= datetime.now(UTC) + timedelta(minutes=2)


async def test_an_idempotency_key(client: WorkflowClient, losing: Losing, node: Node) -> None:
    losing.lose = 1
    id = await client.schedule_new_workflow("twice", input=1, idempotency_key="order 7 ä")
    assert await client.schedule_new_workflow("twice", input=1, idempotency_key="order 7 ä") == id
    assert await node.client.schedule_new_workflow("twice", input=1, idempotency_key="order 7 ä") == id
    with pytest.raises(KeyReused):
        await client.schedule_new_workflow("twice", input=2, idempotency_key="order 7 ä")
    for wrong in ("", "a\nb", "x" * 257):
        with pytest.raises(InvalidInput, match="idempotency key"):
            await client.schedule_new_workflow("twice", idempotency_key=wrong)


async def test_cancelling(client: WorkflowClient) -> None:
    id = await client.schedule_new_workflow("listen")
    await client.cancel_workflow(id, reason="no more")
    state = await client.wait_for_workflow_completion(id, timeout=30)
    assert state.runtime_status is RuntimeStatus.TERMINATED


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        InstanceNotFound("x"),
        InvalidId("x"),
        InvalidInput("x"),
        InvalidState("x"),
        KeyReused("x"),
        Moved("x"),
        NotFound("x"),
        OutcomeUnknown("x"),
        PayloadTooLarge("x"),
        StoreUnavailable("x"),
        CorruptState("x"),
        PerdureError("x"),
        Unavailable("x"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_comes_back_as_what_it_was(error: PerdureError) -> None:
    response = answer(error, "ERR_PAUSE_WORKFLOW")
    body = response.body
    assert isinstance(body, bytes)
    found = error_of(Answer(response.status, body, response.headers["perdure-error"]), "http://x")
    assert (type(found), found.message) == (type(error), "x")


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, InvalidInput), (404, NotFound), (409, InvalidState), (413, PayloadTooLarge), (500, PerdureError)],
)
def test_an_error_of_a_release_that_names_none(status: int, kind: type[PerdureError]) -> None:
    found = error_of(Answer(status, b'{"errorCode":"ERR_NEW","message":"m"}'), "http://x")
    assert (type(found), found.message) == (kind, "m")
