"""The context variables that code of users starts with."""

from __future__ import annotations

import contextvars

from peerjob.model.injected import current_run


class ContextVars:
    """Keeps context variables, and gives a copy of them to each body, processor and resource of a node.

    Without the copies, a body would inherit variables that other jobs set: a tenant, a decimal precision, a span.
    """

    def __init__(self) -> None:
        self.capture()

    def capture(self) -> None:
        """Keep the current context from now on."""
        self.captured = contextvars.copy_context()
        """The kept context variables. Code of users runs only in copies, so that no job changes those of other jobs."""
        # a job can start a node, and the bodies of that node do not belong to the run of that job
        self.captured.run(current_run.set, None)

    def copy(self) -> contextvars.Context:
        """Make a new copy of the kept context."""
        return self.captured.copy()
