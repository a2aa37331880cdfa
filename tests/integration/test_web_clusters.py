"""Dashboards of large clusters, of several clusters, and of people with a JSON Web Token, in a real browser."""

import json
import time
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from playwright.async_api import Page, expect

from peerjob import Client, Node, Server
from peerjob.web import dashboard
from support.browser import NARROW, WIDE, Pages, axe_findings
from support.jobd import Jobd
from support.waiting import until
from support.web_site import Serving, by_header, jobs

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.matrix("drives a browser; unit tests have what each page says and refuses"),
]

OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


async def check_widths(page: Page) -> None:
    """Hold that the page is sound, and no wider than a phone."""
    assert await axe_findings(page) == []
    for width in (NARROW, WIDE):
        await page.set_viewport_size({"width": width, "height": 900})
        assert await page.evaluate(OVERFLOW) <= 0, width


async def test_a_hundred_nodes_are_shown(web_serving: Serving, browser_pages: Pages) -> None:
    store = f"memory://{uuid4().hex}"
    async with AsyncExitStack() as stack:
        nodes = [Node(store, name=f"worker-{number:03d}.eu-central.example", jobs=jobs) for number in range(100)]
        for node in nodes:
            await stack.enter_async_context(node)
        url = await web_serving.serve(dashboard(nodes[0], authorize=by_header))
        page = await browser_pages.open(f"{url}/nodes")
        await expect(page.locator("tr[data-row]")).to_have_count(100)
        await check_widths(page)
        await page.goto(f"{url}/")
        await expect(page.get_by_text("100 nodes")).to_be_visible()
        await expect(page.get_by_role("link", name="and 80 more")).to_be_visible()
        await check_widths(page)
        await page.goto(f"{url}/kinds")
        await check_widths(page)
        await page.goto(f"{url}/kinds/mail.send")
        await check_widths(page)


async def test_several_clusters_are_shown_side_by_side(
    redis_url: str, namespace: str, web_serving: Serving, browser_pages: Pages
) -> None:
    async with AsyncExitStack() as stack:
        eu = await stack.enter_async_context(Node("memory://", name="eu-1", jobs=jobs))
        far = await stack.enter_async_context(Node(redis_url, namespace=namespace, name="us-1", jobs=jobs))
        server = Server(far, "127.0.0.1:0")
        await server.start()
        stack.push_async_callback(server.stop, 0)
        us = await stack.enter_async_context(Client(server.target))
        url = await web_serving.serve(dashboard({"eu": eu, "us": us}, authorize=by_header))
        page = await browser_pages.open(f"{url}/")
        await expect(page.locator("tr[data-row]")).to_have_count(2)
        await expect(page.locator("header [aria-current]")).to_have_text("All")
        await expect(page.get_by_role("searchbox")).to_have_count(0)
        await check_widths(page)
        await page.get_by_role("link", name="us", exact=True).first.click()
        await expect(page).to_have_url(f"{url}/us/")
        await page.get_by_role("link", name="Kinds", exact=True).click()
        await page.get_by_role("link", name="mail.send").first.click()
        await page.get_by_label("to", exact=False).first.fill("ada@example.org")
        await page.get_by_role("button", name="Schedule", exact=True).click()
        await expect(page.get_by_text("Scheduled.", exact=True)).to_be_visible()
        assert page.url.startswith(f"{url}/us/instances/")
        await expect(page.locator("#state")).to_contain_text("Completed")
        await check_widths(page)
        id = page.url.rpartition("/")[2].partition("?")[0]
        await page.goto(f"{url}/us/")
        await expect(page.get_by_text("1 node", exact=True)).to_be_visible()
        await check_widths(page)
        browser_pages.problems.expected = {404}
        await page.goto(f"{url}/eu/instances/{id}")
        await expect(page.get_by_text(id).first).to_be_visible()
        await page.get_by_role("searchbox").fill(id)
        await page.keyboard.press("Enter")
        await expect(page).to_have_url(f"{url}/eu/search?q={id}")
        # the other cluster goes away
        await server.stop(0)
        gone = page.get_by_text("No node can be reached").or_(page.get_by_text("did not answer within"))

        async def seen() -> bool:
            await page.goto(f"{url}/")
            return await gone.count() > 0

        await until(seen)
        await check_widths(page)
        await page.goto(f"{url}/us/")
        await expect(page.get_by_role("alert")).to_be_visible()
        await page.goto(f"{url}/eu/")
        await expect(page.get_by_role("alert")).to_have_count(0)


async def test_people_sign_in_with_a_json_web_token(
    tmp_path: Path, redis_url: str, namespace: str, browser_pages: Pages
) -> None:
    private = generate_private_key(65537, 2048)
    public = jwt.get_algorithm_by_name("RS256").to_jwk(private.public_key(), as_dict=True)
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [{**public, "kid": "one", "use": "sig", "alg": "RS256"}]}))

    def token(seconds: float = 3600, **changed: object) -> str:
        claims = {"iss": "https://id.example", "aud": "peerjob", "sub": "ada", "exp": int(time.time() + seconds)}
        groups = [f"group-{number}" for number in range(200)]
        return jwt.encode(
            {**claims, "roles": ["ops"], "groups": groups, **changed}, private, "RS256", headers={"kid": "one"}
        )

    daemons = Jobd(tmp_path)
    try:
        child = daemons.run(
            *("--store", redis_url, "--namespace", namespace, "--web-listen", "127.0.0.1:0"),
            *("--jwt-issuer", "https://id.example", "--jwt-audience", "peerjob"),
            *("--jwt-keys", str(tmp_path / "jwks.json"), "--jwt-rights", "ops=admin"),
            *("--jwt-rights", "mail=operator;kinds=held"),
        )
        url = child.wait_for(r"dashboard \D*(http://\S+?)/?\"?(,|$)")[1]
        page = await browser_pages.open(f"{url}/kinds?x=1")
        await expect(page.get_by_label("Token")).to_be_visible()
        await check_widths(page)
        browser_pages.problems.expected = {403}
        for bad in (token(-600), token(aud="other"), token(roles=[]), "a.b.c", token()[:-6]):
            await page.get_by_label("Token").fill(bad)
            # each refusal shows the same page, so only the navigation tells it from the one before
            async with page.expect_navigation():
                await page.get_by_role("button", name="Sign in").click()
            await expect(page.get_by_role("alert")).to_be_visible()
            assert await page.evaluate(OVERFLOW) <= 0
        await check_widths(page)
        await page.get_by_label("Token").fill(f" {token()}\n")
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.get_by_text("ada (admin)")).to_be_visible()
        assert page.url == f"{url}/kinds?x=1"
        await expect(page.get_by_role("link", name="double")).to_be_visible()
        await check_widths(page)
        await page.get_by_role("button", name="Sign out").click()
        await page.get_by_label("Token").fill(token(roles=["mail"], sub="bob"))
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.get_by_text("bob (operator")).to_be_visible()
        await page.goto(f"{url}/kinds")
        await expect(page.get_by_role("link", name="held")).to_be_visible()
        assert await page.get_by_role("link", name="double").count() == 0
        # a token ends its session with its `exp`, while a page is open
        other = await browser_pages.open(f"{url}/nodes")
        await other.get_by_label("Token").fill(token(-20, sub="eve"))
        await other.get_by_role("button", name="Sign in").click()
        await expect(other.get_by_text("eve (admin)")).to_be_visible()

        async def ended() -> bool:
            await other.goto(f"{url}/nodes")
            return await other.get_by_label("Token").count() > 0

        await until(ended)
    finally:
        await browser_pages.close()
        daemons.close()
