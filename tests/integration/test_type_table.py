"""What is returned is what is got on every store, and through a client to a node on it."""

from peerjob import Client, Node, Server
from support.trips import wrong_on_the_way, wrongly_taken
from support.typed_values import JOBS


async def test_the_type_table(store_url: str, namespace: str) -> None:
    async with Node(store_url, jobs=JOBS, namespace=namespace) as node, Server(node, "127.0.0.1:0") as server:
        assert await wrong_on_the_way(node) == []
        assert await wrongly_taken(node) == []
        async with Client(server.target, jobs=JOBS) as client:
            assert await wrong_on_the_way(client) == []
