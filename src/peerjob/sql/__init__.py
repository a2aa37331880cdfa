"""Jobs and your own SQL database: schedule in the transaction of your data, and write results exactly once.

An `Outbox` needs the library of your session, and none of peerjob's extras. `OutboxRelay` and `transact` need the
extra `sql`.
"""

from peerjob.node.work.outbox import OutboxState

from .handle import ScheduledRow
from .inbox import transact
from .outbox import Outbox
from .relay import OutboxRelay

__all__ = ["Outbox", "OutboxRelay", "OutboxState", "ScheduledRow", "transact"]
