"""Each button that a page shows is one that its reader may press, and no other is missing."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from starlette.requests import Request

from peerjob import INJECTED, Context, Instance, Job, KeyLimit, Limit, Node, Principal, Rights, Role, Signal
from peerjob.web import dashboard
from peerjob.web.pages import ROUTES
from support.dashboards import browsing, submit
from support.waiting import until

BULK = "/instances/act"
FORMS = {(route.path, "") for route in ROUTES if route.verb and route.path != BULK}.union(
    (BULK, verb) for verb in ("cancel", "retry", "clear")
)
"""The paths of the forms. One of them has a button for each of three verbs."""


class Buttons(HTMLParser):
    """The path and the verb of each button in a form of a page, and the links to further pages with forms."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: set[tuple[str, str]] = set()
        self.links: set[str] = set()
        self._action = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self._action = given.get("action", "") if given.get("method") == "post" else ""
        elif tag == "button" and self._action:
            self.found.add((self._action, given["value"] if given.get("name") == "verb" else ""))
        elif tag == "a" and given.get("class") == "button" and "again" in given["href"]:
            self.links.add(given["href"])

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._action = ""


async def wait(context: Context = INJECTED) -> None:
    await context.wait_for(Signal("approval", bool))


async def _waits(instance: Instance[Any]) -> bool:
    return (await instance.refresh()).waits_for is not None


@asynccontextmanager
async def reading(rights: Rights) -> AsyncGenerator[tuple[Node, httpx.AsyncClient, list[str]]]:
    """The dashboard as a caller with these rights sees it, and its pages that can show a button."""

    async def allow(request: Request) -> Principal:
        return Principal(name="ann", rights=rights)

    jobs = [
        Job("mail.send", str, limits=[Limit("mail", concurrency=5), KeyLimit("all")]),
        Job("mail.tick", str, cron="* * * * *", name="tick"),
        Job("mail.late", str, after="1h"),
        Job("mail.wait", wait),
    ]
    async with (
        Node("memory://", jobs=jobs, name="a") as node,
        browsing(dashboard(node, authorize=allow)) as client,
    ):
        done, late = await node.schedule("mail.send", "x"), await node.schedule("mail.late", "x")
        waits = await node.schedule("mail.wait")
        await done.wait()
        await until(lambda: _waits(waits))
        await node.add_schedule(Job("mail.tick", str).with_options(every="1h", name="paused").call())
        await (await node.lookup_schedule("paused")).pause()
        day = urlencode({"start": "2025-01-01T00:00", "end": "2025-01-01T01:00"})
        await node.pause_kind("mail.late")
        yield (
            node,
            client,
            [
                "/", "/instances", f"/instances/{done.id}", f"/instances/{late.id}",
                f"/instances/{waits.id}", "/kinds", "/kinds/mail.send",
                "/schedules", "/schedules/tick", f"/schedules/tick?{day}", "/schedules/paused", "/nodes", "/limits",
            ],
        )  # fmt: skip


async def shown(client: httpx.AsyncClient, pages: list[str]) -> set[tuple[str, str]]:
    found: set[tuple[str, str]] = set()
    while pages:
        answer = await client.get(pages.pop())
        assert answer.status_code == 200, answer.url
        page = Buttons(answer.text)
        found |= page.found
        pages += page.links
    return found & FORMS


@pytest.mark.parametrize("kinds", [(), ("mail.*",)], ids=["all kinds", "some kinds"])
@pytest.mark.parametrize("role", Role, ids=lambda role: role.name)
async def test_the_buttons_of_a_page_are_those_that_its_reader_may_press(role: Role, kinds: tuple[str, ...]) -> None:
    async with reading(Rights(role=role, kinds=kinds)) as (node, client, pages):
        buttons = await shown(client, list(pages))
        await node.drain()
        buttons |= await shown(client, ["/nodes"])
        given = {"scope": "all", "kind": "mail.send", "name": "nothing"}
        allowed: set[tuple[str, str]] = set()
        for path, verb in sorted(FORMS):
            answer = await submit(client, path, verb=verb, **given)
            assert (answer.status_code == 403) == ("needs the role" in answer.text), path
            assert ("your rights are limited to some" in answer.text) <= bool(kinds and role is Role.ADMIN), path
            if answer.status_code != 403:
                allowed.add((path, verb))
    assert buttons == allowed
    assert not kinds or not any(path.startswith("/nodes") or verb == "clear" for path, verb in buttons)
