"""Every option takes a value and keeps it, or refuses it with an error that names the option."""

import contextlib
import logging
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from peerjob import Context, Job, Node, OptionError, ScheduleError
from peerjob.model.limits import MAX_COUNT
from peerjob.model.policy import Options
from peerjob.testing.clock import VirtualClock
from peerjob.testing.helpers import running_node

ODD: tuple[Any, ...] = (
    *(2**31, 2**32, 2**53, 2**63, 2**64, 2**70, 10**400, 10**5_000, -1, -(2**70), 0, True),
    *(1.5, 1e300, float("nan"), float("inf"), -0.0, Decimal("NaN"), Decimal("1e9999"), 1j),
    *("", " ", "x", "1", "\x00", "\ud800", "x" * 100_000, b"x"),
    *(None, [], {}, (), set(), [1], [None], {"a": 1}, object(), int, len, lambda: 1),
    *(
        timedelta.max,
        timedelta.min,
        datetime(2026, 1, 1),  # noqa: DTZ001  # no zone is one of the odd values
        datetime.min.replace(tzinfo=UTC),
        datetime.max.replace(tzinfo=UTC),
    ),
)


def work() -> None: ...


WORK = Job("work", work)


async def given(node: Node, option: str, value: Any) -> None:
    options: dict[str, Any] = {option: value} if option == "at" else {"after": "1h", option: value}
    job = WORK.with_options(**options)
    if {"cron", "every"} & job.options.keys():
        await node.add_schedule(job)
    else:
        await (await node.schedule(job)).refresh()


@pytest.mark.parametrize("option", sorted(Options.__annotations__))
async def test_an_odd_value_is_kept_or_refused(clock: VirtualClock, option: str) -> None:
    async with running_node(WORK, clock=clock, workers=0) as node:
        for value in ODD:
            if option in ("jitter", "key") and callable(value):
                continue  # its own error reaches the caller
            with contextlib.suppress(OptionError, ScheduleError):
                await given(node, option, value)


@pytest.mark.parametrize("option", ["max_retries", "max_crashes"])
def test_a_number_that_a_record_cannot_hold_is_refused(option: str) -> None:
    most: dict[str, Any] = {option: MAX_COUNT}
    assert WORK.with_options(**most).options[option] == MAX_COUNT
    more: dict[str, Any] = {option: MAX_COUNT + 1}
    with pytest.raises(OptionError, match=f"{option}: expected a whole number from 0 to 2,147,483,647"):
        WORK.with_options(**more)


@pytest.mark.parametrize("fraction", ["0.3", None, 1j, float("nan"), float("inf"), Decimal("sNaN"), 10**400])
def test_a_progress_that_is_no_finite_number_is_refused(fraction: Any) -> None:
    with pytest.raises(OptionError, match="a number from 0 to 1"):
        Context().progress(fraction)


@pytest.mark.parametrize("fraction", [-1, 1.0002, 2, Fraction(-1, 2), Decimal("100.5")])
def test_a_progress_outside_its_range_is_logged_once_a_run(fraction: Any, caplog: pytest.LogCaptureFixture) -> None:
    context = Context()
    with caplog.at_level(logging.WARNING, "peerjob.job"):
        context.progress(fraction)
        context.progress(fraction)
    (message,) = caplog.messages
    assert f"progress({fraction!r})" in message
    assert f"fraction from 0 to 1, not percent; stored as {0 if fraction < 0 else 1}" in message


def test_a_progress_that_cannot_be_shown_fails_no_job(caplog: pytest.LogCaptureFixture) -> None:
    class Share(float):
        def __repr__(self) -> str:
            raise RuntimeError("no text")

    with caplog.at_level(logging.WARNING, "peerjob.job"):
        Context().progress(Share(2))
    assert "progress(<Share that cannot be shown>)" in caplog.text


@pytest.mark.parametrize("fraction", [0, 1, True, 0.5, Fraction(1, 2), Decimal("0.5")])
def test_a_progress_is_any_number(fraction: Any) -> None:
    Context().progress(fraction)
