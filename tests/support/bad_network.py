"""A network between a browser and a dashboard that delays requests and answers, loses answers, and cuts streams."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

Match = Callable[[str, str], bool]
"""Says by its method, and its path with the query, whether a request is meant."""


def to(path: str, method: str = "GET") -> Match:
    """Match requests of a method whose path begins like this."""
    return lambda asked, link: asked == method and link.startswith(path)


class CutError(Exception):
    """Raised inside the application, so that the server closes the connection."""


@dataclass(eq=False)
class Held:
    """A request that stays on its way until `release`."""

    match: Match
    early: bool
    """Whether it is held before the application sees it, or else its answer is held."""
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def release(self) -> None:
        """Let it go on."""
        self.released.set()


class BadNetwork:
    """An ASGI application in front of another one. Each rule concerns one request, in the order of the rules."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._held: list[Held] = []
        self._failing: list[tuple[Match, int]] = []
        self._streams: list[tuple[tuple[str, str], asyncio.Event]] = []
        self.opened: list[str] = []
        """The method and the link of each request."""

    def hold_request(self, match: Match) -> Held:
        """Hold the next such request before the application sees it."""
        return self._hold(match, early=True)

    def hold_answer(self, match: Match) -> Held:
        """Let the application act on the next such request, and hold its answer."""
        return self._hold(match, early=False)

    def _hold(self, match: Match, *, early: bool) -> Held:
        held = Held(match, early)
        self._held.append(held)
        return held

    def fail(self, match: Match, status: int = 503) -> None:
        """Answer the next such request as a proxy does whose server is away."""
        self._failing.append((match, status))

    def cut(self, match: Match) -> None:
        """Close the connections of such answers that are not complete."""
        for (method, link), ended in self._streams:
            if match(method, link):
                ended.set()

    def count(self, match: Match) -> int:
        """How many such requests came."""
        return sum(match(*one.split(" ", 1)) for one in self.opened)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        query = scope.get("query_string", b"").decode()
        method, link = scope["method"], f"{scope['path']}{'?' if query else ''}{query}"
        self.opened.append(f"{method} {link}")
        for rule in self._failing:
            if rule[0](method, link):
                self._failing.remove(rule)
                await PlainTextResponse("no server", rule[1])(scope, receive, send)
                return
        held = next((one for one in self._held if one.match(method, link)), None)
        if held is not None:
            self._held.remove(held)
        if held is not None and held.early:
            held.arrived.set()
            await held.released.wait()

        async def send_late(message: Message) -> None:
            if held is not None and not held.early:
                held.arrived.set()
                await held.released.wait()
            await send(message)

        cut = asyncio.Event()
        stream = (method, link), cut
        self._streams.append(stream)
        answering = asyncio.ensure_future(self.app(scope, receive, send_late))
        cutting = asyncio.ensure_future(cut.wait())
        try:
            await asyncio.wait({answering, cutting}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                raise CutError
            await answering
        finally:
            self._streams.remove(stream)
            cutting.cancel()
            answering.cancel()
