"""Finds the server of a Redis Cluster that has a namespace, by redis-py's cluster client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.exceptions import RedisClusterException

from peerjob.model.errors import StoreUnavailableError

from .address import Address

Place = tuple[str, int]


async def locate(
    prefix: str, known: Sequence[Place], address: Address, options: Mapping[str, Any]
) -> tuple[Place, list[Place]]:
    """The host and port that serve keys with this prefix, and all servers, for the next search."""
    shared = {name: value for name, value in options.items() if name not in ("db", "retry")}
    cluster = RedisCluster(
        startup_nodes=[ClusterNode(host, port) for host, port in known],
        ssl=address.tls,
        require_full_coverage=False,
        **{**shared, "socket_timeout": options["socket_connect_timeout"]},
    )
    try:
        await cluster.initialize()
        node = cluster.get_node_from_key(prefix)
        everyone = [(one.host, int(one.port)) for one in cluster.get_nodes()]
    except RedisClusterException as error:
        raise StoreUnavailableError(address.url, str(error)) from error
    finally:
        await cluster.aclose()
    if node is None:
        raise StoreUnavailableError(address.url, "no server of the cluster has the slot of this namespace")
    return (node.host, int(node.port)), everyone or list(known)
