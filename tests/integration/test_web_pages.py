"""Every page in a real browser: in every role, empty and full, without JavaScript, and while the store is away."""

import asyncio
import re
from datetime import UTC, datetime, timedelta

import pytest
from playwright.async_api import Page, expect

from peerjob import Flow, Job, KeyLimit, Node
from peerjob.web import dashboard
from support.browser import NARROW, WIDE, Pages, axe_findings
from support.servers import StartServer
from support.web_site import ROLE_HEADER, Cluster, Serving, add_hostile, build, by_header, fail, jobs, pages_with, send

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.matrix("drives a browser; unit tests have what each page says and refuses"),
]

ADMIN_ONLY = ("/audit",)
OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
"""How many pixels a page is wider than the window. Tables may be wider, within an element that scrolls."""
SIDEWAYS = """() => [...document.querySelectorAll('.scroll')]
  .filter(one => one.scrollWidth > one.clientWidth).map(one => one.innerText)"""
"""The tables that scroll sideways."""


async def visit(page: Page, cluster: Cluster, path: str) -> int:
    answer = await page.goto(f"{cluster.url}{path}")
    assert answer is not None
    return answer.status


def chosen(state: str, empty_cluster: Cluster, full_cluster: Cluster) -> Cluster:
    return empty_cluster if state == "empty" else full_cluster


@pytest.mark.parametrize("state", ["empty", "full"])
async def test_each_page_is_sound_at_each_width_and_in_both_schemes(
    state: str, empty_cluster: Cluster, full_cluster: Cluster, browser_pages: Pages
) -> None:
    cluster = chosen(state, empty_cluster, full_cluster)
    page = await browser_pages.open()
    found: dict[str, list[str]] = {}
    for path in await pages_with(cluster.node):
        await page.emulate_media(color_scheme="light")
        assert await visit(page, cluster, path) == 200, path
        await expect(page.locator("h1").first).to_be_attached()
        problems = await axe_findings(page)
        if state == "full":
            await page.emulate_media(color_scheme="dark")
            problems += await axe_findings(page, rules=["color-contrast"])
        # half of the width is what remains at 200 %
        for width in (NARROW, WIDE // 2, WIDE):
            await page.set_viewport_size({"width": width, "height": 900})
            if (wider := await page.evaluate(OVERFLOW)) > 0:
                problems.append(f"{wider} pixels wider than {width}")
            if width == NARROW:
                problems += await page.evaluate(SIDEWAYS)
        await expect(page.get_by_role("link", name="Schedules", exact=True)).to_be_visible()
        if problems:
            found[path] = problems
    assert found == {}


CONTRASTS = """() => {
  const context = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const light = color => {
    context.fillStyle = color;
    context.fillRect(0, 0, 1, 1);
    const parts = [...context.getImageData(0, 0, 1, 1).data].slice(0, 3).map(part => part / 255)
      .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2] + 0.05;
  };
  return [...document.querySelectorAll('.flow text')].map(text => {
    const parts = [text, text.parentElement.querySelector('rect')];
    const [one, other] = parts.map(part => light(getComputedStyle(part).fill));
    return Math.max(one, other) / Math.min(one, other);
  });
}"""
"""The contrast of each text of a flow with its box. axe-core does not look at SVG."""


async def test_the_boxes_of_a_flow_are_legible_in_both_schemes(full_cluster: Cluster, browser_pages: Pages) -> None:
    flow = Flow("report")
    first = flow.add(send.call("ada@example.org"))
    failed = flow.add(fail.call("no"), after=[first])
    flow.add(send.call("grace@example.org"), after=[failed])
    flow.add(build.call(10), after=[first])
    run = await full_cluster.node.schedule_flow(flow)
    page = await browser_pages.open()
    await page.goto(f"{full_cluster.url}/instances/{run.id}")
    try:
        for state in ("run", "bad"):
            await expect(page.locator(f".flow rect.{state}")).to_have_count(1)
        for scheme in ("light", "dark"):
            await page.emulate_media(color_scheme=scheme)
            contrasts = await page.evaluate(CONTRASTS)
            assert len(contrasts) == 8
            assert min(contrasts) >= 4.5
    finally:
        await run.cancel()


async def test_the_keys_of_a_limit_fit_on_a_phone(web_serving: Serving, browser_pages: Pages) -> None:
    async def charge(tenant: int) -> None: ...

    job = Job("charge", charge, limits=[KeyLimit("tenant/{tenant}")])
    async with Node("memory://", name="node-a", workers=0, jobs=job) as node:
        await node.schedule_many(job.call(number) for number in range(3))
        url = await web_serving.serve(dashboard(node, authorize=by_header))
        page = await browser_pages.open(f"{url}/limits?kind=charge", width=NARROW)
        await expect(page.get_by_text("tenant/2")).to_be_visible()
        assert await page.evaluate(SIDEWAYS) == []


async def test_no_page_is_wider_than_a_phone_with_long_words(web_serving: Serving, browser_pages: Pages) -> None:
    word = "x" * 180

    async def fail(text: str) -> None:
        raise ValueError(text)

    job = Job(word, fail, tags=(word,), description=word, max_retries=0)
    async with Node("memory://", name="node-a", jobs=job, allow_unknown=True) as node:
        one = await node.schedule(job.with_options(key=word), word)
        await one.wait(60)
        await node.schedule(Job(f"lost-{word}").with_options(tags=(word,)))
        schedule = await node.add_schedule(job.with_options(every="1h", name=word, description=word), word)
        await schedule.pause(word)
        url = await web_serving.serve(dashboard(node, authorize=by_header))
        page = await browser_pages.open()
        await page.set_viewport_size({"width": NARROW, "height": 900})
        browser_pages.problems.expected = {400, 404}
        others = [f"/search?q={word}x", f"/instance/again?id={one.id}", f"/instances?state={word}", f"/{word}"]
        found: dict[str, int] = {}
        for path in [*await pages_with(node), f"/instances/{one.id}", *others]:
            await page.goto(f"{url}{path}")
            if (wider := await page.evaluate(OVERFLOW)) > 0:
                found[path] = wider
        assert found == {}


async def test_each_instance_is_one_line_with_its_id_kind_state_and_age_on_a_phone(
    full_cluster: Cluster, browser_pages: Pages
) -> None:
    page = await browser_pages.open()
    await page.goto(f"{full_cluster.url}/instances?error=e")
    for width in (NARROW, WIDE):
        await page.set_viewport_size({"width": width, "height": 900})
        heights = await page.eval_on_selector_all("#rows tr", "rows => rows.map(row => row.offsetHeight)")
        assert heights
        assert max(heights) < 60, "a text takes several lines"
        cells = page.locator("#rows tr").first.locator("td")
        seen = [await cells.nth(number).is_visible() for number in range(await cells.count())]
        assert seen == [True] * 5 + [width == WIDE] * 3


@pytest.mark.parametrize("state", ["empty", "full"])
async def test_each_page_opens_only_in_its_roles(
    state: str, empty_cluster: Cluster, full_cluster: Cluster, browser_pages: Pages
) -> None:
    cluster = chosen(state, empty_cluster, full_cluster)
    page = await browser_pages.open()
    for path in await pages_with(cluster.node):
        for role in ("none", "reader", "operator"):
            answer = await page.request.get(f"{cluster.url}{path}", headers={ROLE_HEADER: role})
            refused = role == "none" or path in ADMIN_ONLY
            assert answer.status == (403 if refused else 200), (role, path)
            forms = re.findall(r'<form method="post".*?</form>', await answer.text(), re.DOTALL)
            assert role == "operator" or not any("<button" in form for form in forms), (role, path)


async def test_pages_work_without_javascript(full_cluster: Cluster, browser_pages: Pages) -> None:
    page = await browser_pages.open(full_cluster.url, javascript=False)
    await page.get_by_role("link", name="Schedules", exact=True).click()
    await page.get_by_label("Name or kind").fill("remind")
    await page.get_by_role("button", name="Filter").click()
    await expect(page.locator("tbody tr")).to_have_count(1)
    await page.get_by_role("link", name="reminder").click()
    await expect(page.get_by_text("Paused: the mail server moves")).to_be_visible()
    await page.goto(f"{full_cluster.url}/kinds/mail.send")
    await page.get_by_label("to", exact=False).first.fill("no-script@example.org")
    await page.get_by_role("button", name="Schedule", exact=True).click()
    await expect(page.get_by_text("Scheduled.", exact=True)).to_be_visible()
    assert "/instances/" in page.url


@pytest.mark.parametrize("hours", [-3, 3])
async def test_times_are_right_if_the_clock_of_the_reader_is_wrong(
    hours: int, full_cluster: Cluster, browser_pages: Pages
) -> None:
    one = await full_cluster.node.schedule("mail.send", "clock@example.org")
    page = await browser_pages.open()
    await page.clock.set_fixed_time(datetime.now(UTC) + timedelta(hours=hours))
    await page.goto(f"{full_cluster.url}/instances/{one.id}")
    await expect(page.locator("dl.facts time").first).to_have_text(re.compile(r"^\d+s ago$"))


async def test_keys_are_enough(full_cluster: Cluster, browser_pages: Pages) -> None:
    page = await browser_pages.open(f"{full_cluster.url}/schedules")
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    await page.keyboard.press("j")
    await page.keyboard.press("j")
    await page.keyboard.press("k")
    await expect(page.get_by_role("link", name="digest", exact=True)).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page).to_have_url(f"{full_cluster.url}/schedules/digest")
    await page.keyboard.press("?")
    await expect(page.get_by_role("dialog")).to_be_visible()
    await page.keyboard.press("Escape")
    await page.keyboard.press("/")
    await expect(page.get_by_role("searchbox")).to_be_focused()
    await page.keyboard.type("mail.send")
    await page.keyboard.press("Enter")
    await expect(page).to_have_url(f"{full_cluster.url}/kinds/mail.send")
    while await page.evaluate("document.activeElement.name") != "arg.to":
        await page.keyboard.press("Tab")
        outline = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", await page.evaluate("document.activeElement.outerHTML")


async def test_pages_stay_while_the_store_is_away(
    start_server: StartServer, namespace: str, web_serving: Serving, browser_pages: Pages
) -> None:
    server = start_server("redis")
    async with Node(server.url, namespace=namespace, jobs=jobs, name="node-a") as node:
        await node.schedule("mail.send", "ada@example.org")
        await node.add_schedule(
            next(one for one in node.jobs() if one.kind == "mail.send").with_options(every="1h"), "x"
        )
        cluster = Cluster(node=node, url=await web_serving.serve(dashboard(node, authorize=by_header)))
        paths = await pages_with(node)
        tabs = [await browser_pages.open(f"{cluster.url}{path}") for path in paths]
        titles = [await tab.locator("h1").first.text_content() for tab in tabs]
        server.pause()
        try:
            await asyncio.gather(*(tab.reload() for tab in tabs))
            for tab, title in zip(tabs, titles, strict=True):
                await expect(tab.get_by_role("alert").first).to_contain_text("This page shows the state of")
                assert await tab.locator("h1").first.text_content() == title
        finally:
            server.resume()
        await tabs[1].reload()
        await expect(tabs[1].get_by_role("alert")).to_have_count(0)


async def test_hostile_text_is_never_markup(full_cluster: Cluster, browser_pages: Pages) -> None:
    id = await add_hostile(full_cluster.node)
    page = await browser_pages.open()
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    kinds = [one.kind for one in await full_cluster.node.registered_jobs()]
    paths = [*await pages_with(full_cluster.node), f"/instances/{id}", f"/search?q={id}"]
    for path in paths:
        await visit(page, full_cluster, path)
        text = await page.locator("body").inner_text()
        assert not {"\x1b", "\u202e"} & set(text), path
        assert await page.locator("img, script:not([src])").count() == 0, path
        assert str(7919 * 7907) not in (await page.title()), path
    assert (dialogs, len(kinds)) == ([], 4)
