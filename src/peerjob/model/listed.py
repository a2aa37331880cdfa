"""A bounded list of names, for the text of an error or a log line."""

from __future__ import annotations

from collections.abc import Iterable
from os.path import commonprefix

MAX_LISTED = 10
"""Most names in the text."""


def listed(names: Iterable[object], *, like: str = "", none: str = "none") -> str:
    """The names in order, at most ten, and how many more there are; without names, `none`.

    With `like`, the names that begin as it does come first if there are more. That costs little for 10,000 names.
    """
    every = sorted({str(name) for name in names})
    chosen = every if len(every) <= MAX_LISTED else sorted(every, key=lambda name: -_alike(name, like))[:MAX_LISTED]
    more = f" and {len(every) - MAX_LISTED:,} more" if len(every) > MAX_LISTED else ""
    return (", ".join(chosen) or none) + more


def _alike(name: str, like: str) -> int:
    return len(commonprefix((name, like)))  # noqa: RUF071  # these are names, not paths
