"""Answers GET over HTTP on the node's own loop, one answer a connection: a loop that stalls answers nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

from peerjob.model.errors import OptionError
from peerjob.node.observe.listen_address import parse_listen

logger = logging.getLogger("peerjob.metrics")

MAX_HEAD = 16_384
"""Most bytes of a request."""
MAX_CONNECTIONS = 32
"""Most requests at a time; more are refused."""
PATIENCE = 5.0
"""Seconds in which a request must be there, and in which its answer must be taken."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What is answered to a request."""

    status: HTTPStatus = HTTPStatus.OK
    content_type: str = "text/plain; charset=utf-8"
    body: bytes
    extra: str = ""
    """Further lines of the head, each with its end."""

    def encoded(self, *, head_only: bool = False) -> bytes:
        """As it is sent."""
        head = (
            f"HTTP/1.1 {self.status.value} {self.status.phrase}\r\nContent-Type: {self.content_type}\r\n"
            f"Content-Length: {len(self.body)}\r\n{self.extra}Connection: close\r\n\r\n"
        )
        return head.encode() + (b"" if head_only else self.body)


Page = Callable[[str], Awaitable[Answer]]
"""Answers a request for a path; is given its Accept header, or ""."""


class HttpListener:
    """Listens on an address, and answers with the page of each path.

    `option` is what the address was given as, for errors; `example` a port to show in them.
    """

    def __init__(self, option: str, listen: str, pages: Mapping[str, Page], *, example: int) -> None:
        self._option = option
        self._listen = listen
        self._pages = pages
        self.host, self._asked_port = parse_listen(option, listen, example=example)
        self._server: asyncio.Server | None = None
        self._stopping = False
        self._answering: set[asyncio.Task[None]] = set()

    async def start(self) -> bool:
        """Listen, unless it does already (False); raises OptionError for an address that cannot be had."""
        if self._server is not None:
            return False
        host, self._stopping = self.host.strip("[]"), False
        try:
            self._server = await asyncio.start_server(self._connected, host, self._asked_port, limit=MAX_HEAD)
        except OSError as error:
            raise OptionError(
                self._option,
                self._listen,
                f"an address of this machine that nobody else listens on ({error.strerror or error})",
            ) from None
        return True

    async def stop(self) -> None:
        """Listen no more, and end what is being answered; idempotent."""
        server, self._server = self._server, None
        if server is None:
            return
        self._stopping = True
        server.close()
        for task in self._answering:
            task.cancel()
        await asyncio.gather(*self._answering, return_exceptions=True)
        await server.wait_closed()

    @property
    def port(self) -> int:
        """The port that it listens on; 0 before the start."""
        return 0 if self._server is None else int(self._server.sockets[0].getsockname()[1])

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._stopping or len(self._answering) >= MAX_CONNECTIONS:
            writer.close()
            return
        task = asyncio.get_running_loop().create_task(self._answer(reader, writer), name="peerjob-http")
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)
        # also when it is cancelled before its first step, and so runs none of its own clean-up
        task.add_done_callback(lambda _: writer.close())

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, TimeoutError, EOFError):
                async with asyncio.timeout(PATIENCE):
                    head = await _read_head(reader)
                answer = plain(HTTPStatus.BAD_REQUEST).encoded() if head is None else await self._respond(head)
                async with asyncio.timeout(PATIENCE):
                    writer.write(answer)
                    await writer.drain()
        except Exception:
            logger.exception("a request could not be answered")

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
            value.strip() for name, _, value in (one.partition(":") for one in fields) if name.lower() == "accept"
        )
        return (await page(accept)).encoded(head_only=method == "HEAD")


def plain(status: HTTPStatus, text: str = "", *, extra: str = "") -> Answer:
    """A line of text; by default what the status means."""
    return Answer(status=status, body=f"{text or status.phrase}\n".encode(), extra=extra)


async def _read_head(reader: asyncio.StreamReader) -> str | None:
    """A request's line and fields; None for one that is too long, or no text."""
    try:
        return (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip("\r\n")
    except asyncio.LimitOverrunError:
        return None
