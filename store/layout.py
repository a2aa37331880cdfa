"""The layout of a namespace: it decides which releases may write the namespace.

A release with incompatible transitions raises the number. Every step that writes compares it, so a node of another
release changes nothing.
"""

from __future__ import annotations

from peerjob.model.errors import LayoutError

LAYOUT = 2
"""The layout that the running version of peerjob writes. Layout 1 was written before version 0.1 and cannot be read."""


def check_layout(found: str, *, namespace: str, url: str) -> None:
    """Raise LayoutError unless a namespace has the layout of this release."""
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
