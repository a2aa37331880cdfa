"""What a node leaves alone: the logging of the program that it is a part of."""

import inspect
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from peerjob import Job
from peerjob.testing import VirtualClock, running_node

CallHandlers = Callable[[logging.Logger, logging.LogRecord], None]

PROGRAM = """
import asyncio, logging, sys
from peerjob import Job, Node

def fails() -> None:
    logging.getLogger("shop").warning("inside the body")
    raise ValueError("no such item")

async def main() -> None:
    async with Node("memory://", jobs=[Job("fails", fails, run_in=sys.argv[1])]) as node:
        logging.getLogger("shop").warning("while the node runs")
        instance = await node.schedule("fails")
        await instance.wait()
        print([line.message for line in await instance.logs() if line.message == "inside the body"])
        logging.basicConfig(format="configured: %(message)s")
        logging.getLogger("shop").warning("configured late")
    logging.getLogger("shop").warning("after the stop")

if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.mark.parametrize("where", ["thread", "process"])
def test_a_program_that_configures_no_logging_shows_its_warnings_and_those_of_its_node(
    where: str, tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)

    ran = subprocess.run([sys.executable, program, where], capture_output=True, text=True, timeout=100, check=True)

    shown = ran.stderr.splitlines()
    assert shown[0] == "while the node runs"
    assert shown.count("inside the body") == 1
    assert any("failed in attempt 1" in line and "no such item" in line for line in shown)
    assert shown[-2:] == ["configured: configured late", "configured: after the stop"]
    assert ran.stdout == "['inside the body']\n"


async def test_nodes_change_no_handler_and_a_line_goes_only_to_the_node_that_runs_its_body(clock: VirtualClock) -> None:
    root = logging.getLogger()
    before = root.handlers[:]
    quiet = logging.getLogger("own.handlers.only")
    quiet.propagate = False

    def work() -> None:
        logging.getLogger("a.library").warning("one")
        quiet.warning("two")

    try:
        async with running_node(Job("work", work), clock=clock) as first:
            async with running_node(Job("work", work), clock=clock) as second:
                assert root.handlers == before
                instances = [await first.schedule("work"), await second.schedule("work")]
                for instance in instances:
                    await clock.run(instance.result(), limit=60)
                    assert [line.message for line in await instance.logs()] == ["one", "two"]
            # the other node still captures after the stop of one of them
            late = await first.schedule("work")
            await clock.run(late.result(), limit=60)
            assert [line.message for line in await late.logs()] == ["one", "two"]
    finally:
        quiet.propagate = True
    assert root.handlers == before


def write() -> None:
    logging.getLogger("shop").warning("from the body")


async def stored(clock: VirtualClock) -> list[str]:
    """The lines that a new node stores of a body that logs once."""
    async with running_node(Job("write", write), clock=clock) as node:
        instance = await node.schedule("write")
        await clock.run(instance.result(), limit=60)
        return [line.message for line in await instance.logs()]


async def test_wrappers_of_others_come_and_go_in_any_order(clock: VirtualClock) -> None:
    def wrapped(inner: CallHandlers) -> CallHandlers:
        def call(logger: logging.Logger, record: logging.LogRecord) -> None:
            inner(logger, record)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logging.Logger, "callHandlers", inspect.unwrap(logging.Logger.callHandlers))
        assert await stored(clock) == ["from the body"]
        patch.setattr(logging.Logger, "callHandlers", wrapped(logging.Logger.callHandlers))
        assert await stored(clock) == ["from the body"]
    # the patch has removed all wrappers that came after it
    assert await stored(clock) == ["from the body"]
    assert await stored(clock) == ["from the body"]


async def test_a_record_is_stored_although_a_handler_of_the_program_fails(clock: VirtualClock) -> None:
    class Failing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("no space left")

    def fails() -> None:
        with pytest.raises(OSError, match="no space left"):
            write()

    handler = Failing()
    logging.getLogger("shop").addHandler(handler)
    try:
        async with running_node(Job("fails", fails), clock=clock) as node:
            instance = await node.schedule("fails")
            await clock.run(instance.result(), limit=60)
            assert [line.message for line in await instance.logs()] == ["from the body"]
    finally:
        logging.getLogger("shop").removeHandler(handler)


FORKING = """
import asyncio, logging, multiprocessing
from peerjob import INJECTED, Context, Job, Node

def inside(ctx: Context) -> None:
    logging.getLogger("shop").warning("in the fork")
    ctx.progress(0.5)

def forks(ctx: Context = INJECTED) -> int:
    child = multiprocessing.get_context("fork").Process(target=inside, args=(ctx,))
    child.start()
    child.join()
    logging.getLogger("shop").warning("in the body")
    return child.exitcode

async def main() -> None:
    async with Node("memory://", jobs=[Job("forks", forks, run_in="process")]) as node:
        instance = await node.schedule("forks")
        print(await instance.result(60), [line.message for line in await instance.logs()])

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_a_fork_of_a_body_in_a_process_logs_as_any_program(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(FORKING)
    ran = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=100, check=True)
    assert (ran.stdout, ran.stderr) == ("0 ['in the body']\n", "in the fork\nin the body\n")
