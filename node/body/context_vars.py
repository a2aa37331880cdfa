"""The context variables that code of users starts with."""

from __future__ import annotations

import contextvars

from peerjob.model.injected import current_run


class ContextVars:
    """Keeps the context of its creation, and gives a copy to each body, processor and resource of a node.

    Without the copies, a body would inherit variables that other jobs set: a tenant, a decimal precision, a span.
    """

    def __init__(self) -> None:
        self.capture()

    def capture(self) -> None:
        """Keep the current context from now on."""
        self.captured = contextvars.copy_context()
        """No code runs in this context itself, only in copies of it."""
        self.captured.run(current_run.set, None)  # a job may start a node

    def copy(self) -> contextvars.Context:
        """Make a new copy of the kept context."""
        return self.captured.copy()
