"""jobd raises its limit of open files, and accepts no more connections than it leaves room for."""

import resource
import subprocess
import sys

import pytest

from peerjob.cli.daemon.open_files import MOST, RESERVED, connections_within

RAISE = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
from peerjob.cli.daemon.open_files import raise_limit
print(raise_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(("soft", "hard", "expected"), [(256, 700, 700), (700, 700, 700)])
def test_the_limit_is_raised_as_far_as_it_may(soft: int, hard: int, expected: int) -> None:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < hard:
        pytest.skip("this process may not open so many files")
    done = subprocess.run(
        [sys.executable, "-c", RAISE.format(soft=soft, hard=hard)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split() == [str(expected), str(expected), str(hard)]


@pytest.mark.parametrize(
    ("limit", "asked", "expected"),
    [(MOST, 1_000, 1_000), (1_024, 1_000, 1_024 - RESERVED), (100, 1_000, 1), (1_024, 10, 10)],
)
def test_connections_leave_room_for_other_files(
    limit: int, asked: int, expected: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert connections_within(limit, asked) == expected
    assert ("leaves room" in caplog.text) is (expected < asked)
