"""The page of the recipe about progress, in a real browser, behind a proxy with two replicas."""

import asyncio
import re
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import expect

from support.browser import Pages
from support.pages import DOCS, files
from support.processes import ChildProcess
from support.servers import StartServer, free_port
from support.waiting import PATIENCE

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.matrix("drives a browser; unit tests have what each page says and refuses"),
]

RECIPE = DOCS / "cookbook" / "progress.md"
LOAVES = 100
REFUSED = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Proxy:
    """Passes connections to one replica until it changes to another, and answers 502 while its replica is dead."""

    def __init__(self, replica: int) -> None:
        self.replica = replica
        self.refused = asyncio.Event()

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[str]:
        """The address of the proxy."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            from_replica, to_replica = await asyncio.open_connection("127.0.0.1", self.replica)
        except ConnectionRefusedError:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(REFUSED)
            writer.close()
            self.refused.set()
            return
        await asyncio.gather(_copy(reader, to_replica), _copy(from_replica, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def test_the_page_of_a_recipe_shows_a_job_to_its_end_although_its_replica_is_killed(
    start_server: StartServer, browser_pages: Pages, tmp_path: Path
) -> None:
    for name, code in files(RECIPE).items():
        tmp_path.joinpath(name).write_text(code)
    shown = re.search(r"```html\n(.*?)```", RECIPE.read_text(), re.DOTALL)
    assert shown is not None
    tmp_path.joinpath("page.html").write_text(shown[1].replace("'/jobs'", f"'/jobs?loaves={LOAVES}'"))
    async with AsyncExitStack() as cleanup:
        env = {"PEERJOB_STORE": start_server("redis").url}
        replicas: dict[int, ChildProcess] = {}
        for port in (free_port(), free_port()):
            command: list[str | Path] = [Path(sys.executable).with_name("uvicorn"), "bakery:app", "--port", str(port)]
            replicas[port] = cleanup.enter_context(
                ChildProcess(command, output=tmp_path / f"replica-{port}", env=env, cwd=tmp_path)
            )
            await replicas[port].line("running on")
        first, second = replicas
        proxy = Proxy(first)
        browser_pages.problems.expected |= {0, 502}
        page = await browser_pages.open(await cleanup.enter_async_context(proxy.serving()))
        await page.get_by_role("button", name="Bake").click()
        await expect(page.locator("#log")).to_contain_text("loaf 3 of")

        assert await page.locator("#state").text_content() == "Processing"
        replicas[first].kill()
        await asyncio.wait_for(proxy.refused.wait(), PATIENCE)
        proxy.replica = second

        await expect(page.locator("#state")).to_have_text("Completed", timeout=PATIENCE * 1_000)
        await expect(page.locator("#log")).to_contain_text(f"loaf {LOAVES} of {LOAVES}")
        await browser_pages.close()
