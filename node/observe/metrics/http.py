"""Answers GET over HTTP, one request a connection, on the node's event loop: a blocked event loop does not answer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

from peerjob.model.listen_address import address_not_free, parse_listen

logger = logging.getLogger("peerjob.metrics")

MAX_HEAD = 16_384
"""Most bytes of a request; a longer request is refused."""
MAX_CONNECTIONS = 32
"""Most connections at a time. A further one closes the oldest, so that slow clients cannot keep a probe out."""
IO_TIMEOUT = 5.0
"""Seconds to receive a request, and again to send its answer."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The answer to a request."""

    status: HTTPStatus = HTTPStatus.OK
    content_type: str = "text/plain; charset=utf-8"
    body: bytes
    extra: str = ""
    """Further header lines, each with its line end."""

    def encoded(self, *, head_only: bool = False) -> bytes:
        """The bytes to send."""
        head = (
            f"HTTP/1.1 {self.status.value} {self.status.phrase}\r\nContent-Type: {self.content_type}\r\n"
            f"Content-Length: {len(self.body)}\r\n{self.extra}Connection: close\r\n\r\n"
        )
        return head.encode() + (b"" if head_only else self.body)


Page = Callable[[str], Awaitable[Answer]]
"""Answers a request for a path. The argument is the Accept header of the request, or ""."""


class HttpListener:
    """Listens on an address, and answers each path with its page.

    Errors name `option`, the setting that has the address, and show `example` as a port.
    """

    def __init__(self, option: str, listen: str, pages: Mapping[str, Page], *, example: int) -> None:
        self._option = option
        self._listen = listen
        self._pages = pages
        self.host, self._asked_port = parse_listen(option, listen, example=example)
        self._server: asyncio.Server | None = None
        self._stopping = False
        self._answering: dict[asyncio.Task[None], None] = {}
        """The open requests, the oldest first."""

    async def start(self) -> bool:
        """Listen; return False if it listens already. Raises OptionError if it cannot listen on the address."""
        if self._server is not None:
            return False
        host, self._stopping = self.host.strip("[]"), False
        try:
            self._server = await asyncio.start_server(self._connected, host, self._asked_port, limit=MAX_HEAD)
        except OSError as error:
            raise address_not_free(self._option, self._listen, error.strerror or str(error)) from None
        return True

    async def stop(self) -> None:
        """Stop listening, and cancel open requests; idempotent."""
        server, self._server = self._server, None
        if server is None:
            return
        self._stopping = True
        server.close()
        answering = list(self._answering)
        for task in answering:
            task.cancel()
        await asyncio.gather(*answering, return_exceptions=True)
        await server.wait_closed()

    @property
    def port(self) -> int:
        """The port that it listens on; 0 before the start."""
        return 0 if self._server is None else int(self._server.sockets[0].getsockname()[1])

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._stopping:
            writer.close()
            return
        if len(self._answering) >= MAX_CONNECTIONS:
            oldest = next(iter(self._answering))
            del self._answering[oldest]
            oldest.cancel()
        task = asyncio.get_running_loop().create_task(self._answer(reader, writer), name="peerjob-http")
        self._answering[task] = None
        task.add_done_callback(lambda ended: self._answering.pop(ended, None))
        # close the connection in a callback: a task that is cancelled before its first step runs no code
        task.add_done_callback(lambda _: writer.close())

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, TimeoutError, EOFError):
                async with asyncio.timeout(IO_TIMEOUT):
                    head = await _read_head(reader)
                answer = plain(HTTPStatus.BAD_REQUEST).encoded() if head is None else await self._respond(head)
                async with asyncio.timeout(IO_TIMEOUT):
                    writer.write(answer)
                    await writer.drain()
        except Exception:
            logger.exception("a request got no answer; its connection is closed")

    async def _respond(self, head: str) -> bytes:
        request, *fields = head.split("\r\n")
        parts = request.split(" ")
        if len(parts) != 3 or not parts[2].startswith("HTTP/1"):
            return plain(HTTPStatus.BAD_REQUEST).encoded()
        method, target, _ = parts
        page = self._pages.get(target.partition("?")[0])
        if page is None:
            *most, last = self._pages
            listed = f"{', '.join(most)} and {last}" if most else last
            return plain(HTTPStatus.NOT_FOUND, f"there are {listed}").encoded()
        if method not in ("GET", "HEAD"):
            return plain(HTTPStatus.METHOD_NOT_ALLOWED, extra="Allow: GET, HEAD\r\n").encoded()
        accept = ",".join(
            value.strip() for name, _, value in (field.partition(":") for field in fields) if name.lower() == "accept"
        )
        return (await page(accept)).encoded(head_only=method == "HEAD")


def plain(status: HTTPStatus, text: str = "", *, extra: str = "") -> Answer:
    """Answer with a line of text; by default the phrase of the status."""
    return Answer(status=status, body=f"{text or status.phrase}\n".encode(), extra=extra)


async def _read_head(reader: asyncio.StreamReader) -> str | None:
    """Read the request line and the header fields; None for a request that is too long."""
    try:
        return (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip("\r\n")
    except asyncio.LimitOverrunError:
        return None
