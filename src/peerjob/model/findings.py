"""Results of checks of a store, a cluster or a configuration."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Severity(StrEnum):
    """The severity of a finding."""

    OK = "ok"
    WARN = "warn"
    """It works, but data may be lost, or it may be slow or stop working."""
    FAIL = "fail"
    """It does not work."""


class Finding(NamedTuple):
    """The result of one check."""

    subject: str
    verdict: Severity
    text: str
    """The state, and what to do about it."""
