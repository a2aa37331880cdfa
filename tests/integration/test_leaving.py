"""Programs that end without a stop of their node: each hands its work back, leaves, and ends as it would without us."""

import time
from pathlib import Path

import pytest

from peerjob import Node, State
from support.leaving_program import GRACE
from support.processes import ChildProcess

SOON = GRACE + 2
BUSY = 3.0
"""Seconds that the interpreter may take for its own end, on a machine that is busy."""

SCRIPTS = [
    # program, body that runs at the end, end, exit status
    ("facade", "nothing", "end", 0),
    ("facade", "loop", "end", 0),
    ("facade", "executor", "end", 0),
    ("facade", "thread", "end", 0),
    ("facade", "deaf", "end", 0),
    ("facade", "process", "end", 0),
    ("facade", "thread", "error", 1),
    ("facade", "loop", "exit", 3),
    ("facade", "process", "interrupt", -2),
    ("facade_in_thread", "thread", "end", 0),
    ("facade_in_fork", "loop", "end", 0),
    ("bare", "nothing", "end", 0),
    ("bare", "loop", "end", 0),
    ("bare", "thread", "end", 0),
    ("bare", "process", "end", 0),
    ("bare", "loop", "error", 1),
    ("bare", "thread", "exit", 3),
    ("bare", "loop", "interrupt", -2),
    ("open_loop", "loop", "end", 0),
    ("closed_loop", "loop", "end", 0),
    ("loop_in_thread", "thread", "end", 0),
]
SAYS = {"error": "ZeroDivisionError: of the program", "interrupt": "KeyboardInterrupt"}


@pytest.mark.parametrize(("program", "body", "end", "status"), SCRIPTS, ids=str)
async def test_a_script_leaves_at_its_end(
    redis_url: str, namespace: str, tmp_path: Path, program: str, body: str, end: str, status: int
) -> None:
    await leaves(redis_url, namespace, tmp_path, program, body, end, status)


@pytest.mark.parametrize("store", ["valkey", "etcd"])
@pytest.mark.parametrize("program", ["facade", "bare", "closed_loop"])
async def test_a_script_leaves_on_each_store(
    request: pytest.FixtureRequest, namespace: str, tmp_path: Path, store: str, program: str
) -> None:
    url: str = request.getfixturevalue(f"{store}_url")
    await leaves(url, namespace, tmp_path, program, "loop", "end", 0)


async def leaves(url: str, namespace: str, tmp_path: Path, program: str, body: str, end: str, status: int) -> None:
    arguments = (program, url, namespace, body, end)
    async with Node(url, workers=0, namespace=namespace, name="observer", allow_unknown=True) as observer:
        with ChildProcess.python("support.leaving_program", *arguments, output=tmp_path / "output") as child:
            id = (await child.line(r"claimed (\S+)"))[1]
            ended_at = float((await child.line(r"ends (\S+)"))[1])
            assert await child.exit() == status
            assert time.time() - ended_at < SOON + BUSY
            said = child.lines[[line.startswith("ends") for line in child.lines].index(True) + 1 :]
        assert [view.info.name for view in await observer.nodes()] == ["observer"]
        instance = await observer.lookup_instance(id)
        if body == "nothing":
            assert instance.state is State.COMPLETED
        else:
            assert instance.state is State.SCHEDULED
            assert (instance.attempts, instance.crashes) == (0, 0)
    if end in SAYS:
        assert said[-1] == SAYS[end]
        assert not any("peerjob/" in line for line in said if "support" not in line)
    elif program != "closed_loop":  # asyncio complains of tasks whose loop was closed
        assert said == []
