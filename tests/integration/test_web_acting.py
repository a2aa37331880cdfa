"""Acting through the dashboard in a real browser, from the button to the store."""

import asyncio
import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Route, expect

from peerjob import FireOutcome, Job, Node, Query, State
from peerjob.web import dashboard
from support.browser import Pages
from support.waiting import until
from support.web_site import Cluster, Serving, by_header, fail, jobs, send

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.matrix("drives a browser; unit tests have what each page says and refuses"),
]

MANY = 2_000


@pytest_asyncio.fixture(loop_scope="session")
async def cluster(web_serving: Serving) -> AsyncIterator[Cluster]:
    """A cluster that only one test uses."""
    async with Node("memory://", name="node-a", workers=4, jobs=jobs, allow_unknown=True) as node:
        yield Cluster(node=node, url=await web_serving.serve(dashboard(node, authorize=by_header)))
        await node.stop(0)


async def test_two_thousand_are_cancelled_in_steps(cluster: Cluster, browser_pages: Pages) -> None:
    await cluster.node.schedule_many([Job("legacy.import").call(number) for number in range(MANY)])
    kept = await cluster.node.schedule(send.with_options(after="1h"), "ada@example.org")
    page = await browser_pages.open(f"{cluster.url}/instances?kind=legacy.import")
    await page.get_by_label("Which instances").select_option(label="all that match")
    await page.get_by_role("button", name="Cancel").click()
    await expect(page.locator("h1")).to_have_text(f"Cancel {MANY:,} instances?")
    await page.get_by_role("button", name="Cancel").click()
    await expect(page.locator("h1")).to_have_text(f"Cancelled: {MANY:,}")
    await expect(page.get_by_text("Finished.")).to_be_visible()
    assert (await cluster.node.stats()).total(State.CANCELLED, "legacy.import") == MANY
    assert (await kept.refresh()).state is State.SCHEDULED


async def test_an_action_in_steps_can_be_stopped(cluster: Cluster, browser_pages: Pages) -> None:
    await cluster.node.schedule_many([Job("legacy.import").call(number) for number in range(MANY)])
    page = await browser_pages.open(f"{cluster.url}/instances?kind=legacy.import", javascript=False)
    await page.get_by_label("Which instances").select_option(label="all that match")
    await page.get_by_role("button", name="Cancel").click()
    await expect(page.locator("h1")).to_have_text(f"Cancel {MANY:,} instances?")
    await page.get_by_role("button", name="Cancel").click()
    # without JavaScript, the reader starts each step, and so stops by leaving
    await expect(page.locator("h1")).to_have_text(re.compile(rf"Cancelled: ([1-4]?\d?\d|500) of {MANY:,}"))
    shown = await page.locator("h1").inner_text()
    await page.get_by_role("link", name="Back to the instances").click()
    cancelled = (await cluster.node.stats()).total(State.CANCELLED, "legacy.import")
    assert shown == f"Cancelled: {cancelled} of {MANY:,}"


async def test_all_that_failed_are_retried(cluster: Cluster, browser_pages: Pages) -> None:
    for one in await cluster.node.schedule_many([fail.call(f"reason {number}") for number in range(12)]):
        await one.wait(60)
    page = await browser_pages.open(f"{cluster.url}/instances?state=Terminated")
    await page.get_by_label("Which instances").select_option(label="all that match")
    await page.get_by_role("button", name="Retry").click()
    await expect(page.locator("h1")).to_have_text("Retry 12 instances?")
    await page.get_by_role("button", name="Retry").click()
    await expect(page.get_by_text("Finished.")).to_be_visible()
    assert await cluster.node.count(Query(kind="mail.fail")) == 24


async def test_a_schedule_is_paused_triggered_and_backfilled(cluster: Cluster, browser_pages: Pages) -> None:
    schedule = await cluster.node.add_schedule(send.with_options(cron="0 * * * *", name="digest"), "all@example.org")
    page = await browser_pages.open(f"{cluster.url}/schedules/digest")
    await page.get_by_label("Why it is paused").fill("the mail server moves")
    await page.get_by_role("button", name="Pause").click()
    await expect(page.get_by_role("status")).to_have_text("The schedule is paused.")
    paused = await schedule.refresh()
    assert (paused.paused, paused.note) == (True, "the mail server moves")

    await page.get_by_label("From, inclusive").fill("2026-01-01T00:00")
    await page.get_by_label("To, exclusive").fill("2026-01-01T05:30")
    await page.get_by_role("button", name="Preview").click()
    await expect(page.get_by_text("6 nominal times, 0 of them with an instance")).to_be_visible()
    await page.get_by_role("button", name="Backfill up to 6 instances").click()
    await expect(page.get_by_text("Backfill: 6 made")).to_be_visible()
    assert [one.outcome for one in await schedule.fires()].count(FireOutcome.BACKFILLED) == 6

    await page.get_by_role("button", name="Trigger one instance now").click()
    await expect(page.get_by_text("The schedule made this instance.")).to_be_visible()
    await page.goto(f"{cluster.url}/schedules/digest")
    await page.get_by_role("button", name="Resume").click()
    await expect(page.get_by_text("The schedule fires again")).to_be_visible()
    assert not (await schedule.refresh()).paused
    await page.get_by_role("link", name="All fires").click()
    async with page.expect_download() as saved:
        await page.get_by_role("link", name="CSV").click()
    assert (await saved.value).suggested_filename == "fires.csv"


async def test_a_form_that_is_sent_is_not_sent_again(cluster: Cluster, browser_pages: Pages) -> None:
    await cluster.node.add_schedule(send.with_options(cron="0 * * * *", name="digest"), "all@example.org")
    page = await browser_pages.open(f"{cluster.url}/schedules/digest")
    sent, clicked = asyncio.Queue[str](), asyncio.Event()

    async def hold(route: Route) -> None:
        if route.request.method == "POST":
            sent.put_nowait(route.request.url)
            await clicked.wait()
        await route.continue_()

    await page.route("**/*", hold)
    page.on("console", lambda _: clicked.set())
    button = page.get_by_role("button", name="Trigger one instance now")
    await button.evaluate("one => { one.click(); setTimeout(() => { one.click(); console.log('again'); }, 300); }")
    await expect(page.get_by_text("The schedule made this instance.")).to_be_visible()
    assert sent.qsize() == 1


async def test_an_instance_is_scheduled_from_the_form_of_its_kind(cluster: Cluster, browser_pages: Pages) -> None:
    browser_pages.problems.expected = {422}
    page = await browser_pages.open(f"{cluster.url}/kinds/mail.send")
    await page.locator('[name="arg.to"]').fill("ada@example.org")
    await page.locator('[name="arg.copies"]').fill("many")
    await page.get_by_role("button", name="Schedule", exact=True).click()
    field = page.locator('[name="arg.copies"]')
    await expect(field).to_have_attribute("aria-invalid", "true")
    await expect(page.locator('[id="arg.copies.problem"]')).to_contain_text("expected a whole number, got 'many'")
    await expect(page.locator('[name="arg.to"]')).to_have_value("ada@example.org")
    await field.fill("3")
    await page.get_by_role("button", name="Schedule", exact=True).click()
    await expect(page.get_by_text("Scheduled.", exact=True)).to_be_visible()
    made = await cluster.node.lookup_instance(page.url.rsplit("/", 1)[1])
    await made.wait(60)
    assert made.outcome() == "250 ok, 3 to ada@example.org"
    # the page follows the instance by itself
    await expect(page.locator(".state").first).to_have_text("Completed")


async def test_a_node_is_resized_and_drained_and_the_audit_log_tells(cluster: Cluster, browser_pages: Pages) -> None:
    page = await browser_pages.open(f"{cluster.url}/nodes")
    await page.get_by_label("workers of node-a").fill("7")
    await page.get_by_role("button", name="Resize").click()
    await expect(page.get_by_role("status")).to_have_text("The node has 7 workers.")
    await page.get_by_role("button", name="Drain", exact=True).click()
    await expect(page.get_by_role("status")).to_contain_text("drain")
    await page.get_by_role("button", name="Undrain").click()
    await expect(page.get_by_role("status")).to_have_text("The node takes work again.")
    assert cluster.node.num_workers == 7

    async def recorded() -> bool:
        return len(await cluster.node.audit()) == 3

    await until(recorded)
    await page.get_by_role("link", name="Audit").click()
    await expect(page.locator("tbody tr td:nth-child(3)")).to_have_text(["Undrain", "Drain", "ResizeWorkers"])
