"""Which nodes are dialled, by the table; and the end of all links."""

from __future__ import annotations

from perdure.errors import Moved, Unavailable
from tests.actors.peers_use import Cluster
from tests.servers.proxy import CuttingProxy
from tests.waiting import eventually


async def test_a_node_that_leaves_the_table(cluster: Cluster) -> None:
    a, b = await cluster.two()
    c = await cluster.node("c")
    kept = b.keep()
    there, elsewhere = a.send("b"), a.send("c")
    assert await elsewhere.get() == b"body"
    await eventually(lambda: kept)
    a.links.table_changed()
    assert not there.values
    del cluster.table["b"]
    a.links.table_changed()
    assert type(await there.get()) is Unavailable
    assert list(a.links.describe()) == ["c"]
    assert type(await a.send("b").get()) is Moved
    assert await a.send("c").get() == b"body"
    # Its links are closed.
    await eventually(lambda: b.links.describe()["a"]["linked"] is False)
    kept[0].answer(b"late")
    assert c.messages


async def test_a_node_that_leaves_while_it_is_dialled(cluster: Cluster) -> None:
    a, b = await cluster.two()
    async with CuttingProxy(b.server.address) as proxy:
        proxy.delay = 3600
        cluster.table["b"] = proxy.address
        answer = a.send("b")
        await eventually(lambda: proxy.connections)
        del cluster.table["b"]
        a.links.table_changed()
        assert type(await answer.get()) is Moved
        assert a.links.describe() == {}
    assert b.messages == []


async def test_a_node_of_a_newer_table(cluster: Cluster) -> None:
    """It knows this node, which does not know it yet: it is served, and no older table cuts it off."""
    a, b = await cluster.two()
    del cluster.table["a"]
    await a.send("b").get()
    b.links.table_changed()
    assert await a.send("b", b"again").get() == b"again"
    # Its link can be used before its address is known.
    assert await b.send("a", b"back").get() == b"back"
    await a.stop()
    await eventually(lambda: b.links.describe() == {})


async def test_close(cluster: Cluster) -> None:
    a, b = await cluster.two()
    kept = b.keep()
    answer = a.send("b")
    await eventually(lambda: kept)
    a.links.close()
    a.links.close()
    assert type(await answer.get()) is Unavailable
    assert type(await a.send("b").get()) is Moved
    # Nor does it take anything.
    assert type(await b.send("a").get()) is Moved
    await eventually(lambda: not b.links.describe()["a"]["linked"])
    assert type(await b.send("a").get()) is Moved
    assert a.messages == []
