"""Debian's Chromium, headless, driven by Playwright: one browser for a session, and a fresh profile for each page."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from playwright.async_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    Response,
    async_playwright,
    expect,
)

from support.servers import MissingServerError

FLAGS = (
    # without them, Chromium looks up hosts of its vendor at every start
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"),
    *("--no-first-run", "--disable-gpu", "--disable-dev-shm-usage"),
)
PATIENCE_MS = 20_000
"""How long a page may take to show something, on a machine that is busy."""
AXE = Path(__file__).parent / "vendor" / "axe.min.js"
AXE_SHA256 = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
"""Of axe-core 4.14.1, `axe.min.js` of the npm package."""
WIDE, NARROW = 1280, 390


def find_chromium() -> Path:
    """The browser of the machine; raises MissingServerError."""
    for name in ("chromium", "chromium-browser", "google-chrome-stable"):
        if found := shutil.which(name):
            return Path(found)
    raise MissingServerError("no chromium on the PATH (Debian: apt-get install chromium)")


@asynccontextmanager
async def chromium() -> AsyncGenerator[Browser]:
    """Start a headless browser; raises MissingServerError."""
    program = find_chromium()
    expect.set_options(timeout=PATIENCE_MS)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        try:
            yield browser
        finally:
            await browser.close()


@dataclass
class Problems:
    """What pages did that no page may do: errors of scripts, refused content, failed requests."""

    texts: list[str] = field(default_factory=list[str])
    expected: set[int] = field(default_factory=set[int])
    """Statuses of answers that the test expects, such as 403."""

    def watch(self, page: Page) -> None:
        """Collect the problems of a page."""
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.texts.append(f"script: {error}"))
        page.on("requestfailed", self._failed)
        page.on("response", self._answered)

    def _console(self, message: ConsoleMessage) -> None:
        # the browser also reports each failed answer, which `_answered` does with its address
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            self.texts.append(f"console: {message.text}")

    def _failed(self, request: Request) -> None:
        # a page that the browser leaves ends its live view
        if request.failure and "ERR_ABORTED" not in request.failure and 0 not in self.expected:
            self.texts.append(f"request: {request.url}: {request.failure}")

    def _answered(self, response: Response) -> None:
        if response.status >= 400 and response.status not in self.expected:
            self.texts.append(f"answer: {response.status} of {response.url}")


class Pages:
    """Opens pages, each with a fresh profile, and holds that none of them had a problem."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._contexts: list[BrowserContext] = []
        self.problems = Problems()

    async def open(
        self,
        url: str | None = None,
        *,
        width: int = WIDE,
        height: int = 900,
        javascript: bool = True,
        scheme: Literal["light", "dark"] = "light",
        scale: float = 1,
        headers: dict[str, str] | None = None,
    ) -> Page:
        """Open a page with a profile of its own."""
        context = await self._browser.new_context(
            viewport={"width": round(width / scale), "height": round(height / scale)},
            device_scale_factor=scale,
            java_script_enabled=javascript,
            color_scheme=scheme,
            reduced_motion="reduce",
            locale="en-GB",
            timezone_id="UTC",
            extra_http_headers=headers,
            accept_downloads=True,
        )
        self._contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        page = await context.new_page()
        self.problems.watch(page)
        if url is not None:
            await page.goto(url)
        return page

    async def close(self) -> None:
        """Close all pages."""
        while self._contexts:
            await self._contexts.pop().close()


async def axe_findings(page: Page, *, rules: Sequence[str] = ()) -> list[str]:
    """The serious findings of axe-core on a page, by all rules or by some: the rule, and the elements."""
    source = AXE.read_text()
    assert hashlib.sha256(source.encode()).hexdigest() == AXE_SHA256, f"{AXE} is not the file of the npm package"
    # evaluated by the debugger, so that the policy of the page may forbid foreign scripts
    await page.evaluate(source)
    options: dict[str, Any] = {"resultTypes": ["violations"]}
    if rules:
        options["runOnly"] = {"type": "rule", "values": list(rules)}
    found: dict[str, Any] = await page.evaluate("options => axe.run(document, options)", options)
    return [
        f"{one['id']} ({one['impact']}): {', '.join(str(node['target'][0]) for node in one['nodes'][:5])}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    ]
