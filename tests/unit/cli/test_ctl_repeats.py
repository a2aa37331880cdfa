"""Commands that make something tell how to repeat them, if nothing tells whether they took effect."""

import asyncio
import os
import signal

import pytest

from peerjob.cli.ctl.repeats import repeatable
from peerjob.model.clock import SystemClock
from support.waiting import PATIENCE


def test_a_command_that_is_interrupted_tells_how_to_repeat_it(capsys: pytest.CaptureFixture[str]) -> None:
    used = list[str]()

    async def command() -> None:
        with repeatable(SystemClock(), None) as id:
            used.append(id)
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(PATIENCE)

    # a test run in the background of a shell inherits that Ctrl-C is ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            asyncio.run(command())
    finally:
        signal.signal(signal.SIGINT, before)
    assert f"the same command with --id {used[0]} makes nothing twice" in capsys.readouterr().err
