"""Take pictures of the dashboard: those of the README and the documentation, in docs/images.

With a folder as the argument, take pictures of every page there: light and dark, 1280 and 390 pixels wide. Names of
pages after the folder limit it to these pages.
"""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sqlalchemy import StaticPool, create_engine

from peerjob import Flow, Node, Query, State
from peerjob.sql import Outbox, OutboxRelay
from peerjob.web import dashboard
from support import web_site
from support.browser import NARROW, WIDE, Pages, chromium
from support.waiting import until
from support.web_site import Serving, build, by_header, fill, jobs, send

IMAGES = Path(__file__).parents[1] / "docs" / "images"


JOBS = Path(web_site.__file__)
SHOWN_PATH = """([path, shown]) => {
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) texts.currentNode.data = texts.currentNode.data.replaceAll(path, shown);
}"""


@dataclass(frozen=True, kw_only=True)
class Picture:
    name: str
    path: str
    width: int = WIDE
    scheme: Literal["light", "dark"] = "light"
    height: int = 800

    @property
    def file(self) -> str:
        narrow = "" if self.width == WIDE else f"-{self.width}"
        return f"dashboard-{self.name}{narrow}{'-dark' if self.scheme == 'dark' else ''}.png"


async def paths_of(node: Node) -> dict[str, str]:
    """Each page by its name, with an instance that failed and one that runs."""
    failed = (await node.lookup_instances(Query(state=State.TERMINATED, limit=1)))[0]
    running = (await node.lookup_instances(Query(state=State.PROCESSING, limit=1)))[0]
    return {
        "overview": "/",
        "instances": "/instances",
        "instance": f"/instances/{failed.id}",
        "running": f"/instances/{running.id}",
        "schedules": "/schedules",
        "schedule": "/schedules/digest",
        "fires": "/fires/digest",
        "kinds": "/kinds",
        "kind": "/kinds/mail.send",
        "limits": "/limits",
        "nodes": "/nodes",
        "audit": "/audit",
        "flow": f"/instances/{await add_flow(node)}",
    }


async def add_flow(node: Node) -> str:
    """Schedule a flow whose second member runs; returns its id."""
    flow = Flow("report")
    asked = [flow.add(send.call(f"{name}@example.org")) for name in ("ada", "grace")]
    built = flow.add(build.call(10), after=asked)
    flow.add(send.call("all@example.org"), after=[built])
    run = await node.schedule_flow(flow)
    await until(lambda: _builds(node, 2))  # the other one is of a schedule
    return run.id


async def _builds(node: Node, count: int) -> bool:
    return (await node.stats()).total(State.PROCESSING, "report.build") == count


def published(paths: dict[str, str]) -> list[Picture]:
    """The pictures of the README and the documentation."""
    shown = ("overview", "instances", "instance", "schedules", "kind")
    return [Picture(name=name, path=paths[name]) for name in shown] + [
        Picture(name="overview", path=paths["overview"], scheme="dark")
    ]


def every(paths: dict[str, str]) -> list[Picture]:
    """Every page, light and dark, wide and narrow."""
    return [
        Picture(name=name, path=path, width=width, scheme=scheme)
        for name, path in paths.items()
        for width in (WIDE, NARROW)
        for scheme in ("light", "dark")
    ]


async def take(pictures: Sequence[Picture], url: str, folder: Path) -> list[str]:
    """Take the pictures, each of a whole page up to a limit; returns the problems of the pages."""
    async with chromium() as browser:
        pages = Pages(browser)
        for picture in pictures:
            page = await pages.open(
                f"{url}{picture.path}", width=picture.width, height=picture.height, scheme=picture.scheme
            )
            # tracebacks name files of this checkout
            await page.evaluate(SHOWN_PATH, [str(JOBS), "/app/jobs.py"])
            await page.screenshot(path=folder / picture.file)
            await pages.close()
        return pages.problems.texts


async def _has_activity(node: Node) -> bool:
    return sum((await node.activity()).total.completed) > 0


async def main(arguments: Sequence[str]) -> int:
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    with engine.begin() as connection:
        Outbox().create_table(connection)
    relay = OutboxRelay(engine)
    async with Node("memory://", name="node-a", workers=4, jobs=jobs, allow_unknown=True, outbox=relay) as node:
        await fill(node)
        await until(lambda: _has_activity(node))
        serving = Serving()
        url = await serving.serve(dashboard(node, authorize=by_header))
        paths = await paths_of(node)
        if arguments:
            chosen = [picture for picture in every(paths) if not arguments[1:] or picture.name in arguments[1:]]
            problems = await take(chosen, url, Path(arguments[0]))
        else:
            problems = await take(published(paths), url, IMAGES)
        await serving.close()
        await node.stop(0)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    target = Path(sys.argv[1]) if sys.argv[1:] else IMAGES
    target.mkdir(parents=True, exist_ok=True)
    sys.exit(asyncio.run(main(sys.argv[1:])))
