"""What a browser must not do to a dashboard: act for another site, lead away from it, or lose the path of its mount."""

from typing import Literal

import pytest
from fastapi import FastAPI
from playwright.async_api import expect
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

from peerjob import Role, SystemClock, Token, Tokens
from peerjob.web import SignIn, dashboard
from support.browser import Pages
from support.waiting import until
from support.web_site import Cluster, Serving, by_header

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.matrix("drives a browser; unit tests have what each page says and refuses"),
]


def foreign(text: str) -> Starlette:
    """Another site, with one page."""

    async def show(request: Request) -> HTMLResponse:
        return HTMLResponse(f"<!doctype html><title>foreign</title>{text}")

    return Starlette(routes=[Route("/", show)])


async def test_another_site_cannot_send_a_form(
    full_cluster: Cluster, web_serving: Serving, browser_pages: Pages
) -> None:
    browser_pages.problems.expected = {403}
    own = await browser_pages.open(f"{full_cluster.url}/schedules/digest")
    token = await own.locator('[name="form_token"]').first.get_attribute("value")
    evil = await web_serving.serve(
        foreign(
            f'<form method="post" action="{full_cluster.url}/schedules/pause">'
            f'<input name="name" value="digest"><input name="form_token" value="{token}"><button>Win</button></form>'
        )
    )
    await own.goto(evil.replace("127.0.0.1", "localhost"))
    await own.get_by_role("button", name="Win").click()
    await expect(own.get_by_text("from another site")).to_be_visible()
    assert not (await full_cluster.node.lookup_schedule("digest")).paused


async def test_another_site_cannot_show_it_in_a_frame(
    full_cluster: Cluster, web_serving: Serving, browser_pages: Pages
) -> None:
    page = await browser_pages.open()
    browser_pages.problems.expected = {0}
    await page.goto(await web_serving.serve(foreign(f'<iframe src="{full_cluster.url}/nodes"></iframe>')))
    # the console can tell of it after the page has loaded
    await until(lambda: any("frame" in one.casefold() for one in browser_pages.problems.texts))
    await until(lambda: page.frames[-1].url.startswith("chrome-error:"))
    browser_pages.problems.texts.clear()


@pytest.mark.parametrize("to", ["//evil.example/", "https://evil.example/", "/\\evil.example", "javascript:alert(1)"])
async def test_a_sign_in_leads_to_a_page_of_its_own(
    to: str, full_cluster: Cluster, web_serving: Serving, browser_pages: Pages
) -> None:
    signs_in = SignIn([Tokens([Token.of("secret-token", Role.READER, "ada")])], clock=SystemClock())
    url = await web_serving.serve(dashboard(full_cluster.node, authorize=signs_in))
    page = await browser_pages.open()
    await page.goto(f"{url}/signin?to={to}")
    await page.get_by_label("Token").fill("secret-token")
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_text("ada (reader)")).to_be_visible()
    assert page.url.startswith(f"{url}/")
    cookies = await page.context.cookies()
    assert {(one.get("httpOnly"), one.get("sameSite")) for one in cookies} == {(True, "Strict")}
    assert await page.evaluate("document.cookie") == ""


@pytest.mark.parametrize(("role", "shown"), [("link", "Kinds"), ("button", "Not allowed")])
async def test_another_site_cannot_end_a_session(
    role: Literal["link", "button"],
    shown: str,
    full_cluster: Cluster,
    web_serving: Serving,
    browser_pages: Pages,
) -> None:
    browser_pages.problems.expected = {403}
    signs_in = SignIn([Tokens([Token.of("secret-token", Role.READER, "ada")])], clock=SystemClock())
    url = await web_serving.serve(dashboard(full_cluster.node, authorize=signs_in))
    text = f'<a href="{url}/signin">Win</a><form method="post" action="{url}/signin"><button>Win</button></form>'
    evil = (await web_serving.serve(foreign(text))).replace("127.0.0.1", "localhost")
    page = await browser_pages.open(f"{url}/signin")
    await page.get_by_label("Token").fill("secret-token")
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_text("ada (reader)")).to_be_visible()
    await page.goto(evil)
    await page.get_by_role(role, name="Win").click()
    # the first answer to the link only leads to the page itself, and that navigation would interrupt the next one
    await expect(page.get_by_role("heading", name=shown)).to_be_visible()
    await page.goto(f"{url}/nodes")
    await expect(page.get_by_text("ada (reader)")).to_be_visible()


async def test_every_link_and_form_begins_with_the_path_of_the_mount(
    full_cluster: Cluster, web_serving: Serving, browser_pages: Pages
) -> None:
    app = FastAPI()
    app.mount("/ops/jobs", dashboard(full_cluster.node, authorize=by_header))
    url = await web_serving.serve(app)
    page = await browser_pages.open(f"{url}/ops/jobs/")
    paths = [
        "/",
        "/instances",
        "/schedules",
        "/schedules/digest",
        "/fires/digest",
        "/kinds",
        "/kinds/mail.send",
        "/nodes",
    ]
    for path in paths:
        await page.goto(f"{url}/ops/jobs{path}")
        links = "[...document.querySelectorAll('a[href], form[action], link[href], script[src]')]"
        found = await page.evaluate(f"{links}.map(one => one.href || one.action || one.src)")
        assert found
        assert all(one.startswith((f"{url}/ops/jobs/", f"{url}/ops/jobs#")) for one in found), (path, found)
    await page.get_by_label("workers of node-a").fill("4")
    await page.get_by_role("button", name="Resize").click()
    await expect(page).to_have_url(f"{url}/ops/jobs/nodes")
