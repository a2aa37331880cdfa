"""Keys that Python builds; all others are built in `scripts/lib/keys.lua` from the same prefix."""

from __future__ import annotations


def prefix(namespace: str) -> str:
    """What every key of a namespace starts with: its hash tag puts all of them into one slot of a cluster."""
    return f"{{peerjob:{namespace}}}:"


def wake_list(namespace: str, incarnation: str) -> str:
    """The list from which an incarnation pops its hints."""
    return f"{prefix(namespace)}wake:{incarnation}"
