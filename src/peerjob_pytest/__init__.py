"""The pytest plugin of peerjob: a node, a cluster and a clock as fixtures.

| fixture | for | gives |
|---|---|---|
| `peerjob_node` | async tests | a started `Node` on virtual time |
| `peerjob_cluster` | async tests | a `TestCluster`: nodes that can be killed, paused and cut off |
| `peerjob_manager` | sync tests | the blocking verbs of a started node on virtual time |
| `peerjob_clock` | both | the `VirtualClock` of the others |

`@pytest.mark.peerjob(jobs=[...], nodes=3, seed=5, start="2026-10-24T22:00+02:00", ...)` sets the options of
`TestCluster` and `Node`; so do the fixtures `peerjob_jobs` and `peerjob_options`, which a `conftest.py` may override.

Every pytest of the environment loads the plugin. So the plugin is a package beside peerjob, and imports peerjob only in
a test that uses a fixture.
"""

from __future__ import annotations

import inspect
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from peerjob import BlockingManager, Node
    from peerjob.testing import TestCluster, VirtualClock

LOOP_SCOPES = ("function", "class", "module", "package", "session")
_MARKER = (
    "peerjob(jobs=(), nodes=3, seed=0, start=..., **options): the options of peerjob_node, peerjob_cluster and "
    "peerjob_manager: those of TestCluster and Node, such as workers, lease_ttl and timezone"
)
_SUMMARY = pytest.StashKey[Callable[[], str]]()
"""Key of the function that returns the seed and the last events of a test."""


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker and, for each plugin that runs async tests, the async fixtures."""
    config.addinivalue_line("markers", _MARKER)
    # put the fixtures into a module: pytest would bind fixtures of a class as methods
    made = ModuleType("peerjob_async_fixtures")
    for kind, fixed in (("node", {"nodes": 1}), ("cluster", {})):
        setattr(made, f"_peerjob_{kind}", pytest.fixture(name=f"_peerjob_{kind}")(_cluster(**fixed)))
        pytest_asyncio: Any = config.pluginmanager.get_plugin("asyncio")
        if pytest_asyncio is not None:
            for scope in LOOP_SCOPES:
                name = f"_peerjob_{kind}_{scope}"
                setattr(made, name, pytest_asyncio.fixture(name=name, loop_scope=scope)(_cluster(**fixed)))
    config.pluginmanager.register(made, "peerjob-async")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the seed and the last events of the cluster to the report of a failed test."""
    report = yield
    summary = item.stash.get(_SUMMARY, None)
    # the message of a failed cluster assertion already contains the last events
    if summary is not None and call.when == "call" and report.failed and "the last events:" not in report.longreprtext:
        report.sections.append(("peerjob", summary()))
    return report


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_timeout_set_timer(settings: Any) -> Generator[None, Any, Any]:
    """Let pytest-timeout end a test on virtual time.

    pytest-timeout raises an error in a signal handler. On virtual time, this error mostly hits a task of a node, which
    keeps it. So the loop raises the error again.
    """
    done = yield
    handler = signal.getsignal(signal.SIGALRM)
    if settings.method == "signal" and callable(handler):

        def interrupt(number: int, frame: FrameType | None) -> None:
            try:
                handler(number, frame)
            except BaseException as error:
                if (loop := sys.modules.get("peerjob.testing.loop")) is not None:
                    loop.raise_soon(error)
                raise

        signal.signal(signal.SIGALRM, interrupt)
    return done


# -- fixtures to override ----------------------------------------------------------------------------------------------


@pytest.fixture
def peerjob_jobs() -> Any:
    """The jobs of the nodes: a list, a group, a module or its name. Override it; `jobs=` of the marker wins."""
    return ()


@pytest.fixture
def peerjob_options() -> dict[str, Any]:
    """Further options of the marker. Override it; options of the marker itself win."""
    return {}


# -- fixtures to use ---------------------------------------------------------------------------------------------------


@pytest.fixture
def peerjob_clock(request: pytest.FixtureRequest) -> Generator[VirtualClock]:
    """The clock of the other fixtures. Without them, a clock for the event loop of an async test."""
    for name in ("peerjob_cluster", "peerjob_node"):
        if name in request.fixturenames:
            yield _clock_of(request.getfixturevalue(name))
            return
    from peerjob.testing import VirtualClock
    from peerjob.testing.cluster.cluster_nodes import moment_of

    settings = request.getfixturevalue("_peerjob_settings")
    given = {name: settings[name] for name in ("start", "seed") if name in settings}
    if "start" in given:
        given["start"] = moment_of(given["start"])
    clock = VirtualClock(**given)
    request.node.stash[_SUMMARY] = lambda: f"seed {settings.get('seed', 0)}"
    try:
        yield clock
    finally:
        clock.uninstall()


@pytest.fixture
def peerjob_node(request: pytest.FixtureRequest) -> Node:
    """A started node on virtual time, with its own memory store, for an async test.

    In a test that also uses `peerjob_cluster`, it is the first node of that cluster.
    """
    shared = "peerjob_cluster" in request.fixturenames
    cluster: TestCluster = request.getfixturevalue("peerjob_cluster" if shared else _variant(request, "node"))
    return cluster.nodes[0]


@pytest.fixture
def peerjob_cluster(request: pytest.FixtureRequest) -> TestCluster:
    """A `TestCluster` for an async test, with a leader. `nodes` is 3 by default."""
    cluster: TestCluster = request.getfixturevalue(_variant(request, "cluster"))
    return cluster


@pytest.fixture
def peerjob_manager(peerjob_clock: VirtualClock, _peerjob_settings: dict[str, Any]) -> Generator[BlockingManager]:
    """The blocking verbs of a started node on virtual time, for a sync test."""
    from peerjob.testing import blocking_node

    with blocking_node(_peerjob_settings["jobs"], clock=peerjob_clock, **_node_options(_peerjob_settings)) as manager:
        yield manager


# -- helpers of the fixtures -------------------------------------------------------------------------------------------


@pytest.fixture
def _peerjob_settings(
    request: pytest.FixtureRequest, peerjob_jobs: Any, peerjob_options: dict[str, Any]
) -> dict[str, Any]:
    settings = {"jobs": peerjob_jobs, **peerjob_options}
    for mark in reversed(list(request.node.iter_markers("peerjob"))):
        if mark.args:
            raise pytest.UsageError(f"{request.node.nodeid}: mark.peerjob takes named options only, such as jobs=[...]")
        settings |= mark.kwargs
    return settings


def _cluster(**fixed: Any) -> Callable[..., Any]:
    async def cluster(request: pytest.FixtureRequest, _peerjob_settings: dict[str, Any]) -> AsyncGenerator[TestCluster]:
        from peerjob.testing import TestCluster

        async with TestCluster(**(_peerjob_settings | fixed)) as running:
            request.node.stash[_SUMMARY] = running._trace_text  # pyright: ignore[reportPrivateUsage]
            yield running

    return cluster


def _clock_of(made: TestCluster | Node) -> VirtualClock:
    from peerjob.testing import TestCluster, clock_of

    return made.clock if isinstance(made, TestCluster) else clock_of(made)


def _node_options(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a single node, without those that only a clock or a cluster takes."""
    others = ("jobs", "start", "seed", "nodes", "jumps", "latency")
    return {name: value for name, value in settings.items() if name not in others}


def _variant(request: pytest.FixtureRequest, kind: str) -> str:
    """Return the name of the async fixture that runs on the event loop of the test."""
    item = request.node
    if not inspect.iscoroutinefunction(inspect.unwrap(item.obj)):
        pytest.fail(f"peerjob_{kind} is for async tests; a sync test takes peerjob_manager", pytrace=False)
    if "anyio_backend" in request.fixturenames or not request.config.pluginmanager.has_plugin("asyncio"):
        return f"_peerjob_{kind}"
    marker = item.get_closest_marker("asyncio")
    scope = marker and marker.kwargs.get("loop_scope")
    return f"_peerjob_{kind}_{scope or request.config.getini('asyncio_default_test_loop_scope') or 'function'}"
