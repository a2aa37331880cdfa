"""What careless people do in a browser: go back, act on what another operator changed, and use unusual names."""

import pytest
from playwright.async_api import expect

from peerjob import Job, Node, State
from peerjob.web import dashboard
from support.browser import Pages
from support.web_site import Serving, by_header, jobs

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.matrix("drives a browser; unit tests have what each page says and refuses"),
]

NAMES = [
    "a/b",
    "..",
    ".",
    "~",
    "%2F",
    "a%2Fb",
    "?x=1#y",
    "a\\b",
    "//evil.example",
    "😀",
    "שלום",
    "\u202egnp.exe",
    "a+b &c",
]


async def test_a_form_after_the_back_button_is_another_form(web_serving: Serving, browser_pages: Pages) -> None:
    async with Node("memory://", jobs=jobs) as node:
        url = await web_serving.serve(dashboard(node, authorize=by_header))
        page = await browser_pages.open(f"{url}/kinds/mail.send")
        address = page.get_by_label("to", exact=False).first
        await address.fill("ada@example.org")
        made = list[str]()
        for count in (1, 2):
            await page.get_by_role("button", name="Schedule", exact=True).click()
            await expect(page.get_by_role("status")).to_have_text("Scheduled.")
            made.append(page.url)
            assert await node.count() == count
            await page.reload()
            assert await node.count() == count
            await expect(page.get_by_role("status")).to_have_count(0)
            await page.go_back()
            await expect(address).to_have_value("ada@example.org")
        assert len(set(made)) == 2
        await page.go_forward()
        assert page.url == made[-1]
        assert await node.count() == 2


async def test_two_operators_at_once(web_serving: Serving, browser_pages: Pages) -> None:
    async with Node("memory://", jobs=jobs) as node:
        one = await node.schedule("report.build", 5)
        schedule = await node.add_schedule(node.job("mail.send").with_options(every="1h", name="digest"), "x")
        url = await web_serving.serve(dashboard(node, authorize=by_header))
        ann, bob = [await browser_pages.open(f"{url}/instances/{one.id}") for _ in range(2)]
        late = await browser_pages.open(f"{url}/instances/{one.id}", javascript=False)
        await ann.get_by_role("button", name="Cancel").click()
        await expect(ann.get_by_role("status")).to_have_text("Cancelled.")
        # the page of the other one follows, and an old page says that there was nothing left to do
        await expect(bob.get_by_role("button", name="Retry")).to_be_visible()
        await late.get_by_role("button", name="Cancel").click()
        await expect(late.get_by_role("status")).to_have_text("The instance was final already.")
        assert (await one.refresh()).state is State.CANCELLED
        for page in (ann, bob):
            await page.goto(f"{url}/schedules/digest")
        await schedule.remove()
        browser_pages.problems.expected = {404}
        for page, button in ((ann, "Pause"), (bob, "Trigger one instance now")):
            await page.get_by_role("button", name=button).click()
            await expect(page.get_by_text("no schedule 'digest'")).to_be_visible()


async def test_links_lead_to_unusual_names(web_serving: Serving, browser_pages: Pages) -> None:
    async def work() -> None: ...

    kinds = [Job(name, work, tags=(name,)) for name in NAMES]
    async with Node("memory://", jobs=kinds) as node:
        for job in kinds:
            await node.schedule(job)
            await node.add_schedule(job.with_options(every="1h", name=job.kind))
        url = await web_serving.serve(dashboard({"eu": node}, authorize=by_header))
        page = await browser_pages.open()
        for part in ("kinds", "schedules"):
            await page.goto(f"{url}/eu/{part}")
            links = page.locator(f'main a[href^="/eu/{part}/"]')
            hrefs = sorted({str(await link.get_attribute("href")) for link in await links.all()})
            assert len(hrefs) == len(NAMES), part
            shown: set[str] = set()
            for href in hrefs:
                answer = await page.goto(f"{url}{href}")
                assert answer is not None
                assert answer.status == 200, href
                shown.add((await page.locator("h1").inner_text()).strip())
            assert shown == {name.replace("\u202e", "\\u202e") for name in NAMES}, part
        for name in NAMES:
            await page.goto(f"{url}/eu/instances")
            await page.get_by_role("searchbox").fill(name)
            await page.keyboard.press("Enter")
            # the heading is not on the page before, so the next navigation does not meet this one
            await expect(page.get_by_role("heading", level=1)).to_have_text(name.replace("\u202e", "\\u202e"))
            assert page.url.startswith(f"{url}/eu/kinds/"), page.url
