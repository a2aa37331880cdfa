"""The example project of Django, on SQLite and on PostgreSQL, and `manage.py peerjob` as a process."""

import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from peerjob import Instance, Node, State
from support.postgres import running_postgres
from support.processes import ChildProcess
from support.servers import MissingServerError, free_port
from support.waiting import until

PROJECT = Path(__file__).parents[2] / "examples" / "django_project"

Start = Callable[..., ChildProcess]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {"SHOP_DATA": str(tmp_path), "PYTHONUNBUFFERED": "1"}


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("sqlite with an outbox", marks=pytest.mark.matrix("tests/unit/django has the outbox")),
        pytest.param("postgres", marks=pytest.mark.matrix("starts a PostgreSQL")),
        pytest.param("postgres with an outbox", marks=pytest.mark.matrix("starts a PostgreSQL")),
    ]
)
def database(request: pytest.FixtureRequest, environment: dict[str, str], tmp_path: Path) -> Iterator[None]:
    """The database of the project."""
    if "outbox" in request.param:
        environment["SHOP_OUTBOX"] = "1"
    with ExitStack() as stack:
        if "postgres" in request.param:
            try:
                folder = stack.enter_context(running_postgres(tmp_path / "postgres"))
            except MissingServerError as missing:
                if os.environ.get("CI"):
                    pytest.fail(f"CI must have every server: {missing}")
                pytest.skip(str(missing))
            environment["SHOP_POSTGRES"] = str(folder)
        yield


@pytest.fixture
def manage(environment: dict[str, str], tmp_path: Path) -> Iterator[Start]:
    """Start `manage.py` with arguments."""
    with ExitStack() as stack:

        def start(name: str, *arguments: str, **more: str) -> ChildProcess:
            command: list[str | Path] = [sys.executable, PROJECT / "manage.py", *arguments]
            env = environment | more
            return stack.enter_context(ChildProcess(command, output=tmp_path / name, env=env, cwd=tmp_path))

        yield start


@pytest.fixture
def site(environment: dict[str, str], tmp_path: Path) -> Iterator[str]:
    """The address of the web server of the project."""
    port = free_port()
    command: list[str | Path] = [
        Path(sys.executable).with_name("gunicorn"),
        "-b",
        f"127.0.0.1:{port}",
        "-k",
        "gthread",
        "shop.wsgi",
    ]
    with ChildProcess(command, output=tmp_path / "web", env=environment, cwd=PROJECT) as server:
        server.wait_for("Listening at")
        yield f"http://127.0.0.1:{port}"
        assert server.terminate() == 0


@pytest.mark.usefixtures("database")
async def test_an_order_is_packed_and_survives_the_death_of_a_node(
    manage: Start, request: pytest.FixtureRequest
) -> None:
    assert await manage("migrate", "migrate").exit() == 0
    first = manage("first", "peerjob", "--name", "first", "--lease-ttl", "1s")
    await first.line("ready to run orders.tasks.pack")
    site: str = request.getfixturevalue("site")
    async with httpx.AsyncClient(base_url=site, timeout=30) as client:

        async def seen(task: str) -> dict[str, Any]:
            found: dict[str, Any] = (await client.get(f"/results/{task}")).json()
            return found

        async def is_packed() -> bool:
            return bool((await client.get("/orders/1")).json()["packed"])

        placed = await client.post("/orders", data={"item": "tea"})
        assert placed.status_code == 201
        task = placed.json()["task"]
        await until(is_packed)

        async def has_value() -> bool:
            return (await seen(task))["value"] is not None

        await until(has_value)  # the body has changed the order before its result is in the store
        found = await seen(task)
        assert (found["value"], found["errors"], found["workers"]) == ("packed tea", [], ["first"])

        for address, told in (("orders/999", "no order 999"), ("results/unknown", "no task unknown")):
            missing = await client.get(f"/{address}")
            assert (missing.status_code, missing.json()) == (404, {"error": told})

        refused = await client.post("/orders", data={"item": "salt", "valid": "no"})
        assert refused.status_code == 500

        # longer than the machine may stand still before the kill
        slow = (await client.post("/orders", data={"item": "rice", "seconds": "4"})).json()["task"]

        async def status(wanted: str) -> bool:
            return (await seen(slow)).get("status") == wanted

        await until(lambda: status("RUNNING"))
        first.kill()
        second = manage("second", "peerjob", "--name", "second", "--lease-ttl", "1s")
        await until(lambda: status("SUCCESSFUL"))
        assert (await seen(slow))["workers"] == ["second"]
    assert second.terminate() == 0
    assert any("node 'second' has left" in line for line in second.lines)
    # the order that was refused has neither a row nor a task
    assert not any("salt" in line for line in (*first.lines, *second.lines))


@asynccontextmanager
async def resting(tmp_path: Path, seconds: float) -> AsyncGenerator[tuple[ChildProcess, Instance[Any]]]:
    """A node that runs a task which rests, and the instance of the task."""
    url = f"sqlite://{tmp_path}/peerjob.db"
    env = {"DJANGO_SETTINGS_MODULE": "support.django_site.settings", "SITE_STORE": url}
    async with Node(url, workers=0, allow_unknown=True) as observer:
        with ChildProcess.python("django", "peerjob", output=tmp_path / "node", env=env) as node:
            instance = await observer.schedule("support.django_site.tasks.rests", seconds)
            await node.line("^rests$")
            yield node, instance


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_stop_lets_tasks_end(tmp_path: Path, number: signal.Signals) -> None:
    async with resting(tmp_path, 0.5) as (node, instance):
        node.signal(number)
        assert await node.exit() == 0
        assert (await instance.refresh()).state is State.COMPLETED
        assert "rested" in node.lines
        assert f"{number.name}: running jobs have 30 s to end" in "\n".join(node.lines)


async def test_a_second_signal_ends_the_stop(tmp_path: Path) -> None:
    async with resting(tmp_path, 60) as (node, instance):
        node.signal(signal.SIGINT)
        await node.line("a second signal cancels them")
        node.signal(signal.SIGINT)
        assert await node.exit() == 128 + signal.SIGINT
        assert (await instance.refresh()).state is State.SCHEDULED
        assert instance.attempts == 0
        assert not [line for line in node.lines if "Traceback" in line]


@pytest.mark.parametrize(
    ("postgres", "warning"),
    [("", "You have 1 unapplied migration"), ("/nowhere", "The migrations cannot be checked: .*No such file")],
    ids=["migrations", "database"],
)
async def test_what_is_missing_in_the_database_is_a_warning(manage: Start, postgres: str, warning: str) -> None:
    node = manage("node", "peerjob", **({"SHOP_POSTGRES": postgres} if postgres else {}))
    await node.line(warning)
    await node.line("ready to run")
    assert node.terminate() == 0


async def test_a_store_that_does_not_answer_is_one_line(manage: Start) -> None:
    node = manage("node", "peerjob", SHOP_STORE=f"redis://127.0.0.1:{free_port()}")
    assert await node.exit() == 4
    [error] = [line for line in node.lines if "CommandError" in line]
    assert "cannot reach the store at redis://127.0.0.1" in error
    assert "see OPTIONS in TASKS" in error
