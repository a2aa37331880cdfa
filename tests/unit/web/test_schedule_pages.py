"""The pages of schedules and their ledgers, and the forms that act on schedules."""

import csv
import io
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest

from peerjob import FireEntry, FireOutcome, Job, Node, Role
from peerjob.model.firing import FireRecord
from peerjob.web.pages.fires import _cell, calendar  # pyright: ignore[reportPrivateUsage]
from support.dashboards import pages_of, submit

TICK = Job("tick", lambda: None)
ODD = "a/b c?d#é%2F"


async def node_with(name: str = "ticks", cron: str = "0 * * * *", timezone: str = "UTC") -> Node:
    node = Node("memory://", jobs=TICK)
    await node.start()
    await node.add_schedule(TICK.with_options(name=name, cron=cron, timezone=timezone))
    return node


@pytest.mark.parametrize("name", ["ticks", ODD, "<b>bold</b>"])
async def test_a_schedule_is_found_by_any_name_and_acted_on(name: str) -> None:
    node = await node_with(name)
    async with pages_of(node) as client:
        listed = await client.get("/schedules")
        assert f'href="/schedules/{quote(name, safe="")}"' in listed.text
        assert "<b>" not in listed.text
        page = await client.get(f"/schedules/{quote(name, safe='')}")
        assert page.status_code == 200
        assert page.text.count("data-fixed") == 10

        answer = await submit(client, "/schedules/pause", name=name, note="the mail server moves")
        assert (answer.status_code, answer.headers["location"]) == (303, f"/schedules/{quote(name, safe='')}")
        paused = await node.lookup_schedule(name)
        assert (paused.paused, paused.note) == (True, "the mail server moves")
        assert "the mail server moves" in (await client.get(answer.headers["location"])).text

        answer = await submit(client, "/schedules/trigger", name=name)
        assert answer.headers["location"].startswith("/instances/")
        await submit(client, "/schedules/resume", name=name)
        assert not (await node.lookup_schedule(name)).paused
        assert (await client.get("/schedules/other")).status_code == 404
        assert (await submit(client, "/schedules/pause", name="other")).status_code == 404
    await node.stop()


async def test_a_backfill_is_counted_before_it_is_made() -> None:
    node = await node_with()
    end = datetime.now(UTC).replace(minute=30, second=0, microsecond=0) - timedelta(hours=1)
    given = {"start": f"{end - timedelta(hours=5):%Y-%m-%dT%H:%M}", "end": f"{end:%Y-%m-%dT%H:%M}"}
    async with pages_of(node) as client:
        preview = (await client.get("/schedules/ticks", params=given)).text
        assert "5 nominal times, 0 of them with an instance" in preview
        assert "Backfill up to 5 instances" in preview
        assert (await submit(client, "/schedules/backfill", name="ticks", **given)).status_code == 303
        assert [one.outcome for one in await node.fires("ticks")] == [FireOutcome.BACKFILLED] * 5
        again = (await client.get("/schedules/ticks", params=given)).text
        assert "5 nominal times, 5 of them with an instance" in again
        assert "Backfill up to" not in again
        [name, *rows] = csv.reader(io.StringIO((await client.get("/fires.csv/ticks")).text))
        assert (name[0], len(rows), rows[0][3]) == ("nominal", 5, "backfilled")
        page = (await client.get("/fires/ticks")).text
        assert page.count('class="heat backfilled') == 5
        assert 'href="/schedules" aria-current="page"' in page
    await node.stop()


@pytest.mark.parametrize(
    ("start", "end", "problem"),
    [
        ("yesterday", "2026-01-01", "from: expected a time"),
        ("2026-01-02", "2026-01-01", "to: expected a time after"),
        ("2000-01-01", "2026-01-01", "at most 10,000 nominal times"),
        ("0001-01-01", "9999-12-31", "at most 10,000 nominal times"),
        ("2999-01-01", "2999-12-31", "No nominal time in this range"),
    ],
)
async def test_a_range_that_cannot_be_backfilled_is_told(start: str, end: str, problem: str) -> None:
    node = await node_with()
    async with pages_of(node) as client:
        page = await client.get("/schedules/ticks", params={"start": start, "end": end})
        assert problem in page.text
        assert "Backfill up to" not in page.text
        answer = await submit(client, "/schedules/backfill", name="ticks", start=start, end=end)
        assert answer.status_code == (303 if "No nominal" in problem else 400)
        assert await node.fires("ticks") == []
    await node.stop()


@pytest.mark.parametrize(
    ("start_us", "end_us", "times"),
    [(0, 3_600_000_000, 1), (0, 3_600_000_001, 2), (1, 7_200_000_000, 1), (1, 7_200_000_001, 2), (-1, 1, 1)],
)
async def test_a_range_has_its_start_and_not_its_end(
    monkeypatch: pytest.MonkeyPatch, start_us: int, end_us: int, times: int
) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    start, end = (str(at + timedelta(microseconds=offset)) for offset in (start_us, end_us))
    node = await node_with()
    async with pages_of(node) as client:
        for most in (times - 1, times):
            monkeypatch.setattr("peerjob.web.pages.schedules.MAX_BACKFILL", most)
            page = await client.get("/schedules/ticks", params={"start": start, "end": end})
            assert {1: "1 nominal time, 0 of them with", 2: "2 nominal times, 0 of them with"}[times] in page.text
            assert ("Backfill up to" in page.text) == (most == times)
            answer = await submit(client, "/schedules/backfill", name="ticks", start=start, end=end)
            assert answer.status_code == (303 if most == times else 400)
        assert len(await node.fires("ticks")) == times
    await node.stop()


async def test_clock_changes_are_explained() -> None:
    node = await node_with(cron="30 2 * * *", timezone="Europe/Berlin")
    async with pages_of(node) as client:
        page = (await client.get("/schedules/ticks")).text
    assert "02:30 does not exist: runs once, at 03:00" in page
    assert "02:30 happens twice: runs at the first only" in page
    await node.stop()


async def test_a_list_is_filtered_and_divided_into_pages() -> None:
    node = await node_with("first")
    for number in range(30):
        await node.add_schedule(TICK.with_options(every="1h", name=f"n{number:02}"))
    await node.pause_schedule("n07")
    async with pages_of(node) as client:
        assert (await client.get("/schedules")).text.count("<tr data-row") == 25
        assert (await client.get("/schedules?from=25")).text.count("<tr data-row") == 6
        assert (await client.get("/schedules?q=N1")).text.count("<tr data-row") == 10
        paused = (await client.get("/schedules?state=paused")).text
        assert (paused.count("<tr data-row"), ">n07<" in paused) == (1, True)
        assert "No schedule matches" in (await client.get("/schedules?q=zzz")).text
        assert (await client.get("/schedules?from=" + "9" * 40)).status_code == 200
        # the rows of a page are gone before its link is followed
        assert (await client.get("/schedules?from=50")).text.count("<tr data-row") == 6
        assert (await client.get("/kinds?from=100")).text.count("<tr data-row") == 1
    await node.stop()


@pytest.mark.parametrize("path", ["pause", "resume", "trigger", "backfill"])
async def test_a_reader_sees_no_form_and_is_refused(path: str) -> None:
    node = await node_with()
    async with pages_of(node, Role.READER) as client:
        assert 'method="post"' not in (await client.get("/schedules/ticks?start=2026-01-01&end=2026-01-02")).text
        answer = await submit(client, f"/schedules/{path}", name="ticks", start="2026-01-01", end="2026-01-02")
    assert answer.status_code == 403
    assert not (await node.lookup_schedule("ticks")).paused
    assert await node.fires("ticks") == []
    await node.stop()


def test_the_calendar_counts_hours_of_the_zone() -> None:
    def at(hour: int, minute: int = 0) -> int:
        return int(datetime(2026, 11, 25, hour, minute, tzinfo=UTC).timestamp() * 1_000_000)

    fires = [
        FireEntry("x", FireRecord(nominal_us=at(3), outcome=FireOutcome.FIRED)),
        FireEntry("x", FireRecord(nominal_us=at(3, 30), outcome=FireOutcome.MISSED)),
        FireEntry("x", FireRecord(nominal_us=at(4), outcome=FireOutcome.FIRED, reason="no leader")),
        FireEntry("x", FireRecord(nominal_us=at(6), until_us=at(8, 45), count=12, outcome=FireOutcome.PAUSED)),
    ]
    [day] = calendar(fires, UTC, datetime(2026, 11, 26, tzinfo=UTC))
    shown = {hour: (cell.worst, cell.words, cell.level) for hour, cell in enumerate(day.cells) if cell.worst}
    assert shown == {
        3: ("missed", "1 missed, 1 fired", 2),
        4: ("late", "1 late", 1),
        **dict.fromkeys((6, 7, 8), ("paused", "4 paused", 4)),
    }
    assert calendar(fires, UTC, datetime(2027, 11, 26, tzinfo=UTC)) == []


def test_a_stretch_that_began_before_the_calendar_has_its_own_pace() -> None:
    now = datetime(2026, 11, 26, tzinfo=UTC)
    begin, end = (int((now - timedelta(hours=hours)).timestamp() * 1_000_000) for hours in (2 * 31 * 24, 1))
    record = FireRecord(nominal_us=begin, until_us=end, count=2 * 31 * 24, outcome=FireOutcome.PAUSED)
    days = calendar([FireEntry("x", record)], UTC, now)
    assert len(days) == 31
    assert {cell.words for day in days for cell in day.cells} == {"1 paused"}


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t", "\r"])
def test_no_text_of_a_file_is_a_formula(begin: str) -> None:
    assert _cell(f"{begin}HYPERLINK(1)") == f"'{begin}HYPERLINK(1)"
    assert _cell(f"x{begin}1") == f"x{begin}1"
    assert [_cell(value) for value in (None, -1, 1.5)] == ["", -1, 1.5]
