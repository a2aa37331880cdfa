"""Shows the metrics of a node over HTTP at /metrics, and its probes at /livez, /readyz, /startupz and /drainz."""

from __future__ import annotations

import logging
from http import HTTPStatus

from peerjob.model.arguments import typed
from peerjob.model.startable import Startable
from peerjob.node.node import Node
from peerjob.node.observe.probes import Probe

from .collector import Metrics
from .http import Answer, HttpListener, Page

logger = logging.getLogger("peerjob.metrics")

PORT = 9090
PATH = "/metrics"
PROBES = {"/livez": Probe.LIVE, "/readyz": Probe.READY, "/startupz": Probe.STARTED, "/drainz": Probe.DRAINED}


async def serve_metrics(node: Node, listen: str = f"127.0.0.1:{PORT}", *, compat: bool = False) -> MetricsServer:
    """Serve the metrics of a node at http://`listen`/metrics, and its probes; returns a server to `stop()`.

    There is no access control: every client of the address can read kinds, names of nodes and schedules, and numbers,
    and nothing else. `compat` adds go-job's names. Port 0 takes a free port (see `port`). Call it before the node
    starts, so that all events are counted. Raises OptionError if it cannot listen on the address.
    """
    server = MetricsServer(Metrics(node, compat=compat), listen)
    await server.start()
    return server


class MetricsServer(Startable):
    """Shows one `Metrics` and the probes of its node. Use it with `async with`, or `start()` and `stop()` it."""

    @typed
    def __init__(self, metrics: Metrics, listen: str = f"127.0.0.1:{PORT}") -> None:
        self.metrics = metrics
        pages = {PATH: self._exposition} | {path: _probe_page(metrics.node, probe) for path, probe in PROBES.items()}
        self._http = HttpListener("metrics_listen", listen, pages, example=PORT)

    async def start(self) -> None:
        """Listen, unless it listens already; raises OptionError if it cannot listen on the address."""
        if await self._http.start():
            logger.info("metrics are at %s", self.url)

    async def stop(self) -> None:
        """Stop listening, and cancel open requests; idempotent."""
        await self._http.stop()

    @property
    def port(self) -> int:
        """The port; 0 before the start."""
        return self._http.port

    @property
    def url(self) -> str:
        """The URL to scrape."""
        return f"http://{self._http.host}:{self.port}{PATH}"

    async def _exposition(self, accept: str) -> Answer:
        content_type, body = await self.metrics.exposition(accept)
        return Answer(content_type=content_type, body=body)


def _probe_page(node: Node, probe: Probe) -> Page:
    async def page(accept: str) -> Answer:
        answer = node.probe(probe)
        return Answer(status=HTTPStatus.OK if answer.ok else HTTPStatus.SERVICE_UNAVAILABLE, body=answer.text.encode())

    return page
