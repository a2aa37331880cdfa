"""How a member of a flow, or a child, ended."""

from __future__ import annotations

from typing import Any, Generic

import msgspec
from typing_extensions import TypeVar

from .spec import ErrorInfo
from .state import State

R_co = TypeVar("R_co", covariant=True, default=Any)


class Ended(msgspec.Struct, Generic[R_co], frozen=True):
    """How an instance ended: its final state, with its result if it is Completed, else its error if it has one."""

    state: State
    result: R_co | None = None
    error: ErrorInfo | None = None

    @property
    def completed(self) -> bool:
        """Whether the instance is Completed, so that `result` is its result."""
        return self.state is State.COMPLETED
