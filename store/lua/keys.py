"""Keys that Python builds; all other keys are built in `scripts/lib/keys.lua` from the same prefix."""

from __future__ import annotations


def prefix(namespace: str) -> str:
    """The prefix of every key of a namespace; its hash tag puts all of them into one slot of a cluster."""
    return f"{{peerjob:{namespace}}}:"


def namespace_of(prefix: str) -> str:
    """The namespace of a prefix."""
    return prefix.partition(":")[2][:-2]


def declared(prefix: str) -> tuple[str, str]:
    """The keys that every script declares: a key that never exists, and a key that always exists.

    While a slot moves between servers of a cluster, both servers refuse a command with two such keys with TRYAGAIN or
    ASK. So a script never sees a namespace that has moved in part.
    """
    return (prefix, f"{prefix}layout")


def wake_list(namespace: str, incarnation: str) -> str:
    """The list from which an incarnation pops its hints."""
    return f"{prefix(namespace)}wake:{incarnation}"
