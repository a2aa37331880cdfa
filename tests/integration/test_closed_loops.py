"""What the coroutines of a node do when Python destroys them after their event loop was closed: nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.destroying_program import FOUND

OTHER_STORE = pytest.mark.matrix("the store in memory stays in make test")


@pytest.mark.parametrize(
    ("store", "step"),
    [
        ("memory://", 4),
        pytest.param("memory://", 1, marks=pytest.mark.matrix("a quarter of the moments stays in make test")),
        pytest.param("sqlite:///FILE", 7, marks=OTHER_STORE),
        pytest.param("redis_url", 5, marks=OTHER_STORE),
        pytest.param("etcd_url", 20, marks=OTHER_STORE),
    ],
)
def test_destroyed_coroutines_leave_their_closed_loop_and_a_restarted_node_alone(
    request: pytest.FixtureRequest, namespace: str, store: str, step: int
) -> None:
    """The program runs alone, since Python crashed for some of these moments.

    A library of a server awaits or uses its event loop in rare moments, so there only crashes and hangs count.
    """
    url: str = store if "://" in store else request.getfixturevalue(store)
    done = subprocess.run(
        [sys.executable, "-m", "support.destroying_program", url, namespace, "1", "1000", str(step)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
        timeout=170,
    )
    told = (0,) if store == "memory://" else (0, FOUND)
    assert done.returncode in told, done.stdout + done.stderr
