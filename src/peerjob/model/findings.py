"""What is found when a store, a cluster or a configuration is looked at."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Severity(StrEnum):
    """How good or bad it is."""

    OK = "ok"
    WARN = "warn"
    """It works, and something may be lost, be slow, or stop working."""
    FAIL = "fail"
    """It does not work."""


class Finding(NamedTuple):
    """One thing that was looked at."""

    subject: str
    verdict: Severity
    text: str
    """What is so, and what is to be done about it."""
