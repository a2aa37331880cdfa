"""The page of the recipe about progress, in a real browser, behind a proxy with two replicas."""

import asyncio
import re
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from playwright.async_api import expect

from support.browser import Pages
from support.listening import listening, passed_on
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

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection."""
        try:
            await passed_on(reader, writer, self.replica)
        except ConnectionRefusedError:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(REFUSED)
            self.refused.set()


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
        page = await browser_pages.open(f"http://127.0.0.1:{await cleanup.enter_async_context(listening(proxy.serve))}")
        await page.get_by_role("button", name="Bake").click()
        await expect(page.locator("#log")).to_contain_text("loaf 3 of")

        await expect(page.locator("#state")).to_have_text("Processing")
        replicas[first].kill()
        await asyncio.wait_for(proxy.refused.wait(), PATIENCE)
        proxy.replica = second

        await expect(page.locator("#state")).to_have_text("Completed", timeout=PATIENCE * 1_000)
        await expect(page.locator("#log")).to_contain_text(f"loaf {LOAVES} of {LOAVES}")
        await browser_pages.close()
