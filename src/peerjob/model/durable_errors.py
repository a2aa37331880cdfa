"""The errors of steps, waits, signals and children. docs/reference/errors.md lists them, too.

`Suspended` is a control exception; it does not derive from PeerjobError.
"""

from __future__ import annotations

from .copied_error import CopiedError
from .errors import NodeStateError, PeerjobError
from .spec import ErrorInfo


class NotRunningError(NodeStateError):
    """The instance is final, so no body takes the signal.

    Solution: Look up the instance first, or take the error as the answer that the signal came too late.
    """


class StepNameError(PeerjobError, ValueError):
    """A body used a name twice in one run. Steps, waits, signals and children of an instance share their names.

    It is raised before the function of the step runs.

    Solution: Give each step a name of its own; in a loop, add the number or the key of the item.
    """

    def __init__(self, uuid: str, name: str) -> None:
        self.uuid = uuid
        self.name = name
        super().__init__(f"instance {uuid}: the name {name!r} is used twice in one run")


class StepLimitError(PeerjobError, ValueError):
    """A step, a signal or a child is over a limit of its instance.

    Solution: Let the steps return less, such as the name of a file, or move a part of the work into children.
    """

    def __init__(self, uuid: str, name: str, reason: str) -> None:
        self.uuid = uuid
        self.name = name
        self.reason = reason
        super().__init__(f"instance {uuid}: {name!r} is not stored: {reason}")


class SignalTimeout(PeerjobError, TimeoutError):
    """The signal did not come before the timeout of `wait_for`. Each later run of the body gets the same error.

    Solution: Catch it around `wait_for`, and let the body decide. A signal that comes later is not accepted.
    """

    def __init__(self, uuid: str, signal: str) -> None:
        self.uuid = uuid
        self.signal = signal
        super().__init__(f"instance {uuid}: the signal {signal!r} did not come in time")


class ChildFailed(PeerjobError):
    """A child that a body waited for did not complete; with the type, message and traceback of its error, if any.

    All children that were waited for together are over. A retry of the body finds the same child, and the same end.

    Solution: Read the error of the child. To go on without its result, use `child.ended()`.
    """

    def __init__(self, uuid: str, child: str, end: str, error: ErrorInfo | None = None) -> None:
        self.uuid = uuid
        self.child = child
        self.type = "" if error is None else error.type
        self.message = "" if error is None else error.message
        self.traceback = "" if error is None else error.traceback
        super().__init__(f"child {child!r} ({uuid}) {end}" + (f": {error}" if error is not None else ""))


class Suspended(CopiedError):
    """A wait of a durable body raises it, to end the run: the body runs again from its top when the wait is over.

    It is a BaseException, so that `except Exception` inside a job does not catch it. A body must not catch it.
    """

    def __init__(self, waits_for: str) -> None:
        self.waits_for = waits_for
        super().__init__(f"waits for {waits_for}")
