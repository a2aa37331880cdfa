"""The row by which its peers know a node."""

from __future__ import annotations

import os
import socket

from peerjob.model.record import NodeInfo
from peerjob.node.body.registry import Registry
from peerjob.version import __version__


def node_info(
    *,
    name: str,
    incarnation: str,
    kinds: tuple[str, ...],
    registry: Registry,
    workers: int,
    started_us: int,
    intake: str,
) -> NodeInfo:
    """The row of a node. A node without workers runs nothing, so its row has no kinds."""
    return NodeInfo(
        name=name,
        incarnation=incarnation,
        kinds=kinds if workers else (),
        signatures=registry.signatures() if workers else {},
        workers=workers,
        host=socket.gethostname(),
        pid=os.getpid(),
        version=__version__,
        started_us=started_us,
        intake=intake,
    )
