"""The cells of the grid: one axis at a time from a common base, plus the corners. Nothing here touches a server."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Part = Literal["verbs", "contention", "waiting", "schedules", "idle", "shards", "flows", "steps", "gates"]

ENGINES = ("redis", "valkey", "etcd", "sqlite", "memory")
CLUSTERED = ("redis", "valkey")
"""The engines that have a cluster of several shards."""
AXES: dict[str, tuple[int, ...]] = {
    "kinds": (10, 100, 1_000, 10_000),
    "nodes": (1, 3, 10, 30, 100),
    "queued": (1_000, 10_000, 100_000, 1_000_000),
    "schedules": (10, 100, 1_000, 10_000, 100_000),
    "waiting": (1, 10, 100, 1_000),
    "payload": (0, 1 << 10, 1 << 15, 1 << 18, 1 << 20),
    "namespaces": (1, 3, 6),
    "members": (10, 100, 1_000, 10_000),
    "steps": (1, 10, 100, 1_000),
    "gated": (10, 1_000, 100_000),
    "keys": (10, 1_000, 100_000),
}
QUICK: dict[str, tuple[int, ...]] = {
    "kinds": (10, 1_000),
    "nodes": (1, 3),
    "queued": (1_000, 10_000),
    "schedules": (10, 1_000),
    "waiting": (1, 10),
    "payload": (0, 1 << 15),
    "namespaces": (3,),
    "members": (10, 1_000),
    "steps": (1, 100),
    "gated": (10, 1_000),
    "keys": (10, 1_000),
}
INSTANCE_BYTES = {"redis": 700, "valkey": 600, "etcd": 3_300, "sqlite": 1_600, "memory": 4_500}
"""About how many bytes of memory (SQLite: of the disk) a queued instance without arguments takes, raised by a third."""
COPIES = {"redis": 1, "valkey": 1, "etcd": 3, "sqlite": 2, "memory": 1}
"""How often the memory holds a payload: etcd keeps it in its log, in its file's pages and in the request."""
LONG = 1_000_000
"""A queue whose filling takes minutes."""
CROWD, MANY_SCHEDULES = 100, 100_000
"""Cells with so many nodes or schedules do not wait: they run beside no cell that meters, nor beside each other."""
ETCD_QUOTA = 8 << 30
ETCD_PAYLOAD = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One measurement: an engine, what is measured, and the sizes."""

    engine: str
    part: Part
    kinds: int = 10
    nodes: int = 2
    queued: int = 1_000
    schedules: int = 0
    waiting: int = 0
    payload: int = 50
    namespaces: int = 1
    members: int = 0
    """Children of one instance."""
    steps: int = 0
    """Steps of one instance."""
    gated: int = 0
    """Instances that wait for their limit keys."""
    keys: int = 0
    """Limit keys that are in use."""

    @property
    def name(self) -> str:
        sizes = ", ".join(f"{size:,} {axis}" for axis, size in self.sizes.items() if size != getattr(_BASE, axis))
        return f"{self.engine} {self.part}: {sizes or 'base'}"

    @property
    def sizes(self) -> dict[str, int]:
        return {axis: int(getattr(self, axis)) for axis in AXES}

    @property
    def waits(self) -> bool:
        """Whether its nodes wait most of the time, so that other cells can run beside it."""
        return self.part in ("idle", "schedules") and self.nodes < CROWD and self.schedules < MANY_SCHEDULES

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


_BASE = Cell(engine="", part="verbs")


def grid(engines: Sequence[str], *, quick: bool = False) -> list[Cell]:
    """All cells of some engines, in turn of the engines: first what the goals need, the longest queues after it.

    A run that has a limit in time leaves out the last ones.
    """
    columns = [_cells(engine, QUICK if quick else AXES, quick=quick) for engine in engines]
    turns = [(turn, cell) for column in columns for turn, cell in enumerate(column)]
    return [cell for _, cell in sorted(turns, key=lambda one: (_urgency(one[1]), one[0]))]


def _urgency(cell: Cell) -> int:
    """0 for a cell of a goal, 1 if its queue is long, 2 for the other axes, 3 for the corners."""
    axes = [axis for axis, size in cell.sizes.items() if size != getattr(_BASE, axis)]
    if len(axes) > 1 and cell.part != "gates":
        return 3
    if cell.part == "verbs" and axes in ([], ["kinds"], ["queued"]):
        return 1 if cell.queued >= LONG else 0
    return 0 if (cell.part, axes) in (("idle", ["nodes"]), ("schedules", ["schedules"])) else 2


def _cells(engine: str, axes: dict[str, tuple[int, ...]], *, quick: bool) -> list[Cell]:
    verbs = Cell(engine=engine, part="verbs")
    contention = Cell(engine=engine, part="contention")
    waiting = Cell(engine=engine, part="waiting")
    idle = Cell(engine=engine, part="idle")
    gates = Cell(engine=engine, part="gates", gated=10, keys=10)
    cells = [
        *(replace(verbs, kinds=size) for size in axes["kinds"]),
        *(replace(verbs, queued=size) for size in axes["queued"]),
        *(replace(verbs, payload=size) for size in axes["payload"]),
        *(replace(contention, nodes=size) for size in axes["nodes"]),
        *(replace(waiting, waiting=size) for size in axes["waiting"]),
        *(Cell(engine=engine, part="schedules", schedules=size) for size in axes["schedules"]),
        *(replace(idle, nodes=size) for size in axes["nodes"] if size > 1),
        *(Cell(engine=engine, part="flows", members=size) for size in axes["members"]),
        *(Cell(engine=engine, part="steps", steps=size) for size in axes["steps"]),
        *(replace(gates, gated=size) for size in axes["gated"]),
        *(replace(gates, keys=size) for size in axes["keys"]),
    ]
    if engine in CLUSTERED:
        cells += [Cell(engine=engine, part="shards", namespaces=size) for size in axes["namespaces"]]
    if not quick:
        cells += [
            # the corners
            replace(verbs, kinds=10_000, queued=100_000),
            replace(verbs, kinds=1_000, queued=10_000, payload=1 << 15),
            replace(waiting, waiting=1_000, nodes=30),
            # an idle node must not pay for what is stored
            replace(idle, kinds=10_000),
            replace(idle, queued=100_000),
            replace(idle, nodes=30, kinds=1_000, schedules=10_000, queued=10_000),
        ]
    return list(dict.fromkeys(cells))


def misfit(cell: Cell, available: int) -> str | None:
    """Why a cell does not fit into so many bytes of memory or the engine's limits; None if it fits."""
    if cell.engine == "etcd" and cell.payload > ETCD_PAYLOAD:
        return f"etcd takes payloads of {ETCD_PAYLOAD:,} bytes at most"
    each = INSTANCE_BYTES[cell.engine] + COPIES[cell.engine] * cell.payload
    need = (cell.queued + cell.members + cell.gated + cell.keys) * each
    if cell.engine == "etcd" and cell.queued * (1_500 + cell.payload) > ETCD_QUOTA * 0.8:
        return f"its queue needs more than 80 % of a quota of {ETCD_QUOTA >> 30} GiB"
    if need > available * 0.7:
        return f"its queue needs about {need / 2**30:.1f} GiB, and {available / 2**30:.1f} GiB are free"
    return None
