"""Stacks that end with the test."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.stack import MakeStack, Stack, require_engine


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[MakeStack]:
    """Bring up a compose file; the image is built first."""
    require_engine()
    with contextlib.ExitStack() as cleanup:

        def start(file: str) -> Stack:
            made = Stack(file, tmp_path)
            cleanup.callback(made.close)
            made.compose("build", "--quiet")
            made.up()
            return made

        yield start
