"""What is returned is what is got on each engine, and through a client to a node on it."""

import pytest

from peerjob import Client, Node, Server
from support.division import in_matrix
from support.trips import wrong_on_the_way, wrongly_taken
from support.typed_values import JOBS


@pytest.mark.parametrize("store_url", [in_matrix("memory"), "redis", in_matrix("etcd")], indirect=True)
async def test_the_type_table(store_url: str, namespace: str) -> None:
    async with Node(store_url, jobs=JOBS, namespace=namespace) as node, Server(node, "127.0.0.1:0") as server:
        assert await wrong_on_the_way(node) == []
        assert await wrongly_taken(node) == []
        async with Client(server.target, jobs=JOBS) as client:
            assert await wrong_on_the_way(client) == []
