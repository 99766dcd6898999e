"""The console's JSON: each view once, or as a stream of what it becomes; and pages of a long history."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime

from aiohttp import web

from perdure.console.hub import Hub, Topic
from perdure.console.instance import InstancePage
from perdure.console.lists import InstanceQuery, Lists
from perdure.console.subject import Subject
from perdure.errors import Unavailable
from perdure.sidecar.errors import Refusal
from perdure.sidecar.requests import checked_id, flag, malformed, text, whole
from perdure.sidecar.routes import Route, json_response
from perdure.statestore.contract import ActorId
from perdure.workflow.state import RuntimeStatus

#: Seconds between two signs of life of a stream; a client that is gone is noticed at the next one.
HEARTBEAT = 5.0
#: Seconds that a client may take to read what it was sent.
WRITE_SECONDS = 30.0
#: Rows of one page at most.
MAX_PAGE = 200
#: Times are asked for in milliseconds since 1970; this is in the year 9999.
MAX_TIME = 253_402_300_799_999
#: The last number a history event can have.
MAX_NUMBER = 10**12

VIEWS = ("instances", "instance", "actors", "actor", "cluster")
_CURSOR = re.compile(r"[\x20-\x7e]*")


class ConsoleApi:
    """`hub` is to be stopped before the server waits for its handlers."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._lists = Lists(subject)
        self._page = InstancePage(subject)
        self.hub = Hub(subject.clock)

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/console/view", self.view, "ERR_CONSOLE"),
            Route("GET", "/console/events", self.events, "ERR_CONSOLE"),
            Route("GET", "/console/steps", self.steps, "ERR_CONSOLE"),
            Route("GET", "/console/history", self.history, "ERR_CONSOLE"),
            Route("GET", "/console/value", self.value, "ERR_CONSOLE"),
        ]

    async def view(self, request: web.Request) -> web.Response:
        """What a view shows now."""
        return json_response({"now": self._subject.clock.now(), "value": await self._topic(request).read()})

    async def steps(self, request: web.Request) -> web.Response:
        return json_response(await self._page.steps(_instance(request), *_page(request)))

    async def history(self, request: web.Request) -> web.Response:
        stored = flag(request, "stored", False)
        return json_response(await self._page.events(_instance(request), *_page(request), stored=stored))

    async def value(self, request: web.Request) -> web.Response:
        return json_response(await self._lists.value(_actor(request), text(request, "key")))

    async def events(self, request: web.Request) -> web.StreamResponse:
        """The same as server-sent events: now, and again whenever it changes. The client may be slow: it gets the
        newest, not all. Ends when the node stops."""
        topic = self._topic(request)
        if self.hub.stopping:
            raise Unavailable("this node is stopping; ask again")
        if self.hub.full:
            raise Refusal(
                503, "ERR_TOO_MANY_STREAMS", "too many pages are open: this one is not kept up to date"
            )
        response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream",
                "Cache-Control": "no-store",
                # For proxies that would wait for more.
                "X-Accel-Buffering": "no",
            }
        )
        await response.prepare(request)
        if request.method != "HEAD":
            await self._send(request, response, topic)
        return response

    async def _send(self, request: web.Request, response: web.StreamResponse, topic: Topic) -> None:
        stream = self.hub.open(topic)
        try:
            while request.transport is not None and not request.transport.is_closing():
                try:
                    async with asyncio.timeout(HEARTBEAT):
                        value = await stream.next()
                except TimeoutError:
                    frame = b":\n\n"
                else:
                    if value is None:
                        return
                    # Each client needs the time at which it is told; the value is the same for all.
                    now = str(self._subject.clock.now()).encode()
                    frame = b'data: {"now":' + now + b"," + value[1:] + b"\n\n"
                async with asyncio.timeout(WRITE_SECONDS):
                    await response.write(frame)
        except (ConnectionError, TimeoutError):
            # The client is gone, or does not read.
            if request.transport is not None:
                request.transport.abort()
        finally:
            self.hub.close(topic, stream)

    # --- what is asked for -------------------------------------------------------------------------------------------

    def _topic(self, request: web.Request) -> Topic:
        view = request.query.get("view", "")
        match view:
            case "instances":
                return self._instances(request)
            case "instance":
                return self._instance(_instance(request))
            case "actors":
                return Topic("actors", self._lists.actors, 2.0)
            case "actor":
                return self._actor(request)
            case "cluster":
                return Topic("cluster", self._lists.cluster, 2.0)
        raise malformed(f"view must be one of {', '.join(VIEWS)}, not {view[:40]!r}")

    def _instances(self, request: web.Request) -> Topic:
        cursor = text(request, "cursor", limit=4096)
        if not _CURSOR.fullmatch(cursor):
            raise malformed("the cursor is not one that this list gave")
        query = InstanceQuery(
            statuses=_statuses(request),
            name=text(request, "name"),
            prefix=text(request, "q"),
            created_from=_time(request, "from"),
            created_to=_time(request, "to"),
            cursor=cursor,
            limit=whole(request, "limit", 50, 1, MAX_PAGE),
        )
        return Topic(("instances", query), lambda: self._lists.instances(query))

    def _instance(self, id: str) -> Topic:
        activations = self._subject.runtime.host.activations
        actor = self._subject.engine.actor(id)

        def version() -> bytes | None:
            activation = activations.get(actor)
            return activation.version if activation is not None else None

        return Topic(("instance", id), lambda: self._page.view(id), hint=version)

    def _actor(self, request: web.Request) -> Topic:
        actor = _actor(request)
        start = text(request, "start")
        limit = whole(request, "limit", 100, 1, MAX_PAGE)
        return Topic(("actor", actor, start, limit), lambda: self._lists.actor(actor, start, limit), 2.0)


def _instance(request: web.Request) -> str:
    return checked_id(request.query.get("id", ""), "instance id", "ERR_INSTANCE_ID")


def _actor(request: web.Request) -> ActorId:
    # A type may have its namespace before it.
    namespace, slash, kind = request.query.get("type", "").rpartition("/")
    checked_id(kind, "actor type", "ERR_ACTOR_TYPE")
    if slash:
        checked_id(namespace, "namespace", "ERR_ACTOR_TYPE")
    return ActorId(
        namespace + slash + kind, checked_id(request.query.get("id", ""), "actor id", "ERR_ACTOR_ID")
    )


def _page(request: web.Request) -> tuple[int, int]:
    return whole(request, "start", 0, 0, MAX_NUMBER), whole(request, "limit", 100, 1, MAX_PAGE)


def _time(request: web.Request, name: str) -> datetime | None:
    if name not in request.query:
        return None
    return datetime.fromtimestamp(whole(request, name, 0, 0, MAX_TIME) / 1000, UTC)


def _statuses(request: web.Request) -> tuple[str, ...]:
    found = sorted(set(text(request, "status").lower().split(",")) - {""})
    unknown = set(found) - set(RuntimeStatus)
    if unknown:
        known = ", ".join(RuntimeStatus)
        raise malformed(f"status {min(unknown)[:40]!r} does not exist; there are: {known}")
    return tuple(found)
