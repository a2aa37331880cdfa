"""How long a page waits for the store, and what it says when the store is away."""

from __future__ import annotations

from peerjob.model import errors

PATIENCE = 3.0
"""Seconds that a page waits for the store, before it shows the last values."""

ABSENT: tuple[type[Exception], ...] = (
    errors.StoreError,
    errors.NodeUnavailableError,
    errors.NodeStateError,
    TimeoutError,
)
"""Errors for which a page shows its last values."""


def describe_absence(error: BaseException, patience: float = PATIENCE) -> str:
    """A sentence about an error of the store or of the way to it."""
    if isinstance(error, TimeoutError) and not isinstance(error, errors.PeerjobError):
        return f"The store did not answer within {patience:g} s."
    if isinstance(error, errors.NodeStateError):
        return f"The node does not serve now: {error}."
    if isinstance(error, errors.NodeUnavailableError):
        return f"No node can be reached: {error}."
    return f"The store cannot be used now: {error}."
