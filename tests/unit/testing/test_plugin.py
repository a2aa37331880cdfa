"""The pytest plugin: fixtures for every way to run async tests, and what a failed test shows."""

import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import peerjob.testing

pytest_plugins = ["pytester"]
LOADED = peerjob.testing
"""Loaded here, so that no run below loads it anew."""

JOBS = """
import asyncio
import pytest
from datetime import datetime, UTC
from peerjob import INJECTED, Context, State, job
from peerjob.testing import advance

@job(kind="third", max_retries=5, backoff="20s")
async def third(context: Context = INJECTED) -> int:
    if context.attempt < 3:
        raise ValueError("not yet")
    return context.attempt

@job(kind="tick", cron="0 * * * *")
async def tick() -> None: ...

@pytest.fixture
def peerjob_jobs():
    return [third, tick]
"""
SCOPE = "asyncio_default_fixture_loop_scope=function"  # unset, pytest-asyncio warns
ASYNC_TESTS = """
async def test_a_node(peerjob_node, peerjob_clock):
    instance = await peerjob_node.schedule(third)
    assert await instance.result() == 3
    assert peerjob_clock.elapsed() > 40
    await advance(peerjob_node, "1d")
    assert peerjob_clock.elapsed() > 86400

async def test_a_cluster(peerjob_cluster, peerjob_clock):
    assert peerjob_clock is peerjob_cluster.clock
    assert len(peerjob_cluster.nodes) == 3
    instance = await peerjob_cluster.schedule(third)
    await peerjob_cluster.kill(peerjob_cluster.leader)
    await instance.result(timeout="5m")
    peerjob_cluster.assert_completed(instance, attempts=3)

async def test_a_clock_alone(peerjob_clock):
    sleeping = asyncio.ensure_future(asyncio.sleep(3600))
    await peerjob_clock.advance("1h")
    assert sleeping.done()
"""


def run(pytester: pytest.Pytester, *args: str) -> pytest.RunResult:
    """Run the tests of the directory in this process, where the package is loaded already."""
    installed = any(one.name == "peerjob" for one in entry_points(group="pytest11"))
    plugin = () if installed else ("-p", "peerjob_pytest")
    return pytester.runpytest_inprocess(*plugin, "-p", "no:cacheprovider", "-p", "no:xdist", "-o", SCOPE, *args)


OTHER_MODE = pytest.mark.matrix("the mode auto stays in make test")


@pytest.mark.parametrize(
    ("mode", "marker"),
    [
        ("auto", ""),
        pytest.param("strict", "pytestmark = pytest.mark.asyncio", marks=OTHER_MODE),
        pytest.param("strict", "pytestmark = pytest.mark.asyncio(loop_scope='module')", marks=OTHER_MODE),
    ],
)
def test_the_fixtures_work_with_pytest_asyncio(pytester: pytest.Pytester, mode: str, marker: str) -> None:
    pytester.makepyfile(JOBS + marker + ASYNC_TESTS)
    run(pytester, "-p", "no:anyio", "-o", f"asyncio_mode={mode}").assert_outcomes(passed=3)


def test_the_fixtures_work_with_anyio(pytester: pytest.Pytester) -> None:
    backend = "\n@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'\npytestmark = pytest.mark.anyio\n"
    pytester.makepyfile(JOBS + backend + ASYNC_TESTS)
    run(pytester, "-p", "no:asyncio").assert_outcomes(passed=3)


def test_fixtures_of_a_suite_may_build_on_them_and_sync_tests_have_their_own(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        JOBS
        + """
@pytest.fixture
async def instance(peerjob_node):
    return await peerjob_node.schedule(third)

async def test_built_on_it(instance):
    assert await instance.result() == 3

def test_sync(peerjob_manager, peerjob_clock):
    assert peerjob_manager.schedule(third).result() == 3
    advance(peerjob_manager, "1m")
    assert peerjob_clock.elapsed() > 100

def test_wrong(peerjob_node):
    pass
"""
    )
    result = run(pytester, "-o", "asyncio_mode=auto")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*peerjob_node is for async tests; a sync test takes peerjob_manager*"])


def test_the_marker_and_the_options_say_what_is_made(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        JOBS
        + """
@pytest.fixture
def peerjob_options():
    return {"seed": 7, "timezone": "Europe/Berlin", "nodes": 2}

@pytest.mark.peerjob(seed=5)
class TestMarked:
    @pytest.mark.peerjob(start="2026-10-25T00:59+02:00", jobs=[tick])
    async def test_a_cluster(self, peerjob_cluster):
        assert peerjob_cluster.seed == 5
        assert [node.timezone for node in peerjob_cluster.nodes] == ["Europe/Berlin"] * 2
        assert [job.kind for job in peerjob_cluster.nodes[0].jobs() if not job.kind.startswith("system")] == ["tick"]
        await peerjob_cluster.advance("2m")
        peerjob_cluster.assert_fired(tick, times=1)

@pytest.mark.peerjob(start="2026-10-25T00:59+02:00", workers=1)
async def test_a_node(peerjob_node):
    assert (peerjob_node.timezone, peerjob_node.num_workers) == ("Europe/Berlin", 1)
    await advance(peerjob_node, "2m")
    (fire,) = await peerjob_node.fires("tick")
    assert fire.nominal == datetime(2026, 10, 24, 23, tzinfo=UTC)

@pytest.mark.peerjob([tick])
async def test_by_position(peerjob_node): ...

@pytest.mark.peerjob(start="2026-10-25T00:59")
async def test_no_zone(peerjob_node): ...

@pytest.mark.peerjob(start="on Sunday")
def test_no_time(peerjob_manager): ...

@pytest.mark.peerjob(latency="1ms")
def test_sync(peerjob_manager): ...
"""
    )
    result = run(pytester, "-o", "asyncio_mode=auto", "--strict-markers")
    result.assert_outcomes(passed=3, errors=3)
    result.stdout.fnmatch_lines(["*mark.peerjob takes named options only*", *["*start: *text with an offset*"] * 2])


def test_a_failed_test_shows_the_seed_and_what_happened(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        JOBS
        + """
@pytest.mark.peerjob(seed=23)
async def test_a_cluster(peerjob_cluster):
    await peerjob_cluster.kill("node-2")
    assert False

@pytest.mark.peerjob(seed=24)
async def test_told(peerjob_cluster):
    peerjob_cluster.assert_fired(tick)

@pytest.mark.peerjob(seed=25)
async def test_a_node(peerjob_node):
    assert False

@pytest.mark.peerjob(seed=26)
async def test_that_passes(peerjob_cluster): ...
"""
    )
    result = run(pytester, "-o", "asyncio_mode=auto")
    result.assert_outcomes(passed=1, failed=3)
    result.stdout.fnmatch_lines(["*- peerjob -*", "seed 23, the last events:", "*3 node(s) run*", "*kill node-2"])
    result.stdout.fnmatch_lines(["*- peerjob -*", "seed 25, the last events:"])
    shown = result.stdout.str()
    assert "seed 24, the last events:" in shown, "the assertion of the cluster tells it"
    assert shown.count("- peerjob -") == 2
    assert "seed 26" not in shown


@pytest.mark.matrix("runs pytest in a process of its own, for one other plugin")
def test_a_timeout_that_interrupts_a_body_ends_the_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
import asyncio, signal
from peerjob import job
from peerjob.testing import running_node

@job(kind="busy", max_retries=9, backoff="1h")
async def busy() -> None:
    signal.raise_signal(signal.SIGALRM)  # as pytest-timeout's timer does

async def test_it():
    async with running_node(busy) as node:
        await (await node.schedule(busy)).wait("1d")
"""
    )
    # in a process of its own: a process has one timer
    options = ["-p", "no:cacheprovider", "-o", "asyncio_mode=auto", "-o", SCOPE, "--timeout=100"]
    result = pytester.runpytest_subprocess(*options, "--timeout-method=signal")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*Failed: Timeout (>100.0s) from pytest-timeout."])


def test_it_costs_nothing_where_no_test_uses_it() -> None:
    """Neither the package nor an async plugin is loaded by the plugin."""
    program = (
        "import sys, pytest, peerjob_pytest; assert not {'peerjob', 'pytest_asyncio', 'anyio'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.long("runs pytest within a test")
def test_the_examples_of_the_guide_run(pytester: pytest.Pytester) -> None:
    text = (Path(__file__).parents[3] / "docs" / "testing.md").read_text()
    blocks = re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) == len(re.findall("^```python", text, re.MULTILINE)) == 8
    for name, code in blocks:
        pytester.makefile(".py", **{name.removesuffix(".py"): code})
    (settings,) = re.findall(r"^```toml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    pytester.makepyprojecttoml(settings)
    tests = sum(code.count("def test_") for _, code in blocks)
    run(pytester, "--durations=20", "-vv").assert_outcomes(passed=tests)


def test_the_mark_that_is_nearest_to_a_test_counts(pytester: pytest.Pytester) -> None:
    """Of two that say the same; what only a farther one says counts, too."""
    pytester.makepyfile(
        JOBS
        + """
pytestmark = [pytest.mark.peerjob(nodes=2, start="2026-01-01T00:00+00:00")]

@pytest.fixture
def peerjob_options():
    return {"nodes": 5, "workers": 1}

@pytest.mark.peerjob(nodes=1)
class TestNear:
    @pytest.mark.asyncio
    async def test_class(self, peerjob_cluster):
        assert len(peerjob_cluster.nodes) == 1

    @pytest.mark.asyncio
    @pytest.mark.peerjob(nodes=3)
    async def test_function(self, peerjob_cluster, peerjob_clock):
        assert len(peerjob_cluster.nodes) == 3
        assert datetime.fromtimestamp(peerjob_clock.time_us() / 1e6, UTC).day == 1

@pytest.mark.asyncio
async def test_module(peerjob_cluster):
    assert len(peerjob_cluster.nodes) == 2
"""
    )
    run(pytester, "-o", "asyncio_mode=strict").assert_outcomes(passed=3)
