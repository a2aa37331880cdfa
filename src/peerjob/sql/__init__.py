"""Jobs and your own SQL database: schedule in the transaction of your data, and write results exactly once.

An `Outbox` needs the library of your session, and none of peerjob's extras. `OutboxRelay` and `transact` need the
extra `sql`.
"""

from .handle import ScheduledRow
from .outbox import Outbox

__all__ = ["Outbox", "ScheduledRow"]
