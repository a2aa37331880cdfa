"""The context variables that users' code starts with: those of the start of its node."""

from __future__ import annotations

import contextvars

from peerjob.model.injected import current_run


class ContextVars:
    """Keeps the context in which it was made, and gives a copy to each body, processor and resource of a node.

    Without that, code would inherit what the code of another job has set: a tenant, a decimal precision, a span.
    """

    def __init__(self) -> None:
        self.keep()

    def keep(self) -> None:
        """Keep the present context instead."""
        self.kept = contextvars.copy_context()
        """Nothing runs in it itself, only in copies."""
        self.kept.run(current_run.set, None)  # a node may be started inside a job of another one

    def fresh(self) -> contextvars.Context:
        """A copy that nothing else runs in."""
        return self.kept.copy()
