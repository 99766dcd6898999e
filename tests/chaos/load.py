"""What clients do during a fault run, and what they were told: the ledger that the check holds the store against."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import aiohttp

#: Seconds for one request.
PATIENCE = 10.0
WORKFLOWS = "/v1.0/workflows/dapr"
COUNTERS = 20


class Told:
    """What one instance's client knows."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.order = order
        #: The start was acknowledged; else it may have happened.
        self.started = False
        #: How often a start was tried without an answer. One of them may come late, when the instance has finished
        #: already, and then is a new start under its id: nothing in this API tells the two apart.
        self.unknown_starts = 0
        self.acknowledged: list[str] = []
        #: How often an event was tried without an answer.
        self.unknown: Counter[str] = Counter()
        #: The last event was acknowledged: the instance has all that it needs.
        self.complete = False
        self.output: Any = None

    @property
    def steps(self) -> int:
        """How many activities count in the result."""
        order = self.order
        rounds = order.get("renew", 0) + 1
        return int(order["steps"] * rounds + order.get("fan", 0) + order.get("child", 0))


class Load:
    """Clients that go on by themselves, each with one instance at a time, on any node that answers."""

    def __init__(self, urls: Callable[[], list[str]], seed: int) -> None:
        self._urls = urls
        self._seed = seed
        self._numbers = itertools.count()
        self.instances: dict[str, Told] = {}
        #: Of each counter: increments acknowledged, and tried without an answer.
        self.counted: Counter[str] = Counter()
        self.uncertain: Counter[str] = Counter()
        self.requests = 0
        self.failures = 0
        self._over = False
        self._tasks: list[asyncio.Task[None]] = []
        self._session: aiohttp.ClientSession | None = None

    async def start(self, clients: int) -> None:
        timeout = aiohttp.ClientTimeout(total=PATIENCE, connect=2)
        self._session = aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0))
        for number in range(clients):
            chance = random.Random(f"{self._seed}-client-{number}")
            work = self._walk if number % 4 else self._count
            self._tasks.append(asyncio.create_task(self._again(work, chance)))

    async def stop(self, *, within: float) -> None:
        """No new instance; those under way are seen through, as far as the time allows."""
        self._over = True
        _, late = await asyncio.wait(self._tasks, timeout=within)
        for task in late:
            task.cancel()
        for answer in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(answer, Exception):
                raise answer

    async def close(self) -> None:
        # One that is cancelled just as its request is late takes that for the request's end, and goes on.
        self._over = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def ask(
        self, method: str, path: str, body: Any = None, *, url: str | None = None
    ) -> tuple[int, Any]:
        """One try. The status is 0 when there was no answer, -1 when there was surely nobody to take it."""
        assert self._session is not None
        url = url or random.choice(self._urls())
        self.requests += 1
        data = None if body is None else json.dumps(body)
        try:
            async with self._session.request(method, f"{url}{path}", data=data) as answer:
                text = await answer.text()
                return answer.status, json.loads(text) if text else None
        except aiohttp.ClientConnectorError:
            self.failures += 1
            return -1, None
        except (aiohttp.ClientError, TimeoutError, OSError):
            self.failures += 1
            return 0, None

    async def _again(self, work: Callable[[random.Random], Any], chance: random.Random) -> None:
        while not self._over:
            await work(chance)

    # --- workflows ---------------------------------------------------------------------------------------------------

    async def _walk(self, chance: random.Random) -> None:
        id = f"walk-{next(self._numbers)}"
        order: dict[str, Any] = {"steps": chance.randint(1, 4)}
        for name, odds, most in (("renew", 0.25, 2), ("fan", 0.3, 5), ("child", 0.3, 3)):
            if chance.random() < odds:
                order[name] = chance.randint(1, most)
        told = self.instances[id] = Told(order)
        while not told.started:
            status, answer = await self.ask("POST", f"{WORKFLOWS}/walk/start?instanceID={id}", order)
            if status in (202, 409):
                told.started = True
            elif status not in (0, -1, 500, 503, 504):
                raise AssertionError(f"start of {id}: {status} {answer}")
            else:
                told.unknown_starts += status != -1
                await asyncio.sleep(0.05)
        for token in [*(f"{id}-{number}" for number in range(chance.randint(0, 3))), "end"]:
            await self._raise(id, told, token)
        told.complete = True
        await self._finished(id, told)

    async def _raise(self, id: str, told: Told, token: str) -> None:
        while True:
            status, answer = await self.ask("POST", f"{WORKFLOWS}/{id}/raiseEvent/go", token)
            if status == 202:
                told.acknowledged.append(token)
                return
            if status == 409 and told.unknown["end"]:
                return  # the earlier try has ended it
            if status not in (0, -1, 500, 503, 504):
                raise AssertionError(f"event {token} of {id}, {told.order}: {status} {answer}")
            if status != -1:
                told.unknown[token] += 1
            await asyncio.sleep(0.05)

    async def _finished(self, id: str, told: Told) -> None:
        while not self._over:
            status, answer = await self.ask("GET", f"{WORKFLOWS}/{id}/wait?timeout=5")
            if status == 200 and answer["runtimeStatus"] not in ("RUNNING", "PENDING"):
                return
            if status != 200:
                await asyncio.sleep(0.1)

    # --- actors ------------------------------------------------------------------------------------------------------

    async def _count(self, chance: random.Random) -> None:
        name = f"c{chance.randrange(COUNTERS)}"
        number = chance.randint(1, 9)
        status, answer = await self.ask("POST", f"/v1.0/actors/Counter/{name}/method/add", number)
        if status == 200:
            self.counted[name] += number
        elif status in (0, 500, 503, 504):
            # (A method that fails by its own fault is 500 too; then nothing is counted, and the run is worth nothing.)
            self.uncertain[name] += number
        elif status != -1:
            raise AssertionError(f"counter {name}: {status} {answer}")
        await asyncio.sleep(0.02)
