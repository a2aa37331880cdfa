"""The dashboard on a slow network: answers that come late, in another order, or not at all."""

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from playwright.async_api import Page, Route, expect

from peerjob import Job, Node, Query, Role, State, SystemClock, Token, Tokens
from peerjob.web import SignIn, dashboard
from support.bad_network import BadNetwork, to
from support.browser import Pages
from support.waiting import until
from support.web_site import Serving, by_header, jobs

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.matrix("drives a browser; unit tests have what each page says and refuses"),
]

SIGNAL = "/static/icon.svg?signal="
"""A request by which a page and its test tell each other how far they are."""


def signing_in() -> SignIn:
    return SignIn([Tokens([Token.of("secret-token", Role.OPERATOR, "ada")])], clock=SystemClock())


async def enter(page: Page) -> None:
    await page.get_by_label("Token").fill("secret-token")
    await page.get_by_role("button", name="Sign in").click()


@asynccontextmanager
async def opening(links: dict[Page, str]) -> AsyncGenerator[None]:
    """Open links at the same time; they are open after the block."""
    asked = [asyncio.ensure_future(page.goto(link)) for page, link in links.items()]
    try:
        yield
        await asyncio.gather(*asked)
    finally:
        for one in asked:
            one.cancel()


async def test_a_late_page_of_the_sign_in_does_not_sign_out(web_serving: Serving, browser_pages: Pages) -> None:
    async with Node("memory://", jobs=jobs) as node:
        network = BadNetwork(dashboard(node, authorize=signing_in()))
        url = await web_serving.serve(network)
        page = await browser_pages.open()
        other = await page.context.new_page()
        # both pages are asked for before the browser has a cookie
        first, late = (network.hold_answer(to(f"/signin?to=%2F{name}")) for name in ("nodes", "kinds"))
        async with opening({page: f"{url}/nodes", other: f"{url}/kinds"}):
            await first.arrived.wait()
            await late.arrived.wait()
            first.release()
            await enter(page)
            await expect(page.get_by_text("ada (operator)")).to_be_visible()
            late.release()
        await expect(other.get_by_label("Token")).to_be_visible()
        await page.reload()
        await expect(page.get_by_text("ada (operator)")).to_be_visible()
        await enter(other)
        await expect(other.get_by_text("ada (operator)")).to_be_visible()
        assert other.url == f"{url}/kinds"


async def test_a_form_is_kept_while_its_reader_signs_in_again(web_serving: Serving, browser_pages: Pages) -> None:
    browser_pages.problems.expected = {403}
    async with Node("memory://", jobs=jobs) as node:
        network = BadNetwork(dashboard(node, authorize=signing_in()))
        url = await web_serving.serve(network)
        page = await browser_pages.open(f"{url}/kinds/mail.send")
        await enter(page)
        await page.locator('[name="arg.to"]').fill("ada@example.org")
        # the server starts again, and its sessions are gone
        network.app = dashboard(node, authorize=signing_in())
        await page.get_by_role("button", name="Schedule", exact=True).click()
        await expect(page.get_by_role("alert")).to_contain_text("You are signed out, so nothing was done.")
        async with page.context.expect_page() as opened:
            await page.get_by_role("link", name="Sign in").click()
        other = await opened.value
        await enter(other)
        await expect(other.get_by_text("ada (operator)")).to_be_visible()
        await page.go_back()
        await expect(page.locator('[name="arg.to"]')).to_have_value("ada@example.org")
        await page.get_by_role("button", name="Schedule", exact=True).click()
        await expect(page.get_by_role("status")).to_have_text("Scheduled.")
        assert await node.count() == 1


async def test_forms_of_pages_that_were_opened_at_once_act(web_serving: Serving, browser_pages: Pages) -> None:
    async with Node("memory://", jobs=jobs) as node:
        await node.add_schedule(node.job("mail.send").with_options(every="1h", name="digest"), "x")
        network = BadNetwork(dashboard(node, authorize=by_header))
        url = await web_serving.serve(network)
        page = await browser_pages.open()
        tabs = [page, *[await page.context.new_page() for _ in range(2)]]
        held = [network.hold_answer(to(f"/schedules/digest?tab={number}")) for number in range(3)]
        async with opening({tab: f"{url}/schedules/digest?tab={number}" for number, tab in enumerate(tabs)}):
            for one in held:
                await one.arrived.wait()
            for one in held:
                one.release()
        for number, tab in enumerate(tabs):
            await tab.get_by_role("button", name="Trigger one instance now").click()
            await expect(tab.get_by_role("status")).to_have_text("The schedule made this instance.")
            assert await node.count() == number + 1


async def test_a_notice_waits_for_the_page_of_its_form(web_serving: Serving, browser_pages: Pages) -> None:
    async with Node("memory://", jobs=jobs) as node:
        one = await node.schedule("report.build", 5)
        await node.add_schedule(node.job("mail.send").with_options(every="1h", name="a:b/ü?"), "x")
        network = BadNetwork(dashboard(node, authorize=by_header))
        url = await web_serving.serve(network)
        page = await browser_pages.open(f"{url}/instances/{one.id}")
        other = await page.context.new_page()
        await other.goto(f"{url}/schedules")
        await other.get_by_role("link", name="a:b/ü?").click()
        slow = network.hold_request(to(f"/instances/{one.id}"))
        await page.get_by_role("button", name="Cancel").evaluate("one => { one.click(); }")
        await slow.arrived.wait()
        # another page of the same browser comes in between, then the notice of another form
        await other.reload()
        await expect(other.get_by_role("status")).to_have_count(0)
        await other.get_by_role("button", name="Pause").click()
        await expect(other.get_by_role("status")).to_have_text("The schedule is paused.")
        slow.release()
        await expect(page.get_by_role("status")).to_have_text("Cancelled.")
        for tab in (page, other):
            await tab.reload()
            await expect(tab.locator("h1")).to_be_visible()
            await expect(tab.get_by_role("status")).to_have_count(0)


async def test_times_are_right_if_the_script_comes_late(web_serving: Serving, browser_pages: Pages) -> None:
    async with Node("memory://", jobs=jobs) as node:
        network = BadNetwork(dashboard(node, authorize=by_header))
        url = await web_serving.serve(network)
        one = await node.schedule("report.build", 5)
        page = await browser_pages.open()
        late = network.hold_answer(to("/static/app.js"))
        begun = node.clock.elapsed()
        async with opening({page: f"{url}/instances/{one.id}"}):
            await late.arrived.wait()
            await until(lambda: node.clock.elapsed() - begun > 8)
            late.release()
        await until(lambda: network.count(to("/live/instances")) == 1)
        shown = await page.locator("dl.facts time").first.inner_text()
        assert re.fullmatch(r"([89]|\d\d)s ago", shown), shown


async def test_a_live_view_comes_back_after_an_answer_without_it(web_serving: Serving, browser_pages: Pages) -> None:
    browser_pages.problems.expected = {0, 502}
    async with Node("memory://", jobs=jobs, workers=0) as node:
        network = BadNetwork(dashboard(node, authorize=by_header))
        page = await browser_pages.open(await web_serving.serve(network))
        await until(lambda: network.count(to("/live/overview")) == 1)
        network.fail(to("/live/overview"), 502)
        network.cut(to("/live/"))
        await expect(page.get_by_role("alert")).to_contain_text("does not update")
        await node.schedule("mail.send", "x")
        await expect(page.locator("#tiles")).to_contain_text("1 Queued", timeout=60_000)
        await expect(page.get_by_role("alert")).to_have_count(0)


async def test_a_step_without_an_answer_is_told_and_continues(web_serving: Serving, browser_pages: Pages) -> None:
    browser_pages.problems.expected = {0}
    async with Node("memory://", jobs=jobs, allow_unknown=True) as node:
        await node.schedule_many([Job("legacy.import").call(number) for number in range(1_200)])
        page = await browser_pages.open(f"{await web_serving.serve(dashboard(node, authorize=by_header))}/instances")
        steps = list[str]()

        async def lose(route: Route) -> None:
            if route.request.headers.get("hx-request"):
                steps.append(route.request.url)
                if len(steps) == 1:
                    await route.fetch()  # the step is done, and its answer lost
                    await route.abort("connectionreset")
                    return
            await route.continue_()

        await page.route("**/instances/act", lose)
        await page.get_by_label("Which instances").select_option(label="all that match")
        await page.get_by_role("button", name="Cancel").click()
        await page.get_by_role("button", name="Cancel").click()
        await expect(page.get_by_role("alert")).to_contain_text("no answer")
        await page.get_by_role("button", name="Continue").click()
        await expect(page.locator("h1")).to_have_text("Cancelled: 1,200")
        await expect(page.get_by_role("alert")).to_have_count(0)
        assert await node.count(Query(state=State.CANCELLED)) == 1_200
        browser_pages.problems.texts.clear()  # what htmx tells of the lost answer


async def test_a_form_whose_answer_the_reader_stopped_can_be_sent_again(
    web_serving: Serving, browser_pages: Pages
) -> None:
    browser_pages.problems.expected = {0}
    async with Node("memory://", jobs=jobs) as node:
        await node.add_schedule(node.job("mail.send").with_options(every="1h", name="digest"), "x")
        network = BadNetwork(dashboard(node, authorize=by_header))
        page = await browser_pages.open(f"{await web_serving.serve(network)}/schedules/digest")
        late = network.hold_answer(to("/schedules/trigger", "POST"))
        stopping = network.hold_request(to(f"{SIGNAL}stop"))
        # the debugger cannot reach a page that waits for an answer, so the page does all steps itself
        await page.get_by_role("button", name="Trigger one instance now").evaluate(
            f"""async one => {{
                one.click();
                fetch("{SIGNAL}stop").then(() => {{ window.stop(); setInterval(() => one.click(), 200); }});
            }}"""
        )
        await late.arrived.wait()
        stopping.release()
        await expect(page.get_by_role("status")).to_have_text("The schedule made this instance.")
        late.release()
        assert network.count(to("/schedules/trigger", "POST")) == 2
        assert await node.count() == 1


async def test_a_live_view_does_not_replace_a_form_that_was_sent(web_serving: Serving, browser_pages: Pages) -> None:
    browser_pages.problems.expected = {0}
    async with Node("memory://", jobs=jobs) as node:
        one = await node.schedule("report.build", 5)
        network = BadNetwork(dashboard(node, authorize=by_header))
        page = await browser_pages.open(f"{await web_serving.serve(network)}/instances/{one.id}")
        await until(lambda: network.count(to("/live/instances")) == 1)
        late = network.hold_answer(to("/instance/cancel", "POST"))
        await page.locator("#actions form").evaluate(
            f"""one => {{
                one.querySelector("button").click();
                const looking = setInterval(() => {{
                    if (!document.querySelector("#state").textContent.includes("Cancelled")) return;
                    clearInterval(looking);
                    fetch(`{SIGNAL}${{one.isConnected ? "stays" : "replaced"}}`);
                }}, 50);
            }}"""
        )
        await late.arrived.wait()
        await until(lambda: network.count(to(SIGNAL)))
        late.release()
        await expect(page.get_by_role("status")).to_have_text("Cancelled.")
        # the form stayed until the answer said what it did
        assert network.count(to(f"{SIGNAL}stays")) == 1


async def test_a_log_stays_where_its_reader_is(web_serving: Serving, browser_pages: Pages) -> None:
    browser_pages.problems.expected = {0}
    async with Node("memory://", jobs=jobs) as node:
        one = await node.schedule("report.build", 5)
        await until(lambda: _runs(node))
        network = BadNetwork(dashboard(node, authorize=by_header))
        url = await web_serving.serve(network)
        for number in range(150):
            one.log.info("line %d", number)
        page = await browser_pages.open(f"{url}/instances/{one.id}")
        await expect(page.locator("#log li")).to_have_count(150)
        await until(lambda: network.count(to("/live/instances")) == 1)
        await page.locator("#log").evaluate("one => { one.scrollTop = 200; }")
        network.cut(to("/live/"))
        await until(lambda: network.count(to("/live/instances")) == 2)
        one.log.info("the last line")
        await expect(page.locator("#log li")).to_have_count(151)
        assert await page.locator("#log").evaluate("one => one.scrollTop") == 200


async def _runs(node: Node) -> bool:
    return (await node.stats()).total(State.PROCESSING, "report.build") > 0
