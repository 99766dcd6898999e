"""`perdure placement` as processes on a real store: led, killed, stopped, and what it tells."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from perdure.clock import LoopClock
from perdure.placement.client import PlacementClient
from perdure.placement.member import Member
from perdure.placement.network import connector
from perdure.placement.options import PlacementOptions
from perdure.placement.table import Table
from perdure.security import Security
from tests.servers.ports import free_port
from tests.servers.redis import RedisServer, redis_server
from tests.waiting import eventually

PATIENCE = 60.0
OPTIONS = PlacementOptions(silence=10.0, takeover_grace=20.0)


class Service:
    """One process of it."""

    def __init__(self, folder: Path, store: str, *arguments: str) -> None:
        self.port, self.http = free_port(), free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.log = folder / f"{self.port}.log"
        command = [sys.executable, "-m", "perdure", "placement", "--store", store, *arguments]
        command += ["--port", str(self.port), "--http-port", str(self.http)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stderr=log, stdin=subprocess.DEVNULL)

    def ask(self, path: str) -> tuple[int, str]:
        """Status and body; status 0 while it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def about(self) -> dict[str, Any]:
        status, body = self.ask("/healthz")
        return json.loads(body) if status else {}

    def leads(self) -> bool:
        return self.about().get("state") == "leading"

    def metrics(self) -> dict[str, float]:
        _, page = self.ask("/metrics")
        lines = [line for line in page.splitlines() if line and not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    async def stopped(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return await asyncio.to_thread(self.process.wait, PATIENCE)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


class Clients:
    """The nodes, as far as placement goes."""

    def __init__(self) -> None:
        self.clock = LoopClock()
        self.all: dict[str, PlacementClient] = {}

    async def join(
        self, name: str, services: list[Service], security: Security | None = None
    ) -> PlacementClient:
        member = Member(name, f"{name}:1", "shop", "default", ("Cart",))
        connect = connector([service.address for service in services], security or Security(), self.clock)
        client = self.all[name] = PlacementClient(member, self.clock, connect, options=OPTIONS)
        client.start()
        async with asyncio.timeout(PATIENCE):
            await client.joined()
        return client

    def settled(self) -> Table | None:
        """Their table, if all have one that has them all and is the newest."""
        tables = [client.table for client in self.all.values()]
        table = tables[0]
        same = all(one is not None and one == table for one in tables)
        fresh = all(client.fresh() for client in self.all.values())
        return (
            table
            if table is not None and same and fresh and table.members.keys() == self.all.keys()
            else None
        )

    async def settle(self) -> Table:
        await eventually(lambda: self.settled() is not None, seconds=PATIENCE)
        table = self.settled()
        assert table is not None
        return table


@pytest.fixture
async def clients() -> AsyncIterator[Clients]:
    clients = Clients()
    yield clients
    for client in clients.all.values():
        client.stop()


@contextlib.contextmanager
def serving(*services: Service) -> Iterator[list[Service]]:
    try:
        yield list(services)
    finally:
        for service in services:
            service.end()


async def test_two_replicas_one_killed_one_stopped(
    tmp_path: Path, redis: RedisServer, clients: Clients
) -> None:
    with serving(*(Service(tmp_path, redis.url()) for _ in range(2))) as services:
        for name in "abc":
            await clients.join(name, services)
        before = await clients.settle()
        await eventually(lambda: sum(service.leads() for service in services) == 1, seconds=PATIENCE)
        (leading,) = [service for service in services if service.leads()]
        (standby,) = [service for service in services if service is not leading]
        assert before.leader == leading.address
        assert standby.about()["state"] == "standing by"

        await leading.stopped(signal.SIGKILL)
        await eventually(
            lambda: all(c.table and c.table.term > before.term for c in clients.all.values()), PATIENCE
        )
        after = await clients.settle()
        assert after.same_placement(before), "a change of leader moves nothing"
        assert after.leader == standby.address

        third = Service(tmp_path, redis.url())
        with serving(third):
            await eventually(lambda: third.ask("/healthz")[0] == 200, seconds=PATIENCE)
            assert await standby.stopped(signal.SIGTERM) == 0
            last = None
            for client in clients.all.values():
                client.stop()
            for name in "def":
                del clients.all[{"d": "a", "e": "b", "f": "c"}[name]]
                await clients.join(name, [third])
            last = await clients.settle()
            assert last.leader == third.address
            assert last.term > after.term


async def test_what_it_tells(tmp_path: Path, redis: RedisServer, clients: Clients) -> None:
    service = Service(tmp_path, redis.url())
    with serving(service):
        await eventually(service.leads, seconds=PATIENCE)
        first = service.metrics()
        assert first["perdure_placement_leading"] == 1
        assert first["perdure_placement_members"] == 0
        for name in "ab":
            await clients.join(name, [service])
        table = await clients.settle()
        await eventually(
            lambda: service.metrics()["perdure_placement_heartbeats_total"] > 3, seconds=PATIENCE
        )
        clients.all.pop("b").leave()
        await eventually(lambda: service.metrics()["perdure_placement_members"] == 1, seconds=PATIENCE)
        told = service.metrics()
        assert told["perdure_placement_term"] == table.term
        assert told["perdure_placement_epoch"] == table.epoch + 1
        assert told['perdure_placement_gone_total{reason="left"}'] == 1
        assert told["perdure_placement_moved_partitions_total"] >= 512
        assert told["perdure_placement_tables_total"] >= 3
        assert told["perdure_placement_store_seconds_count"] == told["perdure_placement_tables_total"]
        about = service.about()
        assert (about["members"], about["term"]) == (1, table.term)

        redis.kill()
        await eventually(lambda: service.ask("/healthz")[0] == 503, seconds=PATIENCE)
        assert "waiting for the store" in service.about()["state"]
        assert clients.all["a"].in_table, "nodes go on with the table they have"
        redis.start()
        await eventually(service.leads, seconds=PATIENCE)
        await clients.settle()
        assert await service.stopped(signal.SIGTERM) == 0
        log = service.log.read_text()
        assert f"placement at {service.address}, leading" in log
        assert "Traceback" not in log


async def test_a_token_is_asked_for(tmp_path: Path, redis: RedisServer, clients: Clients) -> None:
    service = Service(tmp_path, redis.url(), "--cluster-token", "secret")
    with serving(service):
        await eventually(service.leads, seconds=PATIENCE)
        member = Member("x", "x:1", "shop", "default", ("Cart",))
        stranger = PlacementClient(
            member, clients.clock, connector([service.address], Security(), clients.clock), options=OPTIONS
        )
        stranger.start()
        await clients.join("a", [service], Security(token="secret"))
        await eventually(lambda: "link.refused" in service.log.read_text(), seconds=PATIENCE)
        assert not stranger.connected
        assert set((await clients.settle()).members) == {"a"}
        stranger.stop()


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--store", "sqlite:///x.db"], 1, "belongs to one process"),
        (["--store", "memory://"], 1, "belongs to one process"),
        (["--store", "nothing://x"], 1, "is not the URL of a store"),
        ([], 2, "--store"),
        (["--store", "redis://x", "--ca", "nothing.pem"], 1, "PERDURE_TLS_CA"),
        (["--store", "redis://x", "--log-level", "LOUD"], 2, "--log-level"),
    ],
)
def test_what_cannot_start(tmp_path: Path, arguments: list[str], status: int, said: str) -> None:
    command = [sys.executable, "-m", "perdure", "placement", *arguments, "--port", "0", "--http-port", "0"]
    done = subprocess.run(
        command, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == status
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken(tmp_path: Path, redis: RedisServer) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "perdure", "placement", "--store", redis.url()]
        for ports in (["--port", str(port), "--http-port", "0"], ["--port", "0", "--http-port", str(port)]):
            done = subprocess.run(
                [*command, *ports], check=False, capture_output=True, text=True, timeout=PATIENCE
            )
            assert done.returncode == 1
            assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
