"""Records of the audit log: which caller did what over gRPC."""

from __future__ import annotations

from datetime import datetime

import msgspec

from .clock import to_datetime
from .errors import OptionError
from .record import Count, Moment

MAX_AUDIT = 1_000
"""The most records of the audit log of a namespace. The oldest are dropped."""
MAX_CRITERIA = 1_000
"""The most characters of the criteria in a record."""
DENIED = "denied"
"""The result of a call that was refused for lack of rights. Such a record is in the log only."""


def given_audit_limit(limit: object) -> None:
    """Raise OptionError for a limit that the audit log does not take."""
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_AUDIT:
        raise OptionError("limit", limit, f"a number from 1 to {MAX_AUDIT:,}")


class AuditRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One acting call over gRPC, or several similar calls that came within about a second."""

    id: str
    at_us: Moment
    """When the call ended, by the clock of the node; of several calls, the first."""
    principal: str
    """The name of the token, or of the client certificate; "anonymous" without both."""
    address: str = ""
    """The address of the caller, without the port."""
    verb: str
    """The name of the RPC."""
    criteria: str = ""
    """The call without arguments, such as kind=mail.send."""
    count: Count | None = None
    """How many instances or schedules the call made or changed; None if it does not say."""
    calls: Count = 1
    result: str = "ok"
    """"ok", "denied", or the class of the error."""
    node: str = ""
    """The node that answered."""

    @property
    def at(self) -> datetime:
        """The time of the call."""
        return to_datetime(self.at_us)
