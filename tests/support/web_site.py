"""Dashboards on loopback ports, and clusters for them: an empty one, and one with everything that pages show."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Generator
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated
from urllib.parse import quote

import uvicorn
from starlette.requests import Request
from starlette.types import ASGIApp

from peerjob import INJECTED, Context, Instance, Job, JobGroup, Limit, Node, Query, Role, Secret, State
from peerjob.model.clock import to_datetime
from support.servers import free_port
from support.waiting import until

ROLE_HEADER = "x-role"
HOSTILE = (
    """<script>alert(1)</script><img src=x onerror=alert(2)>"'`{{7919*7907}}${7919*7907}"""
    "javascript:alert(3)\x1b[31m\u202egnp.exe"
)
"""Text that would run as a script, as a template, in an attribute or in a terminal, or would show in another order."""
QUEUED = 2_000


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A started node, and the address of its dashboard."""

    node: Node
    url: str


async def by_header(request: Request) -> Role | None:
    """The role that a header names; an admin without one, and nothing for "none"."""
    name = request.headers.get(ROLE_HEADER, "admin")
    return None if name == "none" else Role[name.upper()]


class Server(uvicorn.Server):
    """A server that leaves the signals of the test run alone."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


class Serving:
    """Serves applications on free loopback ports until `close`."""

    def __init__(self) -> None:
        self._servers: list[tuple[Server, asyncio.Task[None]]] = []

    async def serve(self, app: ASGIApp) -> str:
        """Start a server; returns its address, without a slash at the end."""
        port = free_port()
        config = uvicorn.Config(
            app, port=port, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1
        )
        server = Server(config)
        self._servers.append((server, asyncio.get_running_loop().create_task(server.serve())))
        await until(lambda: server.started)
        return f"http://127.0.0.1:{port}"

    async def close(self) -> None:
        """Stop the servers; open live views end."""
        for server, task in self._servers:
            server.should_exit = True
            await task


# -- the jobs of a full cluster ----------------------------------------------------------------------------------------

jobs = JobGroup()


@jobs.job(kind="mail.send", description="Send one mail. Retried twice.", max_retries=2, tags=("mail",))
async def send(to: str, subject: str = "Hello", copies: int = 1, instance: Instance[str] = INJECTED) -> str:
    instance.log.info("sent to %s", to)
    return f"250 ok, {copies} to {to}"


@jobs.job(kind="mail.fail", description="Fails, to show errors.")
async def fail(reason: str, instance: Instance[None] = INJECTED) -> None:
    instance.log.error("gives up: %s", reason)
    raise ValueError(reason)


@jobs.job(kind="report.build", description="Build a report; runs until it is cancelled.")
async def build(pages: int, context: Context = INJECTED) -> None:
    context.progress(0.4, f"page {pages * 2 // 5} of {pages}")
    await asyncio.Event().wait()


@jobs.job(kind="bank.login", description="Takes a secret.", limits=[Limit("bank", concurrency=10, rate="100/min")])
async def login(user: str, password: Annotated[str, Secret]) -> str:
    return f"{user} is logged in"


async def fill(node: Node, *, queued: int = QUEUED) -> None:
    """Give a started node everything that pages show: states, errors, logs, progress, schedules and their ledgers."""
    mails = await node.schedule_many([send.call(f"user-{number}@example.org") for number in range(40)])
    failed = await node.schedule_many([fail.call(f"mailbox {number} is full") for number in range(12)])
    await node.schedule(login, "ada", "hunter2")
    for one in (*mails, *failed):
        await one.wait(60)
    nightly = send.with_options(cron="0 3 * * *", timezone="Europe/Berlin", name="nightly digest")
    often = send.with_options(cron="*/20 * * * *", name="digest", description="Send the digest.")
    await node.add_schedule(nightly, "all@example.org")
    schedule = await node.add_schedule(often, "all@example.org", subject="Digest")
    now = to_datetime(node.clock.time_us())
    await schedule.backfill(now - timedelta(days=1), now)
    await node.add_schedule(build.with_options(every="1s", name="reindex", overlap="skip"), 10)
    paused = await node.add_schedule(send.with_options(every="1h", name="reminder"), "all@example.org")
    await paused.pause("the mail server moves")
    await until(lambda: _runs(node, "report.build"))
    await node.schedule_many([Job("legacy.import").call(number) for number in range(queued)])
    await node.schedule(send.with_options(after="1h"), "later@example.org")


async def _runs(node: Node, kind: str) -> bool:
    return (await node.stats()).total(State.PROCESSING, kind) > 0


async def add_hostile(node: Node) -> str:
    """Put hostile text into arguments, logs, errors, tags, keys, notes and a kind; returns the id of an instance."""
    one = await node.schedule(fail.with_options(tags=(HOSTILE,), key=HOSTILE), HOSTILE)
    await one.wait(60)
    await node.schedule(Job(HOSTILE[:150]).with_options(after="1h"), HOSTILE)
    schedule = await node.add_schedule(send.with_options(every="1h", name=HOSTILE, description=HOSTILE), HOSTILE)
    await schedule.pause(HOSTILE)
    return one.id


async def pages_with(node: Node) -> list[str]:
    """The path of each page, with the latest failed instance, a running one, a schedule and a kind."""
    found = [
        *await node.lookup_instances(Query(state=State.TERMINATED, limit=1, order="desc")),
        *await node.lookup_instances(Query(state=State.PROCESSING, limit=1)),
    ]
    schedules = [quote(one.name, safe="") for one in await node.schedules()]
    kinds = [quote(one.kind, safe="") for one in await node.registered_jobs()]
    return [
        *("/", "/instances", "/schedules", "/kinds", "/limits", "/nodes", "/audit"),
        *(f"/instances/{one.id}" for one in found),
        *(f"/{page}/{name}" for name in schedules[:1] for page in ("schedules", "fires")),
        *(f"/kinds/{name}" for name in kinds[-2:-1]),
    ]
