"""Results of checks of a store, a cluster or a configuration."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Severity(StrEnum):
    """The severity of a finding."""

    OK = "ok"
    WARN = "warn"
    """The checked thing works, but data may be lost, or the thing may be slow or stop working."""
    FAIL = "fail"
    """The checked thing does not work."""


class Finding(NamedTuple):
    """The result of one check."""

    subject: str
    verdict: Severity
    text: str
    """The state of the checked thing, and the step that mends it if the check did not pass."""
