"""The layout of a namespace: which releases may write it.

A release that changes what a transition must do raises the number. Every step that writes compares it, so that a node
of another release changes nothing.
"""

from __future__ import annotations

from peerjob.model.errors import LayoutError

LAYOUT = 2
"""1 was written before release 0.1, and is not read any more."""


def check_layout(found: str, *, namespace: str, url: str) -> None:
    """Raise LayoutError unless a namespace has our layout."""
    if found == str(LAYOUT):
        return
    number = int(found) if found.isascii() and found.isdigit() else None
    if number is not None and number < LAYOUT:
        cure = f"it was written before release 0.1: remove it with `jobd clear --namespace {namespace}`"
    else:
        cure = "a newer release writes it: upgrade this node"
    raise LayoutError(
        f"namespace {namespace!r} at {url} has layout {found}, this release has layout {LAYOUT}; {cure}",
        found=number,
        known=LAYOUT,
    )
