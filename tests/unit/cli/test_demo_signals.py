"""A signal ends the demo with its number, also if what the demo awaits drops it."""

import asyncio
import logging
import os
import signal
from typing import cast

import pytest

from peerjob.cli.demo.command import run_demo
from peerjob.cli.demo.course import Demo


class Course:
    """A demo that awaits something that drops the message of a cancel."""

    view = logging.NullHandler()

    async def run(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise asyncio.CancelledError from None


@pytest.mark.timeout(20)
def test_a_demo_that_a_signal_ends_tells_its_number() -> None:
    before = list(logging.getLogger().handlers)
    try:
        assert run_demo(cast("Demo", Course()), as_json=False) == 128 + signal.SIGTERM
    finally:
        logging.getLogger().handlers[:] = before
