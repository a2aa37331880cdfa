"""A slot of a cluster, moved by hand while nodes work."""

from __future__ import annotations

from peerjob.store.lua.client.driver import prefix

from .servers import Server, ServerCluster


class Slot:
    """The slot of a namespace, moved by hand from one server to another."""

    def __init__(self, cluster: ServerCluster, namespace: str) -> None:
        self.number = int(str(cluster.nodes[0].command("CLUSTER", "KEYSLOT", prefix(namespace))))
        self.source = next(node for node in cluster.nodes if self.served_by(node))
        self.target = next(node for node in cluster.nodes if node is not self.source)
        self.nodes = cluster.nodes

    def served_by(self, node: Server) -> bool:
        """Whether a server has the slot."""
        for line in str(node.command("CLUSTER", "NODES")).splitlines():
            fields = line.split()
            if "myself" in fields[2]:
                ranges = [tuple(map(int, text.split("-"))) for text in fields[8:] if text[0] != "["]
                return any(bounds[0] <= self.number <= bounds[-1] for bounds in ranges)
        return False

    def begin(self) -> None:
        """Tell both servers that the slot moves."""
        self.target.command("CLUSTER", "SETSLOT", self.number, "IMPORTING", id_of(self.source))
        self.source.command("CLUSTER", "SETSLOT", self.number, "MIGRATING", id_of(self.target))

    def move(self, count: int) -> int:
        """Move some keys; returns how many."""
        keys = self.source.command("CLUSTER", "GETKEYSINSLOT", self.number, count)
        assert isinstance(keys, list)
        if keys:
            self.source.command("MIGRATE", "127.0.0.1", self.target.port, "", 0, 50_000, "KEYS", *map(str, keys))
        return len(keys)

    def end(self) -> None:
        """Tell all servers that the slot has moved."""
        for node in (self.target, self.source, *self.nodes):
            node.command("CLUSTER", "SETSLOT", self.number, "NODE", id_of(self.target))


def id_of(node: Server) -> str:
    """The id of a member in its cluster."""
    return str(node.command("CLUSTER", "MYID"))
