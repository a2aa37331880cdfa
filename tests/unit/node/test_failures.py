"""What a node logs of attempts that fail, and what the history keeps of them."""

import asyncio
import logging
import sys
import traceback

import pytest

from peerjob import INJECTED, Context, Fail, Job, Node, Recovered, Retry
from peerjob.node.work.failure_log import MAX_NOTE, MAX_PER_SECOND
from peerjob.testing import VirtualClock
from peerjob.testing.helpers import drain, running_node
from support.factories import notes_of


@pytest.fixture(autouse=True)
def every_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "peerjob.job")


def entries(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Level and first line of what the job logger was given."""
    return [
        (record.levelname, record.getMessage().partition("\n")[0])
        for record in caplog.records
        if record.name == "peerjob.job"
    ]


def broken() -> None:
    raise ValueError("no such customer")


async def test_each_failed_attempt_is_logged_once_with_its_traceback(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_node(Job("charge", broken, max_retries=1, backoff=5), clock=clock, name="one") as node:
        instance = await node.schedule("charge")
        await drain(node)
        head = f"instance {instance.id} of 'charge' failed in attempt"
        assert entries(caplog) == [
            ("WARNING", f"{head} 1 on node 'one': ValueError: no such customer; retry 1 in 5s"),
            ("ERROR", f"{head} 2 on node 'one': ValueError: no such customer; it ends as Terminated"),
        ]
        for attempt, record in enumerate((one for one in caplog.records if one.name == "peerjob.job"), 1):
            assert record.exc_text is not None
            assert "in broken\n" in record.exc_text
            assert "Traceback" not in record.getMessage()
            assert vars(record).items() >= {"instance": instance.id, "kind": "charge", "attempt": attempt}.items()
        assert await instance.logs() == []
        assert (await notes_of(instance))[-3:] == [
            "Scheduled: retry 1 in 5s: ValueError: no such customer",
            "Processing",
            "Terminated: ValueError: no such customer",
        ]


async def test_an_entry_has_the_error_from_the_frame_of_the_body_on(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Error trackers group failures by the class of the error and by its frames."""
    async with running_node(Job("charge", broken), Job("leave", sys.exit), clock=clock) as node:
        for kind in ("charge", "leave"):
            await node.schedule(kind)
        await drain(node)
    raised = {vars(record)["kind"]: record.exc_info for record in caplog.records if record.name == "peerjob.job"}
    assert raised["charge"] is not None
    raised_class, error, found = raised["charge"]
    assert raised_class is ValueError
    assert str(error) == "no such customer"
    assert [frame.name for frame in traceback.extract_tb(found)] == ["broken"]
    assert raised["leave"] is not None
    assert raised["leave"][0] is SystemExit


async def test_a_retry_that_the_job_asks_for_is_logged_at_info(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    def wander(context: Context = INJECTED) -> str:
        if context.attempt == 1:
            raise Retry(after="2s", reason="not yet")
        if not snoozed:
            snoozed.append(True)
            context.snooze("3s")
        return "done"

    snoozed: list[bool] = []
    async with running_node(Job("wander", wander, max_retries=3), clock=clock) as node:
        assert await clock.run((await node.schedule("wander")).result()) == "done"
        assert [(level, message.rpartition("; ")[2].rpartition(": ")[2]) for level, message in entries(caplog)] == [
            ("INFO", "retry 1 in 2s"),
            ("INFO", "snoozed for 3s"),
        ]


async def test_a_timeout_and_a_result_that_cannot_be_stored_are_failures(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:

    async def hang() -> None:
        await asyncio.sleep(100)

    async with running_node(Job("hang", hang, timeout=1), Job("odd", object), clock=clock) as node:
        for kind in ("hang", "odd"):
            await node.schedule(kind)
        await drain(node)
        assert [level for level, _ in entries(caplog)] == ["ERROR", "ERROR"]


async def test_a_recovered_attempt_is_no_failure(clock: VirtualClock, caplog: pytest.LogCaptureFixture) -> None:
    job = Job("charge", broken, on_terminate=lambda instance, error: Recovered(5))
    async with running_node(job, clock=clock) as node:
        assert await clock.run((await node.schedule("charge")).result()) == 5
        assert entries(caplog) == []


async def test_many_failures_of_a_kind_are_counted_in_one_line(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(number: int) -> None:
        raise Fail(f"number {number}")

    async with running_node(Job("fail", fail), Job("other", broken), clock=clock, name="one") as node:
        await node.schedule_many(Job("fail").call(number) for number in range(100))
        await node.schedule("other")
        await drain(node)
        await clock.advance(2)
        levels = [level for level, _ in entries(caplog)]
        assert levels.count("ERROR") == MAX_PER_SECOND + 1
        (counted,) = [message for level, message in entries(caplog) if level == "WARNING"]
        assert counted.startswith("80 more attempts of 'fail' failed within a second on node 'one'")
        caplog.clear()
        await node.schedule("fail", 1)
        await drain(node)
        assert [level for level, _ in entries(caplog)] == ["ERROR"]


async def test_each_second_has_a_count_of_its_own(clock: VirtualClock, caplog: pytest.LogCaptureFixture) -> None:
    failed = {"one": (100, 0, 21, 3), "other": (0, 30, 0, 0)}
    async with running_node(*(Job(kind, broken) for kind in failed), clock=clock, workers=100) as node:
        for second in range(4):
            caplog.clear()
            calls = [Job(kind).call() for kind, counts in failed.items() for _ in range(counts[second])]
            await node.schedule_many(calls)
            await drain(node)
            await clock.advance(2)
            counted = {kind: counts[second] - MAX_PER_SECOND for kind, counts in failed.items()}
            assert [message.split(" failed")[0] for level, message in entries(caplog) if level == "WARNING"] == [
                f"{count} more attempts of {kind!r}" for kind, count in counted.items() if count > 0
            ]
            assert [level for level, _ in entries(caplog)].count("ERROR") == sum(
                min(counts[second], MAX_PER_SECOND) for counts in failed.values()
            )


async def test_counted_failures_are_logged_when_the_node_stops(caplog: pytest.LogCaptureFixture) -> None:
    async with Node("memory://", jobs=[Job("charge", broken)]) as node:
        instances = await node.schedule_many(Job("charge").call() for _ in range(MAX_PER_SECOND + 5))
        for instance in instances:
            await instance.wait()
    logged = [level for level, _ in entries(caplog)].count("ERROR")
    counted = sum(int(message.split()[0]) for level, message in entries(caplog) if level == "WARNING")
    assert logged + counted == MAX_PER_SECOND + 5


@pytest.mark.parametrize("text", ["x" * 5_000, "ü" * 5_000, "a\nb\tc"])
async def test_the_history_keeps_a_bounded_line_of_an_error(clock: VirtualClock, text: str) -> None:
    def fail() -> None:
        raise ValueError(text)

    async with running_node(Job("fail", fail), clock=clock) as node:
        instance = await node.schedule("fail")
        await drain(node)
        note = (await instance.history())[-1].note
        assert note.startswith(f"ValueError: {text[0]}")
        assert len(note.encode()) <= MAX_NOTE
        assert "\n" not in note
        assert (note == "ValueError: a b c") is (len(text) < 100)
