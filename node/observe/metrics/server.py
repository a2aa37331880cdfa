"""What a node shows over HTTP: its metrics at /metrics, and what probes ask at /livez and its like."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Self

from peerjob.node.node import Node
from peerjob.node.observe.probes import Probe

from .collector import Metrics
from .http import Answer, HttpListener, Page

logger = logging.getLogger("peerjob.metrics")

PORT = 9090
PATH = "/metrics"
PROBES = {"/livez": Probe.LIVE, "/readyz": Probe.READY, "/startupz": Probe.STARTED, "/drainz": Probe.DRAINED}


async def serve_metrics(node: Node, listen: str = f"127.0.0.1:{PORT}", *, compat: bool = False) -> MetricsServer:
    """Serve the metrics of a node at http://`listen`/metrics, and its probes, until the answer's `stop()`.

    Nobody is asked who they are: whoever reaches the address reads kinds, numbers and node names, and nothing else.
    `compat` adds go-job's names. Port 0 takes any free one (see `port`). Call it before the node starts, so that all is
    counted. Raises OptionError for an address that cannot be had.
    """
    server = MetricsServer(Metrics(node, compat=compat), listen)
    await server.start()
    return server


class MetricsServer:
    """Shows one `Metrics` and its node's probes, as an async context manager, or with `start()` and `stop()`."""

    def __init__(self, metrics: Metrics, listen: str = f"127.0.0.1:{PORT}") -> None:
        self.metrics = metrics
        pages = {PATH: self._exposition} | {path: _probe_page(metrics.node, probe) for path, probe in PROBES.items()}
        self._http = HttpListener("metrics_listen", listen, pages, example=PORT)

    async def start(self) -> None:
        """Listen, unless it does already; raises OptionError for an address that cannot be had."""
        if await self._http.start():
            logger.info("metrics are at %s", self.url)

    async def stop(self) -> None:
        """Listen no more, and end what is being answered; idempotent."""
        await self._http.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    @property
    def port(self) -> int:
        """The port that it listens on; 0 before the start."""
        return self._http.port

    @property
    def url(self) -> str:
        """Where a scrape is to ask."""
        return f"http://{self._http.host}:{self.port}{PATH}"

    async def _exposition(self, accept: str) -> Answer:
        content_type, body = await self.metrics.exposition(accept)
        return Answer(content_type=content_type, body=body)


def _probe_page(node: Node, probe: Probe) -> Page:
    async def page(accept: str) -> Answer:
        answer = node.probe(probe)
        return Answer(status=HTTPStatus.OK if answer.ok else HTTPStatus.SERVICE_UNAVAILABLE, body=answer.text.encode())

    return page
