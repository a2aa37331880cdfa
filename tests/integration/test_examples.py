"""Every example runs as its own text says, in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.processes import ChildProcess
from support.servers import StartServer
from support.stalls import Stalls, now_us
from support.waiting import PATIENCE

pytestmark = pytest.mark.matrix("runs the examples")

ROOT = Path(__file__).parents[2]

Run = Callable[..., ChildProcess]

SCRIPT_SAYS = """\
sum: 100
concat: Hello, world
count_down: lift-off
sum of text: 3
a hundred at once: 9900
divide: ZeroDivisionError: division by zero
  it said: INFO dividing 1 by 0
  it was: Created
  it was: Scheduled
  it was: Processing
  it was: Terminated
"""
RETRIES_SAY = """\
unreliable: done at attempt 3
  Created
  Scheduled
  Processing
  Scheduled retry 1 in *
  Processing
  Scheduled retry 2 in *
  Processing
  Completed
rate_limited: served
forgiven: a guess, because of no such row
hopeless: peerjob.Fail: this address cannot exist
too_slow: ran longer than its timeout of 100ms, 2 times
"""
RECURRING_SAYS = """\
greetings: every 0:00:00.500000
heartbeat: * * * * * *
system.log.cleaner: 0 0 * * *
greetings: hello, world
greetings: hello, world
greetings: hello, world
paused: enough for now
by hand: hello, world
heartbeat: fired once for each second: True
fired by: this node
"""


@pytest.fixture
def own_redis(start_server: StartServer) -> str:
    """A store of the test's own: all examples use the same namespace."""
    return start_server("redis").url


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Run a program of this Python's environment in the checkout, as a user would."""
    with ExitStack() as stack:
        started = 0

        def run_one(program: str, *arguments: str, store: str | None = None) -> ChildProcess:
            nonlocal started
            started += 1
            return stack.enter_context(
                ChildProcess(
                    [Path(sys.executable).with_name(program), *arguments],
                    output=tmp_path / f"{program}-{started}",
                    env={"PYTHONUNBUFFERED": "1"} | ({} if store is None else {"PEERJOB_STORE": store}),
                    cwd=ROOT,
                )
            )

        yield run_one


@pytest.mark.parametrize(
    ("example", "shared", "says"),
    [
        ("script", False, SCRIPT_SAYS),
        ("script", True, SCRIPT_SAYS),
        ("retries", False, RETRIES_SAY),
        ("recurring", True, RECURRING_SAYS),
    ],
    ids=["script", "script on redis", "retries", "recurring on redis"],
)
def test_a_script_runs(request: pytest.FixtureRequest, example: str, says: str, shared: bool) -> None:
    store = {"PEERJOB_STORE": request.getfixturevalue("own_redis")} if shared else {}
    # what the node logs, such as the failures of jobs, goes to the error stream
    done = subprocess.run(
        [sys.executable, f"examples/{example}.py"],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
        cwd=ROOT,
        env=os.environ | store,
    )
    assert done.returncode == 0, done.stderr
    assert [_without_seconds(line) for line in done.stdout.splitlines()] == says.splitlines()


def _without_seconds(line: str) -> str:
    start, between, _ = line.partition(" in ")
    return f"{start} in *" if between and "retry" in start else line


def serve_fastapi(run: Run, store: str, app: str = "fastapi_app") -> tuple[ChildProcess, httpx.Client]:
    child = run("uvicorn", "--app-dir", "examples", "--port", "0", f"{app}:app", store=store)
    address = child.wait_for(r"running on (http://\S+)")[1]
    return child, httpx.Client(base_url=address, timeout=PATIENCE)


def test_the_fastapi_application_schedules_and_shows(run: Run, own_redis: str) -> None:
    child, client = serve_fastapi(run, own_redis)
    with client:
        accepted = client.post("/words", json={"text": "to be or not to be"})
        assert (accepted.status_code, accepted.json()["state"]) == (202, "Scheduled")
        path = f"/jobs/{accepted.json()['uuid']}"
        assert client.get(f"{path}/result?wait=60").json() == {"to": 2, "be": 2, "or": 1, "not": 1}
        shown = client.get(path).json()
        assert (shown["state"], shown["attempts"], shown["progress"]["fraction"]) == ("Completed", 1, 1.0)
        assert client.delete(path).json() == {"cancelled": False}
        assert client.get("/jobs/nonsense").status_code == 404
        assert client.post("/words", json={"txet": "x"}).status_code == 422
    assert child.terminate() in (0, -15), child.lines


def _events(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The name and the data of each server-sent event."""
    for line in lines:
        if line.startswith("event: "):
            _, _, data = next(lines).partition("data:")
            yield line.removeprefix("event: "), json.loads(data or "{}")


def test_the_live_view_streams_a_job_to_its_end_and_stops_with_open_streams(run: Run, own_redis: str) -> None:
    child, client = serve_fastapi(run, own_redis, "live_view")
    with client, ExitStack() as stack:
        path = f"/jobs/{client.post('/jobs?steps=3&seconds=0.3').json()['uuid']}/events"
        with client.stream("GET", path) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            events = list(_events(answer.iter_lines()))
        assert events[0][0] == "state"
        assert [data["log"]["message"] for what, data in events if what == "log"] == [
            f"step {n} of 3" for n in (1, 2, 3)
        ]
        assert [what for what, _ in events[-2:]] == ["state", "end"]
        assert events[-2][1]["state"] == "Completed"
        assert events[-2][1]["progress"]["fraction"] == 1
        assert client.get("/jobs/nonsense/events").status_code == 404
        assert "EventSource" in client.get("/").text

        path = f"/jobs/{client.post('/jobs?steps=2&seconds=3').json()['uuid']}/events"
        with client.stream("GET", path) as answer:
            rest = _events(answer.iter_lines())
            while next(rest)[0] != "log":
                pass
            stalls = stack.enter_context(Stalls())
            began_us = now_us()
            child.signal(signal.SIGTERM)
            assert "end" not in [what for what, _ in rest]
        assert child.wait() in (0, -15), child.lines
        assert stalls.took(began_us) < 10
        assert not [line for line in child.lines if "Traceback" in line], child.lines


def test_a_replica_finishes_what_a_killed_one_was_running(run: Run, own_redis: str) -> None:
    first, to_first = serve_fastapi(run, own_redis)
    with to_first:
        slow = to_first.post("/words", json={"text": "a b c d", "seconds": 8}).json()
        while not (shown := to_first.get(f"/jobs/{slow['uuid']}").json())["progress"]:
            assert shown["state"] in ("Scheduled", "Processing")
    first.kill()
    # only now is there another node, so that it was the first that ran it, however long the second takes to start
    second, to_second = serve_fastapi(run, own_redis)
    with to_second:
        deadline = time.monotonic() + PATIENCE
        while (answer := to_second.get(f"/jobs/{slow['uuid']}/result")).status_code == 504:
            assert time.monotonic() < deadline, second.lines
        assert answer.json() == {"a": 1, "b": 1, "c": 1, "d": 1}
        shown = to_second.get(f"/jobs/{slow['uuid']}").json()
        assert (shown["attempts"], shown["crashes"]) == (1, 1)


def test_the_flask_application_schedules_and_shows(run: Run, own_redis: str) -> None:
    child = run("flask", "--app", "examples/flask_app.py", "run", "--port", "0", store=own_redis)
    address = child.wait_for(r"Running on (http://\S+)")[1]
    with httpx.Client(base_url=address, timeout=PATIENCE) as client:
        accepted = client.post("/primes?below=1000")
        assert (accepted.status_code, accepted.json()["state"]) == (202, "Scheduled")
        path = f"/jobs/{accepted.json()['uuid']}"
        assert client.get(f"{path}/result").json() == {"primes": 168}
        assert client.get(path).json()["state"] == "Completed"
        assert client.get("/jobs/00000000-0000-7000-8000-000000000000").status_code == 404


def test_hello_survives_the_loss_of_a_node(run: Run, own_redis: str) -> None:
    nodes = [run("python", "examples/hello.py", store=own_redis) for _ in range(2)]
    asker = run("python", "examples/hello.py", "60", store=own_redis)
    for node in nodes:
        node.wait_for(r"says hello")
    nodes[0].kill()
    assert asker.wait() == 0, asker.lines
    assert asker.lines[-1] == "60 results, from 'hello 0' to 'hello 59'"
    assert nodes[1].terminate() == 0, nodes[1].lines
