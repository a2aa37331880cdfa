"""How long an instance took, on its page and on that of its kind."""

import re
from datetime import timedelta

import pytest

from peerjob import INJECTED, Context, Job
from peerjob.handles.entries import HistoryEntry
from peerjob.model.clock import to_datetime
from peerjob.model.record import Transition
from peerjob.model.state import State
from peerjob.testing import VirtualClock, advance, running_node
from peerjob.web.durations import Took, took
from peerjob.web.timeline import timeline
from support.dashboards import pages_of

BEGIN_US = 1_700_000_000_000_000
S, P, C = State.SCHEDULED, State.PROCESSING, State.COMPLETED


def history(*entries: tuple[State, float], count: int = 1) -> list[Transition]:
    first, *others = [Transition(state, BEGIN_US + round(at * 1e6)) for state, at in entries]
    return [Transition(first.state, first.at_us, count=count), *others]


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        (history((S, 0)), None),
        (history((S, 0), (P, 5)), Took(whole=95, last=95, waited=False, at_least=False)),
        (history((S, 0), (P, 5), (C, 8)), Took(whole=3, last=3, waited=False, at_least=False)),
        (history((S, 0), (P, 5), (S, 6), (P, 50), (C, 52)), Took(whole=47, last=2, waited=True, at_least=False)),
        (history((S, 0), (P, 5), (S, 6)), Took(whole=95, last=1, waited=True, at_least=False)),
        (history((S, 40), (P, 50), (C, 52), count=9), Took(whole=12, last=2, waited=True, at_least=True)),
        (history((S, 40), count=9), None),
    ],
)
def test_the_waits_between_runs_are_a_part_of_the_whole(entries: list[Transition], expected: Took | None) -> None:
    assert took(entries, to_datetime(BEGIN_US) + timedelta(seconds=100)) == expected


async def test_a_snoozed_instance_shows_the_whole_and_its_last_run(clock: VirtualClock) -> None:
    runs = 0

    async def poll(context: Context = INJECTED) -> None:
        nonlocal runs
        runs += 1
        await context.sleep(2)
        if runs < 3:
            context.snooze("10m")

    job = Job("poll", poll)
    async with running_node(job, clock=clock) as node, pages_of(node) as client:
        instance = await node.schedule(job)
        assert '<dd id="took">' in (await client.get(f"/instances/{instance.id}")).text
        await advance(node, 1_300)
        assert (await instance.refresh()).state is C
        page = (await client.get(f"/instances/{instance.id}")).text
        shown = re.search(r'<dd id="took">(.*?)</dd>', page, re.DOTALL)
        assert shown is not None
        assert re.sub(r"\s+", " ", shown[1]).strip() == "20m from its first start; the last run alone 2.0 s"

        kind = re.sub(r"\s+", " ", (await client.get("/kinds/poll")).text)
        assert "From the first start to the end, half took at most 20m, 95 % at most 20m." in kind
        assert "Of the last runs alone, half took at most 2.0 s, 95 % at most 2.0 s." in kind


@pytest.mark.parametrize(
    ("seconds", "ends"),
    [(8, ["22:13:20", "22:13:28 UTC"]), (200_000, ["2023-11-14 22:13", "2023-11-17 05:46 UTC"])],
)
def test_the_ends_of_a_timeline_have_a_date_if_they_are_of_different_days(seconds: float, ends: list[str]) -> None:
    entries = [HistoryEntry("id", "work", entry) for entry in history((S, 0), (P, 5), (C, seconds))]
    drawn = timeline(entries, entries[-1].timestamp)
    shown = re.search(r'<p class="ends"><span>(.*)</span> <span>(.*)</span></p>', drawn)
    assert shown is not None
    assert list(shown.groups()) == ends
