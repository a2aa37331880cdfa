"""The check of a call that becomes a child: a member of a flow, or a call that a body starts."""

from __future__ import annotations

from typing import Any

from .errors import OptionError
from .job import Job


def check_child(job: Job[..., Any, Any], where: str) -> None:
    """Raise OptionError for a job with an option that a child cannot have; `where` names the child in the error."""
    if job.policy.key is not None:
        expected = f"none for {where}: another instance could hold the key, so use job.with_options(key=None)"
        raise OptionError("key", job.policy.key, expected)
    for option, given in (("at", job.timing.at_us), ("after", job.timing.after_us)):
        if given is not None:
            expected = f"none for {where}: it is due when what it needs is over"
            raise OptionError(option, job.options.get(option), expected)
