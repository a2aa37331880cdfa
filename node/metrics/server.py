"""Answers scrapes over HTTP, on the node's own loop: GET /metrics, one answer a connection."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from http import HTTPStatus
from typing import Self

from peerjob.errors import OptionError
from peerjob.node.listening import parse_listen
from peerjob.node.node import Node

from .collector import Metrics

logger = logging.getLogger("peerjob.metrics")

PORT = 9090
PATH = "/metrics"
MAX_HEAD = 16_384
"""Most bytes of a request."""
MAX_CONNECTIONS = 32
"""Most scrapes at a time; more are refused."""
PATIENCE = 5.0
"""Seconds in which a request must be there, and in which its answer must be taken."""


async def serve_metrics(node: Node, listen: str = f"127.0.0.1:{PORT}", *, compat: bool = False) -> MetricsServer:
    """Serve the metrics of a node at http://`listen`/metrics until the answer's `stop()`.

    Nobody is asked who they are: whoever reaches the address reads kinds, numbers and node names, and nothing else.
    `compat` adds go-job's names. Port 0 takes any free one (see `port`). Call it before the node starts, so that all is
    counted. Raises OptionError for an address that cannot be had.
    """
    server = MetricsServer(Metrics(node, compat=compat), listen)
    await server.start()
    return server


class MetricsServer:
    """Shows one `Metrics`, as an async context manager, or with `start()` and `stop()`."""

    def __init__(self, metrics: Metrics, listen: str = f"127.0.0.1:{PORT}") -> None:
        self.metrics = metrics
        self._listen = listen
        self._host, self._asked_port = parse_listen("metrics_listen", listen, example=PORT)
        self._server: asyncio.Server | None = None
        self._answering: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen, unless it does already; raises OptionError for an address that cannot be had."""
        if self._server is not None:
            return
        host = self._host.strip("[]")
        try:
            self._server = await asyncio.start_server(self._connected, host, self._asked_port, limit=MAX_HEAD)
        except OSError as error:
            raise OptionError(
                "metrics_listen",
                self._listen,
                f"an address of this machine that nobody else listens on ({error.strerror or error})",
            ) from None
        logger.info("metrics are at %s", self.url)

    async def stop(self) -> None:
        """Listen no more, and end what is being answered; idempotent."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for task in self._answering:
            task.cancel()
        await asyncio.gather(*self._answering, return_exceptions=True)
        await server.wait_closed()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    @property
    def port(self) -> int:
        """The port that it listens on; 0 before the start."""
        return 0 if self._server is None else int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        """Where a scrape is to ask."""
        return f"http://{self._host}:{self.port}{PATH}"

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._answering) >= MAX_CONNECTIONS:
            writer.close()
            return
        task = asyncio.get_running_loop().create_task(self._answer(reader, writer), name="peerjob-scrape")
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, TimeoutError, EOFError):
                async with asyncio.timeout(PATIENCE):
                    head = await _read_head(reader)
                answer = _plain(HTTPStatus.BAD_REQUEST) if head is None else await self._respond(head)
                async with asyncio.timeout(PATIENCE):
                    writer.write(answer)
                    await writer.drain()
        except Exception:
            logger.exception("a scrape could not be answered")
        finally:
            writer.close()

    async def _respond(self, head: str) -> bytes:
        request, *fields = head.split("\r\n")
        parts = request.split(" ")
        if len(parts) != 3 or not parts[2].startswith("HTTP/1"):
            return _plain(HTTPStatus.BAD_REQUEST)
        method, target, _ = parts
        if target.partition("?")[0] != PATH:
            return _plain(HTTPStatus.NOT_FOUND, f"the metrics are at {PATH}")
        if method not in ("GET", "HEAD"):
            return _plain(HTTPStatus.METHOD_NOT_ALLOWED, allow=True)
        accept = ",".join(
            value.strip() for name, _, value in (one.partition(":") for one in fields) if name.lower() == "accept"
        )
        content_type, body = await self.metrics.exposition(accept)
        answer = _response(HTTPStatus.OK, content_type, body)
        return answer if method == "GET" else answer[: -len(body)]


async def _read_head(reader: asyncio.StreamReader) -> str | None:
    """A request's line and fields; None for one that is too long, or no text."""
    try:
        return (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip("\r\n")
    except asyncio.LimitOverrunError:
        return None


def _plain(status: HTTPStatus, text: str = "", *, allow: bool = False) -> bytes:
    body = f"{text or status.phrase}\n".encode()
    return _response(status, "text/plain; charset=utf-8", body, extra="Allow: GET, HEAD\r\n" if allow else "")


def _response(status: HTTPStatus, content_type: str, body: bytes, *, extra: str = "") -> bytes:
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
        f"{extra}Connection: close\r\n\r\n"
    )
    return head.encode() + body
