"""Nodes inside an application, and a gateway without its code: the page, and real servers."""

import json
import re
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from peerjob import ArgumentError, Job, Node, OptionError, Query
from support.jobctl import Jobctl
from support.jobd import JOBD, target
from support.processes import ChildProcess
from support.servers import Server
from support.waiting import PATIENCE

PAGE = Path(__file__).parents[2] / "docs" / "embedded.md"


@pytest.fixture
def jobctl(redis_server: Server, namespace: str, tmp_path: Path) -> Iterator[Jobctl]:
    """The application of the page, and a gateway as the page starts it."""
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    program = tmp_path / "shop.py"
    program.write_text(code.replace("workers=4", f"workers=4, namespace={namespace!r}"))
    (command,) = re.findall(r"^\$ (jobd .*)$", PAGE.read_text(), re.MULTILINE)
    gateway = [one if one != "redis://localhost:6379" else redis_server.url for one in shlex.split(command)[1:]]
    gateway += ["--namespace", namespace, "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"]
    with (
        ChildProcess([sys.executable, program], output=tmp_path / "shop", env={"SHOP_STORE": redis_server.url}),
        ChildProcess([JOBD, *gateway], output=tmp_path / "gateway") as daemon,
    ):
        daemon.wait_for("ready to run")
        jobctl = Jobctl({"PEERJOB_ADDRESS": target(daemon)})
        until = time.monotonic() + PATIENCE
        while len(jobctl("list", "jobs", "-o", "name").lines) < 1:
            assert time.monotonic() < until
        yield jobctl


@pytest.mark.matrix("runs the commands of the documentation, in real time")
def test_the_commands_of_the_page_print_what_it_shows(jobctl: Jobctl) -> None:
    console = "".join(re.findall(r"^```console\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE))
    commands = re.findall(r"^\$ jobctl (.*)\n((?:[^$\n].*\n)*)", console, re.MULTILINE)
    assert len(commands) == 7
    for command, shown in commands:
        words, _, query = command.partition(" | jq .")
        answer = jobctl(*shlex.split(words))
        printed = f"{json.dumps(answer.json[query])}\n" if query else answer.err + answer.out
        assert _plain(printed) == _plain(shown), command
        assert answer.status == (2 if "do not fit" in shown else 0), command
    (found,) = jobctl("list", "jobs", "-o", "json").json
    assert (found["priority"], found["tags"], found["node_count"]) == (2, ["money"], 1)
    assert found["json_schema"]["properties"]["currency"] == {"type": "string", "default": "EUR"}


def _plain(text: str) -> list[list[str]]:
    """The words of each line, without what differs from run to run."""
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID", text).replace(socket.gethostname(), "vm")
    return [re.sub(r"[\d.]+", "N", line).split() for line in text.splitlines()]


def bill(order: int, *, note: str | None = None, hurry: bool = False) -> str:
    """Write a bill."""
    return f"{order} {note} {hurry}"


@pytest.mark.parametrize("server", ["redis_server", "valkey_server", "etcd_server"])
async def test_a_gateway_keeps_options_on_each_server(
    request: pytest.FixtureRequest, server: str, namespace: str
) -> None:
    url = request.getfixturevalue(server).url
    options: Any = {"priority": 1, "tags": ["a", "b"], "key": "{order}/{note}/{hurry}", "retention": "1h"}
    # more than 16 kinds: etcd keeps them apart from the row of the node
    jobs = [Job("bill", bill, **options), *(Job(f"other-{number}", bill) for number in range(30))]
    keyed = Job("keyed", bill, key=lambda given: str(given.order))
    async with (
        Node(url, namespace=namespace, jobs=[*jobs, keyed], workers=2, name="worker") as worker,
        Node(url, namespace=namespace, workers=0, name="gateway") as gateway,
    ):
        first = await gateway.schedule(Job("bill").with_options(after="1h"), "7", note="x")
        again = await worker.schedule("bill", 7, note="x", hurry="no")
        assert (again.id, again.is_new) == (first.id, False)
        assert (first.priority, first.tags, first.record.key) == (1, ("a", "b"), "7/x/false")
        with pytest.raises(ArgumentError, match="order: missing"):
            await gateway.schedule("bill")
        with pytest.raises(ArgumentError, match="hurry: Input should be a valid boolean"):
            await gateway.schedule("other-29", 1, hurry="perhaps")
        with pytest.raises(OptionError, match="function of job 'keyed'"):
            await gateway.schedule("keyed", 1)
        listed = {one.kind: one for one in await gateway.registered_jobs()}
        assert len(listed) == 32
        assert (listed["bill"].nodes, listed["bill"].description) == (("worker",), "Write a bill.")
        await gateway.cancel_instances(Query.all())
