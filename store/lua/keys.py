"""Keys that Python builds; all others are built in `scripts/lib/keys.lua` from the same prefix."""

from __future__ import annotations


def prefix(namespace: str) -> str:
    """What every key of a namespace starts with: its hash tag puts all of them into one slot of a cluster."""
    return f"{{peerjob:{namespace}}}:"


def namespace_of(prefix: str) -> str:
    """The namespace that a prefix belongs to."""
    return prefix.partition(":")[2][:-2]


def declared(prefix: str) -> tuple[str, str]:
    """The keys that every script declares: one that never exists, and one that always does.

    While a slot moves between servers of a cluster, a command with two such keys is refused by both of them with
    TRYAGAIN or ASK. So no script ever sees a namespace of which a part has gone.
    """
    return (prefix, f"{prefix}layout")


def wake_list(namespace: str, incarnation: str) -> str:
    """The list from which an incarnation pops its hints."""
    return f"{prefix(namespace)}wake:{incarnation}"
