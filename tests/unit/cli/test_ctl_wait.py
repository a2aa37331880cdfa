"""`jobctl schedule --wait` that its user interrupts."""

import asyncio
from typing import Any, cast

import pytest

from peerjob import Job, Node
from peerjob.cli.ctl.schedule import show_end


async def test_an_interrupted_wait_names_the_instance_that_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    work = Job("work", lambda: None)
    async with Node("memory://", jobs=[work], workers=0) as node:
        instance = await node.schedule(work)
        # the session is used after the end only
        waiting = asyncio.create_task(show_end(cast("Any", None), instance, None))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert (
        capsys.readouterr().err == f"jobctl: instance {instance.id} goes on; `jobctl wait {instance.id}` waits for it\n"
    )
