"""One node of the demo, in a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import logging

from peerjob import Node
from peerjob.cli.event_loop import loop_factory

from . import workload
from .children import end_with_demo

GRACE = 1.0
"""Seconds that running bodies get when the node is asked to stop."""


def main() -> None:
    """Run a node until SIGTERM, or until the demo has gone."""
    parser = argparse.ArgumentParser()
    for option in ("--store", "--namespace", "--name"):
        parser.add_argument(option, required=True)
    parser.add_argument("--workers", type=int, required=True)
    given = parser.parse_args()
    end_with_demo()
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    node = Node(given.store, jobs=workload.JOBS, workers=given.workers, namespace=given.namespace, name=given.name)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(node.run(GRACE))


if __name__ == "__main__":
    main()
