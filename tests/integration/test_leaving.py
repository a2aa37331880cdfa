"""Programs that end without a stop of their node: each hands its work back, leaves, and ends as it would without us."""

import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from peerjob import Instance, Node, State
from support.leaving_program import GRACE
from support.processes import ChildProcess
from support.server_stalls import ServerStalls
from support.servers import free_port
from support.stalls import Stalls
from support.waiting import until

SOON = GRACE + 2
BUSY = 5.0
"""Seconds that the interpreter may take for its own end, on a machine that is busy, or stands still meanwhile."""

SCRIPTS = [
    # program, body that runs at the end, end, exit status
    ("facade", "nothing", "end", 0),
    ("facade", "loop", "end", 0),
    ("facade", "thread", "end", 0),
    ("facade", "deaf", "end", 0),
    ("facade", "process", "end", 0),
    ("facade", "stubborn", "end", 0),
    ("facade", "thread", "error", 1),
    ("facade", "process", "interrupt", -2),
    ("facade_in_thread", "thread", "end", 0),
    ("facade_in_fork", "loop", "end", 0),
    ("bare", "loop", "end", 0),
    ("bare", "thread", "end", 0),
    ("bare", "loop", "interrupt", -2),
    ("stopped", "stubborn", "end", 0),
    ("managed", "loop", "interrupt", -2),
    ("open_loop", "loop", "end", 0),
    ("closed_loop", "loop", "end", 0),
    ("loop_in_thread", "thread", "end", 0),
]
"""Those of make test; MORE_SCRIPTS combines the same programs, bodies and ends in other ways."""
MORE_SCRIPTS = [
    ("facade", "executor", "end", 0),
    ("facade", "loop", "exit", 3),
    ("bare", "nothing", "end", 0),
    ("bare", "process", "end", 0),
    ("bare", "loop", "error", 1),
    ("bare", "thread", "exit", 3),
    ("stopped", "stubborn", "error", 1),
]
OTHER_STORE = pytest.mark.matrix("one other store stays in make test")
SAYS = {"error": "ZeroDivisionError: of the program", "interrupt": "KeyboardInterrupt"}


@pytest.mark.parametrize(
    ("program", "body", "end", "status"),
    [
        *SCRIPTS,
        *(pytest.param(*script, marks=pytest.mark.matrix("its parts stay in make test")) for script in MORE_SCRIPTS),
    ],
    ids=str,
)
async def test_a_script_leaves_at_its_end(
    redis_url: str, namespace: str, tmp_path: Path, program: str, body: str, end: str, status: int
) -> None:
    await leaves(redis_url, namespace, tmp_path, program, body, end, status)


@pytest.mark.parametrize(
    ("store", "program"),
    [
        pytest.param("glide", "facade", marks=OTHER_STORE),
        ("etcd", "bare"),
        pytest.param("etcd", "closed_loop", marks=OTHER_STORE),
    ],
)
async def test_a_script_leaves_on_each_store(
    request: pytest.FixtureRequest, namespace: str, tmp_path: Path, store: str, program: str
) -> None:
    url: str = request.getfixturevalue(f"{store}_url")
    await leaves(url, namespace, tmp_path, program, "loop", "end", 0)


async def test_a_processor_that_ignores_cancellation_holds_up_no_exit(
    redis_url: str, namespace: str, tmp_path: Path
) -> None:
    arguments = ("stopped", redis_url, namespace, "told", "end")
    with ChildProcess.python("support.leaving_program", *arguments, output=tmp_path / "output") as child:
        assert await child.exit() == 0


async def leaves(url: str, namespace: str, tmp_path: Path, program: str, body: str, end: str, status: int) -> None:
    arguments = (program, url, namespace, body, end)
    async with Node(url, workers=0, namespace=namespace, name="observer", allow_unknown=True) as observer:
        output = tmp_path / "output"
        with (
            ServerStalls(url) as watched,
            Stalls(others=watched.spans) as stalls,
            ChildProcess.python("support.leaving_program", *arguments, output=output) as child,
        ):
            id = (await child.line(r"claimed (\S+)"))[1]
            ended_at = float((await child.line(r"ends (\S+)"))[1])
            assert await child.exit() == status
            assert stalls.took(round(ended_at * 1_000_000)) < SOON + BUSY
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


@pytest.fixture
async def observer(redis_url: str, namespace: str) -> AsyncIterator[Node]:
    """A node that only looks."""
    async with Node(redis_url, workers=0, namespace=namespace, name="observer", allow_unknown=True) as node:
        yield node


async def alone(observer: Node) -> bool:
    return [view.info.name for view in await observer.nodes()] == ["observer"]


async def handed_back(instance: Instance[object]) -> None:
    await instance.refresh()
    assert instance.state is State.SCHEDULED
    assert (instance.attempts, instance.crashes) == (0, 0)


def tool(name: str) -> Path:
    return Path(sys.executable).with_name(name)


@pytest.mark.matrix("five restarts of a worker; make test ends each kind of program once")
@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ("-k sync", "thread"),
        ("-k gthread --threads 2", "deaf"),
        ("-k sync --preload", "loop"),
    ],
)
async def test_five_reloads_of_gunicorn_count_no_crash(
    redis_url: str, namespace: str, observer: Node, tmp_path: Path, options: str, kind: str
) -> None:
    """Before, each old worker stayed in the cluster until its lease expired, and its job was charged."""
    port = free_port()
    command: list[str | Path] = [
        tool("gunicorn"),
        "-w",
        "1",
        "-b",
        f"127.0.0.1:{port}",
        *options.split(),
        "support.leaving_site:app",
    ]
    env = {"URL": redis_url, "NAMESPACE": namespace, "PYTHONPATH": str(Path(__file__).parents[1])}
    with ChildProcess(command, output=tmp_path / "output", env=env) as server:
        await server.line("Listening at")
        pids: set[str] = set()

        async def serve_anew() -> bool:
            async with httpx.AsyncClient() as client:
                try:
                    pid = (await client.get(f"http://127.0.0.1:{port}/", timeout=10)).text
                except httpx.HTTPError:
                    return False
            fresh = pid not in pids
            pids.add(pid)
            return fresh

        await until(serve_anew)
        instance = await observer.schedule(kind)
        for reload in range(6):

            async def runs_anew(times: int = reload + 1) -> bool:
                history = await instance.history()
                return [entry.state for entry in history].count(State.PROCESSING) == times

            await until(runs_anew)
            if reload < 5:
                server.signal(signal.SIGHUP)
                await until(serve_anew)
        assert instance.attempts == 1
        assert instance.crashes == 0
        assert server.terminate() == 0
        assert not any("Traceback" in line or "rror" in line for line in server.lines)
    assert await alone(observer)
    await handed_back(instance)


@pytest.mark.parametrize(
    ("app", "number", "status"),
    [
        ("stops", signal.SIGTERM, -signal.SIGTERM),
        pytest.param("stops", signal.SIGINT, None, marks=pytest.mark.matrix("another signal stays in make test")),
        ("forgets", signal.SIGINT, None),
    ],
)
async def test_an_application_under_uvicorn_leaves(
    redis_url: str,
    namespace: str,
    observer: Node,
    tmp_path: Path,
    app: str,
    number: signal.Signals,
    status: int | None,
) -> None:
    command: list[str | Path] = [tool("uvicorn"), "--port", str(free_port()), f"support.leaving_asgi:{app}"]
    env = {"URL": redis_url, "NAMESPACE": namespace, "PYTHONPATH": str(Path(__file__).parents[1])}
    with ChildProcess(command, output=tmp_path / "output", env=env) as server:
        await server.line("Application startup complete")
        instance = await observer.schedule("loop")

        async def runs() -> bool:
            return (await instance.refresh()).state is State.PROCESSING

        await until(runs)
        server.signal(number)
        ended = await server.exit()
        assert status is None or ended == status
    assert await alone(observer)
    await handed_back(instance)


@pytest.mark.parametrize(("end", "status"), [("end", 0), ("error", 1)])
async def test_a_django_command_leaves(
    redis_url: str, namespace: str, observer: Node, tmp_path: Path, end: str, status: int
) -> None:
    arguments = (redis_url, namespace, "thread", end)
    with ChildProcess.python("support.leaving_command", *arguments, output=tmp_path / "output") as child:
        id = (await child.line(r"claimed (\S+)"))[1]
        assert await child.exit() == status
        said = child.lines[[line.startswith("ends") for line in child.lines].index(True) + 1 :]
    assert said == (["CommandError: of the command"] if end == "error" else [])
    assert await alone(observer)
    await handed_back(await observer.lookup_instance(id))


@pytest.mark.matrix("runs pytest within a test")
async def test_tests_that_stop_no_node_leave(redis_url: str, namespace: str, observer: Node, tmp_path: Path) -> None:
    tests = Path(__file__).parents[1]
    command: list[str | Path] = [
        tool("pytest"),
        "-q",
        "-s",
        "-p",
        "no:cacheprovider",
        tests / "support" / "leaving_tests.py",
    ]
    env = {"URL": redis_url, "NAMESPACE": namespace}
    with ChildProcess(command, output=tmp_path / "output", env=env, cwd=tests.parent) as child:
        assert await child.exit() == 1
        ids = [line.split()[-1] for line in child.lines if "claimed " in line]
        summary = [line for line in child.lines if "1 failed, 2 passed" in line]
        assert len(ids) == 2
        assert child.lines[-1:] == summary
    assert await alone(observer)
    for id in ids:
        await handed_back(await observer.lookup_instance(id))
