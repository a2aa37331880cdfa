"""What the package logged during a test."""

import logging

import pytest


def logged(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[logging.LogRecord]:
    """The package's own records, of this level or worse: asyncio can log leftovers of an earlier test at any time."""
    return [one for one in caplog.records if one.levelno >= level and one.name.startswith("peerjob")]
